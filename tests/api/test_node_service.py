"""NodeService over a real port: for those with the cluster's secret alone, and nothing that the register would choke on."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc
import msgspec
import pytest

from mas import errors
from mas.api import ClusterSecret, NodeServicer, NodeView, TokenIssuer
from mas.api.auth import CLUSTER_SECRET_KEY
from mas.client.operator import BucketView, OperatorClient
from mas.ledger.rows import NodeRow
from mas.membership import BucketMembers, Roster, decode_roster
from mas.rpc.messages import FollowerView, ReplicaState, ReplicaView
from mas.wire.gen.mas.v1 import node_pb2 as pb
from mas.wire.gen.mas.v1 import node_pb2_grpc
from mas.wire.status import error_from_rpc
from tests.api.edge import SECRET, api_server, certificate, secure_channel

pytestmark = pytest.mark.asyncio

ROSTER = Roster(
    founders=(NodeRow(1, "h1:1", ("rm",)), NodeRow(2, "h2:1", ("tm",), "rack")),
    register_index=3,
    register=(NodeRow(2, retired=True), NodeRow(4, "h4:1", ("rm",), store=b"4" * 16)),
    buckets=(BucketMembers(1, (1,), 9, (1,), (4,)), BucketMembers(2, (1,), 0, (1,))),
    stores=((1, b"1" * 16),),
)
JOINER = NodeRow(5, "h5:1", ("rm",), "rack 5", b"5" * 16)
INSIDE = ((CLUSTER_SECRET_KEY, SECRET.decode()),)
METHODS = {
    "GetStatus": pb.GetStatusRequest(),
    "GetCluster": pb.GetClusterRequest(),
    "AddNode": pb.AddNodeRequest(cluster="mas"),
    "RetireNode": pb.RetireNodeRequest(node=4),
    "GetReplicas": pb.GetReplicasRequest(bucket=1),
    "GetReplica": pb.ReplicaRequest(bucket=1, node=1),
    "AddReplica": pb.ReplicaRequest(bucket=1, node=1),
    "RemoveReplica": pb.ReplicaRequest(bucket=1, node=1),
    "TransferLeader": pb.ReplicaRequest(bucket=1, node=1),
}
OF_A_NODE = [name for name, request in METHODS.items() if isinstance(request, pb.ReplicaRequest)]


def replica(bucket: int, node: int, *, leading: bool = False) -> ReplicaView:
    followers = (FollowerView(4, 3, active=True, snapshot=True),) if leading else ()
    return ReplicaView(
        0,
        bucket,
        node,
        ReplicaState.RUNNING,
        leading=leading,
        voters=(1,),
        learners=(4,),
        followers=followers,
    )


class Operations:
    """Stands for `membership.Operations`: notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.timeouts: list[float] = []
        self.fails: errors.MasError | None = None
        self.roster = ROSTER

    def leader(self, bucket: int) -> int:
        return bucket + 10

    def _note(self, *what: object, timeout: float = 0.0) -> None:
        self.asked.append(what)
        self.timeouts.append(timeout)
        if self.fails is not None:
            raise self.fails

    async def add_node(
        self, cluster: str, node: NodeRow, buckets: Sequence[int], timeout: float
    ) -> Roster:
        self._note("add", cluster, node, buckets, timeout=timeout)
        return self.roster

    async def retire_node(self, node: int, timeout: float) -> Roster:
        self._note("retire", node, timeout=timeout)
        return self.roster

    async def add_replica(self, bucket: int, node: int, timeout: float) -> None:
        self._note("add replica", bucket, node, timeout=timeout)

    async def remove_replica(self, bucket: int, node: int, timeout: float) -> None:
        self._note("remove replica", bucket, node, timeout=timeout)

    async def transfer_leader(self, bucket: int, node: int, timeout: float) -> None:
        self._note("transfer", bucket, node, timeout=timeout)

    async def replicas(self, bucket: int) -> list[ReplicaView]:
        self._note("replicas", bucket)
        return [replica(bucket, 1, leading=True), replica(bucket, 4)]

    async def replica(self, bucket: int, node: int) -> ReplicaView:
        self._note("replica", bucket, node)
        return replica(bucket, node)


class Node:
    def view(self) -> NodeView:
        return NodeView(2, "mas", "1.2.3", ("tm",), (), ())


@asynccontextmanager
async def serving(operations: Operations) -> AsyncIterator[str]:
    servicer = NodeServicer(Node(), operations, ClusterSecret(SECRET))  # type: ignore[arg-type]
    server = api_server(servicer)
    await server.start()
    yield f"127.0.0.1:{server.port}"
    await server.stop(0)


@asynccontextmanager
async def operating(
    operations: Operations, secret: bytes = SECRET
) -> AsyncIterator[OperatorClient]:
    async with (
        serving(operations) as address,
        OperatorClient(address, secret=secret, ca=certificate()[0], timeout=5) as operator,
    ):
        yield operator


async def heard(call) -> object:  # noqa: ANN001 - any call
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error) from None


# -- who may -------------------------------------------------------------------------------------------


async def test_every_method_is_tried_below() -> None:
    assert list(METHODS) == list(pb.DESCRIPTOR.services_by_name["NodeService"].methods_by_name)


@pytest.mark.parametrize("method", METHODS)
async def test_every_method_wants_the_clusters_secret(method: str) -> None:
    operations = Operations()
    token = TokenIssuer(SECRET).issue("operator:root")
    async with serving(operations) as address, secure_channel(address) as channel:
        call = getattr(node_pb2_grpc.NodeServiceStub(channel), method)
        for metadata in ((), ((CLUSTER_SECRET_KEY, "wrong"),), (("authorization", token),)):
            with pytest.raises(errors.Unauthenticated):
                await heard(call(METHODS[method], metadata=metadata))
    assert operations.asked == []


# -- what may be said ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (NodeRow(0, "h:1", ("rm",), store=b"5" * 16), "node 0 is not allowed"),
        (NodeRow(5, "", ("rm",), store=b"5" * 16), "address '' is not allowed"),
        (NodeRow(5, "h", ("rm",), store=b"5" * 16), 'expected "host:port"'),
        (NodeRow(5, "h:1" + "1" * 300, ("rm",), store=b"5" * 16), "1 to 261 characters"),
        (NodeRow(5, "h:1", (), store=b"5" * 16), "roles 0 is not allowed"),
        (NodeRow(5, "h:1", ("r" * 17,), store=b"5" * 16), "1 to 16 characters"),
        (NodeRow(5, "h:1", ("rm",), "é", b"5" * 16), "ASCII characters only"),
        (NodeRow(5, "h:1", ("rm",), store=b"short"), "16 bytes"),
        (NodeRow(5, "h:1", ("rm",)), "store is empty"),
    ],
)
async def test_a_node_that_cannot_be_is_refused_before_the_register(
    node: NodeRow, words: str
) -> None:
    """The register would have answered with no more than an error's name."""
    operations = Operations()
    async with operating(operations) as operator:
        with pytest.raises(errors.InvalidRequest) as caught:
            await operator.add_node("mas", node, ())
    assert words in str(caught.value)
    assert operations.asked == []


@pytest.mark.parametrize("method", [*OF_A_NODE, "RetireNode"])
async def test_node_0_is_nobody(method: str) -> None:
    """Asked of node 0, the leader answered; and it was removed without a word."""
    operations = Operations()
    request = type(METHODS[method])(node=0)
    async with serving(operations) as address, secure_channel(address) as channel:
        call = getattr(node_pb2_grpc.NodeServiceStub(channel), method)
        with pytest.raises(errors.InvalidRequest, match="node 0 is not allowed"):
            await heard(call(request, metadata=INSIDE))
    assert operations.asked == []


# -- what is done --------------------------------------------------------------------------------------


async def test_the_cluster_as_a_node_knows_it() -> None:
    async with operating(Operations()) as operator:
        cluster = await operator.cluster()
    assert cluster.name == "mas"
    assert cluster.buckets == (BucketView(1, (1,), (4,), 11), BucketView(2, (1,), (), 12))
    assert decode_roster(cluster.roster) == ROSTER
    without_stores = [msgspec.structs.replace(row, store=b"") for row in ROSTER.nodes().values()]
    assert list(cluster.nodes) == without_stores
    assert cluster.nodes[1].retired


async def test_a_node_is_added_and_retired() -> None:
    operations = Operations()
    async with operating(operations) as operator:
        cluster = await operator.add_node("mas", JOINER, (2, 1, 2))
        await operator.retire_node(4)
    assert decode_roster(cluster.roster) == ROSTER
    assert operations.asked == [("add", "mas", JOINER, (2, 1)), ("retire", 4)]
    assert all(3 < timeout < 5 for timeout in operations.timeouts), "less than the caller waits"


async def test_replicas_are_shown_the_leader_first() -> None:
    operations = Operations()
    async with operating(operations) as operator:
        assert await operator.replicas(1) == [replica(1, 1, leading=True), replica(1, 4)]
        assert await operator.replica(2, 4) == replica(2, 4)
    assert operations.asked == [("replicas", 1), ("replica", 2, 4)]


@pytest.mark.parametrize(
    ("method", "asked"),
    [
        ("add_replica", "add replica"),
        ("remove_replica", "remove replica"),
        ("transfer_leader", "transfer"),
    ],
)
async def test_replicas_are_changed_and_shown(method: str, asked: str) -> None:
    operations = Operations()
    async with operating(operations) as operator:
        views = await getattr(operator, method)(2, 4)
    assert [view.node for view in views] == [1, 4]
    assert operations.asked == [(asked, 2, 4), ("replicas", 2)]
    assert 3 < operations.timeouts[0] < 5
