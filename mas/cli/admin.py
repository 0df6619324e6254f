"""`mas admin`: the cluster's nodes, and the replicas of its buckets. For whoever knows the cluster's secret.

What a command has begun goes on in the cluster whether the command lives or not; asked again, it goes on from there.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from mas.errors import ConfigError, OutcomeUnknown, StorageError, Unavailable

if TYPE_CHECKING:
    from mas.client.operator import Cluster, OperatorClient
    from mas.transaction.messages import ReplicaView

T = TypeVar("T")
Command = Callable[..., Any]
_POLL_SECONDS = 0.2
_MIB = 1 << 20


class Desk:
    """Where the NodeService is, and how the user wants to be answered."""

    def __init__(
        self, address: str, secret: bytes, ca: Path | None, *, timeout: float, as_json: bool
    ) -> None:
        self._address = address
        self._secret = secret
        self._ca = ca
        self._timeout = timeout
        self.as_json = as_json

    def ask(self, question: Callable[["OperatorClient"], Awaitable[T]]) -> T:
        """Connect, ask, and hang up. Raises `MasError`."""
        from mas.client.operator import OperatorClient

        async def talk() -> T:
            async with OperatorClient(
                self._address,
                secret=self._secret,
                ca=self._ca,
                timeout=self._timeout,
                plaintext=self._ca is None,
            ) as operator:
                return await question(operator)

        return asyncio.run(talk())

    def say(self, text: str) -> None:
        """A line for a person; a program gets JSON, at the end."""
        if not self.as_json:
            click.echo(text)

    def show(self, tree: object, text: str) -> None:
        """The answer."""
        click.echo(msgspec.json.encode(tree).decode() if self.as_json else text)


def at_desk(command: Command) -> Command:
    """Give a command its `desk`, and the options that say which."""

    @click.option(
        "--config",
        "config_file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="A node's configuration: its NodeService, secret and CA are used.",
    )
    @click.option("--address", help="host:port of a NodeService.")
    @click.option(
        "--secret-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="The cluster's secret.",
    )
    @click.option(
        "--ca",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="The CA that signed the node's certificate.",
    )
    @click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=30.0,
        show_default=True,
        help="Seconds to keep trying.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
    @wraps(command)
    def wrapped(
        *arguments: Any,  # noqa: ANN401 - whatever the command takes
        config_file: Path | None,
        address: str | None,
        secret_file: Path | None,
        ca: Path | None,
        timeout: float,
        as_json: bool,
        **options: Any,  # noqa: ANN401
    ) -> None:
        found = _from_config(config_file) if config_file is not None else _from_profile(address)
        desk = Desk(
            address or found[0],
            _read_secret(secret_file or found[1]),
            ca or found[2],
            timeout=timeout,
            as_json=as_json,
        )
        command(desk, *arguments, **options)

    return wrapped


@click.group()
def admin() -> None:
    """Nodes, replicas and leaders of a cluster. Needs the cluster's secret."""


@admin.command()
@click.argument("bucket", type=int, required=False)
@at_desk
def members(desk: Desk, bucket: int | None) -> None:
    """Show the nodes, and of each bucket (or one) its replicas: who leads, how far each is."""

    async def look(
        operator: "OperatorClient",
    ) -> "tuple[Cluster, dict[int, list[ReplicaView]]]":
        cluster = await operator.cluster()
        buckets = [bucket] if bucket else [each.bucket for each in cluster.buckets]
        return cluster, {each: await operator.replicas(each) for each in buckets}

    cluster, replicas = desk.ask(look)
    tree = {
        "cluster": cluster.name,
        "nodes": [msgspec.structs.asdict(node) | {"store": None} for node in cluster.nodes],
        "buckets": {
            each: [msgspec.structs.asdict(view) for view in views]
            for each, views in replicas.items()
        },
    }
    desk.show(tree, "\n".join([*_node_lines(cluster), "", *_bucket_lines(cluster, replicas)]))


@admin.group()
def replica() -> None:
    """Add, remove and rebuild the replicas of a bucket."""


@replica.command()
@click.argument("bucket", type=int)
@click.argument("node", type=int)
@at_desk
def add(desk: Desk, bucket: int, node: int) -> None:
    """Have NODE hold BUCKET: as a learner until it has caught up, then as a voter."""

    async def work(operator: "OperatorClient") -> None:
        await operator.add_replica(bucket, node)
        await _until_voter(desk, operator, bucket, node)

    desk.ask(work)
    desk.show(
        {"bucket": bucket, "node": node, "voter": True},
        f"node {node} is a voter of bucket {bucket}",
    )


@replica.command()
@click.argument("bucket", type=int)
@click.argument("node", type=int)
@at_desk
def remove(desk: Desk, bucket: int, node: int) -> None:
    """Have NODE hold BUCKET no more; its copy there is erased."""
    desk.ask(lambda operator: operator.remove_replica(bucket, node))
    desk.show(
        {"bucket": bucket, "node": node, "member": False},
        f"node {node} holds bucket {bucket} no more",
    )


@replica.command()
@click.argument("bucket", type=int)
@click.argument("node", type=int)
@at_desk
def rebuild(desk: Desk, bucket: int, node: int) -> None:
    """Erase NODE's copy of BUCKET, damaged or not, and build it anew from the others'.

    NODE must run. It is taken out of the bucket first, so that nothing counts on what it had; what it has
    promised in votes it keeps.
    """

    async def work(operator: "OperatorClient") -> None:
        await operator.remove_replica(bucket, node)
        desk.say(f"node {node} is out of bucket {bucket}")
        await _until_erased(operator, bucket, node)
        desk.say("its copy is erased; it is built anew from the others")
        await operator.add_replica(bucket, node)
        await _until_voter(desk, operator, bucket, node)

    desk.ask(work)
    desk.show(
        {"bucket": bucket, "node": node, "voter": True},
        f"node {node} is a voter of bucket {bucket}",
    )


@admin.command("transfer-leader")
@click.argument("bucket", type=int)
@click.argument("node", type=int)
@at_desk
def transfer_leader(desk: Desk, bucket: int, node: int) -> None:
    """Have NODE lead BUCKET."""
    desk.ask(lambda operator: operator.transfer_leader(bucket, node))
    desk.show({"bucket": bucket, "leader": node}, f"node {node} leads bucket {bucket}")


@admin.group("node")
def nodes() -> None:
    """The nodes themselves. One joins by `mas serve --join`."""


@nodes.command()
@click.argument("node", type=int)
@at_desk
def drain(desk: Desk, node: int) -> None:
    """Take every replica off NODE, one bucket after the other."""

    async def work(operator: "OperatorClient") -> list[int]:
        cluster = await operator.cluster()
        held = [each.bucket for each in cluster.buckets if node in each.voters + each.learners]
        for bucket in held:
            await operator.remove_replica(bucket, node)
            desk.say(f"bucket {bucket} is off node {node}")
        return held

    held = desk.ask(work)
    desk.show({"node": node, "buckets": held}, f"node {node} holds nothing any more")


@nodes.command()
@click.argument("node", type=int)
@at_desk
def retire(desk: Desk, node: int) -> None:
    """Let NODE, which holds no replica, go for good: its id is never used again."""
    desk.ask(lambda operator: operator.retire_node(node))
    desk.show(
        {"node": node, "retired": True},
        f"node {node} has left the cluster; its id is never used again",
    )


# -- waiting ---------------------------------------------------------------------------------------


async def _until_voter(desk: Desk, operator: "OperatorClient", bucket: int, node: int) -> None:
    """Show how the replica catches up, until it votes; however long that takes, as long as anything moves."""
    said = ""
    while True:
        views = await operator.replicas(bucket)
        leader = next((view for view in views if view.leading), None)
        if leader is not None and node in leader.voters:
            return
        progress = _progress(leader, next((view for view in views if view.node == node), None))
        if progress != said:
            desk.say(f"node {node}: {progress}")
            said = progress
        await asyncio.sleep(_POLL_SECONDS)


async def _until_erased(operator: "OperatorClient", bucket: int, node: int) -> None:
    from mas.transaction.messages import ReplicaState

    while True:
        try:
            view = await operator.replica(bucket, node)
        except (Unavailable, OutcomeUnknown):
            await asyncio.sleep(_POLL_SECONDS)
            continue
        if view.state is ReplicaState.ABSENT:
            return
        if "term and vote are lost" in view.trouble:
            raise StorageError(view.trouble)
        await asyncio.sleep(_POLL_SECONDS)


def _progress(leader: "ReplicaView | None", own: "ReplicaView | None") -> str:
    if own is not None and own.trouble:
        return own.trouble
    if own is not None and own.size:
        percent = 100 * own.received // own.size
        return f"snapshot, {percent} % of {own.size / _MIB:.1f} MiB"
    if leader is None:
        return "the bucket has no leader at this moment"
    known = next((one for one in leader.followers if own and one.node == own.node), None)
    if known is None or own is None:
        return "it doesn't answer yet"
    if known.snapshot:
        return "waits for a snapshot"
    return f"{known.match} of {leader.last_index} entries"


# -- showing ---------------------------------------------------------------------------------------


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
        answering = {view.node: view for view in views}
        known = members[bucket]
        for node in (*known.voters, *known.learners):
            part = "learner" if node in known.learners else "voter"
            view = answering.get(node)
            if view is None:
                lines.append(f"{bucket:>6}  {node:>5}  {part:9}{'':26}  doesn't answer")
                continue
            part = "leader" if view.leading else part
            lines.append(
                f"{bucket:>6}  {node:>5}  {part:9}{view.term:>6}{view.applied:>10}{view.flushed:>10}  "
                f"{view.state.name.lower()}{': ' + view.trouble if view.trouble else ''}"
            )
    return lines


# -- where it is -----------------------------------------------------------------------------------


def _from_config(path: Path) -> tuple[str, str, Path | None]:
    from mas.config import load_config

    config = load_config(path)
    data = Path(config.node.data_dir)
    role_port = config.listen.rm if config.node.role == "rm" else config.listen.node_service
    secret = config.node.secret_file or str(data / "cluster.secret")
    tls = config.tls
    if not tls.enabled:
        return f"{config.listen.host}:{role_port}", secret, None
    ca = Path(tls.ca_file) if tls.ca_file else Path(tls.directory or data / "tls") / "ca.crt"
    return f"{config.listen.host}:{role_port}", secret, ca


def _from_profile(address: str | None) -> tuple[str, str, Path | None]:
    from mas.client import profile

    try:
        kept = profile.read(None)
    except ConfigError:
        if address:
            return address, "", None
        raise
    return kept.node_service, kept.secret_file, Path(kept.ca) if kept.ca else None


def _read_secret(path: Path | str) -> bytes:
    if not str(path):
        raise ConfigError("no secret: name the cluster's with --secret-file, or a node's --config")
    from mas.daemon.data_directory import read_secret

    return read_secret(Path(path))
