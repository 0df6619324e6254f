"""Members that come and go, and leaders that are replaced, seen through one node's Readies or a whole group's."""

import pytest

from mas.raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
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
from tests.raft.group import Group, Member, change, stored

ALONE = ConfState(voters=(1,))
THREE = ConfState(voters=(1, 2, 3))
ADD, REMOVE, LEARN = ConfChangeType.ADD_NODE, ConfChangeType.REMOVE_NODE, ConfChangeType.ADD_LEARNER
AUTO, IMPLICIT, EXPLICIT = ConfChangeTransition
REPLACE_ONE = (
    ConfChangeSingle(ADD, 2),
    ConfChangeSingle(LEARN, 1),
    ConfChangeSingle(LEARN, 3),
)


def alone() -> Member:
    """A single voter that leads and has applied its first entry."""
    member = Member(1, MemoryStorage(ALONE))
    member.node.campaign()
    member.take()
    return member


def run_until_changed(member: Member) -> ConfState:
    """Handle Readies up to the one that hands out a configuration change."""
    before = member.status.conf_state
    while member.status.conf_state == before:
        ready = member.node.ready()
        member.persist(ready)
        member.apply(ready)
        member.node.advance(ready)
    conf: ConfState = member.status.conf_state
    return conf


@pytest.mark.parametrize(
    ("one", "entered", "left"),
    [
        (change(ADD, 2), ConfState((1, 2)), None),
        (change(LEARN, 2), ConfState((1,), learners=(2,)), None),
        (
            change(LEARN, 2, transition=EXPLICIT),
            ConfState((1,), (1,), learners=(2,)),
            ConfState((1,), learners=(2,)),
        ),
        (
            change(LEARN, 2, transition=IMPLICIT),
            ConfState((1,), (1,), learners=(2,), auto_leave=True),
            ConfState((1,), learners=(2,)),
        ),
        (
            ConfChange(REPLACE_ONE),
            ConfState((2,), (1,), learners=(3,), learners_next=(1,), auto_leave=True),
            ConfState((2,), learners=(1, 3)),
        ),
        (
            ConfChange(REPLACE_ONE, EXPLICIT),
            ConfState((2,), (1,), learners=(3,), learners_next=(1,)),
            ConfState((2,), learners=(1, 3)),
        ),
        (
            ConfChange(REPLACE_ONE, IMPLICIT),
            ConfState((2,), (1,), learners=(3,), learners_next=(1,), auto_leave=True),
            ConfState((2,), learners=(1, 3)),
        ),
    ],
)
def test_a_change_is_handed_out_as_proposed_and_left_as_it_says(
    one: ConfChange, entered: ConfState, left: ConfState | None
) -> None:
    member = alone()
    member.node.propose(b"before")
    member.node.propose_conf_change(one)
    assert run_until_changed(member) == entered
    last = member.storage.last_index()
    before, proposed = member.storage.entries(last - 1, last + 1)
    assert (before.data, proposed.type) == (b"before", EntryType.CONF_CHANGE)
    assert ConfChange.decode(proposed.data) == one

    ready = member.node.ready()
    if not entered.auto_leave:
        assert ready.entries == ()
        member.node.advance(ready)
        if left is None:
            return
        member.node.propose_conf_change(ConfChange(context=b"by hand"))
        ready = member.node.ready()
    (leaving,) = ready.entries
    decoded = ConfChange.decode(leaving.data)
    assert (decoded.changes, decoded.context) == ((), b"" if entered.auto_leave else b"by hand")
    assert member.node.apply_conf_change(decoded) == left


def test_a_leader_that_was_deposed_leaves_no_joint_configuration_before_it_leads_again() -> None:
    member = alone()
    member.node.propose_conf_change(change(LEARN, 2, transition=IMPLICIT))
    changes: list[Entry] = []
    while not changes:
        ready = member.node.ready()
        member.persist(ready)
        changes = [e for e in ready.committed_entries if e.type == EntryType.CONF_CHANGE]
        if changes:
            member.node.step(Message(MessageType.HEARTBEAT_RESPONSE, 1, 1, 2))
        member.apply(ready)
        member.node.advance(ready)
    assert (member.status.role, member.status.conf_state.auto_leave) == (Role.FOLLOWER, True)
    member.take()
    before = member.storage.last_index()

    member.node.campaign()
    member.readies.clear()
    member.take()
    written = [ready.entries for ready in member.readies if ready.entries]
    assert [len(entries) for entries in written] == [1, 1]
    assert written[0] == (Entry(before + 1, 3),)
    assert ConfChange.decode(written[1][0].data) == ConfChange()
    assert member.status.conf_state == ConfState((1,), learners=(2,))


def test_a_member_may_be_added_twice() -> None:
    member = alone()
    for node_id in (1, 1, 2):
        member.node.propose_conf_change(change(ADD, node_id))
        member.take()
    assert member.status.conf_state == ConfState((1, 2))
    last = member.storage.last_index()
    kinds = [entry.type for entry in member.storage.entries(last - 2, last + 1)]
    assert kinds == [EntryType.CONF_CHANGE] * 3


def test_a_new_member_is_probed_at_once_and_from_the_end() -> None:
    member = alone()
    member.node.propose(b"x")
    member.take()
    member.node.propose_conf_change(change(ADD, 2))
    sent = member.take()
    assert [(m.type, m.to, m.index) for m in sent] == [(MessageType.APPEND, 2, 2)]
    one = member.status.progress[2]
    assert (one.state, one.match, one.next) == (ProgressState.PROBE, 0, 3)
    assert one.recent_active


def test_a_change_of_part_keeps_what_is_known_of_a_peer() -> None:
    group = Group(1, 2, learners=(3,))
    leader = group.elect(1)
    for kind in (ADD, LEARN):
        before = leader.status.progress[3]
        leader.node.propose_conf_change(change(kind, 3))
        group.deliver()
        after = leader.status.progress[3]
        assert after.match >= before.match > 0
        assert after.state is ProgressState.REPLICATE
        assert after.is_learner is (kind is LEARN)


def test_a_learner_that_is_promoted_can_lead() -> None:
    group = Group(1, learners=(2,), check_quorum=False)
    leader = group.elect(1)
    group[2].node.campaign()
    leader.node.transfer_leader(2)
    group.deliver()
    assert (leader.status.role, group[2].status.role) == (Role.LEADER, Role.FOLLOWER)
    leader.node.propose_conf_change(change(ADD, 2))
    group.deliver()
    leader.node.transfer_leader(2)
    group.deliver()
    assert (leader.status.role, group[2].status.role) == (Role.FOLLOWER, Role.LEADER)


def test_a_leader_is_replaced_through_a_joint_configuration() -> None:
    """Node 4 comes, the leader 1 goes, and hands over before it is gone."""
    group = Group(1, 2, 3)
    group.add(4, MemoryStorage(THREE))
    leader = group.elect(1)
    both = (ConfChangeSingle(REMOVE, 1), ConfChangeSingle(ADD, 4))
    leader.node.propose_conf_change(ConfChange(both, EXPLICIT))
    group.deliver()
    assert leader.status.conf_state == ConfState((2, 3, 4), (1, 2, 3))
    leader.node.transfer_leader(4)
    group.deliver()
    assert group[4].status.role is Role.LEADER
    group[4].node.propose_conf_change(ConfChange())
    group.deliver()
    assert group[4].status.conf_state == ConfState((2, 3, 4))
    assert group[1].status.role is Role.FOLLOWER
    with pytest.raises(NotLeader):
        group[1].node.propose(b"x")


@pytest.mark.parametrize("joint", [True, False])
def test_a_leader_that_goes_by_the_change_steps_down_when_it_applies_it(*, joint: bool) -> None:
    group = Group(1, 2, 3, check_quorum=False)
    leader = group.elect(1)
    transition = IMPLICIT if joint else AUTO
    leader.node.propose_conf_change(change(REMOVE, 1, transition=transition))
    group.deliver()
    assert (leader.status.role, leader.status.leader) == (Role.FOLLOWER, 0)
    assert leader.status.conf_state == ConfState((2, 3))
    group.elect(2)
    group.propose(2, b"x")
    assert group[3].status.commit == group[2].status.commit


# -- handing over


def test_leadership_goes_there_and_back_within_a_lease() -> None:
    group = Group(1, 2, 3, check_quorum=True)
    group.elect(1)
    group[1].node.transfer_leader(2)
    group.deliver()
    group.propose(2, b"x")
    group[2].node.transfer_leader(1)
    group.deliver()
    assert (group[1].status.role, group[1].status.lead_transferee) == (Role.LEADER, 0)


def test_asking_again_for_the_same_transfer_gives_it_no_more_time() -> None:
    group = Group(1, 2, 3, check_quorum=False)
    leader = group.elect(1)
    group.isolate(3)
    leader.node.transfer_leader(3)
    group.tick(1, 1)
    leader.node.transfer_leader(3)
    group.tick(8, 1)
    assert leader.status.lead_transferee == 3
    group.tick(1, 1)
    assert (leader.status.role, leader.status.lead_transferee) == (Role.LEADER, 0)


def test_a_later_term_ends_a_transfer() -> None:
    group = Group(1, 2, 3, check_quorum=False, pre_vote=False)
    leader = group.elect(1)
    group.isolate(3)
    leader.node.transfer_leader(3)
    group.deliver()
    group.elect(2)
    assert (leader.status.role, leader.status.leader) == (Role.FOLLOWER, 2)
    assert leader.status.lead_transferee == 0


def test_a_transfer_ends_when_its_target_is_made_a_learner() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    group.drops = lambda m: m.type == MessageType.TIMEOUT_NOW
    leader.node.transfer_leader(3)
    group.deliver()
    assert leader.status.lead_transferee == 3
    demotion = (ConfChangeSingle(REMOVE, 3), ConfChangeSingle(LEARN, 3))
    assert leader.node.apply_conf_change(ConfChange(demotion)).learners_next == (3,)
    assert leader.status.lead_transferee == 3
    assert leader.node.apply_conf_change(ConfChange()).learners == (3,)
    assert leader.status.lead_transferee == 0


# -- reads by everybody


@pytest.mark.parametrize("read_only", list(ReadOnlyOption))
@pytest.mark.parametrize(("voters", "learners"), [((1, 2, 3), ()), ((1,), (2,)), ((1, 2), (3,))])
def test_everybody_reads_what_was_committed_before(
    voters: tuple[int, ...], learners: tuple[int, ...], read_only: ReadOnlyOption
) -> None:
    group = Group(*voters, learners=learners, read_only=read_only)
    group.elect(1)
    index = 1
    for turn in range(2):
        for node_id in group.members:
            group.propose(1, *[b""] * 10)
            index += 10
            context = b"%d-%d" % (turn, node_id)
            group[node_id].node.read_index(context)
            group.deliver()
            assert group[node_id].reads[-1] == ReadState(index, context)


def test_a_read_that_came_to_a_deposed_leader_is_passed_on_for_who_asked() -> None:
    group = Group(1, 2, 3, check_quorum=False)
    group.elect(1)
    for node_id in (2, 3):
        group[node_id].node.read_index(b"context")
    on_their_way = [*group[2].take(), *group[3].take()]
    group.elect(3)
    for message in on_their_way:
        group[1].node.step(message)
    passed = group[1].take()
    assert [(m.type, m.to, m.from_, m.term, m.context) for m in passed] == [
        (MessageType.READ_INDEX, 3, 2, 0, b"context"),
        (MessageType.READ_INDEX, 3, 3, 0, b"context"),
    ]


def test_a_quorum_that_shrinks_answers_a_read() -> None:
    group = Group(1, 2)
    leader = group.elect(1)
    leader.node.propose_conf_change(change(REMOVE, 2))
    for message in leader.take():
        group[2].node.step(message)
    leader.node.read_index(b"r")
    assert [m.type for m in leader.take()] == [MessageType.HEARTBEAT]
    for answer in group[2].take():
        leader.node.step(answer)
    leader.take()
    assert leader.status.conf_state == ALONE
    assert leader.reads == [ReadState(1, b"r")]


# -- a change that is not yet known to be committed


def test_a_restarted_node_asks_whom_a_committed_change_leaves() -> None:
    storage = stored([1], THREE, HardState(1, 0, 2))
    storage.append([Entry(2, 1, EntryType.CONF_CHANGE, change(REMOVE, 3).encode())])
    member = Member(1, storage, pre_vote=False, applied=1)
    member.node.campaign()
    assert member.status.role is Role.FOLLOWER
    member.take()
    member.node.campaign()
    assert [m.to for m in member.take()] == [2]


def test_a_pending_change_is_refused_until_it_is_applied_and_not_only_committed() -> None:
    group = Group(1, 2, 3)
    leader = group.elect(1)
    leader.node.propose_conf_change(change(LEARN, 4))
    for message in leader.take():
        for answer in group[message.to].hear(
            message.type,
            1,
            term=1,
            index=message.index,
            log_term=message.log_term,
            entries=message.entries,
        ):
            leader.node.step(answer)
    assert leader.status.commit == 2
    with pytest.raises(ProposalDropped):
        leader.node.propose_conf_change(change(LEARN, 5))
    leader.take()
    leader.node.propose_conf_change(change(LEARN, 5))
