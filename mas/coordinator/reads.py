"""Reads for one caller: accounts, statements, and what a replica says of its bucket.

Accounts of one bucket are read in one request, and each has an answer of its own: if the home, the bucket or a payer's
bucket of one account doesn't answer, the others only wait a little longer (rule 37, batches). An account that its home
calls claimed exists, so it is asked for again if its bucket doesn't have it yet.
"""

import asyncio
from collections.abc import Sequence

from mas.coordinator.directory import Directory
from mas.coordinator.waiting import Wait, find
from mas.errors import MasError, RequestFailed, Unavailable
from mas.limits import shorten
from mas.rpc.messages import (
    AccountView,
    AccountViews,
    BucketView,
    Postings,
    PostingView,
    ReadAccounts,
    ReadBucket,
    ReadLevel,
    ReadPostings,
)
from mas.rpc.ports import Buckets
from mas.runtime import Clock, Dice

AccountAnswer = AccountView | MasError | None
"""None: there is no such account. An error: this one can't be read, though others can."""

_ROUND_SECONDS = 1.0
"""That one account may keep those that were asked for with it from their next try."""


class Reads:
    """Asks the buckets for one caller, and waits no longer than it does."""

    def __init__(self, directory: Directory, buckets: Buckets, clock: Clock, dice: Dice) -> None:
        self._directory = directory
        self._buckets = buckets
        self._clock = clock
        self._dice = dice

    async def accounts(
        self, numbers: Sequence[str], level: ReadLevel, timeout: float
    ) -> list[AccountAnswer]:
        """One answer for each number. An account that can't be had has half the time, once others were answered."""
        wait = Wait(self._clock, timeout)
        half = wait.deadline - timeout / 2
        answers: dict[str, AccountAnswer] = {}
        left = list(dict.fromkeys(numbers))
        fresh = False
        try:
            while left:
                await wait.pause()
                answers |= await self._round(left, level, wait, fresh=fresh)
                done = len(answers)
                left = [each for each in left if isinstance(answers[each], Unavailable)]
                if len(left) < done:
                    wait.deadline = min(wait.deadline, half)
                fresh = True
        except Unavailable as error:
            for number in left:
                answers.setdefault(number, error)
        return [answers[number] for number in numbers]

    async def _round(
        self, numbers: Sequence[str], level: ReadLevel, wait: Wait, *, fresh: bool
    ) -> dict[str, AccountAnswer]:
        """Ask once for each of these; `Unavailable` where it is worth another try."""
        step = Wait(self._clock, min(wait.left(), _ROUND_SECONDS))
        found = await asyncio.gather(*[self._find(number, step, fresh=fresh) for number in numbers])
        answers: dict[str, AccountAnswer] = {}
        by_bucket: dict[int, list[str]] = {}
        for number, bucket in zip(numbers, found, strict=True):
            if isinstance(bucket, Unavailable):
                answers[number] = bucket
            elif bucket:
                by_bucket.setdefault(bucket, []).append(number)
            else:
                answers[number] = None
        pages = await asyncio.gather(
            *[
                self._page(bucket, page, level, wait.part(_ROUND_SECONDS))
                for bucket, page in by_bucket.items()
            ]
        )
        for page in pages:
            answers |= page
        return answers

    async def _find(self, number: str, wait: Wait, *, fresh: bool) -> int | Unavailable:
        try:
            return (await find(self._directory, [number], wait, fresh=fresh))[number]
        except Unavailable:
            return Unavailable(f"the home of account {shorten(number)} doesn't answer: try again")

    async def _page(
        self, bucket: int, numbers: list[str], level: ReadLevel, wait: Wait
    ) -> dict[str, AccountAnswer]:
        request = ReadAccounts(0, bucket, level, tuple(numbers))
        replica = self._any_replica(bucket) if level is ReadLevel.STALE else 0
        try:
            reply = await self._buckets.query(bucket, request, wait.left(), replica=replica)
        except (Unavailable, RequestFailed) as error:
            return dict.fromkeys(numbers, error)
        assert isinstance(reply, AccountViews), f"{reply} in answer to a read of accounts"
        answers: dict[str, AccountAnswer] = {
            number: _not_here(number) if view is None else view
            for number, view in zip(numbers, reply.views, strict=True)
        }
        for position in reply.undecided:
            answers[numbers[position]] = _undecided(numbers[position])
        return answers

    def _any_replica(self, bucket: int) -> int:
        replicas = self._buckets.replicas().get(bucket)
        return replicas[self._dice.randrange(len(replicas))] if replicas else 0

    async def postings(
        self, number: str, before: int, limit: int, timeout: float
    ) -> list[PostingView] | None:
        """A page of a statement, newest first; None where there is no such account. Raises `Unavailable`."""
        wait = Wait(self._clock, timeout)
        fresh = False
        while True:
            try:
                await wait.pause()
            except Unavailable:
                if fresh:
                    raise _not_here(number) from None
                raise
            bucket = (await find(self._directory, [number], wait, fresh=fresh))[number]
            if not bucket:
                return None
            request = ReadPostings(0, bucket, number, before, limit)
            reply = await self._buckets.query(bucket, request, wait.left())
            assert isinstance(reply, Postings), f"{reply} in answer to a read of postings"
            if reply.found:
                return list(reply.postings)
            fresh = True

    async def bucket(self, bucket: int, replica: int, timeout: float) -> BucketView:
        """A named replica's own state. Raises `Unavailable`."""
        reply = await self._buckets.query(bucket, ReadBucket(0, bucket), timeout, replica=replica)
        assert isinstance(reply, BucketView), f"{reply} in answer to a read of a bucket"
        return reply


def _not_here(number: str) -> Unavailable:
    return Unavailable(
        f"account {shorten(number)} has been created, and its bucket doesn't show it yet: try again"
    )


def _undecided(number: str) -> Unavailable:
    return Unavailable(
        f"account {shorten(number)} has a payment under way whose payer's bucket doesn't answer: try again"
    )
