"""A client of NodeService, for operators and for nodes that join: with the cluster's secret instead of a token."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from mas import limits
from mas.client.channel import answered, check_bearer, connected, open_channel
from mas.client.requests import to_message
from mas.ledger.rows import NodeRow
from mas.rpc.messages import ReplicaView
from mas.wire.gen.mas.v1 import node_pb2 as pb
from mas.wire.gen.mas.v1.node_pb2_grpc import NodeServiceStub
from mas.wire.nodes import node_from_wire, node_to_wire, replica_from_wire

T = TypeVar("T")

_SECRET_KEY = "mas-cluster-secret"  # noqa: S105 - the name of a metadata key


class BucketView(msgspec.Struct, frozen=True):
    """A bucket's members, and who probably leads it."""

    bucket: int
    voters: tuple[int, ...]
    learners: tuple[int, ...]
    leader: int


class Cluster(msgspec.Struct, frozen=True):
    """A cluster as one of its nodes knows it."""

    name: str
    nodes: tuple[NodeRow, ...]
    buckets: tuple[BucketView, ...]
    roster: bytes
    """What a node that joins starts from; an encoded `mas.membership.Roster`."""


class OperatorClient:
    """Talks to one node's NodeService. Every method raises `MasError` as the server does, or `NetworkError`; a request
    that no message can hold is `InvalidRequest`.

    async with OperatorClient("10.0.0.4:8008", secret=secret, ca=Path("ca.crt")) as operator:
        for replica in await operator.replicas(1): ...
    """

    def __init__(
        self,
        address: str,
        *,
        secret: bytes,
        ca: Path | bytes | None,
        timeout: float = 10.0,
        plaintext: bool = False,
    ) -> None:
        """`timeout`: seconds of a call.

        Raises:
            InvalidRequest: secret or timeout can't be one.
        """
        limits.check_timeout(timeout)
        text = secret.decode("latin-1")
        check_bearer(text, "the cluster's secret")
        self._address = address
        self._metadata = ((_SECRET_KEY, text),)
        self._ca = ca
        self._timeout = timeout
        self._plaintext = plaintext

    async def __aenter__(self) -> Self:
        """Open the channel; the first call connects.

        Raises:
            ConfigError: the CA's file can't be read.
        """
        self._channel = open_channel(self._address, self._ca, plaintext=self._plaintext)
        self._stub = NodeServiceStub(self._channel)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._channel.close(None)

    # -- the cluster -----------------------------------------------------------------------------

    async def cluster(self) -> Cluster:
        """The cluster as the asked node knows it."""
        return _cluster(await self._ask(self._stub.GetCluster, pb.GetClusterRequest()))

    async def add_node(self, cluster: str, node: NodeRow, buckets: tuple[int, ...]) -> Cluster:
        """Register a node, and have it added to these buckets."""
        limits.check_node_id(node.node)
        limits.check_node_address(node.address)
        limits.check_node_roles(node.roles)
        limits.check_node_host(node.host)
        limits.check_node_store(node.store)
        request = to_message(
            pb.AddNodeRequest,
            cluster=cluster,
            node=node_to_wire(node),
            store=node.store,
            buckets=buckets,
        )
        return _cluster(await self._ask(self._stub.AddNode, request))

    async def retire_node(self, node: int) -> Cluster:
        """Let a node that holds no replica go, for good."""
        request = to_message(pb.RetireNodeRequest, node=node)
        return _cluster(await self._ask(self._stub.RetireNode, request))

    # -- replicas --------------------------------------------------------------------------------

    async def replicas(self, bucket: int) -> list[ReplicaView]:
        """A bucket's replicas that answer, the leader's view first."""
        request = to_message(pb.GetReplicasRequest, bucket=bucket)
        return _replicas(await self._ask(self._stub.GetReplicas, request))

    async def replica(self, bucket: int, node: int) -> ReplicaView:
        """Ask a node for its replica of a bucket, be it a member or not."""
        request = to_message(pb.ReplicaRequest, bucket=bucket, node=node)
        return replica_from_wire(await self._ask(self._stub.GetReplica, request))

    async def add_replica(self, bucket: int, node: int) -> list[ReplicaView]:
        """Make a node a learner of a bucket; it becomes a voter by itself once it has caught up."""
        request = to_message(pb.ReplicaRequest, bucket=bucket, node=node)
        return _replicas(await self._ask(self._stub.AddReplica, request))

    async def remove_replica(self, bucket: int, node: int) -> list[ReplicaView]:
        """Take a bucket away from a node."""
        request = to_message(pb.ReplicaRequest, bucket=bucket, node=node)
        return _replicas(await self._ask(self._stub.RemoveReplica, request))

    async def transfer_leader(self, bucket: int, node: int) -> list[ReplicaView]:
        """Have a node lead a bucket."""
        request = to_message(pb.ReplicaRequest, bucket=bucket, node=node)
        return _replicas(await self._ask(self._stub.TransferLeader, request))

    # -- inside ----------------------------------------------------------------------------------

    async def _ask(self, method: Callable[..., Awaitable[T]], request: object) -> T:
        await connected(self._channel, self._address, self._timeout)
        return await answered(method(request, timeout=self._timeout, metadata=self._metadata))


def _cluster(message: pb.Cluster) -> Cluster:
    return Cluster(
        name=message.cluster,
        nodes=tuple(node_from_wire(node) for node in message.nodes),
        buckets=tuple(
            BucketView(one.bucket, tuple(one.voters), tuple(one.learners), one.leader)
            for one in message.buckets
        ),
        roster=message.roster,
    )


def _replicas(message: pb.Replicas) -> list[ReplicaView]:
    return [replica_from_wire(each) for each in message.replicas]
