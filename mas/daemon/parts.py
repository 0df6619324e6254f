"""What the roles of a process share: the parts that every node has, and how a role starts and stops its own."""

from contextlib import AsyncExitStack

import msgspec

from mas.api import ApiServer, ClusterSecret, NodeServicer, ServerTls, Shares
from mas.api.ports import Node
from mas.api.server import Service
from mas.config import Config
from mas.daemon.data_directory import DataDirectory, read_file
from mas.daemon.open_files import connections_of_a_server
from mas.membership import Membership, Operations
from mas.network.tls import TlsFiles
from mas.network.transport import PeerTransport
from mas.rpc.client import BucketClient
from mas.runtime import Actor, Clock, Dice, Supervisor

API_GRACE_SECONDS = 0.5
"""For calls under way, when a server stops."""


class NodeParts(msgspec.Struct, frozen=True):
    """The parts of a process that every role is joined to."""

    config: Config
    directory: DataDirectory
    clock: Clock
    dice: Dice
    supervisor: Supervisor
    secret: bytes
    """The cluster's."""
    tls: TlsFiles | None
    shares: Shares
    transport: PeerTransport
    membership: Membership
    buckets: BucketClient
    operations: Operations
    node: Node
    """Tells NodeService what runs here."""

    @property
    def bucket_count(self) -> int:
        """The number of buckets at the cluster's creation, by which accounts have their homes (rule 20, genesis).

        Every node has it from the roster: the configuration of one that joins names no buckets.
        """
        return len(self.membership.roster.buckets)

    def node_service(self) -> NodeServicer:
        """Make the service for operators."""
        return NodeServicer(self.node, self.operations, ClusterSecret(self.secret))


class Running:
    """What a role has started. Subclasses name what other roles use of it."""

    def __init__(self, started: AsyncExitStack) -> None:
        self._started = started

    async def stop(self) -> None:
        """Let what is under way end within a bound, and stop and close all of it, what was started last first. Idempotent."""
        await self._started.aclose()


class Starting:
    """Starts the parts of one role, and notes how each is stopped."""

    def __init__(self, name: str, parts: NodeParts, started: AsyncExitStack) -> None:
        self._parts = parts
        self._started = started
        self.supervisor = Supervisor()
        parts.supervisor.spawn(name, self.supervisor.wait())  # its failure is the process's
        started.push_async_callback(self.supervisor.stop)

    def spawn(self, actor: Actor) -> None:
        """Have an actor run until the role stops."""
        self.supervisor.spawn(actor.name, actor.run())

    async def serve(self, port: int, *services: Service) -> ApiServer:
        """Serve these on a port until the role stops. Raises `ConfigError`: the port can't be listened on."""
        parts = self._parts
        tls = None
        if parts.tls is not None:
            tls = ServerTls(read_file(parts.tls.certificate), read_file(parts.tls.key))
        server = ApiServer(
            parts.config.listen.host,
            port,
            services,
            tls,
            parts.shares,
            parts.clock,
            connections=connections_of_a_server(),
        )
        self._started.push_async_callback(server.stop, API_GRACE_SECONDS)
        await server.start()
        return server
