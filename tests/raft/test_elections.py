"""Who is elected, by whom, and who is left alone: elections under pre-vote, check-quorum and leases."""

from typing import Any

import pytest

from mas.raft import (
    ConfState,
    Entry,
    HardState,
    IllegalMessage,
    MemoryStorage,
    Message,
    MessageType,
    Role,
)
from tests.raft.group import Group, Member, snapshot_of, stored

THREE = ConfState(voters=(1, 2, 3))
PLAIN: dict[str, Any] = {"pre_vote": False, "check_quorum": False}
VOTES = [MessageType.VOTE, MessageType.PRE_VOTE]
RESPONSE = {
    MessageType.VOTE: MessageType.VOTE_RESPONSE,
    MessageType.PRE_VOTE: MessageType.PRE_VOTE_RESPONSE,
}


def in_role(role: Role, **settings: Any) -> Member:
    """Node 1 of three, which has come to this part in term 1, or stands for it."""
    pre_vote = role is Role.PRE_CANDIDATE
    member = Member(
        1, stored([], THREE, HardState(1)), **{**PLAIN, "pre_vote": pre_vote, **settings}
    )
    if role is Role.FOLLOWER:
        member.hear(MessageType.HEARTBEAT, 3, term=1)
    else:
        member.node.campaign()
        member.take()
    if role is Role.LEADER:
        member.hear(MessageType.VOTE_RESPONSE, 2, term=2)
    assert member.status.role is role
    return member


def roles(group: Group) -> list[Role]:
    return [member.status.role for member in group.members.values()]


def terms(group: Group) -> list[int]:
    return [member.status.term for member in group.members.values()]


def campaign(group: Group, *nodes: int) -> None:
    """These nodes stand at the same moment."""
    for node_id in nodes:
        group[node_id].node.campaign()
    group.deliver()


def pass_lease(group: Group, *nodes: int) -> None:
    """So much time passes for these nodes that no leader's lease binds them, and none of them campaigns."""
    for node_id in nodes:
        for _ in range(10):
            group[node_id].node.tick()


# -- what each part makes of each message


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("kind", VOTES)
def test_a_vote_for_a_later_term_is_given_from_every_part(kind: MessageType, role: Role) -> None:
    member = in_role(role)
    before = member.status
    later = before.term + 1
    (answer,) = member.hear(kind, 2, term=later, log_term=later, index=42)
    assert (answer.type, answer.term, answer.reject) == (RESPONSE[kind], later, False)
    after = member.status
    if kind == MessageType.VOTE:
        assert (after.role, after.term, after.vote) == (Role.FOLLOWER, later, 2)
    else:
        assert (after.role, after.term, after.vote) == (role, before.term, before.vote)


@pytest.mark.parametrize("role", [Role.CANDIDATE, Role.LEADER])
@pytest.mark.parametrize("kind", VOTES)
def test_who_stood_itself_gives_no_vote_in_its_term(kind: MessageType, role: Role) -> None:
    member = in_role(role)
    (answer,) = member.hear(kind, 2, term=2, log_term=2, index=42)
    assert (answer.type, answer.term, answer.reject) == (RESPONSE[kind], 2, True)
    assert member.status.role is role


@pytest.mark.parametrize("kind", VOTES)
@pytest.mark.parametrize(
    ("index", "log_term", "voted", "refused"),
    [
        (0, 0, 0, True),
        (0, 2, 0, True),
        (0, 3, 0, False),
        (1, 1, 0, True),
        (1, 2, 0, True),
        (1, 3, 0, False),
        (2, 1, 0, True),
        (2, 2, 0, False),
        (2, 3, 0, False),
        (3, 1, 0, True),
        (3, 2, 0, False),
        (3, 2, 2, False),
        (3, 2, 1, True),
    ],
)
def test_a_vote_goes_to_a_log_that_is_as_good(
    kind: MessageType, index: int, log_term: int, voted: int, *, refused: bool
) -> None:
    term = max(2, log_term)
    member = Member(1, stored([2, 2], THREE, HardState(term, voted)), **PLAIN)
    (answer,) = member.hear(kind, 2, term=term, log_term=log_term, index=index)
    assert (answer.type, answer.reject) == (RESPONSE[kind], refused)


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(
    ("kind", "leader"),
    [
        (MessageType.VOTE, 0),
        (MessageType.APPEND, 2),
        (MessageType.HEARTBEAT, 2),
        (MessageType.SNAPSHOT, 2),
        (MessageType.APPEND_RESPONSE, 0),
        (MessageType.HEARTBEAT_RESPONSE, 0),
        (MessageType.VOTE_RESPONSE, 0),
        (MessageType.READ_INDEX_RESPONSE, 0),
        (MessageType.TIMEOUT_NOW, 0),
    ],
)
def test_a_later_term_ends_every_part(role: Role, kind: MessageType, leader: int) -> None:
    member = in_role(role)
    fields: dict[str, Any] = {"term": 9}
    if kind == MessageType.SNAPSHOT:
        fields["snapshot"] = snapshot_of(0, 0, THREE)
    member.hear(kind, 2, **fields)
    if kind == MessageType.TIMEOUT_NOW:
        # It comes from the leader of that term, who wants this node to lead the next.
        assert (member.status.role, member.status.term) == (Role.CANDIDATE, 10)
    else:
        assert (member.status.role, member.status.term) == (Role.FOLLOWER, 9)
        assert member.status.leader == leader


@pytest.mark.parametrize("kind", [MessageType.PRE_VOTE, MessageType.PRE_VOTE_RESPONSE])
def test_a_later_pre_vote_and_its_grant_raise_no_term(kind: MessageType) -> None:
    for role in (Role.FOLLOWER, Role.CANDIDATE, Role.LEADER):
        member = in_role(role)
        before = member.status
        member.hear(kind, 2, term=9, log_term=9, index=9)
        assert (member.status.role, member.status.term) == (role, before.term)


def test_a_refused_pre_vote_of_a_later_term_makes_a_follower_of_it() -> None:
    member = in_role(Role.PRE_CANDIDATE)
    member.hear(MessageType.PRE_VOTE_RESPONSE, 2, term=7, reject=True)
    assert (member.status.role, member.status.term) == (Role.FOLLOWER, 7)


@pytest.mark.parametrize("pre_vote", [True, False])
@pytest.mark.parametrize("check_quorum", [True, False])
@pytest.mark.parametrize("kind", list(MessageType)[:-2])
def test_what_is_said_in_a_past_term_is_answered_where_silence_would_be_for_ever(
    kind: MessageType, *, pre_vote: bool, check_quorum: bool
) -> None:
    storage = stored([1], THREE, HardState(5, 0, 1))
    member = Member(1, storage, pre_vote=pre_vote, check_quorum=check_quorum)
    member.take()
    fields: dict[str, Any] = {"term": 3, "log_term": 3, "index": 1}
    if kind == MessageType.SNAPSHOT:
        fields["snapshot"] = snapshot_of(9, 3, THREE)
    sent = [(m.type, m.to, m.term, m.reject, m.index) for m in member.hear(kind, 2, **fields)]
    if kind == MessageType.PRE_VOTE:
        assert sent == [(MessageType.PRE_VOTE_RESPONSE, 2, 5, True, 0)]
    elif kind in (MessageType.APPEND, MessageType.HEARTBEAT) and (pre_vote or check_quorum):
        assert sent == [(MessageType.APPEND_RESPONSE, 2, 5, False, 0)]
    else:
        assert sent == []
    assert (member.status.term, member.status.leader, member.status.last_index) == (5, 0, 1)


@pytest.mark.parametrize("kind", [MessageType.APPEND, MessageType.HEARTBEAT, MessageType.SNAPSHOT])
@pytest.mark.parametrize("role", [Role.PRE_CANDIDATE, Role.CANDIDATE])
def test_who_stands_follows_the_leader_of_its_own_term(role: Role, kind: MessageType) -> None:
    member = in_role(role)
    term = member.status.term
    fields: dict[str, Any] = {"term": term}
    if kind == MessageType.SNAPSHOT:
        fields["snapshot"] = snapshot_of(9, 1, THREE)
    assert len(member.hear(kind, 3, **fields)) == 1
    assert (member.status.role, member.status.leader, member.status.term) == (
        Role.FOLLOWER,
        3,
        term,
    )


@pytest.mark.parametrize("kind", [MessageType.APPEND, MessageType.HEARTBEAT, MessageType.SNAPSHOT])
def test_a_leader_follows_nobody_in_its_own_term(kind: MessageType) -> None:
    """Two leaders of one term are a voter's broken promise: it is said, and changes nothing."""
    leader = in_role(Role.LEADER)
    snapshot = snapshot_of(9, 1, THREE) if kind == MessageType.SNAPSHOT else None
    with pytest.raises(IllegalMessage, match="forgotten its vote"):
        leader.hear(kind, 3, term=2, snapshot=snapshot)
    assert (leader.status.role, leader.status.leader) == (Role.LEADER, 1)


@pytest.mark.parametrize("role", [Role.PRE_CANDIDATE, Role.CANDIDATE, Role.LEADER])
def test_only_a_follower_takes_over_on_request(role: Role) -> None:
    member = in_role(role)
    term = member.status.term
    assert member.hear(MessageType.TIMEOUT_NOW, 2, term=term) == []
    assert (member.status.role, member.status.term) == (role, term)


def test_a_stranger_neither_stands_nor_is_elected() -> None:
    member = Member(1, MemoryStorage(ConfState(voters=(2, 3, 4))), **PLAIN)
    member.hear(MessageType.TIMEOUT_NOW, 2, term=1)
    for voter in (2, 3):
        member.hear(MessageType.VOTE_RESPONSE, voter, term=1)
    assert member.status.role is Role.FOLLOWER


@pytest.mark.parametrize("pre_vote", [True, False])
def test_a_leader_that_stands_again_stays(*, pre_vote: bool) -> None:
    member = Member(1, MemoryStorage(ConfState(voters=(1,))), pre_vote=pre_vote)
    member.node.campaign()
    member.take()
    member.node.campaign()
    assert member.take() == []
    assert (member.status.role, member.status.term) == (Role.LEADER, 1)


# -- one's own vote


@pytest.mark.parametrize("pre_vote", [True, False])
def test_ones_own_vote_comes_too_late_once_another_leads(*, pre_vote: bool) -> None:
    member = Member(1, MemoryStorage(THREE), check_quorum=False, pre_vote=pre_vote)
    member.node.campaign()
    ready = member.node.ready()
    term = max(member.status.term, 1)
    member.node.step(Message(MessageType.HEARTBEAT, 1, 2, term))
    member.persist(ready)
    member.node.advance(ready)
    member.take()
    assert (member.status.role, member.status.leader) == (Role.FOLLOWER, 2)


def test_ones_own_pre_vote_is_no_vote() -> None:
    member = Member(1, MemoryStorage(THREE), check_quorum=False)
    member.node.campaign()
    ready = member.node.ready()
    for voter in (2, 3):
        member.node.step(Message(MessageType.PRE_VOTE_RESPONSE, 1, voter, 1))
    assert member.status.role is Role.CANDIDATE
    member.persist(ready)
    member.node.advance(ready)
    member.node.step(Message(MessageType.VOTE_RESPONSE, 1, 2, 1))
    assert member.status.role is Role.CANDIDATE
    member.take()
    assert member.status.role is Role.LEADER


def test_a_vote_is_no_pre_vote() -> None:
    member = in_role(Role.PRE_CANDIDATE)
    member.hear(MessageType.VOTE_RESPONSE, 2, term=1)
    assert member.status.role is Role.PRE_CANDIDATE


def test_an_echo_of_ones_own_answer_counts_nothing_and_tells_a_term() -> None:
    member = Member(1, MemoryStorage(THREE), **PLAIN)
    member.node.campaign()
    for voter in (1, 2):  # before its own vote is on the disk
        member.node.step(Message(MessageType.VOTE_RESPONSE, 1, voter, 1))
    assert member.status.role is Role.CANDIDATE
    leader = in_role(Role.LEADER)
    leader.hear(MessageType.HEARTBEAT_RESPONSE, 1, term=3)
    assert (leader.status.role, leader.status.term) == (Role.FOLLOWER, 3)


# -- whole elections


@pytest.mark.parametrize("pre_vote", [True, False])
@pytest.mark.parametrize(
    ("size", "down", "wins"),
    [(3, (), True), (3, (3,), True), (3, (2, 3), False), (4, (2, 3), False), (5, (2, 3), True)],
)
def test_a_quorum_elects_and_less_does_not(
    size: int, down: tuple[int, ...], *, wins: bool, pre_vote: bool
) -> None:
    group = Group(*range(1, size + 1), check_quorum=False, pre_vote=pre_vote)
    group.isolate(*down)
    campaign(group, 1)
    waiting, term = (Role.PRE_CANDIDATE, 0) if pre_vote else (Role.CANDIDATE, 1)
    status = group[1].status
    assert (status.role, status.term) == ((Role.LEADER, 1) if wins else (waiting, term))


@pytest.mark.parametrize("pre_vote", [True, False])
def test_a_shorter_log_loses(*, pre_vote: bool) -> None:
    conf = ConfState(voters=(1, 2, 3, 4, 5))
    group = Group(*conf.voters, check_quorum=False, pre_vote=pre_vote)
    for node_id, log in ((2, [1]), (3, [1]), (4, [1, 1])):
        group.add(node_id, stored(log, conf))
    campaign(group, 1)
    assert (group[1].status.role, group[1].status.term) == (Role.FOLLOWER, 1)


@pytest.mark.parametrize("pre_vote", [True, False])
def test_everybody_leads_in_turn(*, pre_vote: bool) -> None:
    group = Group(1, 2, 3, check_quorum=False, pre_vote=pre_vote)
    for node_id in (1, 2, 3):
        campaign(group, node_id)
        assert [n for n in (1, 2, 3) if group[n].status.role is Role.LEADER] == [node_id]


@pytest.mark.parametrize("pre_vote", [True, False])
def test_a_new_leader_replaces_entries_of_a_later_term(*, pre_vote: bool) -> None:
    """Node 1 led term 1 and reached node 2; node 3 led term 2 and reached nobody; 4 and 5 had voted for it."""
    conf = ConfState(voters=(1, 2, 3, 4, 5))
    group = Group(*conf.voters, check_quorum=False, pre_vote=pre_vote)
    for node_id, log in ((1, [1]), (2, [1]), (3, [2])):
        group.add(node_id, stored(log, conf))
    for node_id in (4, 5):
        group.add(node_id, stored([], conf, HardState(2, 3)))
    campaign(group, 1)
    assert (group[1].status.role, group[1].status.term) == (Role.FOLLOWER, 2)
    campaign(group, 1)
    assert (group[1].status.role, group[1].status.term) == (Role.LEADER, 3)
    for member in group.members.values():
        entries = member.storage.entries(1, member.storage.last_index() + 1)
        assert entries == [Entry(1, 1), Entry(2, 3)]


def test_duelling_candidates_disturb_and_pre_candidates_do_not() -> None:
    for pre_vote in (False, True):
        group = Group(1, 2, 3, check_quorum=False, pre_vote=pre_vote)
        group.drops = lambda m: {m.from_, m.to} == {1, 3}
        campaign(group, 1)
        campaign(group, 3)
        loser = Role.FOLLOWER if pre_vote else Role.CANDIDATE
        assert roles(group) == [Role.LEADER, Role.FOLLOWER, loser]
        group.heal()
        campaign(group, 3)
        if pre_vote:
            assert roles(group) == [Role.LEADER, Role.FOLLOWER, Role.FOLLOWER]
            assert terms(group) == [1, 1, 1]
        else:
            assert roles(group) == [Role.FOLLOWER] * 3
            assert terms(group) == [2, 2, 2]
        assert [m.status.last_index for m in group.members.values()] == [1, 1, 0]


def test_a_split_vote_is_settled_by_the_next() -> None:
    group = Group(1, 2, 3, check_quorum=False)
    group.elect(1)
    group.isolate(1)
    campaign(group, 2, 3)
    assert roles(group)[1:] == [Role.CANDIDATE, Role.CANDIDATE]
    assert terms(group) == [1, 2, 2]
    campaign(group, 2)
    assert roles(group)[1:] == [Role.LEADER, Role.FOLLOWER]
    assert terms(group) == [1, 3, 3]


def test_a_lease_keeps_followers_from_voting_until_it_has_passed() -> None:
    group = Group(1, 2, 3, pre_vote=False)
    group.elect(1)
    campaign(group, 3)
    assert (roles(group), terms(group)) == (
        [Role.LEADER, Role.FOLLOWER, Role.CANDIDATE],
        [1, 1, 2],
    )
    pass_lease(group, 2)
    campaign(group, 3)
    assert roles(group)[2] is Role.LEADER


def test_a_candidate_that_is_not_heard_is_freed_by_the_leader_it_deposes() -> None:
    group = Group(1, 2, 3, pre_vote=False)
    group.elect(1)
    group.isolate(1)
    for term in (2, 3):
        campaign(group, 3)
        assert (roles(group)[1:], terms(group)) == (
            [Role.FOLLOWER, Role.CANDIDATE],
            [1, 1, term],
        )
    group.heal()
    group.deliver([Message(MessageType.HEARTBEAT, 3, 1, 1)])
    assert (roles(group)[0], terms(group)[0]) == (Role.FOLLOWER, 3)
    pass_lease(group, 2)
    campaign(group, 3)
    assert roles(group)[2] is Role.LEADER


def test_a_node_of_an_earlier_term_completes_an_election() -> None:
    """It came back as the leader went away; with pre-vote nobody hears it by its term."""
    group = Group(1, 2, 3, check_quorum=False)
    group.isolate(3)
    campaign(group, 1)
    campaign(group, 3)
    campaign(group, 2)
    assert (roles(group), terms(group)) == (
        [Role.FOLLOWER, Role.LEADER, Role.PRE_CANDIDATE],
        [2, 2, 0],
    )
    group.isolate(2)
    campaign(group, 3)
    campaign(group, 1)
    assert Role.LEADER in (roles(group)[0], roles(group)[2])


def test_a_pre_vote_is_ignored_within_a_lease_and_heard_by_who_stands() -> None:
    group = Group(1, 2, 3)
    group.elect(1)
    group.isolate(1)
    campaign(group, 3)
    assert roles(group)[1:] == [Role.FOLLOWER, Role.PRE_CANDIDATE]
    campaign(group, 2)
    assert roles(group)[1:] == [Role.LEADER, Role.FOLLOWER]


def pre_vote_is_introduced() -> Group:
    """Node 3 was cut off before, and stood twice; now it is back with a shorter log and pre-vote."""
    group = Group(1, 2, 3, check_quorum=False)
    group[3].start(pre_vote=False)
    group.elect(1)
    group.isolate(3)
    group.propose(1, b"x")
    campaign(group, 3)
    campaign(group, 3)
    assert (roles(group), terms(group)) == (
        [Role.LEADER, Role.FOLLOWER, Role.CANDIDATE],
        [1, 1, 3],
    )
    group[3].start(pre_vote=True)
    group.heal()
    return group


def test_pre_vote_can_be_introduced_while_a_node_is_a_term_ahead() -> None:
    group = pre_vote_is_introduced()
    group.isolate(1)
    for _ in range(2):
        campaign(group, 3)
        campaign(group, 2)
    assert roles(group)[1] is Role.LEADER or roles(group)[2] is Role.FOLLOWER


def test_a_pre_candidate_a_term_ahead_is_freed_by_the_leaders_heartbeat() -> None:
    group = pre_vote_is_introduced()
    for _ in range(2):
        campaign(group, 3)
        assert roles(group) == [Role.LEADER, Role.FOLLOWER, Role.PRE_CANDIDATE]
    group.deliver([Message(MessageType.HEARTBEAT, 3, 1, 1)])
    assert roles(group)[0] is Role.FOLLOWER
    assert terms(group)[0] == terms(group)[2]


def test_a_follower_whose_leader_is_slow_disturbs_it_only_without_pre_vote() -> None:
    for pre_vote in (False, True):
        group = Group(1, 2, 3, pre_vote=pre_vote)
        group.elect(1)
        group.isolate(3)
        group.propose(1, b"x", b"y", b"z")
        group.heal()
        for _ in range(group[3].node.randomized_election_timeout):
            group[3].node.tick()
        group[3].take()  # what it asks is on its way still
        group.deliver([Message(MessageType.HEARTBEAT, 3, 1, 1)])
        leads = Role.LEADER if pre_vote else Role.FOLLOWER
        assert (roles(group)[0], terms(group)[0]) == (leads, 1 if pre_vote else 2)


def test_a_node_that_knows_of_no_place_in_the_group_follows() -> None:
    group = Group(1, 2)
    group.add(2, MemoryStorage(ConfState(voters=(1,))))
    for _ in range(40):
        group[2].node.tick()
    group.elect(1)
    assert (group[2].status.role, group[2].status.leader) == (Role.FOLLOWER, 1)


def test_a_leader_that_hears_of_a_quorum_stays_and_one_that_does_not_goes() -> None:
    for hears in (True, False):
        leader = in_role(Role.LEADER, check_quorum=True, election_tick=5)
        for _ in range(6):
            if hears:
                leader.hear(MessageType.HEARTBEAT_RESPONSE, 2, term=2)
            leader.node.tick()
        assert (leader.status.role is Role.LEADER) is hears
        assert leader.status.term == 2
