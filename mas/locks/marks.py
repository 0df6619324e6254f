"""Sets the marks of a lease in its accounts, and takes them away (rule 33).

A mark is an entry of the account's bucket: it holds though this service or its store is lost. Setting is tried again
until it is done or its request has ended; taking away is tried again until it is done. What is never taken away,
because this service died, is passed by the next payment that has queued here.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from mas.errors import NotFound, Unavailable
from mas.ids import home_bucket
from mas.ledger.instructions import Answer, Chunk, Code, Mark, Token, Unmark
from mas.locks.ports import Buckets
from mas.runtime import Clock, Mailbox
from mas.transaction.messages import Claims, ReadClaims, TurnedAway

_RETRY_SECONDS = 0.1
_UNMARKS_WAITING_MAX = 1 << 20
"""More than there can be leases."""

Placed = tuple[str, int]
"""An account, and its bucket."""


class Marks:
    """The marks of all leases of one lock service."""

    def __init__(self, buckets: Buckets, home_buckets: int, clock: Clock) -> None:
        self._buckets = buckets
        self._home_buckets = home_buckets
        self._clock = clock
        self._to_remove: Mailbox[tuple[Placed, Token]] = Mailbox(
            "locks.unmarks", _UNMARKS_WAITING_MAX
        )

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
            answers = await self._submit(left, Mark, token)
            left = [each for each in left if not _is_marked(answers[each], each)]
            if not left:
                return
            if not is_wanted():
                raise Unavailable("the lock wasn't marked in time: try again")
            await self._clock.sleep(_RETRY_SECONDS)

    def remove(self, placed: Sequence[Placed], token: Token) -> None:
        """Take these marks away, sooner or later."""
        for each in placed:
            self._to_remove.put((each, token))

    async def run(self) -> None:
        """Take marks away until cancelled."""
        while True:
            left = await self._to_remove.drain()
            while left:
                left = [*await self._unmark(left), *self._to_remove.drain_nowait()]
                if left:
                    await self._clock.sleep(_RETRY_SECONDS)

    async def _unmark(self, marks: list[tuple[Placed, Token]]) -> list[tuple[Placed, Token]]:
        """Those that are still to be taken away."""
        by_token: dict[Token, list[Placed]] = {}
        for placed, token in marks:
            by_token.setdefault(token, []).append(placed)
        left: list[tuple[Placed, Token]] = []
        for token, accounts in by_token.items():
            answers = await self._submit(accounts, Unmark, token)
            left += [(each, token) for each in accounts if isinstance(answers[each], TurnedAway)]
        return left

    async def _submit(
        self, placed: Sequence[Placed], kind: type[Mark] | type[Unmark], token: Token
    ) -> Mapping[Placed, Answer | TurnedAway]:
        """One chunk for each bucket; the answers once all are in."""
        by_bucket: dict[int, list[Placed]] = {}
        for each in placed:
            by_bucket.setdefault(each[1], []).append(each)
        answers: dict[Placed, Answer | TurnedAway] = {}
        all_in: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_answer(there: list[Placed], position: int, answer: Answer | TurnedAway) -> None:
            answers[there[position]] = answer
            if len(answers) == len(placed) and not all_in.done():
                all_in.set_result(None)

        for bucket, there in by_bucket.items():
            chunk = Chunk(b"", 0, tuple([kind(account, token) for account, _ in there]))
            self._buckets.submit(bucket, chunk, partial(on_answer, there))
        await all_in
        return answers


def _is_marked(answer: Answer | TurnedAway, placed: Placed) -> bool:
    """Whether an account is marked and nothing prepared before is left on it."""
    if isinstance(answer, TurnedAway):
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
