"""Operations: asked again and again until it is so, whoever leads, whatever answers are lost, and never past the deadline."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from mas.errors import DeadlineExceeded, InvalidRequest, MasError, NotFound, Unavailable
from mas.ledger.instructions import (
    Answer,
    Batch,
    Code,
    Reason,
    RegisterNode,
    RejectReason,
    RetireNode,
)
from mas.ledger.register import register, retire
from mas.ledger.rows import NodeRow
from mas.membership import BucketMembers, Membership, Operations, Roster
from mas.membership.operations import is_done
from mas.membership.roster import founding_roster
from mas.rpc.messages import (
    Change,
    ChangeMembers,
    Nodes,
    ReadNodes,
    ReadReplica,
    Rejected,
    ReplicaState,
    ReplicaView,
    Reply,
    Request,
)
from tests.membership.test_actor import Peers, RosterFile

pytestmark = pytest.mark.asyncio

ROSTER = founding_roster(
    (*(NodeRow(node, f"h{node}:1", ("rm",)) for node in (1, 2, 3)), NodeRow(9, "h9:1", ("tm",))),
    {1: (1, 2, 3), 2: (1, 2, 3)},
)
JOINER = NodeRow(4, "h4:1", ("rm",), store=b"4" * 16)


class HandClock:
    """Time passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def now_us(self) -> int:
        return int(self.now * 1e6)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


class Buckets:
    """The buckets' leaders: carry out what they are asked, unless the script says something else first."""

    def __init__(self, clock: HandClock) -> None:
        self._clock = clock
        self.views = {
            bucket: ReplicaView(
                0, bucket, 1, ReplicaState.RUNNING, leading=True, leader=1, voters=(1, 2, 3)
            )
            for bucket in (1, 2)
        }
        self.silent: list[int] = []
        """Nodes that don't answer for their replicas."""
        self.gone: list[int] = []
        """Nodes that hold nothing any more."""
        self.late: list[int] = []
        """Voters that haven't applied the last change."""
        self.script: list[str | None] = []
        """For the next questions to leaders: a trouble, or None for silence."""
        self.answers: list[Answer | Rejected | None] = []
        """For the next instructions: in place of the register's, None for silence."""
        self.asked: list[Request] = []
        self.submitted: list[RegisterNode | RetireNode] = []
        self.nodes: tuple[NodeRow, ...] = ()
        self.index = 0

    def leader(self, bucket: int) -> int:
        return self.views[bucket].node

    async def query(
        self, bucket: int, request: Request, timeout: float, *, replica: int = 0
    ) -> Reply:
        self.asked.append(request)
        if isinstance(request, ReadNodes):
            return Nodes(0, self.index, self.nodes)
        if isinstance(request, ReadReplica):
            return await self._replica(bucket, timeout, replica)
        assert isinstance(request, ChangeMembers)
        if self.script:
            said = self.script.pop(0)
            if said is None:
                await self._clock.sleep(timeout)
                raise Unavailable(f"bucket {bucket}: no leader")
            return msgspec.structs.replace(self.views[bucket], trouble=said)
        self._change(bucket, request)
        return self.views[bucket]

    async def _replica(self, bucket: int, timeout: float, replica: int) -> ReplicaView:
        if replica in self.silent:
            await self._clock.sleep(timeout)
            raise Unavailable(f"node {replica} doesn't answer")
        view = self.views[bucket]
        if replica in self.gone:
            return ReplicaView(0, bucket, replica, ReplicaState.ABSENT)
        if replica in self.late:
            return msgspec.structs.replace(view, node=replica, leading=False, applied=-1)
        return msgspec.structs.replace(view, node=replica, leading=view.node == replica)

    def _change(self, bucket: int, request: ChangeMembers) -> None:
        view = self.views[bucket]
        voters, learners = set(view.voters), set(view.learners)
        match request.change:
            case Change.ADD:
                learners |= {request.node} - voters
            case Change.REMOVE:
                voters, learners = voters - {request.node}, learners - {request.node}
            case Change.LEAD:
                view = msgspec.structs.replace(view, node=request.node, leader=request.node)
        self.views[bucket] = msgspec.structs.replace(
            view, voters=tuple(sorted(voters)), learners=tuple(sorted(learners))
        )

    def submit(
        self, bucket: int, batch: Batch, on_answer: Callable[[int, Answer | Rejected], None]
    ) -> None:
        assert bucket == 1
        [instruction] = batch.instructions
        assert isinstance(instruction, RegisterNode | RetireNode)
        self.submitted.append(instruction)
        answer = self.answers.pop(0) if self.answers else self._decide(instruction)
        if answer is not None:
            asyncio.get_running_loop().call_soon(on_answer, 0, answer)

    def _decide(self, instruction: RegisterNode | RetireNode) -> Answer:
        kind = register if isinstance(instruction, RegisterNode) else retire
        judged = kind(self.nodes, instruction)  # type: ignore[arg-type]
        if isinstance(judged, Answer):
            return judged
        self.nodes, changed = judged, judged != self.nodes
        self.index += changed
        return Answer(Code.DONE if changed else Code.UNCHANGED)


class World:
    def __init__(self, roster: Roster = ROSTER) -> None:
        self.clock = HandClock()
        self.buckets = Buckets(self.clock)
        self.peers = Peers()
        self.membership = Membership(9, roster, self.peers, RosterFile())
        self.operations = Operations("mas", self.membership, self.buckets, self.clock)
        for node in (1, 2, 3, 55):
            self.membership.on_peer(node, up=True)

    async def add_node(self, node: NodeRow = JOINER, buckets: tuple[int, ...] = (1, 2)) -> Roster:
        return await self.operations.add_node("mas", node, buckets, 10)

    def hold(self, bucket: int, *voters: int) -> None:
        held = BucketMembers(bucket, (1, 2, 3), 50 + bucket, voters)
        self.membership.learn(Roster(buckets=(held,)))


# -- nodes ---------------------------------------------------------------------------------------------


async def test_a_node_joins_as_a_learner_of_the_buckets_that_it_names() -> None:
    world = World()
    roster = await world.add_node()
    assert roster.nodes()[4] == JOINER
    assert [view.learners for view in world.buckets.views.values()] == [(4,), (4,)]


async def test_a_join_whose_reply_was_lost_is_asked_for_again() -> None:
    world = World()
    first = await world.add_node()
    assert await world.add_node() == first
    assert world.buckets.index == 1


async def test_a_bucket_that_was_taken_away_meanwhile_is_asked_for_though_the_roster_is_old() -> (
    None
):
    """The asked process may still believe that the node holds it."""
    world = World()
    await world.add_node(buckets=())
    world.hold(2, 1, 2, 3, 4)
    await world.add_node(buckets=(2,))
    assert world.buckets.views[2].learners == (4,)


async def test_another_cluster_is_refused_before_anything_changes() -> None:
    world = World()
    with pytest.raises(InvalidRequest, match="wants to join cluster 'b', and this is 'mas'"):
        await world.operations.add_node("b", JOINER, (), 10)
    with pytest.raises(NotFound, match="no bucket 3: expected one from 1 to 2"):
        await world.add_node(buckets=(1, 3))
    assert world.buckets.submitted == []


@pytest.mark.parametrize("known", [True, False])
async def test_nobody_takes_the_place_of_one_of_the_first_nodes(known: bool) -> None:
    """The coordinator, whose store nobody keeps, could be displaced by whoever joined under its id."""
    world = World()
    if known:
        world.membership.recognise(1, b"1" * 16)
    with pytest.raises(InvalidRequest, match="join under a new id"):
        await world.add_node(NodeRow(1 if known else 9, "evil:1", ("rm",), store=b"x" * 16))
    assert world.buckets.submitted == []


async def test_a_wiped_node_does_not_join_under_its_old_id() -> None:
    world = World()
    await world.add_node()
    with pytest.raises(InvalidRequest, match="known with another data directory"):
        await world.add_node(msgspec.structs.replace(JOINER, store=b"x" * 16))
    world.membership.roster = ROSTER  # a process that hasn't heard of it
    with pytest.raises(InvalidRequest, match="was registered, at h4:1, with another data"):
        await world.add_node(msgspec.structs.replace(JOINER, store=b"x" * 16))


async def test_the_register_is_asked_again_until_it_answers() -> None:
    world = World()
    away = Rejected(0, RejectReason.UNKNOWN, detail="the connection broke")
    world.buckets.answers = [away, Rejected(0, RejectReason.UNAVAILABLE), Answer(Code.DONE)]
    await world.add_node(buckets=())
    assert len(world.buckets.submitted) == 3


async def test_a_silent_register_is_given_up_at_the_deadline() -> None:
    """It waited for as long as the router did, whatever its caller had said."""
    world = World()
    world.buckets.answers = [None]
    with pytest.raises(DeadlineExceeded, match="ask again"):
        async with asyncio.timeout(5):
            await world.operations.add_node("mas", JOINER, (), 0.05)
    world.buckets.answers = [Rejected(0, RejectReason.UNKNOWN, detail="so it is")] * 1_000
    with pytest.raises(DeadlineExceeded, match="so it is"):
        await world.add_node()


async def test_what_the_register_refuses_is_told() -> None:
    world = World()
    world.buckets.answers = [Answer(Code.REFUSED, Reason.TOO_MANY_NODES, detail="full")]
    with pytest.raises(InvalidRequest, match="full"):
        await world.add_node()
    world.buckets.answers = [Answer(Code.FAILED, detail="ValueError")]
    with pytest.raises(MasError, match="ValueError"):
        await world.add_node()


async def test_a_node_retires_once_it_holds_nothing() -> None:
    world = World()
    with pytest.raises(InvalidRequest, match=r"holds replicas of the buckets \[1, 2\]"):
        await world.operations.retire_node(2, 10)
    world.hold(1, 1, 3)
    world.hold(2, 1, 3)
    with pytest.raises(Unavailable, match=r"still votes in the buckets \[1, 2\]"):
        await world.operations.retire_node(2, 10)  # nobody would hear it any more
    assert world.buckets.submitted == []
    world.buckets.gone = [2]
    roster = await world.operations.retire_node(2, 10)
    assert roster.nodes()[2].retired
    assert await world.operations.retire_node(2, 10) == roster
    with pytest.raises(NotFound, match="no node 77"):
        await world.operations.retire_node(77, 10)
    with pytest.raises(InvalidRequest, match="the only one left with the role tc"):
        await world.operations.retire_node(9, 10)
    world.membership.learn(
        Roster(founders=(NodeRow(8, "h8:1", ("tc",)), NodeRow(7, "h7:1", ("gls",))))
    )
    with pytest.raises(InvalidRequest, match="the one that you ask"):
        await world.operations.retire_node(9, 10)
    with pytest.raises(NotFound, match="no node 2"):
        await world.operations.add_replica(1, 2, 10)


# -- replicas ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "change", "node"),
    [
        ("add_replica", Change.ADD, 4),
        ("remove_replica", Change.REMOVE, 3),
        ("transfer_leader", Change.LEAD, 2),
    ],
)
async def test_a_change_is_asked_for_until_the_leader_shows_it(
    operation: str, change: Change, node: int
) -> None:
    world = World(ROSTER.merge(Roster(register_index=1, register=(JOINER,)))[0])
    world.buckets.script = ["another change is on its way", None, ""]
    await getattr(world.operations, operation)(2, node, 10)
    asked = [one for one in world.buckets.asked if isinstance(one, ChangeMembers)]
    assert asked == [ChangeMembers(0, 2, change, node)] * 4
    assert is_done(world.buckets.views[2], change, node)
    await getattr(world.operations, operation)(2, node, 10)
    asked = [one for one in world.buckets.asked if isinstance(one, ChangeMembers)]
    assert len(asked) == 5, "what is so is so at once"


@pytest.mark.parametrize("first", ["add", "retire"])
async def test_a_node_that_is_added_as_it_is_retired_holds_nothing(first: str) -> None:
    """Each looked at one process's roster: a bucket could be left with a retired voter."""
    world = World(ROSTER.merge(Roster(register_index=1, register=(JOINER,)))[0])
    world.buckets.index, world.buckets.nodes = 1, (JOINER,)
    world.buckets.gone = [4]
    change = world.buckets._change

    def retire_meanwhile(bucket: int, request: ChangeMembers) -> None:
        change(bucket, request)
        if request.change is Change.ADD:
            world.buckets._decide(RetireNode(4))

    if first == "add":
        world.buckets._change = retire_meanwhile  # type: ignore[method-assign]
        with pytest.raises(InvalidRequest, match="node 4 was retired meanwhile"):
            await world.operations.add_replica(1, 4, 10)
    else:
        change(1, ChangeMembers(0, 1, Change.ADD, 4))
        await world.operations.retire_node(4, 10)
    assert 4 not in world.buckets.views[1].voters + world.buckets.views[1].learners
    assert world.membership.roster.nodes()[4].retired


async def test_a_removal_is_done_once_those_who_stay_can_do_without_the_node() -> None:
    """Until a majority of them has applied it they count it among the voters, and it mustn't be stopped."""
    world = World()
    world.buckets.late = [1, 2]
    with pytest.raises(
        DeadlineExceeded, match=r"node 3 is removed, and too few of the nodes \[1, 2\]"
    ):
        await world.operations.remove_replica(1, 3, 5)
    world.buckets.late, world.buckets.silent = [], [2]
    with pytest.raises(DeadlineExceeded, match="leave it running"):
        await world.operations.remove_replica(1, 3, 5)
    world.buckets.silent = []
    await world.operations.remove_replica(1, 3, 5)


async def test_a_change_ends_at_its_deadline_with_the_last_trouble() -> None:
    world = World()
    world.buckets.script = [None, *["two of three don't answer"] * 1_000]
    before = world.clock.now
    with pytest.raises(
        DeadlineExceeded, match=r"REMOVE of node 3 isn't done in time \(two of three don't"
    ):
        await world.operations.remove_replica(1, 3, 5)
    assert world.clock.now - before == pytest.approx(5, abs=0.1)
    world.buckets.script = [None] * 9
    with pytest.raises(DeadlineExceeded, match="no leader"):
        await world.operations.remove_replica(1, 3, 5)


async def test_what_there_is_not_is_told_at_once() -> None:
    world = World()
    operations = world.operations
    for method in (operations.add_replica, operations.remove_replica, operations.transfer_leader):
        with pytest.raises(NotFound, match="no bucket 7"):
            await method(7, 1, 10)
        with pytest.raises(NotFound, match="no node 77"):
            await method(1, 77, 10)
    with pytest.raises(NotFound, match="no bucket 7"):
        await operations.replicas(7)
    with pytest.raises(NotFound, match="no node 77"):
        await operations.replica(1, 77)
    assert world.buckets.asked == []


async def test_a_node_that_holds_no_buckets_is_made_no_learner() -> None:
    """It would have been one for ever."""
    world = World()
    with pytest.raises(InvalidRequest, match="node 9 runs tm, and holds no buckets"):
        await world.operations.add_replica(1, 9, 10)
    with pytest.raises(InvalidRequest, match="node 4 runs gls, and holds no buckets"):
        await world.add_node(msgspec.structs.replace(JOINER, roles=("gls",)))
    assert world.buckets.asked == []
    assert world.buckets.submitted == []
    await world.add_node(msgspec.structs.replace(JOINER, roles=("all",)))


async def test_the_leaders_view_comes_first_and_the_silent_are_missing() -> None:
    world = World()
    world.buckets.views[1] = msgspec.structs.replace(world.buckets.views[1], node=2)
    world.buckets.silent = [3]
    views = await world.operations.replicas(1)
    assert [(view.node, view.leading) for view in views] == [(2, True), (1, False)]
    with pytest.raises(Unavailable, match="node 3 doesn't answer"):
        await world.operations.replica(1, 3)


async def test_a_holder_that_the_register_has_not_named_yet_spoils_nothing() -> None:
    world = World()
    world.hold(1, 1, 2, 3, 55)
    assert [view.node for view in await world.operations.replicas(1)] == [1, 2, 3, 55]
    await world.operations.remove_replica(1, 55, 10)


@pytest.mark.parametrize(
    ("change", "node", "done"),
    [
        (Change.ADD, 2, True),
        (Change.ADD, 4, True),
        (Change.ADD, 5, False),
        (Change.REMOVE, 2, False),
        (Change.REMOVE, 4, False),
        (Change.REMOVE, 5, True),
        (Change.LEAD, 1, True),
        (Change.LEAD, 2, False),
    ],
)
async def test_when_a_change_is_done(change: Change, node: int, done: bool) -> None:
    view = ReplicaView(
        0, 1, 1, ReplicaState.RUNNING, leading=True, leader=1, voters=(1, 2), learners=(4,)
    )
    assert is_done(view, change, node) is done
    if change is Change.LEAD:
        assert not is_done(msgspec.structs.replace(view, leading=False), change, node)


# -- in the background ---------------------------------------------------------------------------------


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_the_register_is_read_at_the_start_and_all_is_told_now_and_then() -> None:
    world = World()
    world.buckets.nodes, world.buckets.index = (JOINER,), 7
    world.membership.on_peer(1, True)
    world.peers.sent.clear()
    task = asyncio.get_running_loop().create_task(world.operations.run())
    await turns()
    task.cancel()
    assert world.membership.roster.nodes()[4] == JOINER
    assert world.peers.sent.count((1, world.membership.roster)) >= 2
    assert world.clock.now >= 160


async def test_two_replicas_of_a_bucket_are_never_on_one_machine() -> None:
    world = World()
    world.hold(1, 1, 3)
    rows = [NodeRow(node, f"h{node}:1", ("rm",), "rack", b"s" * 16) for node in (3, 4)]
    world.membership.learn(Roster(register_index=50, register=tuple(rows)))
    with pytest.raises(InvalidRequest, match="nodes 3 and 4 are both on 'rack'"):
        await world.operations.add_replica(1, 4, 10)
    assert not world.buckets.asked


async def test_a_node_that_is_away_holds_up_nobody() -> None:
    """A look at every bucket waited two seconds for each replica of a dead node."""
    world = World()
    world.membership.on_peer(3, up=False)
    before = world.clock.now
    assert [view.node for view in await world.operations.replicas(1)] == [1, 2]
    assert world.clock.now == before
    assert world.buckets.asked == [ReadReplica(0, 1)] * 2


async def test_what_cannot_be_is_told_at_once() -> None:
    """It was asked for until the time was over, and looked like a time-out."""
    world = World()
    view = msgspec.structs.replace(
        world.buckets.views[1], trouble="node 1 is the only voter", refused=True, voters=(1,)
    )
    world.buckets.views[1] = view
    world.buckets.script = [view.trouble]
    before = world.clock.now
    with pytest.raises(InvalidRequest, match="bucket 1: node 1 is the only voter"):
        await world.operations.add_replica(1, 3, 10)
    assert world.clock.now == before


async def test_two_nodes_never_have_one_address() -> None:
    """A port that was taken burnt the id of whoever had named it."""
    world = World()
    with pytest.raises(InvalidRequest, match="h2:1 is the address of node 2"):
        await world.add_node(msgspec.structs.replace(JOINER, address="h2:1"))
    assert not world.buckets.submitted
