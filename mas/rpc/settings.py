"""How long a client of the buckets tries, and how much it carries."""

import msgspec

from mas import limits


class BucketClientSettings(msgspec.Struct, frozen=True):
    """Of one `BucketClient`."""

    timeout: float = 5.0
    """Seconds until what was submitted is unknown, or rejected if no replica has taken it."""
    query_timeout: float = limits.QUESTION_SECONDS_MAX
    """Seconds that one replica has to answer a query, before another is asked."""
    pause: float = 0.05
    """Seconds before the replicas are tried again, when none of them leads."""
    beginning_max: int = limits.MAILBOX_ITEMS_MAX
    """Instructions under way that begin something; what ends something always has room (rule 16, admission)."""
