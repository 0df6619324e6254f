"""How a process comes to its first roster: it kept one, its configuration names the founders, or it joins a cluster."""

from pathlib import Path
from typing import Protocol

from mas.client.operator import OperatorClient
from mas.config import Config
from mas.errors import ConfigError
from mas.files import read_secret
from mas.ledger.rows import NodeRow
from mas.membership import Roster, decode_roster
from mas.membership.roster import founding_roster
from mas.network.door import listening_socket

_JOIN_SECONDS = 30.0


class Directory(Protocol):
    """Where this process keeps what it knows; `mas.daemon.data_directory.DataDirectory` is one."""

    path: Path
    store: bytes

    @property
    def roster_path(self) -> Path: ...

    def read_roster(self) -> Roster: ...

    def write(self, roster: Roster) -> None: ...


async def find_roster(config: Config, directory: Directory) -> Roster:
    """Find out what this process knows of the cluster as it starts.

    Where it is to join, it is registered when this returns, and added to the buckets that it shall hold. At a later
    start it is known already, and goes on with what it kept; where it has moved to another address it says so.

    Raises:
        ConfigError: the configuration founds the cluster with other replicas than it was founded with.
        MasError: the cluster doesn't take it, or doesn't answer.
    """
    kept = directory.read_roster()
    known = kept.nodes().get(config.node.id)
    if not config.node.join:
        founded = _founders(config)
        _check_founders(founded, kept, directory.roster_path)
        roster = founded.merge(kept)[0]
    elif known is None:
        await _check_port(config)
        roster = kept.merge(await _join(config, directory, config.node.hold))[0]
    elif known.address != config.address():
        roster = kept.merge(await _join(config, directory, ()))[0]
    else:
        roster = kept
    if roster != kept:
        directory.write(roster)
    return roster


def _founders(config: Config) -> Roster:
    """The configuration's word on where the founders are is newer than any file's of this node."""
    node = config.node
    peers = tuple(
        NodeRow(peer.id, peer.address, tuple(role.value for role in peer.roles))
        for peer in config.peers
    )
    alone = NodeRow(node.id, config.address(), (node.role.value,), node.host)
    return founding_roster(
        peers or (alone,), {bucket.id: bucket.voters for bucket in config.buckets}
    )


def _check_founders(founded: Roster, kept: Roster, path: Path) -> None:
    """Refuse a file that names other founders: who held the buckets at the cluster's creation never changes, because all logs begin with it.

    Raises:
        ConfigError: the configuration says otherwise than at this node's first start.
    """
    if not kept.buckets:
        return
    ours, known = founded.holders(), kept.holders()
    for bucket in sorted({*ours, *known}):
        says, was = (
            f"the voters {list(roster[bucket].founders)}" if bucket in roster else "no such bucket"
            for roster in (ours, known)
        )
        if says != was:
            raise ConfigError(
                f"bucket {bucket}: the configuration names {says}, and the cluster was founded with {was} ({path}). "
                "Put the configuration back as it was: replicas are moved by `mas admin replica add` and `remove`, "
                "and the number of buckets never changes"
            )


async def _check_port(config: Config) -> None:
    """Before anybody is told of it: an id that was registered is used.

    Raises:
        ConfigError: the peer port can't be listened on.
    """
    try:
        listening = await listening_socket(config.listen.host, config.listen.peer)
    except ConfigError as error:
        raise ConfigError(f"{error}; name another with --address") from error
    listening.close()


async def _join(config: Config, directory: Directory, hold: tuple[int, ...]) -> Roster:
    node = config.node
    if not node.secret_file:
        raise ConfigError(
            "node.secret_file is empty: expected the file of the secret of the cluster to join"
        )
    tls = config.tls
    ca = (
        Path(tls.ca_file)
        if tls.ca_file
        else Path(tls.directory or directory.path / "tls") / "ca.crt"
    )
    async with OperatorClient(
        node.join,
        secret=read_secret(Path(node.secret_file)),
        ca=ca if tls.enabled else None,
        timeout=_JOIN_SECONDS,
        plaintext=not tls.enabled,
    ) as operator:
        row = NodeRow(node.id, config.address(), (node.role.value,), node.host, directory.store)
        cluster = await operator.add_node(node.cluster_id, row, hold)
    return decode_roster(cluster.roster)
