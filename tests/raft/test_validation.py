"""What a correct peer doesn't send, and what a correct node can't have persisted."""

from typing import Any

import msgspec
import pytest

from mas.raft import (
    Config,
    ConfState,
    CorruptState,
    Entry,
    HardState,
    IllegalMessage,
    LostAcknowledged,
    MemoryStorage,
    Message,
    MessageType,
    RawNode,
    Storage,
)
from tests.raft.group import FixedDice, Group, Member, snapshot_of, stored

CONF = ConfState(voters=(1, 2, 3))


def message(kind: MessageType, **fields: Any) -> Message:
    return msgspec.structs.replace(Message(kind, 1, 2, term=3), **fields)


ILLEGAL = {
    "unknown type": Message(99, 1, 2),  # type: ignore[arg-type]
    "to somebody else": message(MessageType.HEARTBEAT, to=2),
    "from nobody": message(MessageType.HEARTBEAT, from_=0),
    "a gap": message(MessageType.APPEND, index=2, log_term=1, entries=(Entry(4, 2),)),
    "a gap inside": message(MessageType.APPEND, entries=(Entry(1, 1), Entry(3, 1))),
    "a term that falls": message(MessageType.APPEND, entries=(Entry(1, 2), Entry(2, 1))),
    "a term below the one before": message(
        MessageType.APPEND, index=2, log_term=2, entries=(Entry(3, 1),)
    ),
    "a term above the message's": message(MessageType.APPEND, entries=(Entry(1, 4),)),
    "a commit that isn't there": message(MessageType.HEARTBEAT, commit=3),
    "a term out of reach": message(MessageType.HEARTBEAT, term=2**32 + 3),
    "a term beyond all": message(MessageType.VOTE, term=2**63 - 1),
    "a negative term": message(MessageType.HEARTBEAT, term=-1),
    "a negative commit": message(MessageType.VOTE, commit=-1),
    "an index beyond all": message(MessageType.APPEND_RESPONSE, index=2**62 + 1),
    "a hint beyond all": message(MessageType.APPEND_RESPONSE, reject=True, reject_hint=2**63),
    "a life beyond all": message(MessageType.APPEND_RESPONSE, life=2**63),
    "a snapshot beyond all": message(
        MessageType.SNAPSHOT, snapshot=snapshot_of(2**63, 3, ConfState((1, 2)))
    ),
    "no snapshot": message(MessageType.SNAPSHOT),
    "a snapshot with a broken configuration": message(
        MessageType.SNAPSHOT, snapshot=snapshot_of(9, 3, ConfState((1, 2), learners=(2,)))
    ),
}


@pytest.mark.parametrize("illegal", ILLEGAL.values(), ids=ILLEGAL.keys())
def test_an_illegal_message_changes_nothing(illegal: Message) -> None:
    member = Member(1, stored([1, 2], CONF))
    before = member.status
    with pytest.raises(IllegalMessage):
        member.node.step(illegal)
    assert member.status == before
    assert not member.node.has_ready()


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_commit_of_what_is_not_there_is_proof_of_a_loss(ahead: int) -> None:
    """A leader commits by a heartbeat what this node has acknowledged in that term, and no more."""
    member = Member(1, stored([1, 2], CONF, HardState(term=3)))
    with pytest.raises(LostAcknowledged, match="had acknowledged is lost"):
        member.hear(MessageType.HEARTBEAT, 2, term=3 + ahead, commit=3)
    with pytest.raises(IllegalMessage) as late:
        member.hear(MessageType.HEARTBEAT, 2, term=2, commit=3)
    assert not isinstance(late.value, LostAcknowledged), "of an earlier term it proves nothing"


def test_a_term_in_reach_is_taken_and_persisted_ones_are_bounded() -> None:
    member = Member(1, stored([1, 2], CONF, HardState(term=3)))
    member.hear(MessageType.HEARTBEAT, 2, term=3 + 2**32)
    assert member.status.term == 3 + 2**32
    with pytest.raises(CorruptState, match="beyond"):
        Member(1, stored([1, 2], CONF, HardState(term=2**62 + 1)))


def test_an_appends_commit_above_its_last_entry_is_legal() -> None:
    member = Member(1, stored([1, 2], CONF))
    member.hear(MessageType.APPEND, 2, term=3, index=2, log_term=2, commit=9)
    assert member.status.commit == 2


def test_nobody_acknowledges_more_than_the_leader_has() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    with pytest.raises(LostAcknowledged):
        leader.node.step(Message(MessageType.APPEND_RESPONSE, 1, 2, term=1, index=2))
    assert leader.status.progress[2].match == 1


def test_an_illegal_snapshot_is_refused_while_a_ready_is_out() -> None:
    member = Member(1, stored([1, 2], CONF))
    member.node.campaign()
    ready = member.node.ready()
    with pytest.raises(IllegalMessage):
        member.node.step(message(MessageType.SNAPSHOT))
    member.node.advance(ready)


def start(storage: Storage, applied: int = 0) -> RawNode:
    return RawNode(Config(id=1, rng=FixedDice(0), applied=applied), storage)


def compacted(index: int, commit: int) -> MemoryStorage:
    storage = stored([1, 1, 2], CONF, HardState(2, 0, commit))
    storage.compact(index)
    return storage


CORRUPT = {
    "commit above the log": (stored([1, 1], CONF, HardState(1, 0, 3)), 0),
    "applied above the log": (stored([1, 1], CONF, HardState(1, 0, 2)), 3),
    "applied below the log": (compacted(2, commit=3), 1),
    "a vote in no term": (stored([], CONF, HardState(0, 2, 0)), 0),
    "a negative term": (stored([], CONF, HardState(-1, 0, 0)), 0),
    "a broken configuration": (stored([1], ConfState((1, 2), learners=(2,))), 0),
    "a term that falls": (stored([1, 3, 2], CONF, HardState(3, 0, 1)), 1),
}


@pytest.mark.parametrize(("storage", "applied"), CORRUPT.values(), ids=CORRUPT.keys())
def test_a_state_that_raft_never_leaves_behind_is_corrupt(
    storage: MemoryStorage, applied: int
) -> None:
    with pytest.raises(CorruptState):
        start(storage, applied)


def test_a_log_that_ends_before_it_begins_is_corrupt() -> None:
    class Cut(MemoryStorage):
        def first_index(self) -> int:
            return self.last_index() + 2

    with pytest.raises(CorruptState):
        start(Cut(CONF))


@pytest.mark.parametrize("held", [[], [Entry(2, 1)], [Entry(1, 1), Entry(3, 1)]])
def test_a_log_with_holes_is_corrupt(held: list[Entry]) -> None:
    class Holed(MemoryStorage):
        def entries(self, lo: int, hi: int, max_bytes: int | None = None) -> list[Entry]:
            return held

    storage = Holed(CONF)
    storage.append([Entry(1, 1), Entry(2, 1), Entry(3, 1)])
    with pytest.raises(CorruptState):
        start(storage)


def test_a_snapshot_or_entries_may_outlive_the_hard_state_that_came_with_them() -> None:
    """A crash in the midst of a write leaves any prefix of it."""
    storage = MemoryStorage(CONF)
    storage.set_hard_state(HardState(1, 2, 0))
    storage.apply_snapshot(snapshot_of(5, 2, CONF))
    storage.append([Entry(6, 4)])
    status = start(storage).status()
    assert (status.term, status.vote, status.commit, status.applied) == (4, 0, 5, 5)
    assert status.last_index == 6
