"""Whoever gives leases: the service itself, or the way to it from another node."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from mas.ledger.instructions import LockMode, Token
from mas.locks.table import Grant

ACCOUNT = "account:"
"""How the lock of an account is named, its number behind it; any other lock_id is a lease and nothing more."""


class Leases(ABC):
    """Gives locks. Fits the `Locks` port of the coordinator."""

    @abstractmethod
    async def acquire_locks(
        self,
        owner: bytes,
        lock_ids: Sequence[str],
        mode: LockMode,
        timeout: float,
        *,
        marked: bool = False,
        durable: bool = False,
        lease: float = 0.0,
    ) -> Grant:
        """A lease on the locks of these names, under one token; `lease` 0 is the configured one.

        All or none, first come first served, in whatever order they are named. With `marked`, their accounts are
        marked before it is granted (rule 33, locks and marks); with `durable`, it outlives the service (rule 36, lock
        tokens).

        Raises:
            NotFound: an account that is to be marked doesn't exist.
            Unavailable: not had within `timeout` seconds, or no lock service is at work.
        """

    @abstractmethod
    def release(self, owner: bytes) -> None:
        """Let go of all that this owner holds or waits for. Not heard, it ends by itself."""

    @abstractmethod
    async def release_owner(self, owner: bytes) -> bool:
        """`release`, and hear of it: whether it held or waited for anything.

        Raises:
            Unavailable: the lock service hasn't said so; what is held ends by itself.
        """

    @abstractmethod
    async def release_lock(self, lock_id: str, owner: bytes, token: Token) -> bool:
        """Let go of one lock, if this owner holds it under this token; whether it did.

        Raises:
            Unavailable: no lock service is at work; the lease will end by itself.
        """

    async def acquire(
        self, owner: bytes, numbers: Sequence[str], mode: LockMode, timeout: float
    ) -> dict[str, Token]:
        """The accounts' locks for a payment, or for a reader (SHARED), whose accounts are marked.

        Raises:
            Unavailable: not had within `timeout` seconds, or no lock service is at work.
        """
        lock_ids = [ACCOUNT + number for number in numbers]
        marked = mode is LockMode.SHARED
        grant = await self.acquire_locks(owner, lock_ids, mode, timeout, marked=marked)
        return dict.fromkeys(numbers, grant.token)

    async def hold(self, owner: bytes, number: str, timeout: float) -> Token:
        """One account's EXCLUSIVE lock for an administrator's change: marked, and kept as outsiders' are.

        Raises:
            NotFound: there is no such account.
            Unavailable: not had within `timeout` seconds, or no lock service is at work.
        """
        grant = await self.acquire_locks(
            owner, [ACCOUNT + number], LockMode.EXCLUSIVE, timeout, marked=True, durable=True
        )
        return grant.token
