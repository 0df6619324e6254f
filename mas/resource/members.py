"""The door to this node's replicas for whoever asks how they are, or wants their membership changed.

Nothing waits here: a change is proposed, and whoever wanted it asks again until the leader's view shows it.
"""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from mas.errors import InvalidRequest, NotLeading, Unavailable
from mas.ledger.instructions import RejectReason
from mas.limits import check_node_id
from mas.multiraft.group import GroupStatus, RaftGroup
from mas.raft import ConfChange, ConfChangeSingle, ConfChangeType, ConfState, ProgressState
from mas.rpc.messages import (
    Change,
    ChangeMembers,
    FollowerView,
    ReadReplica,
    Rejected,
    ReplicaState,
    ReplicaView,
    Reply,
)


class Host(Protocol):
    """The Raft host of this node."""

    @property
    def groups(self) -> Mapping[int, RaftGroup]: ...

    def receiving(self, group_id: int) -> tuple[int, int] | None: ...


class ReplicaAdmin:
    """Answers for the replicas of this node."""

    def __init__(self, node: int, host: Host) -> None:
        self._node = node
        self._host = host
        self.stopped: dict[int, str] = {}
        """Why a replica of this node isn't served, by bucket; whoever opens the replicas keeps it."""

    def answer(self, request: ReadReplica | ChangeMembers) -> Reply:
        """The replica's view; of a change, as it is now that it has been proposed."""
        if isinstance(request, ReadReplica):
            return self._view(request.request, request.bucket)
        group = self._host.groups.get(request.bucket)
        if group is None:
            detail = f"node {self._node} holds no replica of bucket {request.bucket}"
            return Rejected(request.request, RejectReason.INVALID, detail=detail)
        try:
            check_node_id(request.node)
            _begin(group, request.change, request.node)
        except NotLeading as error:
            return Rejected(request.request, RejectReason.NOT_LEADING, leader=error.leader)
        except InvalidRequest as error:
            view = self._view(request.request, request.bucket, str(error))
            return msgspec.structs.replace(view, refused=True)
        except Unavailable as error:
            return self._view(request.request, request.bucket, str(error))
        return self._view(request.request, request.bucket)

    def _view(self, request: int, bucket: int, trouble: str = "") -> ReplicaView:
        group = self._host.groups.get(bucket)
        if group is None:
            stopped = self.stopped.get(bucket, "")
            state = ReplicaState.STOPPED if stopped else ReplicaState.ABSENT
            return ReplicaView(request, bucket, self._node, state, stopped)
        status = group.status()
        received, size = self._host.receiving(bucket) or (0, 0)
        raft = status.raft
        return ReplicaView(
            request=request,
            bucket=bucket,
            node=self._node,
            state=_state(status),
            trouble=status.error or trouble,
            leading=status.leading,
            leader=raft.leader,
            term=raft.term,
            first_index=status.first_index,
            last_index=raft.last_index,
            commit=raft.commit,
            applied=status.applied,
            flushed=status.flushed,
            voters=all_voters(raft.conf_state),
            learners=raft.conf_state.learners,
            received=received,
            size=size,
            followers=tuple(
                FollowerView(
                    node, one.match, one.recent_active, one.state is ProgressState.SNAPSHOT
                )
                for node, one in sorted(raft.progress.items())
                if node != self._node
            ),
        )


def all_voters(conf_state: ConfState) -> tuple[int, ...]:
    """The voters; of both halves, where the configuration is joint. Ascending."""
    return tuple(sorted({*conf_state.voters, *conf_state.voters_outgoing}))


def _begin(group: RaftGroup, change: Change, node: int) -> None:
    """Propose it, unless it is so.

    Raises:
        NotLeading: ask the leader.
        InvalidRequest: it can't be as things are.
        Unavailable: not now.
    """
    status = group.status()
    if not status.leading:
        raise NotLeading(f"bucket {group.id} is led elsewhere", status.raft.leader)
    conf = status.raft.conf_state
    holds = node in all_voters(conf) + conf.learners
    if change is Change.REMOVE and all_voters(conf) == (node,):
        raise InvalidRequest(
            f"node {node} is the only voter of bucket {group.id}: add another first"
        )
    match change:
        case Change.ADD if not holds:
            group.change_members(_single(ConfChangeType.ADD_LEARNER, node))
        case Change.REMOVE if holds:
            group.change_members(_single(ConfChangeType.REMOVE_NODE, node))
        case Change.LEAD if status.raft.id != node:
            group.transfer_leader(node)
        case _:
            pass  # it is so


def _single(kind: ConfChangeType, node: int) -> ConfChange:
    return ConfChange((ConfChangeSingle(kind, node),))


def _state(status: GroupStatus) -> ReplicaState:
    if status.error:
        return ReplicaState.STOPPED
    return ReplicaState.BEHIND if status.awaiting_snapshot else ReplicaState.RUNNING
