"""The Global Lock Service: leases with fencing tokens, and the marks that keep payments out of an account."""

from mas.locks.actor import GlobalLockService, LockRequest, LockSettings
from mas.locks.global_lock import GlobalLock, LockProperties, LockStatus
from mas.locks.leases import ACCOUNT, Leases
from mas.locks.outsiders import OutsiderLocks
from mas.locks.ports import LockEntry, LockStore
from mas.locks.remote import LOCKS_CHANNEL, LockDoor, RemoteLocks, join

__all__ = [
    "ACCOUNT",
    "LOCKS_CHANNEL",
    "GlobalLock",
    "GlobalLockService",
    "Leases",
    "LockDoor",
    "LockEntry",
    "LockProperties",
    "LockRequest",
    "LockSettings",
    "LockStatus",
    "LockStore",
    "OutsiderLocks",
    "RemoteLocks",
    "join",
]
