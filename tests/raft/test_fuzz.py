"""Whatever is stepped in: either it is illegal and changes nothing, or the node goes on as a node of Raft."""

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from mas.raft import (
    ConfState,
    Entry,
    EntryType,
    HardState,
    IllegalMessage,
    Message,
    MessageType,
    NotLeader,
    ProposalDropped,
    Role,
    Snapshot,
    SnapshotMetadata,
)
from tests.raft.group import Member, stored

THREE = ConfState(voters=(1, 2, 3))
small = st.integers(-1, 7)
entries = st.lists(st.builds(Entry, small, small, st.just(EntryType.NORMAL)), max_size=3).map(tuple)
confs = st.sampled_from(
    [THREE, ConfState((1, 2), learners=(3,)), ConfState((2, 3)), ConfState((1, 2), learners=(2,))]
)
snapshots = st.builds(Snapshot, st.builds(SnapshotMetadata, small, small, confs))
anything = st.builds(
    Message,
    type=st.sampled_from(MessageType) | st.just(99),
    to=st.sampled_from([1, 1, 1, 1, 1, 2]),
    from_=st.integers(0, 4),
    term=small,
    log_term=small,
    index=small,
    commit=small,
    entries=entries,
    reject=st.booleans(),
    reject_hint=small,
    snapshot=st.none() | snapshots,
    context=st.sampled_from([b"", b"r", bytes(8), (1).to_bytes(8)]),
)


@st.composite
def likely(draw: st.DrawFn) -> Message:
    """What a peer could send: a message whose entries follow, by a member, in a term near this one's."""
    index, log_term = draw(st.sampled_from([(0, 0), (1, 1), (2, 1), (3, 2), (4, 3)]))
    term = draw(st.integers(log_term, log_term + 3))
    count = draw(st.integers(0, 2))
    return Message(
        draw(st.sampled_from(MessageType)),
        1,
        draw(st.integers(2, 3)),
        term,
        log_term,
        index,
        commit=draw(st.integers(0, 2)),
        entries=tuple(Entry(index + 1 + place, term) for place in range(count)),
        reject=draw(st.booleans()),
        reject_hint=draw(st.integers(0, 4)),
        snapshot=Snapshot(SnapshotMetadata(index, log_term, THREE)),
        context=draw(st.sampled_from([b"", b"r", (1).to_bytes(8)])),
    )


def propose(member: Member) -> None:
    try:
        member.node.propose(b"x")
    except (NotLeader, ProposalDropped):
        assert member.status.role is not Role.LEADER or member.status.lead_transferee


def nothing(_member: Member) -> None:
    """Let messages gather."""


Call = Callable[[Member], object]
CALLS: list[Call] = [
    nothing,
    nothing,
    propose,
    Member.take,
    lambda member: member.node.tick(),
    lambda member: member.node.campaign(),
    lambda member: member.node.read_index(b"r"),
    lambda member: member.node.forget_leader(),
    lambda member: member.node.report_unreachable(2),
    lambda member: member.node.report_snapshot(2, ok=False),
    lambda member: member.node.report_snapshot(3, ok=True),
]


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.lists(st.tuples(anything | likely(), st.sampled_from(CALLS)), min_size=1, max_size=25),
)
def test_nothing_that_is_stepped_in_breaks_a_node(
    options: tuple[bool, bool, bool], steps: list[tuple[Message, Call]]
) -> None:
    pre_vote, check_quorum, leads = options
    storage = stored([1, 1, 2], THREE, HardState(2, 0, 1))
    member = Member(1, storage, pre_vote=pre_vote, check_quorum=check_quorum)
    if leads:
        member.node.campaign()
        member.take()
        member.hear(MessageType.PRE_VOTE_RESPONSE, 2, term=3)
        member.hear(MessageType.VOTE_RESPONSE, 2, term=3)
        assert member.status.role is Role.LEADER
    for message, call in steps:
        before = member.status
        ready_before = member.node.has_ready()
        try:
            member.node.step(message)
        except IllegalMessage:
            assert member.status == before
            assert member.node.has_ready() == ready_before
        call(member)
        after = member.status
        assert after.term >= before.term
        assert after.applied <= after.commit <= after.last_index
        assert after.commit >= before.commit
        assert after.vote == before.vote or after.term > before.term or before.vote == 0
        assert bool(after.progress) == (after.role is Role.LEADER)
    member.take()
    applied = [entry.index for entry in member.applied]
    assert applied == sorted(set(applied))
    assert not member.node.has_ready()
