"""How a leader feeds its peers, message by message: windows, probes, hints, snapshots, and what a lost message costs."""

from typing import Any

import pytest

from mas.raft import (
    ConfState,
    Entry,
    HardState,
    MemoryStorage,
    Message,
    MessageType,
    ProgressState,
    ProposalDropped,
    Role,
)
from tests.raft.group import Group, Member, snapshot_of, stored

THREE = ConfState(voters=(1, 2, 3))
TWO = ConfState(voters=(1, 2))
APPEND, ACK = MessageType.APPEND, MessageType.APPEND_RESPONSE


def leading(storage: MemoryStorage, **settings: Any) -> Member:
    """Node 1, elected by node 2 in a log of its own, having sent its first entry to everybody."""
    member = Member(1, storage, **{"pre_vote": False, "check_quorum": False, **settings})
    member.node.campaign()
    member.take()
    member.hear(MessageType.VOTE_RESPONSE, 2, term=member.status.term)
    assert member.status.role is Role.LEADER
    return member


def replicating(**settings: Any) -> Member:
    """Node 1 of two leads, and node 2 holds its first entry."""
    leader = leading(MemoryStorage(TWO), **settings)
    leader.hear(ACK, 2, term=1, index=1)
    assert leader.status.progress[2].state is ProgressState.REPLICATE
    return leader


def appends(messages: list[Message], to: int = 2) -> list[tuple[int, int]]:
    """The APPENDs to a peer: index before, number of entries."""
    return [(m.index, len(m.entries)) for m in messages if m.type == APPEND and m.to == to]


def progress(leader: Member, node: int = 2) -> tuple[ProgressState, int, int, bool]:
    one = leader.status.progress[node]
    return one.state, one.match, one.next, one.paused


# -- the window


def test_a_full_window_lets_nothing_through() -> None:
    leader = replicating(max_inflight_msgs=8)
    for index in range(1, 9):
        leader.node.propose(b"x")
        assert appends(leader.take()) == [(index, 1)]
    assert leader.status.progress[2].paused
    for _ in range(10):
        leader.node.propose(b"x")
        assert appends(leader.take()) == []


def test_an_acknowledgement_moves_the_window_and_a_stale_one_does_not() -> None:
    leader = replicating(max_inflight_msgs=8)
    for _ in range(8):
        leader.node.propose(b"x")
        leader.take()
    for index in range(2, 8):
        leader.hear(ACK, 2, term=1, index=index)
        leader.node.propose(b"x")
        assert len(appends(leader.take())) == 1
        assert leader.status.progress[2].paused
        for stale in range(index):
            leader.hear(ACK, 2, term=1, index=stale)
            assert leader.status.progress[2].paused


def test_a_sign_of_life_lets_one_empty_append_through_a_full_window() -> None:
    leader = replicating(max_inflight_msgs=4)
    for _ in range(4):
        leader.node.propose(b"x")
        leader.take()
    for _ in range(3):
        assert leader.status.progress[2].paused
        assert appends(leader.hear(MessageType.HEARTBEAT_RESPONSE, 2, term=1)) == [(5, 0)]
        for _ in range(5):
            leader.node.propose(b"x")
            assert appends(leader.take()) == []


def test_a_probe_carries_what_fits_and_its_answer_opens_the_window() -> None:
    leader = leading(MemoryStorage(TWO), max_inflight_msgs=3, max_size_per_msg=2048)
    leader.hear(ACK, 2, term=1, index=1)
    leader.node.report_unreachable(2)
    for size in [1000] * 10 + [5000] * 2:
        leader.node.propose(bytes(size))
    sent = appends(leader.take())
    assert sent == [(1, 1)]
    for acknowledged, expected in (
        (2, [(2, 2), (4, 2), (6, 2)]),
        (8, [(8, 2), (10, 1), (11, 1)]),
        (12, [(12, 1)]),
    ):
        sent = leader.hear(ACK, 2, term=1, index=acknowledged)
        assert appends(sent) == expected


def test_a_group_pauses_commits_without_the_one_that_is_cut_off_and_brings_it_back() -> None:
    group = Group(1, 2, 3, max_inflight_msgs=3)
    leader = group.elect(1)
    group.isolate(3)
    for last in (4, 7):
        for _ in range(3):
            leader.node.propose(b"x")
        assert leader.status.progress[3].paused
        group.deliver()
        assert progress(leader, 2) == (ProgressState.REPLICATE, last, last + 1, False)
        assert progress(leader, 3) == (ProgressState.REPLICATE, 1, 5, True)
    group.heal()
    group.sent.clear()
    group.tick(1, 1)
    first = next(m for m in group.sent if m.type == APPEND)
    assert (first.to, first.index, first.commit, first.entries) == (3, 4, 7, ())
    refusal = next(m for m in group.sent if m.reject)
    assert (refusal.index, refusal.reject_hint, refusal.log_term) == (4, 1, 1)
    assert progress(leader, 3) == (ProgressState.REPLICATE, 7, 8, False)
    assert group[3].status.commit == 7


def test_entries_sent_while_cut_off_come_in_great_messages_afterwards() -> None:
    group = Group(1, 2, 3, max_size_per_msg=2048, check_quorum=False)
    group.elect(1)
    group.isolate(1)
    group.propose(1, *[bytes(1000)] * 5)
    group.heal()
    group.sent.clear()
    group.tick(1, 1)
    sizes = [sum(len(e.data) for e in m.entries) for m in group.sent if m.type == APPEND]
    assert max(sizes) == 2000
    assert {member.status.commit for member in group.members.values()} == {6}


# -- what is committed, and who is told


def test_each_acknowledgement_that_commits_is_told_to_everybody() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    for _ in range(2):
        leader.node.propose(b"x")
    leader.take()
    for index in (2, 3):
        leader.node.step(Message(ACK, 1, 2, 1, index=index))
    told = [(m.to, m.index, m.commit, m.entries) for m in leader.take()]
    assert told == [(2, 3, 2, ()), (3, 3, 2, ()), (2, 3, 3, ()), (3, 3, 3, ())]


def test_a_commit_that_was_lost_is_told_again_two_messages_after_the_next_heartbeat() -> None:
    """What a heartbeat tells is cut at what the peer is known to hold."""
    group = Group(1, 2, 3)
    leader = group.elect(1)
    group.drops = lambda m: 3 in (m.from_, m.to) and (m.type == ACK or m.commit > 1)
    group.propose(1, b"x", b"y")
    assert (leader.status.commit, group[3].status.commit) == (3, 1)
    assert progress(leader, 3) == (ProgressState.REPLICATE, 1, 4, False)
    group.heal()
    group.sent.clear()
    group.tick(1, 1)
    to_three = [(m.type, m.commit) for m in group.sent if m.to == 3]
    assert to_three == [(MessageType.HEARTBEAT, 1), (APPEND, 3)]
    assert group[3].status.commit == 3


def test_a_committed_first_entry_is_told_to_who_waited() -> None:
    leader = leading(MemoryStorage(THREE))
    leader.hear(ACK, 2, term=1, index=1)
    assert leader.status.commit == 1
    leader.node.propose(b"")
    assert [(m.to, appends([m], m.to)) for m in leader.take()] == [(2, [(1, 1)])]
    sent = leader.hear(ACK, 3, term=1, index=1)
    assert [(m.to, m.index, len(m.entries), m.commit) for m in sent] == [(3, 1, 1, 1)]


def test_uncommitted_bytes_are_counted_proposal_by_proposal() -> None:
    leader = leading(MemoryStorage(THREE), max_uncommitted_size=1024 * 8, max_inflight_msgs=2048)
    for voter in (2, 3):
        leader.hear(ACK, voter, term=1, index=1)
    for _ in range(1024):
        leader.node.propose(b"testdata")
    with pytest.raises(ProposalDropped):
        leader.node.propose(b"testdata")
    leader.node.propose(b"")
    sent = leader.take()
    assert len(appends(sent, 2)) == len(appends(sent, 3)) == 1025
    leader.hear(ACK, 2, term=1, index=1026)
    leader.node.propose(bytes(2 * 1024 * 8))
    with pytest.raises(ProposalDropped):
        leader.node.propose(b"testdata")


def test_entries_of_an_earlier_term_free_no_room() -> None:
    storage = MemoryStorage(TWO)
    storage.append([Entry(1, 1, data=b"old"), Entry(2, 1, data=b"old")])
    storage.set_hard_state(HardState(1))
    leader = leading(storage, max_uncommitted_size=4)
    leader.node.propose(b"1234")
    leader.hear(ACK, 2, term=2, index=3)
    assert leader.status.applied == 3
    with pytest.raises(ProposalDropped):
        leader.node.propose(b"5")


# -- probes


@pytest.mark.parametrize(
    ("index", "refused", "match", "next_index", "sent", "commit"),
    [
        (4, True, 0, 3, [], 0),
        (2, True, 0, 2, [(1, 2)], 0),
        (3, False, 3, 4, [(3, 0)], 3),
        (0, False, 0, 4, [(0, 3)], 0),
    ],
)
def test_what_an_answer_makes_of_a_probe(
    index: int,
    match: int,
    next_index: int,
    sent: list[tuple[int, int]],
    commit: int,
    *,
    refused: bool,
) -> None:
    leader = leading(stored([1, 1], THREE, HardState(1)))
    fields = {"index": index, "reject": refused, "reject_hint": index}
    messages = leader.hear(ACK, 2, term=2, **fields)
    assert appends(messages) == sent
    one = leader.status.progress[2]
    assert (one.match, one.next, leader.status.commit) == (match, next_index, commit)


def test_a_group_may_begin_with_entries_of_its_first_term() -> None:
    leader = leading(stored([1, 1], THREE, HardState()))
    assert (leader.status.term, leader.status.last_index) == (1, 3)
    sent = leader.hear(ACK, 2, term=1, index=2)
    assert leader.status.commit == 2
    assert [(m.to, m.index, len(m.entries), m.commit) for m in sent] == [(2, 2, 1, 2)]


LOGS = {
    "the leader skips a term": ((1, 2, 2, 4, 4, 4, 4), (1, 2, 2, *[3] * 8), (7, 3), (3, 2)),
    "the leader skips two": ((1, 2, 2, 3, 4, 4, 4, 5), (1, 2, 2, *[3] * 8), (8, 3), (4, 3)),
    "the follower skips": ((1, 1, 1, 1), (1, 2, 2, 4), (1, 1), (1, 1)),
    "a longer leader": ((1, 1, 1, 1, 1, 1), (1, 2, 2, 4), (1, 1), (1, 1)),
    "a longer follower": ((1, 1, 1, 1), (1, 2, 2, 4, 4, 4), (1, 1), (1, 1)),
    "no conflict": ((1, 1, 1, 4, 5), (1, 1, 1, 4), (4, 4), (4, 4)),
    "all but the first": ((2, 5, 5, 5, 5, 5, 5, 5, 5), (2, 4, 4, 4, 4, 4), (6, 4), (1, 2)),
    "a later tail": ((2, 2, 2, 2, 2), (2, 4, 4, 4, 4, 4, 4, 4), (1, 2), (1, 2)),
}


@pytest.mark.parametrize(("leads", "follows", "hint", "retry"), LOGS.values(), ids=LOGS.keys())
def test_a_refusal_skips_what_can_not_match(
    leads: tuple[int, ...], follows: tuple[int, ...], hint: tuple[int, int], retry: tuple[int, int]
) -> None:
    leader = leading(stored(leads, THREE, HardState(9)))
    follower = Member(2, stored(follows, THREE, HardState(10)), check_quorum=False)
    probe = next(m for ready in leader.readies for m in ready.messages if m.type == APPEND)
    follower.node.step(probe)
    (refusal,) = follower.take()
    assert refusal.reject
    assert (refusal.index, refusal.reject_hint, refusal.log_term) == (len(leads), *hint)
    leader.node.step(refusal)
    (again,) = (m for m in leader.take() if m.to == 2)
    assert (again.index, again.log_term) == retry


def test_a_late_refusal_of_what_came_out_of_order_goes_back_no_further_than_the_match() -> None:
    leader = replicating()
    leader.node.propose(b"a")
    leader.node.propose(b"b")
    first, second = (m for m in leader.take() if m.type == APPEND)
    follower = Member(2, stored([1], TWO, HardState(1)), check_quorum=False)
    follower.node.step(second)
    (refusal,) = follower.take()
    assert (refusal.reject, refusal.reject_hint, refusal.index) == (True, 1, 2)
    follower.node.step(first)
    for answer in follower.take():
        leader.node.step(answer)
    leader.take()
    assert leader.status.progress[2].match == 2
    leader.node.report_unreachable(2)
    assert progress(leader)[0] is ProgressState.PROBE
    leader.node.step(refusal)
    assert appends(leader.take()) == [], "two that refuse each other must not do so without pause"
    assert appends(leader.hear(MessageType.HEARTBEAT_RESPONSE, 2, term=1)) == [(2, 1)]


def test_a_silent_peer_in_probe_is_asked_once_for_each_sign_of_life() -> None:
    leader = leading(stored([1, 1], TWO, HardState(1)))
    for _ in range(2):
        assert progress(leader) == (ProgressState.PROBE, 0, 3, True)
        leader.node.propose(b"x")
        leader.node.tick()
        assert [m.type for m in leader.take()] == [MessageType.HEARTBEAT]
        (again,) = leader.hear(MessageType.HEARTBEAT_RESPONSE, 2, term=2)
        assert (again.type, again.index) == (APPEND, 2)
    leader.hear(ACK, 2, term=2, index=leader.status.last_index)
    assert leader.hear(MessageType.HEARTBEAT_RESPONSE, 2, term=2) == []


# -- snapshots


def behind_a_snapshot() -> Member:
    """Node 1 leads, its log begins behind 11, and node 2, which holds nothing, is being sent a snapshot."""
    storage = MemoryStorage()
    storage.apply_snapshot(snapshot_of(11, 11, TWO, b"state"))
    storage.set_hard_state(HardState(11, 0, 11))
    leader = leading(storage)
    sent = leader.hear(ACK, 2, term=12, index=11, reject=True)
    assert [(m.type, m.to) for m in sent] == [(MessageType.SNAPSHOT, 2)]
    assert progress(leader) == (ProgressState.SNAPSHOT, 0, 12, True)
    assert leader.status.progress[2].pending_snapshot == 11
    return leader


def test_nothing_is_sent_while_a_snapshot_is_on_its_way() -> None:
    leader = behind_a_snapshot()
    leader.node.propose(b"x")
    assert leader.take() == []
    assert leader.hear(MessageType.HEARTBEAT_RESPONSE, 2, term=12) == []
    leader.node.report_unreachable(2)
    assert progress(leader)[0] is ProgressState.SNAPSHOT


@pytest.mark.parametrize(("ok", "next_index"), [(True, 12), (False, 1)])
def test_a_reported_snapshot_is_followed_by_a_probe_after_a_sign_of_life(
    next_index: int, *, ok: bool
) -> None:
    leader = behind_a_snapshot()
    leader.node.report_snapshot(2, ok)
    assert progress(leader) == (ProgressState.PROBE, 0, next_index, True)
    assert leader.status.progress[2].pending_snapshot == 0
    assert leader.take() == []
    sent = leader.hear(MessageType.HEARTBEAT_RESPONSE, 2, term=12)
    assert [m.type for m in sent] == [APPEND if ok else MessageType.SNAPSHOT]


def test_an_acknowledged_snapshot_needs_no_report() -> None:
    leader = behind_a_snapshot()
    sent = leader.hear(ACK, 2, term=12, index=11)
    assert appends(sent) == [(11, 1)]
    assert progress(leader) == (ProgressState.REPLICATE, 11, 13, False)
    assert leader.status.progress[2].pending_snapshot == 0
    leader.node.report_snapshot(2, ok=False)
    assert progress(leader)[0] is ProgressState.REPLICATE


def test_a_snapshot_older_than_the_one_that_was_sent_will_do() -> None:
    """The host sent another one than the leader had in mind: what counts is that the log goes on from there."""
    group = Group(1, 2, 3)
    leader = group.elect(1)
    group.isolate(3)
    group.propose(1, *[b"x"] * 10)
    leader.storage.create_snapshot(11, THREE)
    leader.storage.compact(5)
    group.drops = lambda m: m.type == MessageType.SNAPSHOT
    group.tick(2, 1)
    assert leader.status.progress[3].pending_snapshot == 11
    group.heal()
    assert leader.hear(ACK, 3, term=1, index=4) == []
    assert progress(leader, 3)[:2] == (ProgressState.SNAPSHOT, 4)
    sent = leader.hear(ACK, 3, term=1, index=5)
    assert appends(sent, 3) == [(5, 6)]
    assert progress(leader, 3) == (ProgressState.REPLICATE, 5, 12, False)


def test_a_follower_that_was_cut_off_through_a_compaction_catches_up() -> None:
    group = Group(1, 2, 3, max_inflight_msgs=3)
    leader = group.elect(1)
    group.isolate(3)
    group.propose(1, *[b"x"] * 20)
    leader.storage.create_snapshot(15, THREE)
    leader.storage.compact(15)
    group.propose(1, *[b"y"] * 5)
    group.heal()
    group.tick(3, 1)
    assert group[3].status.commit == leader.status.commit == 26
    assert progress(leader, 3) == (ProgressState.REPLICATE, 26, 27, False)


def test_entries_that_are_compacted_between_two_messages_are_replaced_by_a_snapshot() -> None:
    leader = leading(stored([1, 1, 1, 1], THREE, HardState(1)))
    leader.hear(ACK, 2, term=2, index=5)
    leader.storage.create_snapshot(5, THREE)
    leader.storage.compact(5)
    sent = leader.hear(ACK, 3, term=2, index=4, reject=True, reject_hint=2, log_term=1)
    assert [(m.type, m.to) for m in sent] == [(MessageType.SNAPSHOT, 3)]


def test_leadership_is_handed_over_once_a_snapshot_has_arrived() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    group.isolate(3)
    group.propose(1, b"x")
    leader.storage.create_snapshot(2, THREE)
    leader.storage.compact(2)
    group.heal()
    late: list[Message] = []

    def keeps_answer(message: Message) -> bool:
        if message.type == ACK and message.from_ == 3 and not message.reject:
            late.append(message)
            return True
        return False

    group.drops = keeps_answer
    leader.node.transfer_leader(3)
    group.deliver()
    assert (leader.status.role, leader.status.lead_transferee) == (Role.LEADER, 3)
    group.heal()
    group.deliver(late)
    assert (leader.status.role, group[3].status.role) == (Role.FOLLOWER, Role.LEADER)


def test_a_snapshot_and_what_follows_it_come_in_one_ready() -> None:
    follower = Member(2, MemoryStorage(TWO))
    snapshot = snapshot_of(5, 1, TWO, b"state")
    more = Entry(6, 1, data=b"x")
    follower.node.step(Message(MessageType.SNAPSHOT, 2, 1, 1, snapshot=snapshot))
    follower.node.step(Message(APPEND, 2, 1, 1, log_term=1, index=5, commit=6, entries=(more,)))
    ready = follower.node.ready()
    assert (ready.snapshot, ready.entries, ready.committed_entries) == (snapshot, (more,), ())
    assert [m.index for m in ready.messages] == [5, 6]
    follower.persist(ready)
    follower.node.advance(ready)
    follower.take()
    assert follower.applied == [more]


def test_nobody_campaigns_before_its_snapshot_is_applied() -> None:
    follower = Member(1, MemoryStorage(TWO), pre_vote=False)
    follower.node.step(Message(MessageType.SNAPSHOT, 1, 2, 1, snapshot=snapshot_of(11, 1, TWO)))
    follower.node.campaign()
    for _ in range(40):
        follower.node.tick()
    assert follower.status.role is Role.FOLLOWER
    follower.take()
    follower.node.campaign()
    assert follower.status.role is Role.CANDIDATE


@pytest.mark.parametrize(
    "conf",
    [
        ConfState(voters=(1, 2), learners=(3,)),
        ConfState(voters=(1, 2, 3)),
        ConfState((1, 2, 4), (1, 2, 3)),
        ConfState((1, 2), (1, 2, 3), learners_next=(3,)),
    ],
)
@pytest.mark.parametrize(
    "before", [ConfState((1, 2, 3)), ConfState((1, 2), learners=(3,)), ConfState()]
)
def test_a_snapshot_makes_of_a_node_what_it_says(before: ConfState, conf: ConfState) -> None:
    member = Member(3, MemoryStorage(before))
    snapshot = snapshot_of(11, 11, conf)
    (answer,) = member.hear(MessageType.SNAPSHOT, 1, term=11, snapshot=snapshot)
    assert (answer.type, answer.index) == (ACK, 11)
    assert (member.status.conf_state, member.status.leader) == (conf, 1)
    (again,) = member.hear(MessageType.SNAPSHOT, 1, term=11, snapshot=snapshot)
    assert again.index == 11
    assert member.readies[-1].snapshot is None


# -- lives


def test_a_peer_that_was_erased_begins_anew_at_its_first_word() -> None:
    """What its earlier lives acknowledged, and what comes late of them, counts for nothing."""
    leader = replicating()
    for data in (b"a", b"b", b"c"):
        leader.node.propose(data)
    leader.take()
    leader.hear(ACK, 2, term=1, index=4)
    assert progress(leader)[:2] == (ProgressState.REPLICATE, 4)

    refusal = {"term": 1, "index": 4, "reject": True, "life": 7}
    assert appends(leader.hear(ACK, 2, **refusal)) == [], "that was of the life before"
    assert progress(leader)[:2] == (ProgressState.PROBE, 0)
    (again,) = leader.hear(MessageType.HEARTBEAT_RESPONSE, 2, term=1)
    refusal["index"] = again.index
    assert appends(leader.hear(ACK, 2, **refusal)) == [(0, 4)]

    leader.hear(ACK, 2, term=1, index=4)
    leader.hear(ACK, 2, term=1, index=4, life=6)
    assert progress(leader)[:2] == (ProgressState.PROBE, 0)
    leader.hear(ACK, 2, term=1, index=4, life=7)
    assert progress(leader)[:2] == (ProgressState.REPLICATE, 4)


def test_every_answer_to_an_append_tells_the_life() -> None:
    follower = Member(2, stored([1], TWO, HardState(1)), life=7)
    (taken,) = follower.hear(APPEND, 1, term=1, index=1, log_term=1)
    (refused,) = follower.hear(APPEND, 1, term=1, index=9, log_term=1)
    assert (taken.life, refused.life, refused.reject) == (7, 7, True)
