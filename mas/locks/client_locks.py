"""Locks for whoever isn't a payment: administrators, and programs outside.

Their locks keep payments out, so their accounts are marked (rule 33, locks and marks), and their leases outlive the
lock service that granted them (rule 36, lock tokens).
"""

from collections.abc import Sequence

from mas.ledger.instructions import LockMode, Token
from mas.locks.leases import ACCOUNT, Leases
from mas.runtime import Clock


class ClientLocks:
    """Fits the `Locks` port of the API: account numbers in, tokens out."""

    def __init__(self, leases: Leases, clock: Clock) -> None:
        self._leases = leases
        self._clock = clock

    async def acquire(
        self, owner: bytes, numbers: Sequence[str], mode: LockMode, timeout: float
    ) -> tuple[dict[str, Token], float]:
        """All or none, and for how many seconds from now. ESCROW marks nothing: it lets every payment pass.

        An owner that asks again for what it holds is told what is left of that.

        Raises:
            NotFound: there is no such account.
            Unavailable: not had within `timeout` seconds, or no lock service is at work here.
        """
        marked = mode is not LockMode.ESCROW
        lock_ids = [ACCOUNT + number for number in numbers]
        grant = await self._leases.acquire_locks(
            owner, lock_ids, mode, timeout, marked=marked, durable=True
        )
        left = max(grant.deadline - self._clock.monotonic(), 0.0)
        return dict.fromkeys(numbers, grant.token), left

    async def release(self, owner: bytes) -> None:
        """Let go of all that this owner holds or waits for; of nothing is fine.

        Raises:
            Unavailable: the lock service hasn't said so; what is held ends by itself.
        """
        await self._leases.release_owner(owner)
