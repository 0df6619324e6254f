"""Locks for whoever isn't a payment: administrators, and programs outside.

Their locks keep payments out, so their accounts are marked (rule 33), and their leases outlive the lock service that
granted them (rule 36).
"""

from collections.abc import Sequence

from mas.ledger.instructions import LockMode, Token
from mas.locks.leases import ACCOUNT, Leases


class OutsiderLocks:
    """Fits the `Locks` port of the API: account numbers in, tokens out."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases

    async def acquire(
        self, owner: bytes, numbers: Sequence[str], mode: LockMode, timeout: float
    ) -> dict[str, Token]:
        """All or none. ESCROW marks nothing: it lets every payment pass.

        Raises:
            NotFound: there is no such account.
            Unavailable: not had within `timeout` seconds, or no lock service is at work here.
        """
        marked = mode is not LockMode.ESCROW
        lock_ids = [ACCOUNT + number for number in numbers]
        grant = await self._leases.acquire_locks(
            owner, lock_ids, mode, timeout, marked=marked, kept=True
        )
        return dict.fromkeys(numbers, grant.token)

    def release(self, owner: bytes) -> None:
        """Let go of all that this owner holds or waits for."""
        self._leases.release(owner)
