"""Who belongs to the cluster, where they are, and which of them hold which buckets: known everywhere, changed by operators."""

from mas.membership.actor import Membership
from mas.membership.operations import Operations
from mas.membership.removal import is_removal_known
from mas.membership.roster import BucketMembers, Roster, decode_roster

__all__ = [
    "BucketMembers",
    "Membership",
    "Operations",
    "Roster",
    "decode_roster",
    "is_removal_known",
]
