"""RawNode: what a Ready holds, when it is there, and what may happen while it is out."""

import random

import pytest

from mas.raft import (
    ConfChangeType,
    ConfState,
    Entry,
    EntryType,
    HardState,
    MemoryStorage,
    Message,
    MessageType,
    Role,
    SoftState,
)
from tests.raft.group import Group, Member, change, snapshot_of, stored

ALONE = ConfState(voters=(1,))
THREE = ConfState(voters=(1, 2, 3))


def test_a_node_that_starts_has_nothing_to_do() -> None:
    member = Member(1, MemoryStorage(THREE))
    assert not member.node.has_ready()
    ready = member.node.ready()
    assert (ready.soft_state, ready.hard_state, ready.must_sync) == (None, None, False)
    assert ready.entries == ready.committed_entries == ready.messages == ready.read_states == ()


def test_a_single_voter_elects_itself_and_commits_in_steps() -> None:
    """Each step rests on what the one before has synced (dissertation, 3.8 and 10.2.1)."""
    member = Member(1, MemoryStorage(ALONE), pre_vote=False)
    member.node.campaign()
    member.take()
    vote, empty, commit = member.readies
    assert vote.soft_state == SoftState(0, Role.CANDIDATE)
    assert (vote.hard_state, vote.entries, vote.must_sync) == (HardState(1, 1, 0), (), True)
    assert empty.soft_state == SoftState(1, Role.LEADER)
    assert (empty.hard_state, empty.entries, empty.must_sync) == (None, (Entry(1, 1),), True)
    assert empty.committed_entries == ()
    assert (commit.hard_state, commit.must_sync) == (HardState(1, 1, 1), False)
    assert commit.committed_entries == (Entry(1, 1),)


def test_one_ready_at_a_time() -> None:
    member = Member(1, MemoryStorage(ALONE))
    member.node.campaign()
    ready = member.node.ready()
    assert not member.node.has_ready()
    with pytest.raises(AssertionError):
        member.node.ready()
    member.node.advance(ready)
    with pytest.raises(AssertionError):
        member.node.advance(ready)


@pytest.mark.parametrize(
    ("terms", "commit", "applied", "handed_out"),
    [([1, 1], 1, 0, [1]), ([1, 1], 2, 1, [2]), ([1, 1], 2, 2, []), ([1, 1], 0, 2, [])],
)
def test_a_restart_hands_out_what_is_committed_and_not_applied(
    terms: list[int], commit: int, applied: int, handed_out: list[int]
) -> None:
    member = Member(1, stored(terms, THREE, HardState(1, 0, commit)), applied=applied)
    assert member.status.commit == max(commit, applied)
    member.take()
    assert [entry.index for entry in member.applied] == handed_out
    assert member.status.applied == max(commit, applied)


def test_rule_27_a_commit_raised_by_applied_is_written_down_unsynced() -> None:
    member = Member(1, stored([1, 1], THREE, HardState(1, 0, 1)), applied=2)
    member.take()
    assert [(ready.hard_state, ready.must_sync) for ready in member.readies] == [
        (HardState(1, 0, 2), False)
    ]


def test_a_group_that_begins_behind_a_snapshot_has_nothing_to_do_and_begins_in_its_first_term() -> (
    None
):
    """A log that begins above 1 makes every member that joins start from the snapshot."""
    storage = MemoryStorage()
    storage.apply_snapshot(snapshot_of(10, 1, ALONE))
    member = Member(1, storage, pre_vote=False)
    assert not member.node.has_ready()
    assert (member.status.term, member.status.commit, member.status.applied) == (0, 10, 10)
    member.node.campaign()
    ready = member.node.ready()
    assert (ready.hard_state, ready.entries, ready.must_sync) == (HardState(1, 1, 10), (), True)
    member.persist(ready)
    member.node.advance(ready)
    member.node.propose(b"foo")
    entries = (Entry(11, 1), Entry(12, 1, data=b"foo"))
    ready = member.node.ready()
    assert (ready.hard_state, ready.entries, ready.committed_entries) == (None, entries, ())
    member.persist(ready)
    member.node.advance(ready)
    ready = member.node.ready()
    assert (ready.hard_state, ready.entries) == (HardState(1, 1, 12), ())
    assert (ready.committed_entries, ready.must_sync) == (entries, False)
    member.node.advance(ready)
    assert not member.node.has_ready()


def test_a_restart_behind_a_snapshot_goes_on_from_there() -> None:
    storage = MemoryStorage()
    storage.apply_snapshot(snapshot_of(5, 2, THREE))
    storage.append([Entry(6, 2, data=b"x")])
    storage.set_hard_state(HardState(2, 0, 6))
    member = Member(1, storage)
    assert member.status.conf_state == THREE
    member.take()
    assert [entry.index for entry in member.applied] == [6]


def test_committed_entries_come_in_pages() -> None:
    storage = MemoryStorage(THREE)
    storage.append([Entry(index, 1, data=b"12345") for index in range(1, 6)])
    storage.set_hard_state(HardState(1, 0, 5))
    for limit, pages in ((0, [1, 1, 1, 1, 1]), (10, [2, 2, 1]), (1000, [5])):
        member = Member(1, storage, max_committed_size_per_ready=limit)
        member.take()
        assert [len(ready.committed_entries) for ready in member.readies] == pages


def test_a_follower_persists_before_it_answers_and_applies_what_it_persists() -> None:
    member = Member(1, MemoryStorage(THREE))
    entries = (Entry(1, 1), Entry(2, 1, data=b"x"))
    member.node.step(Message(MessageType.APPEND, 1, 2, term=1, entries=entries, commit=2))
    ready = member.node.ready()
    assert (ready.entries, ready.committed_entries) == (entries, entries)
    assert (ready.hard_state, ready.must_sync) == (HardState(1, 0, 2), True)
    assert [(m.type, m.index) for m in ready.messages] == [(MessageType.APPEND_RESPONSE, 2)]


def test_must_sync_is_for_entries_snapshots_terms_and_votes_only() -> None:
    member = Member(1, stored([1], THREE, HardState(1)))
    for fields, synced in (
        ({"kind": MessageType.HEARTBEAT, "term": 1, "commit": 1}, False),
        ({"kind": MessageType.HEARTBEAT, "term": 2}, True),
        ({"kind": MessageType.APPEND, "term": 2, "index": 1, "log_term": 1}, False),
        (
            {
                "kind": MessageType.APPEND,
                "term": 2,
                "index": 1,
                "log_term": 1,
                "entries": (Entry(2, 2),),
            },
            True,
        ),
        ({"kind": MessageType.SNAPSHOT, "term": 2, "snapshot": snapshot_of(9, 2, THREE)}, True),
    ):
        kind = fields.pop("kind")
        member.hear(kind, 2, **fields)  # type: ignore[arg-type]
        assert member.readies[-1].must_sync is synced, kind


def test_a_snapshot_stepped_while_a_ready_is_out_takes_effect_at_advance() -> None:
    """A change handed out before it is applied to the configuration it was made for."""
    member = Member(1, MemoryStorage(ConfState(voters=(1, 2))))
    add = Entry(1, 1, EntryType.CONF_CHANGE, change(ConfChangeType.ADD_NODE, 3).encode())
    member.node.step(Message(MessageType.APPEND, 1, 2, term=1, entries=(add,), commit=1))
    ready = member.node.ready()
    conf = ConfState(voters=(1, 2, 3, 4))
    for index in (9, 8):
        snapshot = snapshot_of(index, 1, conf)
        member.node.step(Message(MessageType.SNAPSHOT, 1, 2, term=1, snapshot=snapshot))
    assert member.status.conf_state == ConfState(voters=(1, 2))
    member.persist(ready)
    member.apply(ready)
    assert member.status.conf_state == THREE
    member.node.advance(ready)
    assert member.status.conf_state == conf
    assert member.node.ready().snapshot == snapshot_of(9, 1, conf)


def test_proposals_and_acknowledgements_while_a_ready_is_out_count_afterwards() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    leader.node.propose(b"a")
    ready = leader.node.ready()
    leader.node.propose(b"b")
    leader.node.step(Message(MessageType.APPEND_RESPONSE, 1, 2, term=1, index=2))
    assert leader.status.commit == 1
    assert leader.status.progress[1].match == 1
    leader.persist(ready)
    leader.node.advance(ready)
    assert leader.status.progress[1].match == 2
    assert leader.status.commit == 2
    assert [entry.data for entry in leader.node.ready().entries] == [b"b"]


def test_every_proposal_takes_its_place_in_the_window_at_once() -> None:
    group = Group(1, 2, 3, max_inflight_msgs=3)
    leader = group.elect(1)
    for _ in range(3):
        assert not leader.status.progress[2].paused
        leader.node.propose(b"x")
    assert (leader.status.progress[2].paused, leader.status.progress[2].next) == (True, 5)
    leader.node.propose(b"x")
    ready = leader.node.ready()
    assert [(m.to, m.index, len(m.entries)) for m in ready.messages] == [
        (to, index, 1) for index in (1, 2, 3) for to in (2, 3)
    ]
    assert len(ready.entries) == 4


def test_one_seed_gives_one_life() -> None:
    timeouts = [
        Member(1, MemoryStorage(THREE), rng=random.Random(5)).node.randomized_election_timeout
        for _ in range(2)
    ]
    assert timeouts[0] == timeouts[1]
