"""The door to a node's replicas: what each says of itself, and changes that are begun once and shown until they are so."""

from collections.abc import Mapping

import pytest

from mas.errors import NotLeading, Unavailable
from mas.ledger.instructions import RejectReason
from mas.multiraft.group import GroupStatus
from mas.raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    ConfState,
    ProgressState,
    ProgressStatus,
    Role,
    Status,
)
from mas.resource import ReplicaAdmin
from mas.resource.members import all_voters
from mas.rpc.messages import (
    Change,
    ChangeMembers,
    FollowerView,
    ReadReplica,
    Rejected,
    ReplicaState,
    ReplicaView,
)

NODE = 1


def progress(
    match: int, *, state: ProgressState = ProgressState.REPLICATE, active: bool = True
) -> ProgressStatus:
    return ProgressStatus(match, match + 1, state, False, active, False, 0)


class Group:
    """Says what it is told to, and notes what it is asked for."""

    def __init__(self) -> None:
        self.id = 7
        self.conf = ConfState(voters=(1, 2, 3), learners=(4,))
        self.leading = True
        self.leader = NODE
        self.error = ""
        self.awaiting_snapshot = False
        self.fails: Exception | None = None
        self.changes: list[ConfChange] = []
        self.transfers: list[int] = []

    def status(self) -> GroupStatus:
        followers = {
            2: progress(8),
            NODE: progress(9),
            4: progress(3, state=ProgressState.SNAPSHOT, active=False),
        }
        raft = Status(
            id=NODE,
            role=Role.LEADER if self.leading else Role.FOLLOWER,
            leader=self.leader,
            term=5,
            vote=1,
            commit=8,
            applied=7,
            last_index=9,
            conf_state=self.conf,
            lead_transferee=0,
            progress=followers if self.leading else {},
        )
        return GroupStatus(
            group=self.id,
            raft=raft,
            leading=self.leading,
            pushed=7,
            applied=6,
            flushed=4,
            first_index=2,
            awaiting_snapshot=self.awaiting_snapshot,
            error=self.error,
        )

    def change_members(self, change: ConfChange) -> None:
        self.changes.append(change)
        if self.fails is not None:
            raise self.fails

    def transfer_leader(self, node: int) -> None:
        self.transfers.append(node)
        if self.fails is not None:
            raise self.fails


class Host:
    def __init__(self) -> None:
        self.group = Group()
        self.received: tuple[int, int] | None = None

    @property
    def groups(self) -> Mapping[int, Group]:
        return {7: self.group}

    def receiving(self, group_id: int) -> tuple[int, int] | None:
        return self.received if group_id == 7 else None


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def door(host: Host) -> ReplicaAdmin:
    return ReplicaAdmin(NODE, host)


def read(door: ReplicaAdmin, bucket: int = 7) -> ReplicaView:
    view = door.answer(ReadReplica(11, bucket))
    assert isinstance(view, ReplicaView)
    assert view.request == 11
    return view


def ask(door: ReplicaAdmin, change: Change, node: int) -> ReplicaView | Rejected:
    reply = door.answer(ChangeMembers(12, 7, change, node))
    assert isinstance(reply, ReplicaView | Rejected)
    assert reply.request == 12
    return reply


# -- looking -------------------------------------------------------------------------------------------


def test_a_leaders_replica(door: ReplicaAdmin) -> None:
    assert read(door) == ReplicaView(
        request=11,
        bucket=7,
        node=NODE,
        state=ReplicaState.RUNNING,
        leading=True,
        leader=NODE,
        term=5,
        first_index=2,
        last_index=9,
        commit=8,
        applied=6,
        flushed=4,
        voters=(1, 2, 3),
        learners=(4,),
        followers=(
            FollowerView(2, 8, active=True, snapshot=False),
            FollowerView(4, 3, active=False, snapshot=True),
        ),
    )


def test_a_replica_that_takes_a_snapshot(door: ReplicaAdmin, host: Host) -> None:
    host.received, host.group.awaiting_snapshot, host.group.leading = (300, 1_000), True, False
    view = read(door)
    assert (view.received, view.size, view.state) == (300, 1_000, ReplicaState.BEHIND)
    assert view.followers == ()


def test_a_replica_that_is_stopped_says_why(door: ReplicaAdmin, host: Host) -> None:
    host.group.error = "CorruptData: no"
    assert (read(door).state, read(door).trouble) == (ReplicaState.STOPPED, "CorruptData: no")
    door.stopped[8] = "damaged"
    assert (read(door, 8).state, read(door, 8).trouble) == (ReplicaState.STOPPED, "damaged")
    assert (read(door, 9).state, read(door, 9).trouble) == (ReplicaState.ABSENT, "")


def test_in_a_joint_configuration_both_halves_vote() -> None:
    conf = ConfState(voters=(3, 4), voters_outgoing=(1, 3), learners=(5,), learners_next=(1,))
    assert all_voters(conf) == (1, 3, 4)


# -- changing ------------------------------------------------------------------------------------------


def test_a_member_is_added_as_a_learner_and_removed_whatever_it_is(
    door: ReplicaAdmin, host: Host
) -> None:
    for change, node in ((Change.ADD, 5), (Change.REMOVE, 4), (Change.REMOVE, 2)):
        assert isinstance(ask(door, change, node), ReplicaView)
    assert host.group.changes == [
        ConfChange((ConfChangeSingle(ConfChangeType.ADD_LEARNER, 5),)),
        ConfChange((ConfChangeSingle(ConfChangeType.REMOVE_NODE, 4),)),
        ConfChange((ConfChangeSingle(ConfChangeType.REMOVE_NODE, 2),)),
    ]


def test_what_is_so_is_not_begun_again(door: ReplicaAdmin, host: Host) -> None:
    """To add a voter as a learner would take its vote away."""
    for change, node in (
        (Change.ADD, 2),
        (Change.ADD, 4),
        (Change.REMOVE, 5),
        (Change.LEAD, NODE),
    ):
        view = ask(door, change, node)
        assert isinstance(view, ReplicaView)
        assert view.trouble == ""
    assert host.group.changes == []
    assert host.group.transfers == []


def test_a_voter_of_the_outgoing_half_is_a_member(door: ReplicaAdmin, host: Host) -> None:
    host.group.conf = ConfState(voters=(1, 3), voters_outgoing=(1, 2))
    ask(door, Change.ADD, 2)
    assert host.group.changes == []


def test_leadership_is_handed_over(door: ReplicaAdmin, host: Host) -> None:
    ask(door, Change.LEAD, 2)
    assert host.group.transfers == [2]


@pytest.mark.parametrize("change", list(Change))
def test_what_cannot_be_now_is_a_trouble(door: ReplicaAdmin, host: Host, change: Change) -> None:
    host.group.fails = Unavailable("another change is on its way")
    view = ask(door, change, 5 if change is Change.ADD else 2)
    assert isinstance(view, ReplicaView)
    assert (view.trouble, view.refused) == ("another change is on its way", False)


def test_the_only_voter_is_told_so_and_keeps_its_leadership(door: ReplicaAdmin, host: Host) -> None:
    """It was told that leadership moves first, until its time was over."""
    host.group.conf = ConfState(voters=(NODE,), learners=(4,))
    view = ask(door, Change.REMOVE, NODE)
    assert isinstance(view, ReplicaView)
    assert "the only voter of bucket 7: add another first" in view.trouble
    assert view.refused, "asking again changes nothing"
    assert host.group.changes == []


def test_who_does_not_lead_says_who_does(door: ReplicaAdmin, host: Host) -> None:
    host.group.leading, host.group.leader = False, 3
    assert ask(door, Change.REMOVE, 2) == Rejected(12, RejectReason.NOT_LEADING, leader=3)
    host.group.leading, host.group.fails = True, NotLeading("just lost", 2)
    assert ask(door, Change.LEAD, 2) == Rejected(12, RejectReason.NOT_LEADING, leader=2)


def test_a_bucket_that_is_elsewhere_is_refused(door: ReplicaAdmin) -> None:
    reply = door.answer(ChangeMembers(12, 8, Change.ADD, 2))
    assert isinstance(reply, Rejected)
    assert (reply.why, reply.detail) == (
        RejectReason.INVALID,
        "node 1 holds no replica of bucket 8",
    )


@pytest.mark.parametrize("node", [0, -1, 2**32])
def test_no_such_node_can_be(door: ReplicaAdmin, host: Host, node: int) -> None:
    """A peer's frame could bring any number into the log."""
    view = ask(door, Change.ADD, node)
    assert isinstance(view, ReplicaView)
    assert view.refused
    assert "from 1 to 4294967295" in view.trouble
    assert host.group.changes == []
