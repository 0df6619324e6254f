"""The state machine's features, each as a story of a few nodes."""

from typing import Any

import pytest

from mas.raft import (
    ConfChange,
    ConfChangeTransition,
    ConfChangeType,
    ConfigError,
    ConfState,
    Entry,
    EntryType,
    HardState,
    MemoryStorage,
    Message,
    MessageType,
    NotLeader,
    ProgressState,
    ProposalDropped,
    ReadOnlyOption,
    ReadState,
    Role,
)
from tests.raft.group import Group, Member, change, snapshot_of, stored

THREE = ConfState(voters=(1, 2, 3))
ADD, REMOVE, LEARN = ConfChangeType.ADD_NODE, ConfChangeType.REMOVE_NODE, ConfChangeType.ADD_LEARNER
EXPLICIT = ConfChangeTransition.JOINT_EXPLICIT


def kinds(messages: list[Message]) -> list[tuple[MessageType, int]]:
    return [(message.type, message.to) for message in messages]


# -- elections


def test_a_pre_vote_asks_for_the_next_term_and_raises_none() -> None:
    member = Member(1, stored([1], THREE, HardState(3)))
    member.node.campaign()
    sent = member.take()
    assert [(m.type, m.to, m.term, m.index, m.log_term, m.context) for m in sent] == [
        (MessageType.PRE_VOTE, 2, 4, 1, 1, b""),
        (MessageType.PRE_VOTE, 3, 4, 1, 1, b""),
    ]
    assert (member.status.role, member.status.term) == (Role.PRE_CANDIDATE, 3)
    member.hear(MessageType.PRE_VOTE_RESPONSE, 2, term=4)
    assert (member.status.role, member.status.term) == (Role.CANDIDATE, 4)


def test_a_pre_candidate_that_is_not_heard_asks_again_after_a_whole_timeout() -> None:
    member = Member(1, MemoryStorage(THREE))
    for _ in range(2):
        for _ in range(member.node.randomized_election_timeout - 1):
            member.node.tick()
        assert member.take() == []
        member.node.tick()
        assert len(member.take()) == 2


def test_a_pre_vote_is_granted_in_its_term_and_refused_in_ones_own() -> None:
    member = Member(1, stored([2], THREE, HardState(2)))
    (grant,) = member.hear(MessageType.PRE_VOTE, 2, term=5, log_term=2, index=1)
    assert (grant.type, grant.term, grant.reject) == (MessageType.PRE_VOTE_RESPONSE, 5, False)
    (refusal,) = member.hear(MessageType.PRE_VOTE, 3, term=5, log_term=1, index=1)
    assert (refusal.term, refusal.reject) == (2, True)
    (late,) = member.hear(MessageType.PRE_VOTE, 3, term=1, log_term=9, index=9)
    assert (late.term, late.reject) == (2, True)
    assert (member.status.term, member.status.vote) == (2, 0)


def test_a_node_that_was_cut_off_does_not_disturb_with_pre_vote() -> None:
    group = Group(1, 2, 3)
    group.elect(1)
    group.isolate(3)
    group.tick(60, 3)
    assert group[3].status.term == 1
    group.heal()
    group.tick(2)
    assert (group[1].status.role, group[1].status.term) == (Role.LEADER, 1)
    assert group[3].status.leader == 1


def test_a_node_stuck_in_a_later_term_deposes_a_leader_that_will_not_hear_it() -> None:
    group = Group(1, 2, 3, pre_vote=False)
    group.elect(1)
    group.isolate(3)
    group.tick(30, 3)
    assert group[3].status.term > 1
    group.heal()
    group.tick(1, 1)
    assert group[1].status.role is Role.FOLLOWER
    assert group[1].status.term == group[3].status.term


def test_a_leader_without_a_quorum_steps_down() -> None:
    group = Group(1, 2, 3)
    group.elect(1)
    group.tick(30, 1)
    assert group[1].status.role is Role.LEADER
    group.isolate(1)
    group.tick(21, 1)
    assert (group[1].status.role, group[1].status.term) == (Role.FOLLOWER, 1)


def test_learners_alone_are_no_quorum() -> None:
    group = Group(1, 2, learners=(3,))
    group.elect(1)
    group.isolate(2)
    group.propose(1, b"x")
    assert group[1].status.commit == 1
    group.tick(21, 1, 3)
    assert group[1].status.role is Role.FOLLOWER


def test_a_node_outside_the_configuration_does_not_campaign() -> None:
    for conf in (ConfState(), THREE, ConfState((1,), learners=(4,))):
        member = Member(4, MemoryStorage(conf))
        member.node.campaign()
        for _ in range(100):
            member.node.tick()
        assert member.take() == []


def test_forget_leader_frees_a_followers_vote() -> None:
    group = Group(1, 2, 3)
    group.elect(1)
    assert group[2].hear(MessageType.PRE_VOTE, 3, term=2, log_term=1, index=1) == []
    group[2].node.forget_leader()
    assert (group[2].status.leader, group[2].status.vote) == (0, 1)
    (answer,) = group[2].hear(MessageType.PRE_VOTE, 3, term=2, log_term=1, index=1)
    assert not answer.reject
    group[1].node.forget_leader()
    assert group[1].status.leader == 1
    group.tick(1, 1)
    assert group[2].status.leader == 1


def test_forget_leader_keeps_a_lease() -> None:
    group = Group(1, 2, 3, read_only=ReadOnlyOption.LEASE)
    group.elect(1)
    group[2].node.forget_leader()
    assert group[2].status.leader == 1


# -- replication


def test_one_probe_at_a_time_then_a_window() -> None:
    group = Group(1, 2, 3, max_inflight_msgs=2, max_size_per_msg=0)
    leader = group.elect(1)
    group.isolate(3)
    leader.node.report_unreachable(2)
    assert leader.status.progress[2].state is ProgressState.PROBE
    for _ in range(4):
        leader.node.propose(b"x")
    sent = [m for m in leader.take() if m.to == 2]
    assert [len(m.entries) for m in sent] == [1]
    assert leader.status.progress[2].paused
    sent = leader.hear(MessageType.APPEND_RESPONSE, 2, term=1, index=2)
    assert [[e.index for e in m.entries] for m in sent if m.to == 2] == [[3], [4]]
    assert leader.status.progress[2].state is ProgressState.REPLICATE
    assert leader.status.progress[2].paused


def test_a_full_window_is_found_lost_by_an_empty_append() -> None:
    group = Group(1, 2, max_inflight_msgs=1)
    leader = group.elect(1)
    group.isolate(2)
    group.propose(1, b"a")
    group.propose(1, b"b")
    assert leader.status.progress[2].next == 3
    assert leader.status.progress[2].paused
    group.heal()
    group.sent.clear()
    group.tick(1, 1)
    first = next(m for m in group.sent if m.type == MessageType.APPEND)
    assert (first.index, first.entries) == (2, ())
    assert leader.status.commit == 3
    assert group[2].status.last_index == 3


def test_an_acknowledgement_lets_more_be_sent_though_nothing_is_committed_by_it() -> None:
    group = Group(1, 2, 3, 4, 5, max_inflight_msgs=1, max_size_per_msg=0)
    leader = group.elect(1)
    for _ in range(3):
        leader.node.propose(b"x")
    leader.take()
    sent = leader.hear(MessageType.APPEND_RESPONSE, 2, term=1, index=2)
    assert [(m.to, m.index, len(m.entries)) for m in sent] == [(2, 2, 1)]


def test_a_peer_whose_window_was_full_learns_of_the_commit_when_it_answers() -> None:
    group = Group(1, 2, 3, max_inflight_msgs=1)
    leader = group.elect(1)
    leader.node.propose(b"x")
    leader.take()
    assert leader.hear(MessageType.APPEND_RESPONSE, 2, term=1, index=2) != []
    assert leader.status.commit == 2
    sent = leader.hear(MessageType.APPEND_RESPONSE, 3, term=1, index=2)
    assert [(m.to, m.commit, m.entries) for m in sent] == [(3, 2, ())]


def test_a_peer_that_lacks_nothing_goes_from_probe_back_to_replicate() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    leader.node.report_unreachable(2)
    assert leader.status.progress[2].state is ProgressState.PROBE
    group.tick(1, 1)
    assert leader.status.progress[2].state is ProgressState.REPLICATE


def test_messages_hold_entries_up_to_their_size() -> None:
    group = Group(1, 2, max_size_per_msg=10)
    leader = group.elect(1)
    group.isolate(2)
    leader.node.report_unreachable(2)
    group.propose(1, b"first")  # one probe, and what comes behind it waits
    group.propose(1, b"12345", b"12345", b"1", b"123456789012", b"")
    sent = leader.hear(MessageType.APPEND_RESPONSE, 2, term=1, index=2)
    assert [len(m.entries) for m in sent] == [2, 1, 1, 1]


def test_a_diverged_tail_costs_one_probe_for_each_term() -> None:
    """The leader's terms (Raft, end of 5.3; both examples are etcd's)."""
    for leads, follows, probes in (
        ((1, 3, 3, 3, 5, 5, 5, 5, 5), (1, 1, 1, 1, 2, 2), 3),
        ((1, 3, 3, 3, 3, 3, 3, 3, 7), (1, 3, 3, 4, 4, 5, 5, 5, 6), 3),
    ):
        group = Group(1, 2, 3, pre_vote=False)
        for node_id, terms in ((1, leads), (2, follows), (3, ())):
            group.add(node_id, stored(terms, THREE, HardState(9)))
        group.elect(1)
        appends = [m for m in group.sent if m.type == MessageType.APPEND and m.to == 2]
        last = group[1].storage.last_index()
        assert group[2].storage.entries(1, last + 1) == group[1].storage.entries(1, last + 1)
        rejected = [m for m in group.sent if m.from_ == 2 and m.reject]
        assert len(rejected) < probes
        assert appends


def test_a_stale_rejection_is_ignored() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    group.propose(1, b"x")
    assert leader.hear(MessageType.APPEND_RESPONSE, 2, term=1, index=1, reject=True) == []
    assert leader.status.progress[2].state is ProgressState.REPLICATE


def test_a_heartbeat_tells_no_commit_beyond_what_matches() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    group.isolate(3)
    group.propose(1, b"x")
    leader.node.tick()
    assert {m.to: m.commit for m in leader.take() if m.type == MessageType.HEARTBEAT} == {
        2: 2,
        3: 1,
    }


def test_responses_of_strangers_are_ignored() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    for kind in (MessageType.APPEND_RESPONSE, MessageType.VOTE_RESPONSE):
        assert leader.hear(kind, 9, term=7) == []
    assert (leader.status.role, leader.status.term) == (Role.LEADER, 1)


# -- proposals


def test_uncommitted_bytes_are_limited_and_the_first_entry_always_fits() -> None:
    group = Group(1, 2, 3, max_uncommitted_size=10)
    leader = group.elect(1)
    group.isolate(1)
    group.propose(1, b"x" * 50)
    with pytest.raises(ProposalDropped):
        leader.node.propose(b"y")
    leader.node.propose(b"")
    group.heal()
    group.tick(2, 1)
    group.propose(1, b"y" * 5, b"z" * 5)
    assert leader.status.commit == 5


def test_several_proposals_share_the_limit() -> None:
    group = Group(1, 2, 3, max_uncommitted_size=10)
    leader = group.elect(1)
    leader.node.propose(b"x" * 5)
    leader.node.propose(b"x" * 5)
    with pytest.raises(ProposalDropped):
        leader.node.propose(b"x")
    group.deliver()
    leader.node.propose(b"x" * 10)


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE])
def test_only_a_leader_takes_proposals(role: Role) -> None:
    member = Member(1, MemoryStorage(THREE), pre_vote=role is not Role.CANDIDATE)
    if role is not Role.FOLLOWER:
        member.node.campaign()
    assert member.status.role is role
    with pytest.raises(NotLeader):
        member.node.propose(b"x")
    with pytest.raises(NotLeader):
        member.node.propose_conf_change(change(ADD, 4))
    with pytest.raises(NotLeader):
        member.node.transfer_leader(2)


# -- snapshots


def lagging_group(**settings: Any) -> Group:
    """Node 3 lacks entries that node 1 has compacted behind a snapshot."""
    group = Group(1, 2, 3, **settings)
    group.elect(1)
    group.isolate(3)
    group.propose(1, b"a", b"b", b"c")
    storage = group[1].storage
    storage.create_snapshot(4, THREE, b"state")
    storage.compact(4)
    return group


def test_a_peer_that_needs_compacted_entries_gets_a_snapshot() -> None:
    group = lagging_group()
    group.heal()
    group.tick(2, 1)
    assert group[3].storage.snapshot().data == b"state"
    assert (group[3].status.commit, group[3].status.applied) == (4, 4)
    assert group[1].status.progress[3].state is ProgressState.REPLICATE
    group.propose(1, b"d")
    assert [entry.data for entry in group[3].applied][-1:] == [b"d"]


def test_no_snapshot_for_a_peer_that_is_silent() -> None:
    group = lagging_group()
    group.tick(15, 1, 2)
    group[1].node.report_unreachable(3)
    group.sent.clear()
    group.propose(1, b"d")
    assert MessageType.SNAPSHOT not in [m.type for m in group.sent]


def test_an_acknowledgement_that_the_log_can_not_continue_leaves_the_snapshot_pending() -> None:
    group = lagging_group()
    group.drops = lambda m: m.type == MessageType.SNAPSHOT
    group.tick(2, 1)
    assert group[1].hear(MessageType.APPEND_RESPONSE, 3, term=1, index=2) == []
    assert group[1].status.progress[3].state is ProgressState.SNAPSHOT
    group[1].hear(MessageType.APPEND_RESPONSE, 3, term=1, index=4)
    assert group[1].status.progress[3].state is ProgressState.REPLICATE


@pytest.mark.parametrize(("ok", "next_index"), [(True, 5), (False, 2)])
def test_a_snapshots_fate_is_reported(*, ok: bool, next_index: int) -> None:
    group = lagging_group()
    group.drops = lambda m: m.type == MessageType.SNAPSHOT
    group.tick(2, 1)
    progress = group[1].status.progress[3]
    assert (progress.state, progress.pending_snapshot) == (ProgressState.SNAPSHOT, 4)
    group[1].node.report_snapshot(3, ok)
    progress = group[1].status.progress[3]
    assert (progress.state, progress.next, progress.paused) == (
        ProgressState.PROBE,
        next_index,
        True,
    )


def test_without_a_snapshot_to_give_the_leader_waits() -> None:
    group = Group(1, 2, 3)
    group.elect(1)
    group.isolate(3)
    group.propose(1, b"a", b"b")
    group[1].storage.compact(3)
    group.heal()
    group.tick(3, 1)
    assert group[1].status.progress[3].state is ProgressState.PROBE
    group[1].storage.create_snapshot(3, THREE)
    group.tick(3, 1)
    assert group[3].status.last_index == 3


def test_an_older_snapshot_is_answered_with_the_commit() -> None:
    member = Member(1, stored([1, 1, 1], THREE, HardState(1, 0, 3)))
    member.take()
    (answer,) = member.hear(MessageType.SNAPSHOT, 2, term=1, snapshot=snapshot_of(2, 1, THREE))
    assert answer.index == 3


# -- leadership transfer


def test_leadership_goes_at_once_to_a_peer_that_is_up_to_date() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    leader.node.transfer_leader(2)
    group.deliver()
    assert (group[2].status.role, leader.status.role) == (Role.LEADER, Role.FOLLOWER)
    (vote,) = (m for m in group.sent if m.type == MessageType.VOTE and m.from_ == 2 and m.to == 3)
    assert vote.context


def test_leadership_waits_for_a_peer_that_is_behind() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    group.isolate(3)
    group.propose(1, b"x")
    leader.node.transfer_leader(3)
    group.deliver()
    assert leader.status.lead_transferee == 3
    with pytest.raises(ProposalDropped):
        leader.node.propose(b"y")
    group.heal()
    group.tick(1, 1)
    assert group[3].status.role is Role.LEADER


def test_a_transfer_is_given_up_after_an_election_timeout() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    group.isolate(3)
    group.tick(5, 1, 2)
    leader.node.transfer_leader(3)
    group.tick(9, 1, 2)
    assert leader.status.lead_transferee == 3
    group.tick(1, 1, 2)
    assert leader.status.lead_transferee == 0
    group.propose(1, b"x")
    assert leader.status.commit == 2


def test_a_transfer_to_oneself_cancels_and_to_strangers_is_nothing() -> None:
    group = Group(1, 2, 3, learners=(4,))
    leader = group.elect(1)
    group.isolate(3)
    leader.node.transfer_leader(3)
    for nobody in (4, 9):
        leader.node.transfer_leader(nobody)
        assert leader.status.lead_transferee == 3
    leader.node.transfer_leader(1)
    assert leader.status.lead_transferee == 0
    assert leader.status.role is Role.LEADER


def test_a_transfer_to_another_replaces_the_first() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    group.isolate(3)
    leader.node.transfer_leader(3)
    leader.node.transfer_leader(2)
    group.deliver()
    assert group[2].status.role is Role.LEADER


def test_a_transfer_ends_when_its_target_is_removed() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    leader.node.propose_conf_change(change(REMOVE, 3))
    group.isolate(3)
    leader.node.transfer_leader(3)
    group.deliver()
    assert leader.status.conf_state == ConfState(voters=(1, 2))
    assert leader.status.lead_transferee == 0


def test_a_learner_ignores_timeout_now() -> None:
    learner = Member(3, MemoryStorage(ConfState((1, 2), learners=(3,))))
    assert learner.hear(MessageType.TIMEOUT_NOW, 1, term=1) == []
    assert learner.status.role is Role.FOLLOWER


# -- membership


def test_one_change_at_a_time() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    leader.node.propose_conf_change(change(LEARN, 4))
    with pytest.raises(ProposalDropped):
        leader.node.propose_conf_change(change(LEARN, 5))
    group.deliver()
    leader.node.propose_conf_change(change(LEARN, 5))
    group.deliver()
    assert leader.status.conf_state == ConfState((1, 2, 3), learners=(4, 5))


def test_a_new_leader_takes_no_change_before_its_log_is_applied() -> None:
    member = Member(1, stored([1], ConfState(voters=(1, 2))), pre_vote=False)
    member.node.campaign()
    member.take()
    member.hear(MessageType.VOTE_RESPONSE, 2, term=2)
    with pytest.raises(ProposalDropped):
        member.node.propose_conf_change(change(ADD, 3))
    member.hear(MessageType.APPEND_RESPONSE, 2, term=2, index=2)
    member.node.propose_conf_change(change(ADD, 3))


@pytest.mark.parametrize("unfit", [ConfChange(), change(REMOVE, 1, 2, 3), change(ADD, -1)])
def test_a_change_that_does_not_fit_is_not_proposed(unfit: ConfChange) -> None:
    leader = Group(1, 2, 3).elect(1)
    with pytest.raises(ProposalDropped):
        leader.node.propose_conf_change(unfit)
    with pytest.raises(ConfigError):
        leader.node.apply_conf_change(unfit)
    assert leader.status.conf_state == THREE
    assert not leader.node.has_ready()


def test_a_new_member_catches_up_from_the_beginning() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    group.propose(1, b"x")
    leader.node.propose_conf_change(change(LEARN, 4))
    group.add(4, MemoryStorage(THREE))
    group.deliver()
    group.tick(2, 1)
    assert group[4].status.last_index == leader.status.last_index
    assert group[4].status.conf_state == ConfState((1, 2, 3), learners=(4,))
    assert leader.status.progress[4].is_learner


def test_a_new_voter_counts_as_heard_of_until_the_next_look() -> None:
    group = Group(1)
    leader = group.elect(1)
    group.tick(9)
    leader.node.propose_conf_change(change(ADD, 2))
    group.deliver()
    group.tick(1)
    assert leader.status.role is Role.LEADER
    group.tick(10)
    assert leader.status.role is Role.FOLLOWER


def test_a_joint_configuration_leaves_by_itself() -> None:
    group = Group(1, 2, 3)
    for node_id in (4, 5):
        group.add(node_id, MemoryStorage(THREE))
    leader = group.elect(1)
    leader.node.propose_conf_change(change(ADD, 4, 5))
    group.deliver()
    group.tick(3, 1)
    for node_id in range(1, 6):
        assert group[node_id].status.conf_state == ConfState((1, 2, 3, 4, 5))
    changes = [entry for entry in leader.applied if entry.type == EntryType.CONF_CHANGE]
    assert [ConfChange.decode(entry.data).changes for entry in changes][1:] == [()]


def test_an_explicit_joint_configuration_is_left_on_request() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    leader.node.propose_conf_change(change(REMOVE, 3, transition=EXPLICIT))
    group.deliver()
    assert leader.status.conf_state == ConfState((1, 2), (1, 2, 3))
    with pytest.raises(ProposalDropped):
        leader.node.propose_conf_change(change(ADD, 4))
    leader.node.propose_conf_change(ConfChange())
    group.deliver()
    assert leader.status.conf_state == ConfState((1, 2))


def test_a_joint_configuration_is_left_after_crash_and_election() -> None:
    conf = ConfState((1, 2, 4), (1, 2, 3), auto_leave=True)
    group = Group(1, 2, 3, 4)
    for node_id in (1, 2, 3, 4):
        group.add(node_id, stored([1], conf, HardState(1, 0, 1))).start(applied=1)
    group.elect(2)
    assert group[2].status.conf_state == ConfState((1, 2, 4))


def test_a_joint_configuration_is_left_after_a_transfer_that_failed() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    leader.node.propose_conf_change(change(LEARN, 2, 4))
    group.isolate(3)
    leader.node.transfer_leader(3)
    group.deliver()
    assert leader.status.conf_state.auto_leave
    group.heal()
    leader.node.transfer_leader(1)
    group.deliver()
    group.tick(2, 1)
    assert leader.status.conf_state == ConfState((1, 3), learners=(2, 4))


def test_a_smaller_quorum_commits_what_waited_for_the_greater() -> None:
    group = Group(1, 2)
    leader = group.elect(1)
    leader.node.propose_conf_change(change(REMOVE, 2))
    leader.node.propose(b"x")
    group.drops = lambda m: m.from_ == 2 and m.index > 2
    leader.node.read_index(b"r")
    for_two, _ = (m for m in leader.take() if m.type == MessageType.APPEND)
    assert leader.status.commit == 1
    group[2].node.step(for_two)
    leader.hear(MessageType.APPEND_RESPONSE, 2, term=1, index=2)
    assert leader.status.conf_state == ConfState(voters=(1,))
    assert leader.status.commit == 3
    assert leader.reads == [ReadState(1, b"r")]


def test_a_crash_between_entering_and_leaving_hands_the_change_out_again() -> None:
    storage = stored([1], THREE, HardState(1, 0, 2))
    storage.append([Entry(2, 1, EntryType.CONF_CHANGE, change(ADD, 4, 5).encode())])
    member = Member(1, storage, applied=1)
    assert member.status.conf_state == THREE
    member.take()
    assert member.status.conf_state == ConfState((1, 2, 3, 4, 5), (1, 2, 3), auto_leave=True)
    member.start(applied=2)
    assert member.status.conf_state.voters_outgoing == (1, 2, 3)


# -- reads


def test_reads_of_a_turn_share_one_round() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    group.sent.clear()
    for number in range(50):
        leader.node.read_index(b"%d" % number)
    group.deliver()
    assert leader.reads == [ReadState(1, b"%d" % number) for number in range(50)]
    assert len([m for m in group.sent if m.type == MessageType.HEARTBEAT]) == 2


def test_a_read_whose_heartbeats_were_lost_is_answered_by_the_next() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    group.isolate(1)
    leader.node.read_index(b"r")
    group.deliver()
    assert leader.reads == []
    group.heal()
    group.tick(1, 1)
    assert leader.reads == [ReadState(1, b"r")]


def test_a_deposed_leader_answers_no_read() -> None:
    group = Group(1, 2, 3, check_quorum=False)
    group.elect(1)
    group.isolate(1)
    group.elect(2)
    group.propose(2, b"x")
    group[1].node.read_index(b"r")
    group.deliver()
    group.heal()
    group.tick(3)
    assert group[1].reads == []


@pytest.mark.parametrize("read_only", list(ReadOnlyOption))
@pytest.mark.parametrize("voters", [(1,), (1, 2, 3)])
def test_a_leader_postpones_reads_until_it_has_committed_in_its_term(
    read_only: ReadOnlyOption, voters: tuple[int, ...]
) -> None:
    """A crash may have taken the commit index with it, even from a single voter."""
    group = Group(*voters, read_only=read_only)
    for node_id in voters:
        group.add(node_id, stored([1, 1, 1], ConfState(voters), HardState(1, 0, 1)))
    group.drops = lambda m: m.type == MessageType.APPEND
    group[1].node.campaign()
    while group[1].status.role is not Role.LEADER:
        ready = group[1].node.ready()
        group[1].persist(ready)
        group[1].apply(ready)
        for message in ready.messages:
            for answer in group[message.to].hear(
                message.type, 1, term=message.term, log_term=message.log_term, index=message.index
            ):
                group[1].node.step(answer)
        group[1].node.advance(ready)
    group[1].node.read_index(b"r")
    assert group[1].reads == []
    group.heal()
    group.deliver()
    assert group[1].reads == [ReadState(4, b"r")]


def test_a_followers_read_goes_through_the_leader() -> None:
    group = Group(1, 2, 3, learners=(4,))
    group.elect(1)
    group.propose(1, b"x")
    for reader in (2, 4):
        group[reader].node.read_index(b"r")
        group.deliver()
        assert group[reader].reads == [ReadState(2, b"r")]
        forwarded = [m for m in group.sent if m.type == MessageType.READ_INDEX]
        assert (forwarded[-1].from_, forwarded[-1].to, forwarded[-1].term) == (reader, 1, 0)


def test_a_read_that_reaches_a_follower_is_passed_on_for_its_reader() -> None:
    group = Group(1, 2, 3)
    group.elect(3)
    (passed,) = group[1].hear(MessageType.READ_INDEX, 2, context=b"r")
    assert (passed.type, passed.to, passed.from_, passed.term, passed.context) == (
        MessageType.READ_INDEX,
        3,
        2,
        0,
        b"r",
    )


def test_a_read_without_a_leader_is_never_answered() -> None:
    member = Member(1, MemoryStorage(THREE))
    member.node.read_index(b"r")
    assert not member.node.has_ready()


def test_an_answered_read_commits_what_the_follower_holds() -> None:
    group = Group(1, 2, 3)
    group.elect(1)
    group.drops = lambda m: m.to == 2 and m.commit == 2
    group.propose(1, b"x")
    assert group[2].status.commit == 1
    group[2].node.read_index(b"r")
    group.deliver()
    assert (group[2].status.commit, group[2].reads) == (2, [ReadState(2, b"r")])


def test_a_lease_answers_at_once_until_it_is_given_away() -> None:
    group = Group(1, 2, 3, read_only=ReadOnlyOption.LEASE)
    leader = group.elect(1)
    group.isolate(1)
    leader.node.read_index(b"a")
    leader.take()
    assert leader.reads == [ReadState(1, b"a")]
    leader.node.transfer_leader(2)
    leader.node.read_index(b"b")
    group.deliver()
    assert leader.reads == [ReadState(1, b"a")]
