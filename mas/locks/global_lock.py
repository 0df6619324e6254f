"""One lock as a program holds it."""

from enum import IntEnum

import msgspec

from mas.errors import Unavailable
from mas.ledger.instructions import LockMode, Token
from mas.locks.leases import Leases
from mas.runtime import Clock


class LockProperties(msgspec.Struct, frozen=True):
    """How long to try, and how long to hold."""

    attempts: int = 10
    """With `attempt_delay`: how long to wait in all. Nobody polls; the turn comes by itself."""
    attempt_delay: float = 1.0
    """Seconds."""
    timeout: float = 5.0
    """Seconds until a lock that isn't unlocked ends by itself."""


class LockStatus(IntEnum):
    """How it stands with a `GlobalLock`, as far as this side knows."""

    FREE = 1
    """Not held through this object."""
    HELD = 2
    EXPIRED = 3
    """Its lease has run out without `unlock`."""


class GlobalLock:
    """A lease on one lock_id, EXCLUSIVE. "account:NUMBER" keeps payments out of that account too.

    `handle` is the fencing token: what the lock protects refuses an older one.
    """

    def __init__(
        self,
        lock_id: str,
        properties: LockProperties,
        *,
        owner: bytes,
        leases: Leases,
        clock: Clock,
    ) -> None:
        self.lock_id = lock_id
        self.properties = properties
        self.handle: Token | None = None
        self._owner = owner
        self._leases = leases
        self._clock = clock
        self._deadline = 0.0

    async def lock(self) -> bool:
        """Take it; False where it wasn't free in time, or there is no lock service.

        Raises:
            NotFound: there is no such account.
        """
        try:
            grant = await self._leases.acquire_locks(
                self._owner,
                [self.lock_id],
                LockMode.EXCLUSIVE,
                self.properties.attempts * self.properties.attempt_delay,
                marked=True,
                durable=True,
                lease=self.properties.timeout,
            )
        except Unavailable:
            return False
        self.handle, self._deadline = grant.token, grant.deadline
        return True

    async def unlock(self) -> bool:
        """Let go; False where it wasn't held any more. Another holder's lock is never touched.

        Raises:
            Unavailable: no lock service is at work; the lease will end by itself.
        """
        if self.handle is None:
            return False
        handle, self.handle = self.handle, None
        return await self._leases.release_lock(self.lock_id, self._owner, handle)

    def status(self) -> LockStatus:
        """Return how it stands."""
        if self.handle is None:
            return LockStatus.FREE
        expired = self._clock.monotonic() >= self._deadline
        return LockStatus.EXPIRED if expired else LockStatus.HELD

    def has_handle(self) -> bool:
        """Tell whether it was locked and not unlocked since."""
        return self.handle is not None
