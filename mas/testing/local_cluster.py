"""A cluster of real `mas serve` processes on loopback, in a temporary directory.

    async with LocalCluster() as cluster:
        async with cluster.client() as client:
            await client.create_account("alice", "100.00")
            cluster.kill(cluster.resource_managers[0])

One transaction manager and some resource managers, TLS and tokens on, every bucket replicated on all of them. Nodes can
be killed, paused and started again; leaving the block ends every process and removes every file.
"""

import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from mas.addresses import join_address
from mas.api.tokens import Role, TokenIssuer
from mas.client import Client
from mas.client.operator import OperatorClient
from mas.config import (
    BucketConfig,
    Config,
    JwtConfig,
    ListenConfig,
    NodeConfig,
    PeerConfig,
    RaftConfig,
    StorageConfig,
    TlsConfig,
    format_config,
    parse_config,
)
from mas.config import Role as NodeRole
from mas.errors import MasError
from mas.files import read_secret, write_private
from mas.network.tls import make_ca
from mas.runtime import SystemClock, SystemDice
from mas.storage.open import open_account_db
from mas.testing.program import Program, end_all

_START_SECONDS = 30.0
_POLL_SECONDS = 0.02
_PORTS = range(10_000, 32_768)


class NodeFailed(MasError):
    """A node's process ended by itself, or didn't get ready."""


class Node(Program):
    """One `mas serve` process."""

    def __init__(
        self, node_id: int, role: NodeRole, listen: ListenConfig, config_file: Path, log_file: Path
    ) -> None:
        super().__init__(
            [sys.executable, "-m", "mas", "serve", "--config", str(config_file)], log_file
        )
        self.id = node_id
        self.role = role
        self.listen = listen
        self.address = join_address(listen.host, listen.api)
        """Where its API is, if its role has one."""
        self.lock_address = join_address(listen.host, listen.gls)
        """Where its LockService is, if its role has one."""
        self.config_file = config_file

    def is_ready(self) -> bool:
        """Tell whether it says that it serves."""
        return " is ready" in self.log()


class LocalCluster:
    """The processes of one cluster. Node ids run from 1: the resource managers, then the managers, by their roles."""

    def __init__(
        self,
        *,
        resource_managers: int = 3,
        managers: Sequence[str] = ("tm",),
        buckets: int = 3,
        directory: Path | None = None,
        raft: RaftConfig | None = None,
        storage: StorageConfig | None = None,
        lock_timeout_seconds: float = 2.0,
        host: str = "127.0.0.1",
    ) -> None:
        """`managers` are their roles: "tm", "tc", "gls" or "all". `host` is this machine's address of all ports: a loopback."""
        self._temporary = (
            tempfile.TemporaryDirectory(prefix="mas-cluster-") if directory is None else None
        )
        self.directory = Path(self._temporary.name) if self._temporary else Path(directory or "")
        self.directory.mkdir(parents=True, exist_ok=True)
        self._clock = SystemClock()
        self._dice = SystemDice()
        self.buckets = buckets
        self._jwt_secret = self._dice.randbytes(32).hex().encode()
        self._write_shared_files()
        roles = [NodeRole.RM] * resource_managers + [NodeRole(role) for role in managers]
        self._host = host
        listens = [_listen(host, free) for free in _in_turn(free_ports(5 * len(roles)), 5)]
        self._shared = Config(
            peers=tuple(
                PeerConfig(id=node, address=join_address(host, listen.peer), roles=(role,))
                for node, (role, listen) in enumerate(zip(roles, listens, strict=True), 1)
            ),
            buckets=tuple(
                BucketConfig(id=bucket, voters=tuple(range(1, resource_managers + 1)))
                for bucket in range(1, buckets + 1)
            ),
            raft=raft or RaftConfig(),
            storage=storage or StorageConfig(),
            lock_timeout_seconds=lock_timeout_seconds,
            tls=TlsConfig(directory=str(self.directory / "tls")),
            jwt=JwtConfig(secret_file=str(self.directory / "jwt.secret")),
        )
        self.nodes = {
            node: self._make_node(node, role, listen)
            for node, (role, listen) in enumerate(zip(roles, listens, strict=True), 1)
        }
        self.resource_managers = [node for node in self.nodes.values() if node.role is NodeRole.RM]
        self.transaction_managers = [
            node for node in self.nodes.values() if node.role.runs_coordinator
        ]

    @property
    def transaction_manager(self) -> Node:
        """The first, which is the only one unless more were asked for."""
        return self.transaction_managers[0]

    @property
    def address(self) -> str:
        """Of the first transaction manager's API."""
        return self.transaction_manager.address

    def _write_shared_files(self) -> None:
        make_ca(self.directory / "tls", self._clock)
        write_private(self.directory / "cluster.secret", self._dice.randbytes(32).hex())
        write_private(self.directory / "jwt.secret", self._jwt_secret.decode())

    def _make_node(
        self,
        node: int,
        role: NodeRole,
        listen: ListenConfig,
        *,
        join: str = "",
        hold: Sequence[int] = (),
    ) -> Node:
        config = msgspec.structs.replace(
            self._shared,
            node=NodeConfig(
                id=node,
                cluster_id="local",
                role=role,
                data_dir=str(self.directory / f"node{node}"),
                secret_file=str(self.directory / "cluster.secret"),
                join=join,
                hold=tuple(hold),
            ),
            listen=listen,
            peers=() if join else self._shared.peers,
        )
        file = self.directory / f"node{node}.toml"
        file.write_text(format_config(config))
        return Node(node, role, listen, file, self.directory / f"node{node}.log")

    # -- running -----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def start(self) -> None:
        """Start every node and wait until the cluster carries payments."""
        for node in self.nodes.values():
            node.start()
        for node in self.nodes.values():
            await self.wait_ready(node)
        await self._wait_led()

    async def _wait_led(self) -> None:
        """Wait until every bucket has a leader that answers."""
        async with self.client() as client:
            for bucket, (replica, *_) in (await client.buckets()).items():
                while not (await client.bucket(bucket, replica)).leader:
                    await self._clock.sleep(_POLL_SECONDS)

    async def wait_ready(self, node: Node) -> None:
        """Wait until the node says that it serves.

        Raises:
            NodeFailed: its process ended, or it took too long; the message ends with its log.
        """
        deadline = self._clock.monotonic() + _START_SECONDS
        while not node.is_ready():
            if not node.is_running():
                raise NodeFailed(f"node {node.id} ended by itself; its log:\n{node.log()}")
            if self._clock.monotonic() > deadline:
                raise NodeFailed(
                    f"node {node.id} isn't ready after {_START_SECONDS:.0f} s; its log:\n{node.log()}"
                )
            await self._clock.sleep(_POLL_SECONDS)

    async def join(self, hold: Sequence[int] = (), node_id: int | None = None) -> Node:
        """Have one more resource manager join, as `mas serve --join` does, and hold these buckets; wait until it serves.

        It is a learner of them when this returns, and becomes a voter by itself.
        """
        node_id = node_id or max(self.nodes) + 1
        listen = _listen(self._host, free_ports(5))
        service = self.transaction_manager.listen
        address = join_address(service.host, service.node_service)
        node = self._make_node(node_id, NodeRole.RM, listen, join=address, hold=hold)
        self.nodes[node_id] = node
        self.resource_managers.append(node)
        node.start()
        await self.wait_ready(node)
        return node

    def kill(self, node: Node) -> None:
        """SIGKILL: the process has no chance to do anything more."""
        node.kill()

    def pause(self, node: Node) -> None:
        """SIGSTOP: the process stands still until `resume`."""
        node.signal(signal.SIGSTOP)

    def resume(self, node: Node) -> None:
        """SIGCONT after `pause`."""
        node.signal(signal.SIGCONT)

    async def restart(self, node: Node, environment: dict[str, str] | None = None) -> None:
        """Start a node that has ended, and wait until it serves."""
        node.start(environment)
        await self.wait_ready(node)

    async def verify_databases(self) -> None:
        """End every process, and read all rows of every replica.

        Raises:
            CorruptData: they don't add up to what was kept, or the index doesn't lead to them.
        """
        end_all(self.nodes.values())
        for node in self.resource_managers:
            config = parse_config(node.config_file.read_text())
            database = await open_account_db(config, Path(config.node.data_dir))
            for bucket in await database.buckets():
                await database.verify(bucket)
            await database.close()

    def close(self) -> None:
        """End every process, and remove every file that this cluster made."""
        end_all(self.nodes.values())
        if self._temporary is not None:
            self._temporary.cleanup()

    # -- talking to it -----------------------------------------------------------------------------------

    def token(self, subject: str = "operator:root", role: Role | None = None) -> str:
        """A token for "account:NUMBER", or for "operator:NAME" with a role."""
        issuer = TokenIssuer(self._jwt_secret, self._shared.jwt.issuer, self._shared.jwt.audience)
        return issuer.issue(subject, role)

    def operator(self, *, timeout: float = 10.0) -> OperatorClient:
        """A client of the first transaction manager's NodeService."""
        listen = self.transaction_manager.listen
        return OperatorClient(
            join_address(listen.host, listen.node_service),
            secret=read_secret(self.directory / "cluster.secret"),
            ca=self.directory / "tls" / "ca.crt",
            timeout=timeout,
        )

    def client(
        self, subject: str = "operator:root", role: Role | None = None, *, at: Node | None = None
    ) -> Client:
        """A client with that subject's token, of the first transaction manager or the one named."""
        address = (at or self.transaction_manager).address
        ca = self.directory / "tls" / "ca.crt"
        return Client(address, token=self.token(subject, role), ca=ca)


def _in_turn(ports: list[int], each: int) -> list[list[int]]:
    return [ports[start : start + each] for start in range(0, len(ports), each)]


def _listen(host: str, ports: list[int]) -> ListenConfig:
    api, gls, node_service, rm, peer = ports
    return ListenConfig(host=host, api=api, gls=gls, node_service=node_service, rm=rm, peer=peer)


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago; all held at once, so that none comes twice.

    They are drawn from below those that Linux gives to connections (`net.ipv4.ip_local_port_range`), or a
    connection might take one before its server does.
    """
    dice = SystemDice()
    with ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            port = _PORTS.start + dice.randrange(len(_PORTS))
            free = stack.enter_context(socket.socket())
            try:
                free.bind(("127.0.0.1", port))
            except OSError:
                continue  # somebody has it
            ports.append(port)
        return ports
