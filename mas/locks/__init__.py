"""The Global Lock Service: leases with fencing tokens, and the marks that keep payments out of an account."""

from mas.locks.actor import GlobalLockService
from mas.locks.client_locks import ClientLocks
from mas.locks.commands import LockRequest
from mas.locks.global_lock import GlobalLock, LockProperties, LockStatus
from mas.locks.leases import ACCOUNT, Leases
from mas.locks.ports import LockStore
from mas.locks.remote import LockClient, LockServer, join
from mas.locks.settings import LockSettings

__all__ = [
    "ACCOUNT",
    "ClientLocks",
    "GlobalLock",
    "GlobalLockService",
    "Leases",
    "LockClient",
    "LockProperties",
    "LockRequest",
    "LockServer",
    "LockSettings",
    "LockStatus",
    "LockStore",
    "join",
]
