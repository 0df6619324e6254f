"""How locks are given."""

import msgspec

from mas.limits import MAILBOX_ITEMS_MAX


class LockSettings(msgspec.Struct, frozen=True):
    """How locks are given."""

    buckets: int
    """The bucket count at the cluster's creation: where an account's home is (rule 20, genesis)."""
    lease: float = 10.0
    """Seconds that a lock is held without being released."""
    waiters_max: int = 4_096
    """Requests that may wait for one lock."""
    requests_max: int = MAILBOX_ITEMS_MAX
    """Requests that may wait or hold in all."""
