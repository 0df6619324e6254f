"""What the Raft paper (extended version) promises, section by section."""

import random
from typing import Any

import pytest

from mas.raft import ConfState, Entry, HardState, Message, MessageType, NotLeader, Role
from mas.raft.core import Raft
from tests.raft.group import Group, Member, snapshot_of, stored

CONF = ConfState(voters=(1, 2, 3))


def member(*terms: int, term: int = 0, vote: int = 0, commit: int = 0, **settings: Any) -> Member:
    """Node 1 of three with a log of these terms, voting without pre-vote or lease."""
    settings = {"pre_vote": False, "check_quorum": False, **settings}
    hard_state = HardState(term or (terms[-1] if terms else 0), vote, commit)
    return Member(1, stored(terms, CONF, hard_state), **settings)


def lead(node: Member) -> None:
    """Elect node 1 by node 2's vote."""
    node.node.campaign()
    node.take()
    node.hear(MessageType.VOTE_RESPONSE, 2, term=node.status.term)
    assert node.status.role is Role.LEADER


def test_5_1_a_later_term_makes_everybody_a_follower() -> None:
    for role in (Role.FOLLOWER, Role.CANDIDATE, Role.LEADER):
        node = member(term=1)
        if role is Role.CANDIDATE:
            node.node.campaign()
        if role is Role.LEADER:
            lead(node)
        assert node.status.role is role
        node.hear(MessageType.APPEND, 3, term=9)
        assert (node.status.role, node.status.term, node.status.leader) == (Role.FOLLOWER, 9, 3)
        assert node.status.vote == 0


def test_5_1_an_earlier_term_is_ignored() -> None:
    node = member(term=5)
    assert node.hear(MessageType.APPEND, 2, term=4, entries=(Entry(1, 4),)) == []
    assert (node.status.last_index, node.status.leader) == (0, 0)


def test_5_2_a_leader_sends_heartbeats_every_heartbeat_tick() -> None:
    node = member(heartbeat_tick=2, election_tick=10)
    lead(node)
    node.take()
    node.node.tick()
    assert node.take() == []
    node.node.tick()
    beats = node.take()
    assert [(m.type, m.to, m.term) for m in beats] == [
        (MessageType.HEARTBEAT, 2, 1),
        (MessageType.HEARTBEAT, 3, 1),
    ]


def test_5_2_a_silent_leader_is_followed_by_an_election() -> None:
    node = member(term=4, election_tick=10)
    for _ in range(node.node.randomized_election_timeout - 1):
        node.node.tick()
    assert node.take() == []
    node.node.tick()
    votes = node.take()
    assert (node.status.role, node.status.term, node.status.vote) == (Role.CANDIDATE, 5, 1)
    assert [(m.type, m.to, m.term) for m in votes] == [
        (MessageType.VOTE, 2, 5),
        (MessageType.VOTE, 3, 5),
    ]


@pytest.mark.parametrize(
    ("size", "votes", "role"),
    [
        (1, {}, Role.LEADER),
        (3, {2: True}, Role.LEADER),
        (3, {2: False}, Role.CANDIDATE),
        (3, {2: False, 3: False}, Role.FOLLOWER),
        (3, {2: False, 3: True}, Role.LEADER),
        (5, {2: True}, Role.CANDIDATE),
        (5, {2: True, 3: True}, Role.LEADER),
        (5, {2: False, 3: False, 4: False}, Role.FOLLOWER),
    ],
)
def test_5_2_a_majority_of_votes_makes_a_leader(
    size: int, votes: dict[int, bool], role: Role
) -> None:
    conf = ConfState(voters=tuple(range(1, size + 1)))
    node = Member(1, stored([], conf), pre_vote=False)
    node.node.campaign()
    node.take()
    for voter, granted in votes.items():
        node.hear(MessageType.VOTE_RESPONSE, voter, term=1, reject=not granted)
    assert (node.status.role, node.status.term) == (role, 1)


@pytest.mark.parametrize(
    ("voted", "candidate", "granted"), [(0, 2, True), (0, 3, True), (2, 2, True), (2, 3, False)]
)
def test_5_2_one_vote_a_term_first_come_first_served(
    voted: int, candidate: int, *, granted: bool
) -> None:
    node = member(term=1, vote=voted)
    (answer,) = node.hear(MessageType.VOTE, candidate, term=1)
    assert (answer.type, answer.to, answer.reject) == (
        MessageType.VOTE_RESPONSE,
        candidate,
        not granted,
    )
    assert node.storage.initial_state()[0].vote == (voted or candidate)


def test_5_2_a_vote_is_synced_before_it_is_given() -> None:
    node = member(term=1)
    node.node.step(Message(MessageType.VOTE, 1, 2, term=2))
    ready = node.node.ready()
    assert ready.must_sync
    assert ready.hard_state == HardState(2, 2, 0)
    assert [m.type for m in ready.messages] == [MessageType.VOTE_RESPONSE]


@pytest.mark.parametrize("kind", [MessageType.APPEND, MessageType.HEARTBEAT])
@pytest.mark.parametrize("later", [0, 1])
def test_5_2_a_candidate_follows_a_leader_of_its_term_or_later(
    kind: MessageType, later: int
) -> None:
    node = member()
    node.node.campaign()
    node.take()
    node.hear(kind, 3, term=1 + later)
    assert (node.status.role, node.status.leader) == (Role.FOLLOWER, 3)


def test_5_2_timeouts_are_spread_and_drawn_anew() -> None:
    node = member(rng=random.Random(1), election_tick=10)
    seen = set()
    for term in range(1, 400):
        node.hear(MessageType.HEARTBEAT, 2, term=term)
        seen.add(node.node.randomized_election_timeout)
    assert seen == set(range(10, 20))


def test_5_3_a_leader_appends_and_sends_what_is_proposed() -> None:
    node = member()
    lead(node)
    node.take()
    node.hear(MessageType.APPEND_RESPONSE, 2, term=1, index=1)
    node.hear(MessageType.APPEND_RESPONSE, 3, term=1, index=1)
    node.node.propose(b"some data")
    ready = node.node.ready()
    assert ready.entries == (Entry(2, 1, data=b"some data"),)
    assert [(m.to, m.index, m.log_term, m.commit, m.entries) for m in ready.messages] == [
        (2, 1, 1, 1, ready.entries),
        (3, 1, 1, 1, ready.entries),
    ]


@pytest.mark.parametrize(
    ("size", "acknowledged_by", "committed"),
    [(3, (), False), (3, (2,), True), (5, (2,), False), (5, (2, 3), True), (5, (2, 3, 4), True)],
)
def test_5_3_an_entry_is_committed_once_a_majority_holds_it(
    size: int, acknowledged_by: tuple[int, ...], *, committed: bool
) -> None:
    group = Group(*range(1, size + 1))
    group.elect(1)
    group.drops = lambda m: m.type == MessageType.APPEND_RESPONSE and m.from_ not in acknowledged_by
    group.propose(1, b"x")
    assert (group[1].status.commit == 2) is committed


def test_5_3_committing_an_entry_commits_all_before_it() -> None:
    for terms in ([], [2], [1, 2], [1]):
        node = member(*terms, term=2)
        lead(node)
        node.node.propose(b"x")
        node.take()
        last = len(terms) + 2
        node.hear(MessageType.APPEND_RESPONSE, 2, term=3, index=last)
        assert [entry.index for entry in node.applied] == list(range(1, last + 1))


def test_5_3_followers_learn_of_commits_and_apply_in_order() -> None:
    node = member(term=1)
    sent = (Entry(1, 1, data=b"a"), Entry(2, 1, data=b"b"))
    node.hear(MessageType.APPEND, 2, term=1, entries=sent, commit=1)
    assert node.applied == [sent[0]]
    node.hear(MessageType.HEARTBEAT, 2, term=1, commit=2)
    assert node.applied == list(sent)


@pytest.mark.parametrize(
    ("log_term", "index", "answer"),
    [
        (0, 0, (False, 1, 0, 0)),
        (1, 1, (False, 1, 0, 0)),
        (2, 2, (False, 2, 0, 0)),
        (1, 2, (True, 2, 1, 1)),
        (3, 3, (True, 3, 2, 2)),
    ],
)
def test_5_3_an_append_is_refused_unless_it_follows_the_log(
    log_term: int, index: int, answer: tuple[bool, int, int, int]
) -> None:
    node = member(1, 2, commit=1)
    (sent,) = node.hear(MessageType.APPEND, 2, term=2, index=index, log_term=log_term)
    assert (sent.reject, sent.index, sent.reject_hint, sent.log_term) == answer


@pytest.mark.parametrize(
    ("index", "log_term", "sent", "commit", "last_index", "committed"),
    [
        (1, 1, (), 1, 2, 1),
        (0, 0, (2,), 1, 1, 1),
        (2, 2, (2, 2), 3, 4, 3),
        (2, 2, (2,), 4, 3, 3),
        (1, 1, (2,), 4, 2, 2),
        (1, 1, (), 3, 2, 1),
        (2, 2, (), 4, 2, 2),
    ],
)
def test_5_3_a_follower_commits_up_to_the_last_entry_that_it_was_sent(
    index: int, log_term: int, sent: tuple[int, ...], commit: int, last_index: int, committed: int
) -> None:
    node = member(1, 2)
    entries = tuple(Entry(index + place, term) for place, term in enumerate(sent, start=1))
    fields: dict[str, Any] = {"index": index, "log_term": log_term, "entries": entries}
    (answer,) = node.hear(MessageType.APPEND, 2, term=2, commit=commit, **fields)
    assert not answer.reject
    assert (node.status.last_index, node.status.commit) == (last_index, committed)


@pytest.mark.parametrize(
    ("index", "log_term", "sent", "expected"),
    [
        (2, 2, (3,), [1, 2, 3]),
        (1, 1, (3, 4), [1, 3, 4]),
        (0, 0, (1,), [1, 2]),
        (0, 0, (3,), [3]),
    ],
)
def test_5_3_conflicting_entries_are_replaced(
    index: int, log_term: int, sent: tuple[int, ...], expected: list[int]
) -> None:
    node = member(1, 2)
    entries = tuple(Entry(index + place, term) for place, term in enumerate(sent, start=1))
    node.hear(MessageType.APPEND, 2, term=4, index=index, log_term=log_term, entries=entries)
    storage = node.storage
    assert [storage.term(i) for i in range(1, storage.last_index() + 1)] == expected


# Figure 7: logs that a leader of term 8 may meet.
FIGURE_7 = [
    (1, 1, 1, 4, 4, 5, 5, 6, 6),
    (1, 1, 1, 4),
    (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
    (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
    (1, 1, 1, 4, 4, 4, 4),
    (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
]


@pytest.mark.parametrize("terms", FIGURE_7)
def test_5_3_figure_7_every_follower_is_brought_to_the_leaders_log(terms: tuple[int, ...]) -> None:
    leads = (1, 1, 1, 4, 4, 5, 5, 6, 6, 6)
    group = Group(1, 2, 3, pre_vote=False)
    for node_id, log in ((1, leads), (2, terms), (3, ())):
        group.add(node_id, stored(log, CONF, HardState(7)))
    group.elect(1)
    group.propose(1, b"x")
    storages = [group[node_id].storage for node_id in (1, 2, 3)]
    logs = [storage.entries(1, storage.last_index() + 1) for storage in storages]
    assert logs[0] == logs[1] == logs[2]
    assert [entry.term for entry in logs[0]] == [*leads, 8, 8]


@pytest.mark.parametrize(
    ("ours", "theirs", "granted"),
    [
        ((1,), (1, 1), True),
        ((1,), (1, 2), True),
        ((1, 1), (1, 1), False),
        ((1,), (2, 1), True),
        ((1, 1), (2, 1), True),
        ((2,), (1, 1), False),
        ((2,), (1, 2), False),
        ((1, 1), (1, 2), True),
    ],
)
def test_5_4_1_no_vote_for_a_log_that_is_behind(
    ours: tuple[int, ...], theirs: tuple[int, int], *, granted: bool
) -> None:
    node = member(*ours)
    log_term, index = theirs
    (answer,) = node.hear(MessageType.VOTE, 2, term=3, log_term=log_term, index=index)
    assert answer.reject is not granted


def test_5_4_2_old_term_entries_do_not_commit_by_count() -> None:
    node = member(1, 2)
    lead(node)
    node.take()
    for index, commit in ((1, 0), (2, 0), (3, 3)):
        node.hear(MessageType.APPEND_RESPONSE, 2, term=3, index=index)
        assert node.status.commit == commit


def test_5_4_2_counting_old_terms_would_lose_figure_8s_entry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The test before this fails on a core that breaks the rule."""
    monkeypatch.setattr(Raft, "_may_commit", lambda _self, index: index > 0)
    with pytest.raises(AssertionError):
        test_5_4_2_old_term_entries_do_not_commit_by_count()


def test_5_5_repeated_messages_change_nothing() -> None:
    node = member(term=1)
    fields: dict[str, Any] = {"term": 1, "entries": (Entry(1, 1), Entry(2, 1))}
    first = node.hear(MessageType.APPEND, 2, **fields)
    before = node.status
    assert node.hear(MessageType.APPEND, 2, **fields) == first
    assert node.hear(MessageType.APPEND, 2, term=1, entries=(Entry(1, 1),)) != []
    assert node.status == before
    assert node.storage.last_index() == 2


def test_6_disruptive_servers_are_not_heard_within_the_least_timeout() -> None:
    node = member(term=1, check_quorum=True, election_tick=10)
    node.hear(MessageType.HEARTBEAT, 2, term=1)
    for _ in range(9):
        node.node.tick()
    assert node.hear(MessageType.VOTE, 3, term=5) == []
    assert node.status.term == 1
    node.node.tick()
    (answer,) = node.hear(MessageType.VOTE, 3, term=5)
    assert not answer.reject


def test_7_a_snapshot_replaces_a_log_that_lacks_it() -> None:
    node = member(1, 1)
    (answer,) = node.hear(
        MessageType.SNAPSHOT, 2, term=3, snapshot=snapshot_of(9, 2, CONF, b"state")
    )
    assert (answer.type, answer.index, answer.reject) == (MessageType.APPEND_RESPONSE, 9, False)
    assert node.storage.snapshot().data == b"state"
    assert (node.status.commit, node.status.applied, node.status.last_index) == (9, 9, 9)


def test_7_entries_behind_a_snapshot_that_is_held_are_kept() -> None:
    node = member(1, 1, 2, 2)
    (answer,) = node.hear(MessageType.SNAPSHOT, 2, term=3, snapshot=snapshot_of(3, 2, CONF))
    assert answer.index == 3
    assert node.readies[-1].snapshot is None
    assert (node.status.commit, node.status.last_index) == (3, 4)


def test_8_a_follower_names_the_leader() -> None:
    node = member(term=1)
    with pytest.raises(NotLeader) as unknown:
        node.node.propose(b"x")
    assert unknown.value.leader == 0
    node.hear(MessageType.HEARTBEAT, 2, term=1)
    with pytest.raises(NotLeader) as known:
        node.node.propose(b"x")
    assert known.value.leader == 2


def test_8_a_leader_commits_an_empty_entry_of_its_term_first() -> None:
    node = member(1)
    lead(node)
    appended = [entry for ready in node.readies for entry in ready.entries]
    assert appended == [Entry(2, 2)]
