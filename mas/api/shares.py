"""What each caller holds of this process, and the share that is the most it may hold.

A caller is whoever a token names, the cluster itself, or, without either, an address. Each has a share well below the
whole, so that one caller's mistake or malice is nobody else's outage. What is above the share is refused, or waits
where waiting costs nothing: for the same caller's turn, never for anybody else's.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum

import msgspec

from mas.api.tokens import Principal, Role
from mas.config import ShareConfig, SharesConfig
from mas.errors import Overloaded
from mas.limits import shorten
from mas.runtime import Clock

_DAY_SECONDS = 24 * 3600.0
_REMEMBERED_MIN = 1_024
_BUDGETS_MAX = 65_536
"""Callers whose refusals are remembered; those not heard of for longest are forgotten first."""


class Rank(Enum):
    """How far a caller is trusted; the values are fields of `mas.config.SharesConfig`."""

    STRANGER = "stranger"
    ACCOUNT = "account"
    OPERATOR = "operator"


class Caller(msgspec.Struct, frozen=True):
    """Who calls, as far as it is counted."""

    name: str
    """A token's subject, or an address."""
    rank: Rank


INSIDER = Caller("whoever knows the cluster's secret", Rank.OPERATOR)


def caller_of(principal: Principal) -> Caller:
    """The caller behind a token, whichever of its tokens that is."""
    rank = Rank.ACCOUNT if principal.role is Role.ACCOUNT else Rank.OPERATOR
    return Caller(principal.subject, rank)


class Held(Enum):
    """What a caller can hold; the values are fields of `mas.config.ShareConfig`."""

    CALLS = "calls"
    STREAMS = "streams"
    RECEIVING = "receiving"
    PAYMENTS = "payments"
    STATEMENTS = "statements"


class Share:
    """What one caller holds, and the most that it may hold."""

    def __init__(self, caller: Caller, most: ShareConfig) -> None:
        self.caller = caller
        self._most: dict[Held, int] = {what: getattr(most, what.value) for what in Held}
        self._held = dict.fromkeys(Held, 0)
        self._waiting: dict[Held, deque[asyncio.Future[None]]] = {what: deque() for what in Held}

    def held(self, what: Held) -> int:
        """Return how much of it the caller holds."""
        return self._held[what]

    def free(self, what: Held) -> int:
        """Return how much more of it the caller may hold."""
        return self._most[what] - self._held[what]

    def take(self, what: Held, count: int = 1) -> None:
        """Hold so much more.

        Raises:
            Overloaded: that would be more than the share; nothing is taken.
        """
        if count > self.free(what):
            raise Overloaded(
                f"{shorten(self.caller.name)} has {self._held[what]} {what.value} under way, and {count} more would be "
                f"above its share of {self._most[what]}: wait until some have ended"
            )
        self._held[what] += count

    def give(self, what: Held, count: int = 1) -> None:
        """Hold so much less, and let whoever waits for it have it."""
        self._held[what] -= count
        assert self._held[what] >= 0, f"gave back {what.value} that weren't taken"
        self._wake(what, count)

    async def room(self, what: Held) -> None:
        """Return once there is some to take."""
        while self.free(what) <= 0:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waiting = self._waiting[what]
            waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.cancelled():
                    waiting.remove(turn)
                else:
                    self._wake(what, 1)  # it was this one's turn: it is the next one's now
                raise

    @asynccontextmanager
    async def turn(self, what: Held) -> AsyncIterator[None]:
        """Hold one of it inside the block, after those of this caller that came before."""
        await self.room(what)
        self.take(what)
        try:
            yield
        finally:
            self.give(what)

    def _wake(self, what: Held, count: int) -> None:
        waiting = self._waiting[what]
        while waiting and count > 0:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                count -= 1


class Shares:
    """Every caller's share, as long as it holds something."""

    def __init__(self, config: SharesConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._shares: dict[Caller, Share] = {}
        self._forget_above = _REMEMBERED_MIN
        self._strangers = 0
        self._refusals: OrderedDict[Caller, tuple[float, float]] = OrderedDict()
        """How many aren't earned back yet, and when that was so (monotonic seconds)."""

    def __len__(self) -> int:
        return len(self._shares)

    @property
    def stranger_seconds(self) -> float:
        """How long a call without a token may last."""
        return self._config.stranger_seconds

    def of(self, caller: Caller) -> Share:
        """This caller's share. One that holds nothing is forgotten when others come."""
        share = self._shares.get(caller)
        if share is None:
            if len(self._shares) >= self._forget_above:
                self._forget_idle()
            share = self._shares[caller] = Share(caller, self._most(caller))
        return share

    def enter(self, caller: Caller, *, streaming: bool) -> Share:
        """Count a call, or a stream, until it leaves.

        Raises:
            Overloaded: the caller has its share of them, or all strangers together have theirs.
        """
        is_stranger = caller.rank is Rank.STRANGER
        if is_stranger and self._strangers >= self._config.strangers:
            raise Overloaded(
                f"{self._strangers} calls without a token are under way, the share of all of them together: "
                "come with a token, or later"
            )
        share = self.of(caller)
        share.take(Held.STREAMS if streaming else Held.CALLS)
        self._strangers += is_stranger
        return share

    def leave(self, share: Share, *, streaming: bool) -> None:
        """It has ended, and so has all that was written of it."""
        self._strangers -= share.caller.rank is Rank.STRANGER
        share.give(Held.STREAMS if streaming else Held.CALLS)

    def _most(self, caller: Caller) -> ShareConfig:
        most: ShareConfig = getattr(self._config, caller.rank.value)
        return most

    def _forget_idle(self) -> None:
        """At a cost that is shared by all the callers who came since the last time."""
        self._shares = {
            caller: share for caller, share in self._shares.items() if any(map(share.held, Held))
        }
        self._forget_above = max(2 * len(self._shares), _REMEMBERED_MIN)

    # -- records for nothing ---------------------------------------------------------------------

    def check_refusals(self, caller: Caller) -> None:
        """Check that one more of its payments may be refused, which leaves a record for ever and costs its caller nothing.

        Raises:
            Overloaded: it has had a day's share of them; it earns them back evenly over a day.
        """
        most = self._most(caller).refusals_a_day
        if self._refused(caller) >= most:
            raise Overloaded(
                f"{most} payments of {shorten(caller.name)} were refused or cancelled within a day, and each is kept for ever: "
                f"that is its share, and another is free every {_DAY_SECONDS / most:.1f} s"
            )

    def refused(self, caller: Caller) -> None:
        """One more of this caller's payments has left a record of nothing."""
        self._refusals[caller] = self._refused(caller) + 1, self._clock.monotonic()
        self._refusals.move_to_end(caller)
        if len(self._refusals) > _BUDGETS_MAX:
            self._refusals.popitem(last=False)

    def _refused(self, caller: Caller) -> float:
        refused, then = self._refusals.get(caller, (0.0, 0.0))
        earned = (self._clock.monotonic() - then) * self._most(caller).refusals_a_day / _DAY_SECONDS
        return max(refused - earned, 0.0)
