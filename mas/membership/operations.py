"""What operators do to the membership of the cluster and of its buckets: each step small, and safe to be asked for again.

A step is proposed to whoever can decide it (bucket 1 for the register, a bucket's own group for its replicas) until that
one's committed state shows it done, or the caller's time is over. So whoever dies in the middle, this process included,
leaves a state that the same call goes on from.
"""

import asyncio
import logging
from collections.abc import Sequence

from mas.errors import DeadlineExceeded, InvalidRequest, MasError, NotFound, Unavailable
from mas.ledger.instructions import Answer, Code, RegisterNode, RetireNode
from mas.ledger.register import REGISTER_BUCKET
from mas.ledger.rows import NodeRow
from mas.membership.actor import Membership
from mas.membership.checks import (
    check_address,
    check_bucket,
    check_may_hold,
    check_node,
    check_not_the_last_manager,
    check_store,
)
from mas.membership.removal import is_removal_known
from mas.membership.roster import Roster
from mas.rpc.messages import (
    Change,
    ChangeMembers,
    Nodes,
    ReadNodes,
    ReadReplica,
    ReplicaState,
    ReplicaView,
)
from mas.rpc.ports import Buckets
from mas.rpc.submit_one import submit_one
from mas.runtime import Clock

_log = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.05
_VIEW_SECONDS = 2.0
_REFRESH_SECONDS = 60.0


class Operations:
    """Asks for changes, and waits until they are so. Every `timeout` is in seconds."""

    def __init__(
        self, cluster: str, membership: Membership, buckets: Buckets, clock: Clock
    ) -> None:
        self._cluster = cluster
        self._membership = membership
        self._buckets = buckets
        self._clock = clock

    @property
    def roster(self) -> Roster:
        """What this process knows."""
        return self._membership.roster

    def leader(self, bucket: int) -> int:
        """The node that probably leads this bucket."""
        return self._buckets.leader(bucket)

    async def run(self) -> None:
        """Read the register at the start and now and then: whatever files and news were lost, bucket 1 still has it.

        And tell all that is known, for whom some of it was lost.
        """
        while True:
            try:
                await self._read_register(_REFRESH_SECONDS)
            except Unavailable as error:
                _log.info("the register of nodes can't be read: %s", error)
            self._membership.tell_all()
            await self._clock.sleep(_REFRESH_SECONDS)

    # -- nodes ---------------------------------------------------------------------------------

    async def add_node(
        self, cluster: str, node: NodeRow, buckets: Sequence[int], timeout: float
    ) -> Roster:
        """Register a node, and have it added to these buckets as a learner; the roster that it needs to start.

        Raises:
            InvalidRequest: another cluster, an id that is used, or a bucket that there isn't.
            Unavailable: not now; ask again.
        """
        deadline = self._clock.monotonic() + timeout
        if cluster != self._cluster:
            raise InvalidRequest(
                f"node {node.node} wants to join cluster {cluster!r}, and this is {self._cluster!r}"
            )
        for bucket in buckets:
            check_bucket(self.roster, bucket)
            check_may_hold(self.roster, bucket, node)
        check_store(self.roster, node)
        check_address(self.roster, node)
        await self._register(
            RegisterNode(node.node, node.address, node.roles, node.host, node.store), deadline
        )
        for bucket in buckets:
            await self._change(bucket, Change.ADD, node.node, deadline)
        return self.roster

    async def retire_node(self, node: int, timeout: float) -> Roster:
        """Let a node go for good: its id is never used again, and nobody talks to it any more.

        Raises:
            InvalidRequest: it still holds replicas, or was never there.
            Unavailable: not now; ask again.
        """
        holds = [b for b, members in self.roster.holders().items() if node in members.holders]
        if holds:
            raise InvalidRequest(
                f"node {node} holds replicas of the buckets {holds}: take them off first "
                f"(`mas admin node drain {node}`)"
            )
        check_node(self.roster, node)
        check_not_the_last_manager(self.roster, node)
        if node == self._membership.node:
            raise InvalidRequest(f"node {node} is the one that you ask: have another retire it")
        if self.roster.may_hold(node):
            await self._check_has_left(node)
        deadline = self._clock.monotonic() + timeout
        await self._register(RetireNode(node), deadline)
        await self._take_off(node, deadline)
        return self.roster

    # -- replicas ------------------------------------------------------------------------------

    async def add_replica(self, bucket: int, node: int, timeout: float) -> None:
        """Have the node hold the bucket: it is a learner when this returns, and becomes a voter once it has caught up.

        Raises:
            NotFound: there is no such bucket, or no such node.
            InvalidRequest: the node's role isn't to hold buckets, or its machine holds this one already.
            Unavailable: not now; ask again.
        """
        check_bucket(self.roster, bucket)
        row = self.roster.nodes().get(node)
        if row is None or row.retired:
            raise NotFound(
                f"there is no node {node}: start it with `mas serve --join`, or name one of "
                f"{[n for n, known in self.roster.nodes().items() if not known.retired]}"
            )
        check_may_hold(self.roster, bucket, row)
        deadline = self._clock.monotonic() + timeout
        await self._change(bucket, Change.ADD, node, deadline)
        # Whoever retires the node marks it first and looks for its replicas then: one of the two sees the other.
        await self._read_register(max(deadline - self._clock.monotonic(), _PAUSE_SECONDS))
        if self.roster.nodes()[node].retired:
            await self._change(bucket, Change.REMOVE, node, deadline)
            raise InvalidRequest(f"node {node} was retired meanwhile: name another")

    async def remove_replica(self, bucket: int, node: int, timeout: float) -> None:
        """Have the node hold the bucket no more; where it leads, leadership moves first.

        Raises:
            NotFound: there is no such bucket, or no such node.
            Unavailable: not now, or too few of the others answer; ask again.
        """
        check_bucket(self.roster, bucket)
        if node not in self.roster.holders()[bucket].holders:
            check_node(self.roster, node)
        deadline = self._clock.monotonic() + timeout
        view = await self._change(bucket, Change.REMOVE, node, deadline)
        await self._wait_until_known(view, node, deadline)

    async def transfer_leader(self, bucket: int, node: int, timeout: float) -> None:
        """Have the node lead the bucket.

        Raises:
            NotFound: there is no such bucket, or no such node.
            Unavailable: it isn't a voter, or doesn't come to lead in time; ask again.
        """
        check_bucket(self.roster, bucket)
        check_node(self.roster, node)
        await self._change(bucket, Change.LEAD, node, self._clock.monotonic() + timeout)

    async def replicas(self, bucket: int, timeout: float = _VIEW_SECONDS) -> list[ReplicaView]:
        """Ask all holders for their replicas, the leader's view first; one that doesn't answer isn't in the list.

        Raises:
            NotFound: there is no such bucket.
        """
        check_bucket(self.roster, bucket)
        nodes = list(self.roster.holders()[bucket].holders)
        views = await asyncio.gather(*(self._view(bucket, node, timeout) for node in nodes))
        return sorted(
            (view for view in views if view is not None),
            key=lambda view: (not view.leading, view.node),
        )

    async def replica(self, bucket: int, node: int, timeout: float = _VIEW_SECONDS) -> ReplicaView:
        """Ask a node for its replica of a bucket, a node that holds none too.

        Raises:
            NotFound: there is no such bucket, or no such node.
            Unavailable: the node doesn't answer.
        """
        check_bucket(self.roster, bucket)
        check_node(self.roster, node)
        return await self._read_replica(bucket, node, timeout)

    # -- inside --------------------------------------------------------------------------------

    async def _view(self, bucket: int, node: int, timeout: float) -> ReplicaView | None:
        if not self._membership.can_reach(node):
            return None  # at once: a dead node would hold up the look at each of its buckets
        try:
            return await self._read_replica(bucket, node, timeout)
        except Unavailable as error:
            _log.info("bucket %d, node %d: %s", bucket, node, error)
            return None

    async def _read_replica(self, bucket: int, node: int, timeout: float) -> ReplicaView:
        reply = await self._buckets.query(bucket, ReadReplica(0, bucket), timeout, replica=node)
        assert isinstance(reply, ReplicaView), f"{reply} in answer to a question for a replica"
        return reply

    async def _wait_until_known(self, view: ReplicaView, node: int, deadline: float) -> None:
        """Until so many know of a removal that the node may be stopped: before that they may need its vote."""
        while not await is_removal_known(
            self._buckets, view.bucket, node, view.voters, view.applied
        ):
            if self._clock.monotonic() >= deadline:
                raise DeadlineExceeded(
                    f"bucket {view.bucket}: node {node} is removed, and too few of the nodes {list(view.voters)} are known "
                    "to know: leave it running, and ask again"
                )
            await self._clock.sleep(_PAUSE_SECONDS)

    async def _change(self, bucket: int, change: Change, node: int, deadline: float) -> ReplicaView:
        """Ask the leader, whoever that is, until it says that it is so; what it said."""
        trouble = "no leader answered"
        while (left := deadline - self._clock.monotonic()) > 0:
            request = ChangeMembers(0, bucket, change, node)
            try:
                reply = await self._buckets.query(bucket, request, min(left, _VIEW_SECONDS))
            except Unavailable as error:
                trouble = str(error)
                continue
            assert isinstance(reply, ReplicaView), f"{reply} in answer to a change of members"
            if is_done(reply, change, node):
                return reply
            if reply.refused:
                raise InvalidRequest(f"bucket {bucket}: {reply.trouble}")
            trouble = reply.trouble or "it was proposed, and isn't committed yet"
            await self._clock.sleep(_PAUSE_SECONDS)
        raise DeadlineExceeded(
            f"bucket {bucket}: {change.name} of node {node} isn't done in time ({trouble}): ask again, "
            "it goes on where it is"
        )

    async def _register(self, instruction: RegisterNode | RetireNode, deadline: float) -> None:
        """Have it in the register, and everybody told."""
        answer = await self._decide(instruction, deadline)
        if answer.code is Code.REFUSED:
            raise InvalidRequest(answer.detail or answer.reason.name)
        if answer.code not in (Code.DONE, Code.UNCHANGED):
            raise MasError(f"the register answered {answer}")
        await self._read_register(max(deadline - self._clock.monotonic(), _PAUSE_SECONDS))

    async def _decide(self, instruction: RegisterNode | RetireNode, deadline: float) -> Answer:
        trouble = "no answer"
        while (left := deadline - self._clock.monotonic()) > 0:
            try:
                answer = await submit_one(self._buckets, REGISTER_BUCKET, instruction).wait(left)
            except TimeoutError:
                break
            if isinstance(answer, Answer):
                return answer
            trouble = answer.detail or answer.why.name
            await self._clock.sleep(_PAUSE_SECONDS)
        raise DeadlineExceeded(
            f"the register of nodes didn't answer in time ({trouble}): ask again"
        )

    async def _read_register(self, timeout: float) -> None:
        reply = await self._buckets.query(REGISTER_BUCKET, ReadNodes(0, REGISTER_BUCKET), timeout)
        assert isinstance(reply, Nodes), f"{reply} in answer to a question for the register"
        self._membership.learn(Roster(register_index=reply.index, register=reply.nodes))

    async def _take_off(self, node: int, deadline: float) -> None:
        """Take a retired node off the buckets that it was added to as it was retired.

        Raises:
            Unavailable: a bucket's leader doesn't answer.
        """
        buckets = list(self.roster.holders())
        views = await asyncio.gather(
            *(
                self._buckets.query(bucket, ReadReplica(0, bucket), _VIEW_SECONDS)
                for bucket in buckets
            )
        )
        for bucket, view in zip(buckets, views, strict=True):
            assert isinstance(view, ReplicaView), f"{view} in answer to a question for a replica"
            if node in view.voters + view.learners:
                await self._change(bucket, Change.REMOVE, node, deadline)

    async def _check_has_left(self, node: int) -> None:
        """Nobody hears a node that is retired: as long as it votes in a bucket that it was removed from, it is needed.

        Raises:
            Unavailable: it does, for now.
        """
        views = await asyncio.gather(
            *(self._view(bucket, node, _VIEW_SECONDS) for bucket in self.roster.holders())
        )
        left = [
            view.bucket
            for view in views
            if view is not None and view.state not in (ReplicaState.ABSENT, ReplicaState.STOPPED)
        ]
        if left:
            raise Unavailable(
                f"node {node} still votes in the buckets {left}, until enough of the others know that it was removed: "
                "ask again"
            )


def is_done(view: ReplicaView, change: Change, node: int) -> bool:
    """Tell whether the leader's view shows the change committed and applied."""
    match change:
        case Change.ADD:
            return node in view.voters + view.learners
        case Change.REMOVE:
            return node not in view.voters + view.learners
        case Change.LEAD:
            return view.leading and view.node == node
