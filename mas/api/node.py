"""NodeService: what a node says of itself and of the cluster, and changes of its members, for those who know the cluster's secret."""

# gRPC calls a method by its name in the .proto file.
# ruff: noqa: N802

import grpc
import msgspec

from mas.api.auth import ClusterSecret, Metadata
from mas.api.door import Context, metadata_of
from mas.api.ports import Node
from mas.api.requests import to_timeout
from mas.api.shares import INSIDER, Caller
from mas.errors import InvalidRequest
from mas.ledger.rows import NodeRow
from mas.limits import (
    check_bucket_id,
    check_node_address,
    check_node_host,
    check_node_id,
    check_node_roles,
    check_node_store,
)
from mas.membership import Operations, Roster
from mas.wire.gen.mas.v1 import node_pb2 as pb
from mas.wire.gen.mas.v1 import node_pb2_grpc as pb_grpc
from mas.wire.nodes import node_from_wire, node_to_wire, replica_to_wire

_encode = msgspec.msgpack.Encoder().encode


class NodeServicer(pb_grpc.NodeServiceServicer):
    """The methods of `mas.v1.NodeService`."""

    name = "mas.v1.NodeService"
    public = False

    def __init__(self, node: Node, operations: Operations, cluster_secret: ClusterSecret) -> None:
        self._node = node
        self._operations = operations
        self._cluster_secret = cluster_secret

    def register(self, server: grpc.aio.Server) -> None:
        """Serve on this server."""
        pb_grpc.add_NodeServiceServicer_to_server(self, server)

    def identify(self, metadata: Metadata) -> Caller:
        """Check the cluster's secret: a call counts in the cluster's own share."""
        self._cluster_secret.check(metadata)
        return INSIDER

    def drain(self) -> None:
        """Do nothing: what is under way ends by itself."""

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.NodeStatus:
        """The node's view of itself."""
        self._check(context)
        view = self._node.view()
        return pb.NodeStatus(
            node=view.node,
            cluster=view.cluster,
            version=view.version,
            roles=view.roles,
            buckets=view.buckets,
            leads=view.leads,
        )

    async def GetCluster(self, request: pb.GetClusterRequest, context: Context) -> pb.Cluster:
        """The node's view of the cluster."""
        self._check(context)
        return self._cluster(self._operations.roster)

    async def AddNode(self, request: pb.AddNodeRequest, context: Context) -> pb.Cluster:
        """Register a node, and make it a learner of the buckets that it names."""
        self._check(context)
        buckets = _to_buckets(request)
        roster = await self._operations.add_node(
            request.cluster, _to_node(request), buckets, _timeout(context)
        )
        return self._cluster(roster)

    async def RetireNode(self, request: pb.RetireNodeRequest, context: Context) -> pb.Cluster:
        """Let a node go for good."""
        self._check(context)
        check_node_id(request.node)
        return self._cluster(await self._operations.retire_node(request.node, _timeout(context)))

    async def GetReplicas(self, request: pb.GetReplicasRequest, context: Context) -> pb.Replicas:
        """All replicas of a bucket that answer."""
        self._check(context)
        check_bucket_id(request.bucket)
        return await self._replicas(request.bucket)

    async def GetReplica(self, request: pb.ReplicaRequest, context: Context) -> pb.Replica:
        """One node's replica."""
        self._check(context)
        bucket, node = _to_replica(request)
        return replica_to_wire(await self._operations.replica(bucket, node))

    async def AddReplica(self, request: pb.ReplicaRequest, context: Context) -> pb.Replicas:
        """Make a node a learner of a bucket."""
        self._check(context)
        bucket, node = _to_replica(request)
        await self._operations.add_replica(bucket, node, _timeout(context))
        return await self._replicas(bucket)

    async def RemoveReplica(self, request: pb.ReplicaRequest, context: Context) -> pb.Replicas:
        """Take a bucket away from a node."""
        self._check(context)
        bucket, node = _to_replica(request)
        await self._operations.remove_replica(bucket, node, _timeout(context))
        return await self._replicas(bucket)

    async def TransferLeader(self, request: pb.ReplicaRequest, context: Context) -> pb.Replicas:
        """Have a node lead a bucket."""
        self._check(context)
        bucket, node = _to_replica(request)
        await self._operations.transfer_leader(bucket, node, _timeout(context))
        return await self._replicas(bucket)

    def _check(self, context: Context) -> None:
        self._cluster_secret.check(metadata_of(context))

    async def _replicas(self, bucket: int) -> pb.Replicas:
        views = await self._operations.replicas(bucket)
        return pb.Replicas(replicas=[replica_to_wire(view) for view in views])

    def _cluster(self, roster: Roster) -> pb.Cluster:
        return pb.Cluster(
            cluster=self._node.view().cluster,
            nodes=[node_to_wire(row) for row in roster.nodes().values()],
            buckets=[
                pb.BucketMembers(
                    bucket=members.bucket,
                    voters=members.voters,
                    learners=members.learners,
                    leader=self._operations.leader(members.bucket),
                )
                for members in roster.buckets
            ],
            roster=_encode(roster),
        )


def _to_node(request: pb.AddNodeRequest) -> NodeRow:
    """The node that is to be registered. Raises `InvalidRequest`: what the register would only call a failure."""
    node = node_from_wire(request.node, request.store)
    check_node_id(node.node)
    check_node_address(node.address)
    check_node_roles(node.roles)
    check_node_host(node.host)
    check_node_store(node.store)
    if not node.store:
        raise InvalidRequest("store is empty: expected what the node's data directory drew")
    return node


def _to_buckets(request: pb.AddNodeRequest) -> tuple[int, ...]:
    buckets = tuple(dict.fromkeys(request.buckets))
    for bucket in buckets:
        check_bucket_id(bucket, "buckets")
    return buckets


def _to_replica(request: pb.ReplicaRequest) -> tuple[int, int]:
    """The bucket and the node of a replica."""
    check_node_id(request.node)
    check_bucket_id(request.bucket)
    return request.bucket, request.node


def _timeout(context: Context) -> float:
    return to_timeout(context.time_remaining())
