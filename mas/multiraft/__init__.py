"""All Raft groups of a node: one actor, one log write for all, one frame a peer, snapshots as files."""

from mas.multiraft.actor import HostStatistics, RaftHost
from mas.multiraft.config import HostConfig
from mas.multiraft.events import (
    CommitEvent,
    Committed,
    Leadership,
    ReadReady,
    Refused,
    Restored,
)
from mas.multiraft.group import GroupStatus, RaftGroup
from mas.multiraft.threads import WorkerThread

__all__ = [
    "CommitEvent",
    "Committed",
    "GroupStatus",
    "HostConfig",
    "HostStatistics",
    "Leadership",
    "RaftGroup",
    "RaftHost",
    "ReadReady",
    "Refused",
    "Restored",
    "WorkerThread",
]
