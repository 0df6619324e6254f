"""`mas admin`: the cluster's nodes, and the replicas of its buckets. For whoever knows the cluster's secret.

What a command has begun goes on in the cluster whether the command lives or not; asked again, it goes on from there.
"""

import asyncio
from typing import TYPE_CHECKING

import click
import msgspec

from mas.cli.admin_session import AdminSession, admin_command
from mas.errors import NotFound, OutcomeUnknown, StorageError, Unavailable

if TYPE_CHECKING:
    from mas.client.operator import Cluster, OperatorClient
    from mas.rpc.messages import FollowerView, ReplicaView

_BUCKETS_AT_ONCE = 64
_SAFE_VOTERS = 3
"""Fewer can't lose one."""
_POLL_SECONDS = 0.2
_MIB = 1 << 20


@click.group()
def admin() -> None:
    """Nodes, replicas and leaders of a cluster. Needs the cluster's secret."""


@admin.command()
@click.argument("bucket", type=int, required=False)
@admin_command
def members(session: AdminSession, bucket: int | None) -> None:
    """Show the nodes, and of each bucket (or one) its replicas: who leads, how far each is."""

    async def look(
        operator: "OperatorClient",
    ) -> "tuple[Cluster, dict[int, list[ReplicaView]]]":
        cluster = await operator.cluster()
        buckets = [each.bucket for each in cluster.buckets] if bucket is None else [bucket]
        replicas: dict[int, list[ReplicaView]] = {}
        for start in range(0, len(buckets), _BUCKETS_AT_ONCE):
            part = buckets[start : start + _BUCKETS_AT_ONCE]
            views = await asyncio.gather(*(operator.replicas(each) for each in part))
            replicas.update(zip(part, views, strict=True))
        return cluster, replicas

    cluster, replicas = session.ask(look)
    tree = {
        "cluster": cluster.name,
        "nodes": [msgspec.structs.asdict(node) | {"store": None} for node in cluster.nodes],
        "buckets": {
            each: [_replica_tree(view) for view in views] for each, views in replicas.items()
        },
    }
    session.show(tree, "\n".join([*_node_lines(cluster), "", *_bucket_lines(cluster, replicas)]))


@admin.group()
def replica() -> None:
    """Add, remove and rebuild the replicas of a bucket."""


@replica.command()
@click.argument("bucket", type=int)
@click.argument("node", type=int)
@admin_command
def add(session: AdminSession, bucket: int, node: int) -> None:
    """Have NODE hold BUCKET: as a learner until it has caught up, then as a voter."""

    async def work(operator: "OperatorClient") -> None:
        await operator.add_replica(bucket, node)
        await _until_voter(session, operator, bucket, node)

    session.ask(work)
    session.show(
        {"bucket": bucket, "node": node, "voter": True},
        f"node {node} is a voter of bucket {bucket}",
    )


@replica.command()
@click.argument("bucket", type=int)
@click.argument("node", type=int)
@admin_command
def remove(session: AdminSession, bucket: int, node: int) -> None:
    """Have NODE hold BUCKET no more; its copy there is erased."""
    left = session.ask(lambda operator: operator.remove_replica(bucket, node))
    session.show(
        {"bucket": bucket, "node": node, "member": False},
        f"node {node} holds bucket {bucket} no more",
    )
    _warn_of_few(session, bucket, left)


@replica.command()
@click.argument("bucket", type=int)
@click.argument("node", type=int)
@admin_command
def rebuild(session: AdminSession, bucket: int, node: int) -> None:
    """Erase NODE's copy of BUCKET, damaged or not, and build it anew from the others'.

    NODE must run. It is taken out of the bucket first, so that nothing counts on what it had; what it has
    promised in votes it keeps.
    """

    async def work(operator: "OperatorClient") -> None:
        await operator.replica(bucket, node)  # before anything is taken away: it has to answer
        await operator.remove_replica(bucket, node)
        session.say(f"node {node} is out of bucket {bucket}")
        await _until_erased(session, operator, bucket, node)
        session.say("its copy is erased; it is built anew from the others")
        await operator.add_replica(bucket, node)
        await _until_voter(session, operator, bucket, node)

    session.ask(work)
    session.show(
        {"bucket": bucket, "node": node, "voter": True},
        f"node {node} is a voter of bucket {bucket}",
    )


@admin.command("transfer-leader")
@click.argument("bucket", type=int)
@click.argument("node", type=int)
@admin_command
def transfer_leader(session: AdminSession, bucket: int, node: int) -> None:
    """Have NODE lead BUCKET."""
    session.ask(lambda operator: operator.transfer_leader(bucket, node))
    session.show({"bucket": bucket, "leader": node}, f"node {node} leads bucket {bucket}")


@admin.group("node")
def nodes() -> None:
    """The nodes themselves. One joins by `mas serve --join`."""


@nodes.command()
@click.argument("node", type=int)
@admin_command
def drain(session: AdminSession, node: int) -> None:
    """Take every replica off NODE, one bucket after the other."""

    async def work(operator: "OperatorClient") -> list[int]:
        cluster = await operator.cluster()
        if node not in [each.node for each in cluster.nodes]:
            raise NotFound(
                f"there is no node {node}: `mas admin members` shows those that there are"
            )
        held = [each.bucket for each in cluster.buckets if node in each.voters + each.learners]
        for bucket in held:
            left = await operator.remove_replica(bucket, node)
            session.say(f"bucket {bucket} is off node {node}")
            _warn_of_few(session, bucket, left)
        return held

    held = session.ask(work)
    session.show({"node": node, "buckets": held}, f"node {node} holds nothing any more")


@nodes.command()
@click.argument("node", type=int)
@admin_command
def retire(session: AdminSession, node: int) -> None:
    """Let NODE, which holds no replica, go for good: its id is never used again."""
    session.ask(lambda operator: operator.retire_node(node))
    session.show(
        {"node": node, "retired": True},
        f"node {node} has left the cluster; its id is never used again",
    )


def _warn_of_few(session: AdminSession, bucket: int, replicas: "list[ReplicaView]") -> None:
    """Warn if the voters that are left are too few to lose another."""
    voters = next((view.voters for view in replicas if view.leading), ())
    if 0 < len(voters) < _SAFE_VOTERS and not session.as_json:
        click.echo(
            f"Warning: bucket {bucket} has {len(voters)} voters now and survives no failure: add another "
            f"(`mas admin replica add {bucket} NODE`)",
            err=True,
        )


# -- waiting ---------------------------------------------------------------------------------------


class Patience:
    """Shows what moves, and ends when nothing has for too long."""

    def __init__(self, session: AdminSession, what: str) -> None:
        from mas.runtime import SystemClock

        self._session = session
        self._what = what
        self._clock = SystemClock()
        self._shown = ""
        self._position: object = None
        self._moved = self._clock.monotonic()

    async def wait(self, progress: str, position: object = None) -> None:
        """A moment; something has moved where `position` is another than before.

        Raises:
            Unavailable: nothing moves any more.
        """
        now = self._clock.monotonic()
        if position != self._position:
            self._position, self._moved = position, now
        if now - self._moved > self._session.timeout:
            raise Unavailable(
                f"{self._what}: nothing moves for {self._session.timeout:g} s ({progress}). What has begun goes on in the "
                "cluster; the same command goes on from there"
            )
        if progress != self._shown:
            self._shown = progress
            self._session.say(f"{self._what}: {progress}")
        await self._clock.sleep(_POLL_SECONDS)


async def _until_voter(
    session: AdminSession, operator: "OperatorClient", bucket: int, node: int
) -> None:
    """Show how the replica catches up, until it votes; however long that takes, as long as anything moves."""
    patience = Patience(session, f"node {node}")
    while True:
        views = await operator.replicas(bucket)
        leader = next((view for view in views if view.leading), None)
        if leader is not None and node in leader.voters:
            return
        if leader is not None and node not in leader.learners:
            raise Unavailable(
                f"node {node} was taken out of bucket {bucket} meanwhile: ask again, if it shall hold it"
            )
        own = next((view for view in views if view.node == node), None)
        followers = leader.followers if leader is not None else ()
        known = next((follower for follower in followers if follower.node == node), None)
        position = (own.received if own else 0, known.match if known else 0)
        await patience.wait(_progress(leader, own, known), position)


async def _until_erased(
    session: AdminSession, operator: "OperatorClient", bucket: int, node: int
) -> None:
    from mas.rpc.messages import ReplicaState

    patience = Patience(session, f"node {node}")
    while True:
        try:
            view = await operator.replica(bucket, node)
        except (Unavailable, OutcomeUnknown) as error:
            await patience.wait(str(error))
            continue
        if view.state is ReplicaState.ABSENT:
            return
        if "term and vote are lost" in view.trouble:
            raise StorageError(view.trouble)
        await patience.wait(view.trouble or "it hasn't heard of its removal yet")


def _progress(
    leader: "ReplicaView | None", own: "ReplicaView | None", known: "FollowerView | None"
) -> str:
    if own is not None and own.trouble:
        return own.trouble
    if own is not None and own.size:
        percent = 100 * own.received // own.size
        return f"snapshot, {percent} % of {own.size / _MIB:.1f} MiB"
    if leader is None:
        return "the bucket has no leader at this moment"
    if known is None or own is None:
        return "it doesn't answer yet"
    if known.snapshot:
        return "waits for a snapshot"
    return f"{known.match} of {leader.last_index} entries"


# -- showing ---------------------------------------------------------------------------------------


def _replica_tree(view: "ReplicaView") -> dict[str, object]:
    tree = msgspec.structs.asdict(view)
    del tree["request"]
    followers = [msgspec.structs.asdict(follower) for follower in view.followers]
    return tree | {"state": view.state.name, "followers": followers}


def _node_lines(cluster: "Cluster") -> list[str]:
    lines = [f"{'node':>5}  {'address':24}{'roles':10}{'host'}"]
    for node in cluster.nodes:
        state = "  retired" if node.retired else ""
        lines.append(
            f"{node.node:>5}  {node.address:24}{','.join(node.roles):10}{node.host}{state}"
        )
    return lines


def _bucket_lines(cluster: "Cluster", replicas: "dict[int, list[ReplicaView]]") -> list[str]:
    members = {each.bucket: each for each in cluster.buckets}
    lines = [
        f"{'bucket':>6}  {'node':>5}  {'part':9}{'term':>6}{'applied':>10}{'flushed':>10}  state"
    ]
    for bucket, views in replicas.items():
        error_to_status = {view.node: view for view in views}
        known = members[bucket]
        for node in (*known.voters, *known.learners):
            part = "learner" if node in known.learners else "voter"
            view = error_to_status.get(node)
            if view is None:
                lines.append(f"{bucket:>6}  {node:>5}  {part:9}{'':26}  doesn't answer")
                continue
            part = "leader" if view.leading else part
            lines.append(
                f"{bucket:>6}  {node:>5}  {part:9}{view.term:>6}{view.applied:>10}{view.flushed:>10}  "
                f"{view.state.name.lower()}{': ' + view.trouble if view.trouble else ''}"
            )
        if not any(view.leading for view in views):
            voters = sum(node in error_to_status for node in known.voters)
            lines.append(
                f"{bucket:>6}  nobody leads: {voters} of {len(known.voters)} voters answer"
            )
    return lines
