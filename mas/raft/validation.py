"""What can't come from a correct peer, and what can't have been persisted by a correct node.

Checked before anything changes. Who lets such input in makes the log or the commit index wrong for ever;
who refuses it loses a message or stops one replica.
"""

from collections.abc import Callable

from mas.limits import COUNTER_MAX, TERM_REACH
from mas.raft import confchange
from mas.raft.config import Config
from mas.raft.errors import ConfigError, CorruptState, IllegalMessage, LostAcknowledged
from mas.raft.messages import ConfState, HardState, Message, MessageType
from mas.raft.storage import Storage


def check_message(message: Message, node_id: int, term: int, last_index: int) -> None:
    """Raise IllegalMessage for what no correct peer would send to this node, LostAcknowledged for what proves a loss.

    Terms are persisted, so one that leaves no room for a next would end the group for good: what isn't within reach of
    this node's own is damage.
    """
    _check_counters(message, term)
    if message.to != node_id:
        raise IllegalMessage(f"a message to node {message.to} came to node {node_id}")
    if message.from_ < 1:
        raise IllegalMessage(f"a message of type {message.type} can't be from node {message.from_}")
    check = _CHECKS.get(message.type)
    if check is not None:
        check(message, term, last_index)
    elif message.type not in _KNOWN:
        raise IllegalMessage(f"unknown message type {message.type} from node {message.from_}")


def _check_counters(message: Message, term: int) -> None:
    counters = (message.log_term, message.index, message.commit, message.reject_hint, message.life)
    if min(counters) < 0 or max(counters) > COUNTER_MAX:
        raise IllegalMessage(f"a message with a number that isn't from 0 to {COUNTER_MAX}")
    greatest = min(term + TERM_REACH, COUNTER_MAX)
    if not 0 <= message.term <= greatest:
        raise IllegalMessage(
            f"a message of term {message.term}, and this node is in term {term}: expected one up to {greatest}"
        )


def check_persisted(
    config: Config, storage: Storage, hard_state: HardState, conf_state: ConfState
) -> None:
    """Raise CorruptState where the storage can't be what a node has left behind.

    Any prefix of what a Ready asks to be written is fine: a snapshot or entries without the hard
    state that came with them were never acknowledged to anybody.
    """
    first, last = storage.first_index(), storage.last_index()
    if last < first - 1:
        raise CorruptState(f"the log begins at {first} and ends at {last}")
    if min(hard_state.term, hard_state.vote, hard_state.commit) < 0:
        raise CorruptState(f"{hard_state} has a negative field")
    if hard_state.term > COUNTER_MAX:
        raise CorruptState(f"term {hard_state.term} is beyond {COUNTER_MAX}")
    if hard_state.vote and not hard_state.term:
        raise CorruptState(f"a vote for node {hard_state.vote} in no term")
    if hard_state.commit > last:
        raise CorruptState(f"commit is {hard_state.commit}, and the log ends at {last}: it was cut")
    if config.applied > last:
        raise CorruptState(f"applied is {config.applied}, and the log ends at {last}: it was lost")
    if 0 < config.applied < first - 1:
        raise CorruptState(
            f"applied is {config.applied}, and the log begins at {first}: the state machine lacks "
            "entries that are gone; restore the snapshot and start with its index as applied"
        )
    try:
        confchange.check(conf_state)
    except ConfigError as error:
        raise CorruptState(f"the persisted configuration can't be: {error}") from error
    _check_unapplied(storage, max(config.applied + 1, first), last, config)


def _check_unapplied(storage: Storage, index: int, last: int, config: Config) -> None:
    """Check that entries still to be handed out follow each other, and that their terms never fall."""
    term = storage.term(index - 1) if index <= last else 0
    while index <= last:
        entries = storage.entries(index, last + 1, config.max_committed_size_per_ready)
        if not entries:
            raise CorruptState(f"the log ends at {last}, and has no entry {index}")
        for entry in entries:
            if entry.index != index:
                raise CorruptState(f"the log has entry {entry.index} where {index} was expected")
            if entry.term < term:
                raise CorruptState(
                    f"the log has entry {index} of term {entry.term} behind one of term {term}"
                )
            index, term = index + 1, entry.term


def _check_append(message: Message, _term: int, _last_index: int) -> None:
    index, term = message.index, message.log_term
    if index < 0:
        raise IllegalMessage(f"an APPEND behind index {index}")
    for entry in message.entries:
        index += 1
        if entry.index != index:
            raise IllegalMessage(f"an APPEND has entry {entry.index} where {index} was expected")
        if entry.term < term or entry.term > message.term:
            raise IllegalMessage(
                f"an APPEND of term {message.term} has entry {index} of term {entry.term} "
                f"behind one of term {term}"
            )
        term = entry.term


def _check_heartbeat(message: Message, term: int, last_index: int) -> None:
    """Check that a leader commits by a HEARTBEAT no more than this node has acknowledged to it in that very term."""
    if message.commit > last_index:
        error = LostAcknowledged if message.term >= term else IllegalMessage
        raise error(
            f"a HEARTBEAT commits {message.commit}, and the log ends at {last_index}: "
            "what this node had acknowledged is lost, or the sender isn't of this group"
        )


def _check_snapshot(message: Message, _term: int, _last_index: int) -> None:
    if message.snapshot is None:
        raise IllegalMessage("a SNAPSHOT without a snapshot")
    metadata = message.snapshot.metadata
    if max(metadata.index, metadata.term) > COUNTER_MAX or min(metadata.index, metadata.term) < 0:
        raise IllegalMessage(f"a SNAPSHOT of index {metadata.index} and term {metadata.term}")
    try:
        confchange.check(metadata.conf_state)
    except ConfigError as error:
        raise IllegalMessage(f"a SNAPSHOT with a configuration that can't be: {error}") from error


_KNOWN = frozenset(MessageType)
_CHECKS: dict[MessageType, Callable[[Message, int, int], None]] = {
    MessageType.APPEND: _check_append,
    MessageType.HEARTBEAT: _check_heartbeat,
    MessageType.SNAPSHOT: _check_snapshot,
}
