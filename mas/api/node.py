"""NodeService: what a node says of itself, for operators' tools that know the cluster's secret."""

# gRPC calls a method by its name in the .proto file.
# ruff: noqa: N802

import grpc

from mas.api.answering import Context, answering, metadata_of
from mas.api.auth import ClusterSecret
from mas.api.ports import Node
from mas.wire.gen.mas.v1 import node_pb2 as pb
from mas.wire.gen.mas.v1 import node_pb2_grpc as pb_grpc


class NodeServicer(pb_grpc.NodeServiceServicer):
    """The methods of `mas.v1.NodeService`."""

    name = "mas.v1.NodeService"

    def __init__(self, node: Node, cluster_secret: ClusterSecret) -> None:
        self._node = node
        self._cluster_secret = cluster_secret

    def register(self, server: grpc.aio.Server) -> None:
        """Serve on this server."""
        pb_grpc.add_NodeServiceServicer_to_server(self, server)

    def drain(self) -> None:
        """What is under way ends by itself."""

    @answering
    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.NodeStatus:
        """The node's view of itself."""
        self._cluster_secret.check(metadata_of(context))
        view = self._node.view()
        return pb.NodeStatus(
            node=view.node,
            cluster=view.cluster,
            version=view.version,
            roles=view.roles,
            buckets=view.buckets,
            leads=view.leads,
        )
