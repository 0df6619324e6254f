"""The nouns of Raft: entries, states, snapshots, configuration changes, and the messages between peers.

Only data lives here. Everything is frozen, so what was handed to a host or a peer never changes
behind its back, and encodes as a short array. Indexes and terms start at 1; 0 means none.
"""

from enum import IntEnum
from typing import Annotated

import msgspec

from mas.decoding import msgpack_decoder
from mas.limits import COUNTER_MAX
from mas.raft.errors import CorruptState


class EntryType(IntEnum):
    """What an entry's `data` is."""

    NORMAL = 0
    CONF_CHANGE = 1


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One place of the log. A NORMAL entry without data is the one that a new leader appends."""

    index: int
    term: int
    type: EntryType = EntryType.NORMAL
    data: bytes = b""


Counter = Annotated[int, msgspec.Meta(ge=0, le=COUNTER_MAX)]
"""As another process may count. Of a message's own numbers see `validation`."""


class HardState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a node must not forget (Raft, figure 2), and the commit index, which it may."""

    term: int = 0
    vote: int = 0
    commit: int = 0


class ConfState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The members of the group. Every tuple ascends.

    `voters_outgoing` is empty unless the configuration is joint; `voters` is then the incoming half.
    `learners_next` are voters of the outgoing half only, and learners once it is left.
    """

    voters: tuple[int, ...] = ()
    voters_outgoing: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    learners_next: tuple[int, ...] = ()
    auto_leave: bool = False


class SnapshotMetadata(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The last entry that a snapshot stands for, and the configuration as of that entry."""

    index: Counter
    term: Counter
    conf_state: ConfState


class Snapshot(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A state machine's state; `data` is a reference that the host resolves, not the state itself."""

    metadata: SnapshotMetadata
    data: bytes = b""


class ConfChangeType(IntEnum):
    """What happens to one member. Adding a voter as a learner demotes it."""

    ADD_NODE = 0
    REMOVE_NODE = 1
    ADD_LEARNER = 2


class ConfChangeSingle(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A change of one member."""

    type: ConfChangeType
    node_id: int


class ConfChangeTransition(IntEnum):
    """How a group gets from the old configuration to the new one."""

    AUTO = 0
    JOINT_IMPLICIT = 1
    JOINT_EXPLICIT = 2


class ConfChange(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A change of the configuration; without `changes` it leaves the joint state.

    AUTO is simple where one member changes, else JOINT_IMPLICIT: a joint configuration that the
    leader leaves by itself. JOINT_EXPLICIT is left by an empty change that somebody proposes.
    """

    changes: tuple[ConfChangeSingle, ...] = ()
    transition: ConfChangeTransition = ConfChangeTransition.AUTO
    context: bytes = b""

    def encode(self) -> bytes:
        """Return the bytes that a CONF_CHANGE entry carries."""
        return _conf_change_encoder.encode(self)

    @staticmethod
    def decode(data: bytes) -> "ConfChange":
        """Return the change that `data` encodes, the empty one where `data` is empty.

        Raises CorruptState where it encodes no change.
        """
        return _decode_conf_change(data) if data else ConfChange()


_conf_change_encoder = msgspec.msgpack.Encoder()
_decode_conf_change = msgpack_decoder(
    ConfChange,
    "a configuration change",
    CorruptState,
    "expected what ConfChange.encode gave: the log is damaged, replace this replica",
)


class MessageType(IntEnum):
    """What a peer says. READ_INDEX is a follower's read on its way to the leader."""

    APPEND = 0
    APPEND_RESPONSE = 1
    VOTE = 2
    VOTE_RESPONSE = 3
    PRE_VOTE = 4
    PRE_VOTE_RESPONSE = 5
    HEARTBEAT = 6
    HEARTBEAT_RESPONSE = 7
    SNAPSHOT = 8
    TIMEOUT_NOW = 9
    READ_INDEX = 10
    READ_INDEX_RESPONSE = 11


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One message between two peers of a group.

    `term` is the sender's, but: PRE_VOTE and its grant carry the term that the sender would campaign
    for, READ_INDEX none (a follower that forwards one keeps `from_`).

    `log_term` and `index`: APPEND, the entry before `entries`; VOTE and PRE_VOTE, the sender's last
    entry; APPEND_RESPONSE, `index` is the last match, or of a rejection the index that was refused,
    and `reject_hint` with `log_term` where the sender's log may agree. A request for a vote tells the
    sender's `commit`; a refusal does too, `log_term` being that entry's. READ_INDEX and its response:
    `reject_hint` is the reader's own number of the read, so that no answer is taken for a later
    read of the same context. `context` is a read's, and of heartbeats the round that confirms
    reads; of a VOTE (never of a PRE_VOTE) it is set where leadership is being transferred. `life` is
    of APPEND_RESPONSE alone (`Config.life`): what an earlier life acknowledged is gone.
    """

    type: MessageType
    to: int
    from_: int
    term: int = 0
    log_term: int = 0
    index: int = 0
    commit: int = 0
    entries: tuple[Entry, ...] = ()
    reject: bool = False
    reject_hint: int = 0
    snapshot: Snapshot | None = None
    context: bytes = b""
    life: int = 0


class Role(IntEnum):
    """What a node is in its term."""

    FOLLOWER = 0
    PRE_CANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3


class SoftState(msgspec.Struct, frozen=True, gc=False):
    """Who leads, as far as this node knows, and what it is itself; never persisted."""

    leader: int
    role: Role


class ReadState(msgspec.Struct, frozen=True, gc=False):
    """The read of this context may be served once `index` is applied."""

    index: int
    context: bytes


class Ready(msgspec.Struct, frozen=True, gc=False):
    """What the host has to do, in this order, before it calls `advance`.

    Persist snapshot, entries and hard_state (synced if must_sync); send messages; apply the
    snapshot and committed_entries. A leader's APPENDs may leave while its own write is in flight;
    every other message only after it. soft_state and hard_state are there only when changed.
    """

    soft_state: SoftState | None
    hard_state: HardState | None
    entries: tuple[Entry, ...]
    snapshot: Snapshot | None
    committed_entries: tuple[Entry, ...]
    messages: tuple[Message, ...]
    read_states: tuple[ReadState, ...]
    must_sync: bool


class ProgressState(IntEnum):
    """How a leader feeds a peer: one message at a time, a window of them, or a snapshot."""

    PROBE = 0
    REPLICATE = 1
    SNAPSHOT = 2


class ProgressStatus(msgspec.Struct, frozen=True, gc=False):
    """What a leader knows of one peer."""

    match: int
    next: int
    state: ProgressState
    paused: bool
    recent_active: bool
    is_learner: bool
    pending_snapshot: int


class Status(msgspec.Struct, frozen=True):
    """A node at a glance; `progress` has every member on a leader, and nobody elsewhere."""

    id: int
    role: Role
    leader: int
    term: int
    vote: int
    commit: int
    applied: int
    last_index: int
    conf_state: ConfState
    lead_transferee: int
    progress: dict[int, ProgressStatus]
