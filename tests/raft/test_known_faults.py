"""Faults that libraries like this core have had: each is tried here, and the core has none of them."""

import random

import pytest

from mas.raft import (
    ConfChange,
    ConfChangeTransition,
    ConfChangeType,
    ConfState,
    Entry,
    EntryType,
    HardState,
    IllegalMessage,
    MemoryStorage,
    Message,
    MessageType,
    ReadState,
    Role,
)
from tests.raft.group import Group, Member, change, snapshot_of, stored

THREE = ConfState(voters=(1, 2, 3))
ADD, REMOVE, LEARN = ConfChangeType.ADD_NODE, ConfChangeType.REMOVE_NODE, ConfChangeType.ADD_LEARNER


# -- a late self-vote is not counted


def test_a_vote_of_an_earlier_campaign_is_not_counted_for_a_later() -> None:
    member = Member(1, MemoryStorage(ConfState(voters=(1,))), pre_vote=False)
    member.node.campaign()
    ready = member.node.ready()
    member.node.campaign()
    member.persist(ready)
    member.node.advance(ready)
    assert (member.status.role, member.status.term) == (Role.CANDIDATE, 2)
    member.take()
    assert member.status.role is Role.LEADER
    assert member.storage.initial_state()[0].term == 2


def test_a_vote_persisted_after_the_election_was_lost_is_not_counted() -> None:
    member = Member(1, MemoryStorage(THREE), pre_vote=False)
    member.node.campaign()
    ready = member.node.ready()
    member.persist(ready)
    member.node.step(Message(MessageType.APPEND, 1, 2, term=1))
    member.node.step(Message(MessageType.VOTE_RESPONSE, 1, 3, term=1))
    member.node.advance(ready)
    assert (member.status.role, member.status.leader) == (Role.FOLLOWER, 2)


def test_a_pre_vote_for_an_earlier_campaign_is_not_counted() -> None:
    member = Member(1, stored([], THREE, HardState(4)))
    member.node.campaign()
    member.take()
    member.hear(MessageType.PRE_VOTE_RESPONSE, 2, term=5)
    assert (member.status.role, member.status.term) == (Role.CANDIDATE, 5)
    member.hear(MessageType.VOTE_RESPONSE, 2, term=5, reject=True)
    member.hear(MessageType.VOTE_RESPONSE, 3, term=5, reject=True)
    member.node.campaign()
    member.take()
    member.hear(MessageType.PRE_VOTE_RESPONSE, 3, term=5)
    assert member.status.role is Role.PRE_CANDIDATE


# -- a single voter applies nothing before it is persisted


def test_a_single_voter_hands_out_nothing_that_is_not_persisted() -> None:
    group = Group(1)
    leader = group.elect(1)
    leader.node.propose(b"x")
    ready = leader.node.ready()
    assert [entry.data for entry in ready.entries] == [b"x"]
    assert ready.committed_entries == ()
    leader.persist(ready)
    leader.node.advance(ready)
    assert [entry.data for entry in leader.node.ready().committed_entries] == [b"x"]


# -- duplicate read-index contexts never answer stale


def test_a_late_confirmation_does_not_answer_a_later_read_of_the_same_context() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    leader.node.read_index(b"same")
    first_round = [m for m in leader.take() if m.type == MessageType.HEARTBEAT]
    late = group[2].hear(MessageType.HEARTBEAT, 1, term=1, context=first_round[0].context)
    group.deliver([m for m in first_round if m.to == 3])
    assert leader.reads == [ReadState(1, b"same")]
    group.propose(1, b"x")

    leader.node.read_index(b"same")
    leader.take()
    for message in late:
        leader.node.step(message)
    leader.take()
    assert leader.reads == [ReadState(1, b"same")]


def test_a_context_is_answered_only_for_its_newest_read() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    leader.node.read_index(b"same")
    first_round = leader.take()
    group.propose(1, b"x")
    leader.reads.clear()
    leader.node.read_index(b"same")
    second_round = leader.take()
    group.deliver(m for m in first_round if m.type == MessageType.HEARTBEAT)
    assert leader.reads == []
    group.deliver(m for m in second_round if m.type == MessageType.HEARTBEAT)
    assert [state.index for state in leader.reads] == [2, 2]
    assert {state.context for state in leader.reads} == {b"same"}


def test_an_answer_that_was_not_taken_is_too_old_for_a_newer_read() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    leader.node.read_index(b"same")
    round_one = leader.node.ready()
    leader.node.step(
        group[2].hear(MessageType.HEARTBEAT, 1, term=1, context=round_one.messages[0].context)[0]
    )
    leader.node.propose(b"x")
    leader.node.advance(round_one)
    group.drops = lambda m: m.type == MessageType.HEARTBEAT
    group.deliver()
    assert leader.status.commit == 2
    before = list(leader.reads)
    leader.node.read_index(b"same")
    leader.take()
    assert leader.reads == before


def test_a_repeated_answer_is_not_taken_for_a_followers_later_read() -> None:
    group = Group(1, 2, 3)
    group.elect(1)
    group[2].node.read_index(b"same")
    group.deliver()
    assert group[2].reads == [ReadState(1, b"same")]
    (answer,) = (m for m in group.sent if m.type == MessageType.READ_INDEX_RESPONSE)
    group.propose(1, b"x")
    group.isolate(1)
    group[2].node.read_index(b"same")
    group[2].take()
    group[2].node.step(answer)
    group[2].take()
    assert group[2].reads == [ReadState(1, b"same")]


def test_an_answer_to_an_earlier_life_is_not_taken_for_a_read_of_this() -> None:
    group = Group(1, 2, 3)
    group.elect(1)
    group[2].node.read_index(b"same")
    group.drops = lambda m: m.type == MessageType.READ_INDEX_RESPONSE
    group.deliver()
    (answer,) = (m for m in group.sent if m.type == MessageType.READ_INDEX_RESPONSE)
    group[2].start(rng=random.Random(3))
    group[2].hear(MessageType.HEARTBEAT, 1, term=1)
    group[2].node.read_index(b"same")
    group[2].take()
    group[2].node.step(answer)
    group[2].take()
    assert group[2].reads == []


def test_an_answer_from_before_ones_own_leadership_is_too_old_for_a_read_in_it() -> None:
    group = Group(1, 2, 3)
    group.elect(1)
    group.isolate(1, 2)
    group[2].node.read_index(b"same")
    group.deliver()
    group.heal()
    group[1].node.transfer_leader(2)
    group.deliver()
    assert group[2].status.role is Role.LEADER
    group.isolate(2)
    group[2].node.read_index(b"same")
    group.deliver()
    group[2].hear(MessageType.HEARTBEAT, 3, term=3)
    group[2].hear(MessageType.READ_INDEX_RESPONSE, 3, term=3, index=1, context=b"same")
    assert group[2].reads == []


# -- a removed leader does not count itself


def test_a_leader_that_applies_its_removal_steps_down_at_once() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    leader.node.propose_conf_change(change(REMOVE, 1))
    group.deliver()
    assert leader.status.role is Role.FOLLOWER
    assert leader.status.conf_state == ConfState(voters=(2, 3))
    assert group[2].status.conf_state == ConfState(voters=(2, 3))
    group.tick(60)
    assert leader.status.role is Role.FOLLOWER
    assert Role.LEADER in (group[2].status.role, group[3].status.role)


def test_a_leader_that_is_made_a_learner_steps_down_at_once() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    leader.node.propose_conf_change(change(LEARN, 1))
    group.deliver()
    assert leader.status.role is Role.FOLLOWER
    assert leader.status.conf_state == ConfState(voters=(2, 3), learners=(1,))


def test_a_leader_of_the_outgoing_half_alone_does_not_count_for_the_incoming() -> None:
    group = Group(1, 2, 3)
    explicit = ConfChangeTransition.JOINT_EXPLICIT
    leader = group.elect(1)
    leader.node.propose_conf_change(change(REMOVE, 1, 2, transition=explicit))
    group.deliver()
    assert leader.status.role is Role.LEADER
    assert leader.status.conf_state == ConfState((3,), (1, 2, 3))
    group.isolate(3)
    group.propose(1, b"x")
    assert leader.status.commit == 2
    group.heal()
    group.tick(2, 1)
    assert leader.status.commit == 3


# -- nobody campaigns over an unapplied configuration change


@pytest.mark.parametrize("how", ["campaign", "tick", "transfer"])
def test_nobody_campaigns_over_an_unapplied_change(how: str) -> None:
    member = Member(1, MemoryStorage(THREE), pre_vote=False)
    add = Entry(1, 1, EntryType.CONF_CHANGE, change(ADD, 4).encode())
    member.node.step(Message(MessageType.APPEND, 1, 2, term=1, entries=(add,), commit=1))
    ready = member.node.ready()
    member.persist(ready)
    try_to_campaign(member, how)
    assert (member.status.role, member.status.term) == (Role.FOLLOWER, 1)
    member.apply(ready)
    member.node.advance(ready)
    try_to_campaign(member, how)
    assert (member.status.role, member.status.term) == (Role.CANDIDATE, 2)


def try_to_campaign(member: Member, how: str) -> None:
    if how == "campaign":
        member.node.campaign()
    elif how == "transfer":
        member.node.step(Message(MessageType.TIMEOUT_NOW, 1, 2, term=1))
    else:
        for _ in range(member.node.randomized_election_timeout):
            member.node.tick()


def test_a_change_far_behind_the_first_page_is_found() -> None:
    storage = stored([1] * 9, THREE, HardState(1, 0, 10))
    storage.append([Entry(10, 1, EntryType.CONF_CHANGE, change(ADD, 4).encode())])
    member = Member(1, storage, max_committed_size_per_ready=0)
    member.node.campaign()
    assert member.status.role is Role.FOLLOWER


# -- learners answer vote requests


@pytest.mark.parametrize("kind", [MessageType.VOTE, MessageType.PRE_VOTE])
def test_a_learner_answers_a_vote_request(kind: MessageType) -> None:
    learner = Member(3, MemoryStorage(ConfState(voters=(1, 2), learners=(3,))))
    (answer,) = learner.hear(kind, 2, term=1)
    assert not answer.reject


def test_a_voter_that_believes_to_be_a_learner_helps_to_elect() -> None:
    """The others have applied its promotion, and half of them are gone."""
    group = Group(1, 2, learners=(3,))
    leader = group.elect(1)
    group.isolate(3)
    leader.node.propose_conf_change(change(ADD, 3))
    group.deliver()
    assert group[2].status.conf_state == THREE
    assert group[3].status.conf_state.learners == (3,)
    group.isolate(1)
    group.tick(10, 3)  # the lease that node 1 had
    group.elect(2)
    assert group[3].status.conf_state == THREE


# -- an id is used once for all time: a node under an old id is found out by what it lacks


def test_a_node_that_lost_its_log_refuses_the_commit_that_it_acknowledged() -> None:
    group = Group(1, 2, 3)
    group.elect(1)
    group.propose(1, b"x")
    group.add(2, MemoryStorage(THREE))
    group[1].node.tick()
    beat = next(m for m in group[1].take() if m.to == 2)
    with pytest.raises(IllegalMessage, match="lost"):
        group[2].node.step(beat)


# -- a group is not stranded by the leader that left it


def test_a_refused_vote_tells_what_is_committed() -> None:
    """Node 2 led, left by an entry that only it knows to be committed, and has the longer log."""
    conf = ConfState((1,), (1, 2), auto_leave=True)
    leave = Entry(2, 1, EntryType.CONF_CHANGE, ConfChange().encode())
    group = Group(1, 2)
    for node_id, commit, more in ((1, 1, []), (2, 2, [Entry(3, 1)])):
        storage = stored([1], conf, HardState(1, 2, commit))
        storage.append([leave, *more])
        group.add(node_id, storage).start(applied=1)
    group[2].take()
    assert group[2].status.conf_state == ConfState(voters=(1,))
    group.tick(60, 1)
    assert group[1].status.conf_state == ConfState(voters=(1,))
    assert group[1].status.role is Role.LEADER


def test_a_follower_that_hears_a_late_refusal_keeps_its_leader() -> None:
    storage = MemoryStorage(THREE)
    add = Entry(6, 1, EntryType.CONF_CHANGE, change(ADD, 4).encode())
    member = Member(1, storage)
    snapshot = snapshot_of(5, 1, THREE)
    member.node.step(Message(MessageType.SNAPSHOT, 1, 2, 1, snapshot=snapshot))
    member.node.step(Message(MessageType.APPEND, 1, 2, 1, log_term=1, index=5, entries=(add,)))
    refusal = Message(MessageType.VOTE_RESPONSE, 1, 3, 1, log_term=1, commit=6, reject=True)
    member.node.step(refusal)
    assert (member.status.commit, member.status.leader) == (6, 2)
    member.take()
    assert member.status.conf_state == ConfState(voters=(1, 2, 3, 4))


@pytest.mark.parametrize("term", [1, 5])
@pytest.mark.parametrize("pre_vote", [True, False])
def test_a_term_that_was_lost_in_a_crash_gets_no_second_leader(
    term: int, *, pre_vote: bool
) -> None:
    """Node 1 led, and made 4 and 5 voters; then 5 kept its entries and lost the hard state; 3 to 5 had not voted."""
    conf = ConfState((1, 2, 3, 4, 5))
    group = Group(*conf.voters, check_quorum=False, pre_vote=pre_vote)
    for node_id, vote in ((1, 1), (2, 1), (3, 0), (4, 0)):
        group.add(node_id, stored([term, term], conf, HardState(term, vote)))
    group.add(3, stored([], conf, HardState()))
    group.add(5, stored([term, term], conf, HardState(term - 1)))
    group.isolate(1, 2)
    led = {(term, 1)}
    for _ in range(3):
        group[5].node.campaign()
        group.deliver()
        if group[5].status.role is Role.LEADER:
            led.add((group[5].status.term, 5))
            break
    assert len({term for term, _ in led}) == len(led) == 2


def without_its_leader(
    conf: ConfState, one: ConfChange, commits: dict[int, int], longest: int, *, pre_vote: bool
) -> Group:
    """All hold a change behind entry 1, and `longest` one entry more; each knows its own commit; node 1 is gone."""
    group = Group(1, 2, 3, 4, check_quorum=False, pre_vote=pre_vote)
    for node_id in (1, 2, 3, 4):
        storage = stored([1], conf, HardState(1, 1, commits.get(node_id, 1)))
        storage.append([Entry(2, 1, EntryType.CONF_CHANGE, one.encode())])
        if node_id == longest:
            storage.append([Entry(3, 1)])
        group.add(node_id, storage).start(applied=1)
    group.isolate(1)
    group.deliver()
    return group


@pytest.mark.parametrize("pre_vote", [True, False])
def test_a_voter_that_does_not_know_that_it_is_one_learns_it_from_who_asks_for_its_vote(
    *, pre_vote: bool
) -> None:
    """Its longer log refuses the others, and a learner doesn't stand."""
    conf = ConfState((1, 2, 3), learners=(4,))
    group = without_its_leader(conf, change(ADD, 4), {2: 2}, longest=4, pre_vote=pre_vote)
    assert group[2].status.conf_state == ConfState((1, 2, 3, 4))
    assert group[4].status.conf_state == conf
    group[2].node.campaign()
    group.deliver()
    assert group[2].status.role is not Role.LEADER
    assert group[4].status.conf_state == ConfState((1, 2, 3, 4))
    group.elect(4)


@pytest.mark.parametrize("pre_vote", [True, False])
def test_who_stands_learns_from_a_refusal_that_the_refuser_is_gone(*, pre_vote: bool) -> None:
    conf = ConfState((1, 2, 3, 4))
    group = without_its_leader(conf, change(REMOVE, 4), {4: 2}, longest=4, pre_vote=pre_vote)
    assert group[4].status.conf_state == THREE
    group[2].node.campaign()
    group.deliver()
    assert (group[2].status.role, group[2].status.conf_state) == (Role.FOLLOWER, THREE)
    group.elect(2)


def test_a_vote_request_tells_no_commit_to_a_log_that_differs() -> None:
    member = Member(1, stored([1, 3], THREE, HardState(3)), check_quorum=False)
    member.hear(MessageType.VOTE, 2, term=4, log_term=2, index=2, commit=2)
    assert member.status.commit == 0
    member.hear(MessageType.VOTE, 2, term=4, log_term=1, index=1, commit=9)
    assert member.status.commit == 1


def test_a_leader_does_not_follow_a_refusals_commit() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    group.isolate(1)
    group.propose(1, b"x")
    leader.hear(MessageType.VOTE_RESPONSE, 2, term=1, reject=True, commit=2, log_term=1)
    assert leader.status.commit == 1


# -- what is said to the leader of the past


def test_an_acknowledgement_names_the_term_it_was_given_in() -> None:
    """A leader of the past must not take it for one of what has replaced its entries."""
    member = Member(1, stored([1], THREE, HardState(2)))
    old = Message(MessageType.APPEND, 1, 2, 2, log_term=1, index=1, entries=(Entry(2, 2),))
    new = Message(MessageType.APPEND, 1, 3, 3, log_term=1, index=1, entries=(Entry(2, 3),))
    member.node.step(old)
    member.node.step(new)
    answers = [(m.to, m.term, m.index) for m in member.take()]
    assert answers == [(2, 2, 2), (3, 3, 2)]
    assert member.storage.term(2) == 3


def test_a_snapshot_without_this_node_is_ignored() -> None:
    member = Member(4, MemoryStorage())
    member.hear(MessageType.SNAPSHOT, 1, term=1, snapshot=snapshot_of(5, 1, THREE))
    assert (member.status.last_index, member.status.conf_state) == (0, ConfState())
