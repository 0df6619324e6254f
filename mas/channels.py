"""What the frames between nodes are for."""

from enum import IntEnum


class Channel(IntEnum):
    """Which room of the receiving node a frame is for."""

    RAFT = 1
    REQUEST = 2
    """Requests to a resource manager (`mas.rpc.messages.Request`)."""
    REPLY = 3
    """Their replies, back to whoever asked."""
    SNAPSHOT = 4
    LOCKS = 5
    ROSTER = 6
    """What nodes tell each other of the cluster's members."""


BULK = frozenset({Channel.SNAPSHOT})
"""Those that wait until no other frame does."""
