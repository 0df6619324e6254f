"""Consensus as a pure state machine: input in, a Ready out. Behaviour follows etcd/raft.

`RawNode` is the door, `core` the heart; nothing here waits, reads a clock or touches a disk.
"""

from mas.raft.config import Config, Dice, ReadOnlyOption
from mas.raft.errors import (
    Compacted,
    ConfigError,
    CorruptState,
    IllegalMessage,
    LostAcknowledged,
    NotLeader,
    ProposalDropped,
    RaftError,
    Unavailable,
)
from mas.raft.messages import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    ProgressState,
    ProgressStatus,
    ReadState,
    Ready,
    Role,
    Snapshot,
    SnapshotMetadata,
    SoftState,
    Status,
)
from mas.raft.node import RawNode
from mas.raft.storage import MemoryStorage, Storage

__all__ = [
    "Compacted",
    "ConfChange",
    "ConfChangeSingle",
    "ConfChangeTransition",
    "ConfChangeType",
    "ConfState",
    "Config",
    "ConfigError",
    "CorruptState",
    "Dice",
    "Entry",
    "EntryType",
    "HardState",
    "IllegalMessage",
    "LostAcknowledged",
    "MemoryStorage",
    "Message",
    "MessageType",
    "NotLeader",
    "ProgressState",
    "ProgressStatus",
    "ProposalDropped",
    "RaftError",
    "RawNode",
    "ReadOnlyOption",
    "ReadState",
    "Ready",
    "Role",
    "Snapshot",
    "SnapshotMetadata",
    "SoftState",
    "Status",
    "Storage",
    "Unavailable",
]
