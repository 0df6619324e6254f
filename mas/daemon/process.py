"""One process: what every node has, and the roles that its configuration asks for, started and stopped in their order.

    transport ─┬─ bucket client ─ coordinator ── locks ── api servers        (roles tm, tc, gls)
               └─ Raft host ─ AccountServices ─ bucket server ── tools' server  (role rm)

The roles are where ports meet engines. Stopping goes the other way: the coordinator first, so that nobody is left without an
answer, then locks, then buckets, then the transport.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from mas import __version__
from mas.api import NodeView, Shares
from mas.channels import Channel
from mas.config import Config
from mas.daemon import lock_role, resource_role, transaction_role
from mas.daemon.data_directory import DataDirectory
from mas.daemon.parts import NodeParts
from mas.daemon.resource_role import ResourceRole
from mas.daemon.transaction_role import TransactionRole, make_authenticator
from mas.files import read_secret
from mas.membership import Membership, Operations, Roster
from mas.network.handshake import Identity
from mas.network.tls import (
    TlsFiles,
    check_files,
    check_node,
    client_context,
    ensure_certificate,
    make_ca,
    server_context,
)
from mas.network.transport import PeerTransport
from mas.rpc.client import BucketClient
from mas.runtime import Clock, Dice, Supervisor, SystemClock
from mas.storage.open import open_tm_store

_log = logging.getLogger(__name__)

_FIRST_ANSWERS_SECONDS = 1.0
"""Until a node that doesn't answer is nobody to wait for."""
_POLL_SECONDS = 0.02


class Process:
    """One node: whatever its role says runs here."""

    def __init__(
        self,
        config: Config,
        directory: DataDirectory,
        roster: Roster,
        supervisor: Supervisor,
        dice: Dice,
    ) -> None:
        self._config = config
        self._directory = directory
        self._clock: Clock = SystemClock()
        self._started = AsyncExitStack()
        self._resource: ResourceRole | None = None
        self._transaction: TransactionRole | None = None
        tls = self._certificates() if config.tls.enabled else None
        secret = (
            read_secret(Path(config.node.secret_file))
            if config.node.secret_file
            else directory.secret("cluster.secret", dice)
        )
        self._transport = self._make_transport(tls if config.tls.mutual else None, secret, dice)
        self._membership = Membership(config.node.id, roster, self._transport, directory)
        self._buckets = BucketClient(
            self._transport,
            {members.bucket: members.voters for members in roster.buckets},
            clock=self._clock,
            dice=dice,
        )
        self.parts = NodeParts(
            config,
            directory,
            self._clock,
            dice,
            supervisor,
            secret,
            tls,
            Shares(config.shares, self._clock),
            self._transport,
            self._membership,
            self._buckets,
            Operations(config.node.cluster_id, self._membership, self._buckets, self._clock),
            node=self,
        )

    async def start(self) -> None:
        """Start every part that the role asks for.

        Raises:
            MasError: a part can't start; `stop` all the same.
        """
        for remark in self._config.remarks():
            _log.warning("%s", remark)
        await self._start_node()
        role = self._config.node.role
        if role.runs_buckets:
            self._resource = await resource_role.start(self.parts)
            self._started.push_async_callback(self._resource.stop)
        if role.runs_coordinator or role.runs_locks:
            await self._start_transaction_manager()

    async def _start_node(self) -> None:
        """Start what every node has."""
        transport, membership = self._transport, self._membership
        membership.start()
        membership.on_change(self._route)
        transport.on_frame(Channel.ROSTER, membership.on_frame)
        transport.on_frame(Channel.REPLY, self._buckets.on_reply)
        transport.on_store(membership.recognise)
        transport.on_peer(membership.on_peer)
        transport.on_peer(self._buckets.on_peer)
        self._started.push_async_callback(transport.stop)
        await transport.start()
        supervisor = self.parts.supervisor
        self._started.push_async_callback(supervisor.stop)
        supervisor.spawn(transport.name, transport.run())
        supervisor.spawn(membership.name, membership.run())
        supervisor.spawn("operations", self.parts.operations.run())

    async def _start_transaction_manager(self) -> None:
        """Start locks and coordinator, which share a store and the clients' tokens."""
        store = await open_tm_store(self._config, self._directory.path, self.parts.dice)
        self._started.push_async_callback(store.close)
        authenticator = make_authenticator(self.parts)
        locks = await lock_role.start(self.parts, store, authenticator)
        self._started.push_async_callback(locks.stop)
        if self._config.node.role.runs_coordinator:
            self._transaction = await transaction_role.start(
                self.parts, store, locks.leases, authenticator
            )
            self._started.push_async_callback(self._transaction.stop)

    async def stop(self) -> None:
        """Let what is under way end within a bound, then stop everything and close the stores. Idempotent."""
        await self._started.aclose()

    def greeting(self) -> str:
        """What to tell whoever started this process, now that it serves."""
        node = self._config.node
        ready = f"mas: node {node.id} ({node.role}) of cluster {node.cluster_id!r} is ready"
        return "\n".join((ready, *(self._transaction.greeting if self._transaction else ())))

    def view(self) -> NodeView:
        """What this node says of itself."""
        groups = self._resource.host.groups if self._resource is not None else {}
        return NodeView(
            node=self._config.node.id,
            cluster=self._config.node.cluster_id,
            version=__version__,
            roles=(self._config.node.role.value,),
            buckets=tuple(groups),
            leads=tuple(bucket for bucket, group in groups.items() if group.status().leading),
        )

    async def until_taken(self, tell: Callable[[str], None], stop: asyncio.Event) -> None:
        """Wait, as long as all nodes that answer refuse this one; `tell` is called with each new reason why."""
        try:
            async with asyncio.timeout(_FIRST_ANSWERS_SECONDS):
                while not self._transport.has_answers():
                    await self._clock.sleep(_POLL_SECONDS)
        except TimeoutError:
            _log.info("some nodes don't answer")
        told = ""
        while not stop.is_set() and (why := self._transport.refusal()):
            if why != told:
                tell(f"mas: node {self._config.node.id} isn't ready, the others refuse it: {why}")
                told = why
            await self._clock.sleep(_POLL_SECONDS)

    def _route(self) -> None:
        """Whoever votes in a bucket may lead it."""
        for members in self._membership.roster.buckets:
            self._buckets.set_replicas(members.bucket, members.voters)

    def _certificates(self) -> TlsFiles:
        tls = self._config.tls
        node = self._config.node.id
        if tls.ca_file:
            files = TlsFiles(Path(tls.ca_file), Path(tls.cert_file), Path(tls.key_file))
            check_files(files, self._clock)
        else:
            files = self._certificates_within(node)
        if tls.mutual:
            check_node(files, node)
        return files

    def _certificates_within(self, node: int) -> TlsFiles:
        config = self._config
        directory = Path(config.tls.directory or self._directory.path / "tls")
        if not config.node.join and len(config.peers) < 2:
            make_ca(directory, self._clock)  # no other node has to trust it
        names = (config.listen.host, config.host())
        return ensure_certificate(directory, node, names, self._clock)

    def _make_transport(self, tls: TlsFiles | None, secret: bytes, dice: Dice) -> PeerTransport:
        return PeerTransport(
            Identity(
                self._config.node.cluster_id,
                self._config.node.id,
                secret,
                self._directory.store,
            ),
            host=self._config.listen.host,
            port=self._config.listen.peer,
            clock=self._clock,
            dice=dice,
            server_tls=server_context(tls) if tls else None,
            client_tls=client_context(tls) if tls else None,
        )
