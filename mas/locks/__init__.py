"""The Global Lock Service: leases with fencing tokens, and the marks that keep payments out of an account."""

from mas.locks.actor import GlobalLockService, LockSettings
from mas.locks.global_lock import GlobalLock, LockProperties, LockStatus
from mas.locks.outsiders import OutsiderLocks
from mas.locks.ports import Buckets, LockEntry, LockStore

__all__ = [
    "Buckets",
    "GlobalLock",
    "GlobalLockService",
    "LockEntry",
    "LockProperties",
    "LockSettings",
    "LockStatus",
    "LockStore",
    "OutsiderLocks",
]
