"""How buckets are served."""

import msgspec


class ResourceSettings(msgspec.Struct, frozen=True):
    """How a bucket is served."""

    cluster: str
    buckets: int
    """The bucket count at the cluster's creation."""
    lock_timeout: float = 5.0
    """Seconds after which a prepared leg's anchor is asked (rule 11, the resolver)."""
    read_patience: float = 0.25
    """Seconds that an undecided leg may keep a reader waiting before its attempt is declared dead (rule 30, linearizable reads)."""
    flush_pause: float = 0.2
    """Seconds between two flushes: what changes meanwhile is written once."""
    cached_rows: int = 200_000
    """Accounts, and as many records, that may stay in memory when they are clean."""
    in_flight: int = 50_000
    """Instructions proposed and not yet applied, above which new work is turned away (rule 16, admission)."""
    unflushed: int = 400_000
    """Instructions applied and not yet durable in the AccountDB, above which new work is turned away."""
