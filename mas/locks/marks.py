"""Sets the marks of a lease in its accounts, and takes them away (rule 33, locks and marks).

A mark is an entry of the account's bucket: it holds though this service or its store is lost. Setting is tried again
until it is done or its request has ended; taking away is tried again until it is done. Where a copy of a mark was lost
sight of, it may still be set behind that: so taking away goes on until the bucket says that the mark isn't there, from
when on it isn't set any more (rule 34, escrow mode). What is never taken away, because this service died, is passed by
the next payment that has queued here.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from mas.errors import NotFound, Unavailable
from mas.ids import home_bucket
from mas.ledger.instructions import Answer, Batch, Code, LockMode, Mark, RejectReason, Token, Unmark
from mas.limits import MAILBOX_ITEMS_MAX, TURN_INSTRUCTIONS_MAX
from mas.rpc.messages import Claims, ReadClaims, Rejected
from mas.rpc.ports import Buckets
from mas.runtime import Clock, Promise

_RETRY_SECONDS = 0.1
_LEAVING_MAX = MAILBOX_ITEMS_MAX
"""Marks of one bucket that wait to be taken away. What is beyond is left to rule 34: a payment passes it."""

Placed = tuple[str, int]
"""An account, and its bucket."""
_Mark = tuple[str, Token]

_log = logging.getLogger(__name__)


class Marks:
    """The marks of all leases of one lock service."""

    def __init__(self, buckets: Buckets, home_buckets: int, clock: Clock) -> None:
        self._buckets = buckets
        self._home_buckets = home_buckets
        self._clock = clock
        # By bucket: the marks to take away, and what to do then.
        self._leaving: dict[int, dict[_Mark, Callable[[], None] | None]] = {}
        # The EXCLUSIVE ones among them.
        self._exclusive: dict[Placed, dict[Token, None]] = {}
        # Of which a copy was lost sight of.
        self._lost: dict[tuple[Placed, Token], None] = {}
        self._asked: dict[int, None] = {}
        self._wake = asyncio.Event()
        self._is_refused = False

    async def locate(self, accounts: Sequence[str], timeout: float) -> list[Placed]:
        """Each account's bucket, as its home says.

        Raises:
            NotFound: there is no such account.
            Unavailable: a home doesn't answer within `timeout` seconds.
        """
        homes: dict[int, list[str]] = {}
        for account in accounts:
            homes.setdefault(home_bucket(account, self._home_buckets), []).append(account)
        placed: list[Placed] = []
        for home, numbers in homes.items():
            claims = await self._buckets.query(home, ReadClaims(0, home, tuple(numbers)), timeout)
            assert isinstance(claims, Claims)
            placed += zip(numbers, claims.buckets, strict=True)
        for account, bucket in placed:
            if not bucket:
                raise NotFound(f"account {account!r} doesn't exist: it can't be locked")
        return placed

    async def set(
        self, placed: Sequence[Placed], token: Token, is_wanted: Callable[[], bool]
    ) -> None:
        """Mark all these accounts; return once the legs that were prepared there before are settled.

        Whatever becomes of it, some of the marks may be set.

        Raises:
            Unavailable: no longer wanted, or overtaken by a newer token.
        """
        left = list(placed)
        while left:
            answers = await self._mark(left, token)
            left = [each for each in left if not _is_marked(answers[each], each)]
            if not left:
                return
            if not is_wanted():
                raise Unavailable("the lock wasn't marked in time: try again")
            await self._clock.sleep(_RETRY_SECONDS)

    async def _mark(
        self, placed: Sequence[Placed], token: Token
    ) -> Mapping[Placed, Answer | Rejected]:
        """One batch for each bucket; the answers once all are in.

        EXCLUSIVE marks that are to be taken away go first, in the same entry: nobody is granted a lock while its last
        holder could still act under it (L3).
        """
        by_bucket: dict[int, list[Placed]] = {}
        for each in placed:
            by_bucket.setdefault(each[1], []).append(each)
        answers: dict[Placed, Answer | Rejected] = {}
        all_in: Promise[None] = Promise()

        def on_answer(there: list[Placed | None], position: int, answer: Answer | Rejected) -> None:
            marked = there[position]
            if marked is not None:
                answers[marked] = answer
                if isinstance(answer, Rejected) and answer.why is RejectReason.UNKNOWN:
                    self.lose_sight(marked, token)
            if len(answers) == len(placed):
                all_in.set(None)

        for bucket, there in by_bucket.items():
            unmarks = [
                Unmark(each[0], old) for each in there for old in self._exclusive.get(each, ())
            ]
            batch = Batch(b"", 0, (*unmarks, *[Mark(account, token) for account, _ in there]))
            places = [*[None] * len(unmarks), *there]
            self._buckets.submit(bucket, batch, partial(on_answer, places))
        await all_in
        return answers

    # -- taking away ------------------------------------------------------------------------------

    def lose_sight(self, placed: Placed, token: Token) -> None:
        """A copy of this mark may still be on its way: remember that until it is taken away."""
        self._lost[placed, token] = None

    def remove(
        self, placed: Placed, token: Token, on_removed: Callable[[], None] | None = None
    ) -> None:
        """Take this mark away, sooner or later."""
        account, bucket = placed
        leaving = self._leaving.setdefault(bucket, {})
        if len(leaving) >= _LEAVING_MAX:
            _log.warning("bucket %d is away: the mark of %s waits for a payment", bucket, account)
            self._lost.pop((placed, token), None)
            return
        leaving[account, token] = on_removed
        if token.mode is LockMode.EXCLUSIVE:
            self._exclusive.setdefault(placed, {})[token] = None
        self._wake.set()

    async def run(self) -> None:
        """Take marks away until cancelled; a bucket that doesn't answer delays none beside it (rule 37, batches)."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._is_refused:
                self._is_refused = False
                await self._clock.sleep(_RETRY_SECONDS)
            for bucket, leaving in self._leaving.items():
                if leaving and bucket not in self._asked:
                    self._unmark(bucket, list(leaving)[:TURN_INSTRUCTIONS_MAX])

    def _unmark(self, bucket: int, marks: list[_Mark]) -> None:
        self._asked[bucket] = None
        left = len(marks)

        def on_answer(position: int, answer: Answer | Rejected) -> None:
            nonlocal left
            left -= 1
            if isinstance(answer, Rejected):
                self._is_refused = True
            else:
                self._on_removed(bucket, marks[position], answer)
            if not left:
                del self._asked[bucket]
                self._wake.set()

        batch = Batch(b"", 0, tuple([Unmark(*mark) for mark in marks]))
        self._buckets.submit(bucket, batch, on_answer)

    def _on_removed(self, bucket: int, mark: _Mark, answer: Answer) -> None:
        account, token = mark
        if answer.code is Code.DONE and ((account, bucket), token) in self._lost:
            return  # once more: what is still on its way must not be set behind this
        self._lost.pop(((account, bucket), token), None)
        on_removed = self._leaving[bucket].pop(mark)
        if token.mode is LockMode.EXCLUSIVE:
            tokens = self._exclusive[account, bucket]
            del tokens[token]
            if not tokens:
                del self._exclusive[account, bucket]
        if on_removed is not None:
            on_removed()


def _is_marked(answer: Answer | Rejected, placed: Placed) -> bool:
    """Tell whether an account is marked and nothing prepared before is left on it."""
    if isinstance(answer, Rejected):
        return False
    match answer.code:
        case Code.DONE:
            return True
        case Code.PENDING_ON | Code.CONTENDED:
            return False
        case _:
            raise Unavailable(
                f"account {placed[0]!r} can't be marked ({answer.code.name}): try again"
            )
