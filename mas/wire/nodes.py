"""Nodes and replicas as protobuf messages, and back. States have the same numbers on both sides."""

from mas.ledger.rows import NodeRow
from mas.rpc.messages import FollowerView, ReplicaState, ReplicaView
from mas.wire.gen.mas.v1 import node_pb2 as pb

_STATES = {int(state): state for state in ReplicaState}


def node_to_wire(row: NodeRow) -> pb.Node:
    """A node without its store, which is nobody's business."""
    return pb.Node(
        node=row.node, address=row.address, roles=row.roles, host=row.host, retired=row.retired
    )


def node_from_wire(message: pb.Node, store: bytes = b"") -> NodeRow:
    """A node as a caller names it."""
    return NodeRow(
        message.node,
        message.address,
        tuple(message.roles),
        message.host,
        store,
        message.retired,
    )


def replica_to_wire(view: ReplicaView) -> pb.Replica:
    """One replica, as its node sees it."""
    return pb.Replica(
        bucket=view.bucket,
        node=view.node,
        state=pb.Replica.State.ValueType(view.state),
        trouble=view.trouble,
        leading=view.leading,
        leader=view.leader,
        term=view.term,
        first_index=view.first_index,
        last_index=view.last_index,
        commit=view.commit,
        applied=view.applied,
        flushed=view.flushed,
        voters=view.voters,
        learners=view.learners,
        received=view.received,
        size=view.size,
        followers=[
            pb.Follower(node=one.node, match=one.match, active=one.active, snapshot=one.snapshot)
            for one in view.followers
        ],
    )


def replica_from_wire(message: pb.Replica) -> ReplicaView:
    """A replica as a server described it; a state that we don't know is STOPPED, with what was said of it."""
    return ReplicaView(
        request=0,
        bucket=message.bucket,
        node=message.node,
        state=_STATES.get(message.state, ReplicaState.STOPPED),
        trouble=message.trouble,
        leading=message.leading,
        leader=message.leader,
        term=message.term,
        first_index=message.first_index,
        last_index=message.last_index,
        commit=message.commit,
        applied=message.applied,
        flushed=message.flushed,
        voters=tuple(message.voters),
        learners=tuple(message.learners),
        received=message.received,
        size=message.size,
        followers=tuple(
            FollowerView(one.node, one.match, one.active, one.snapshot) for one in message.followers
        ),
    )
