"""Where ports meet engines: the parts of one process, made, joined, started and stopped.

    transport ─┬─ bucket client ─ coordinator ── locks ── api servers        (roles tm, tc, gls)
               └─ Raft host ─ AccountServices ─ bucket server ── tools' server  (role rm)

Stopping goes the other way: edges first, so that nobody is left without an answer, then the actors, then the stores.
"""

import asyncio
import logging
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path

from mas import __version__
from mas.addresses import join_address
from mas.api import (
    AccountServicer,
    ApiServer,
    Authenticator,
    ClusterSecret,
    LockServicer,
    NodeServicer,
    NodeView,
    Role,
    ServerTls,
    Shares,
    TokenIssuer,
    TransactionServicer,
)
from mas.api.server import Service
from mas.channels import Channel
from mas.client import profile
from mas.config import Config
from mas.coordinator import CoordinatorSettings, TransactionCoordinator
from mas.coordinator import Ports as CoordinatorPorts
from mas.daemon.data_directory import DataDirectory, read_file
from mas.daemon.open_files import connections_of_a_server
from mas.daemon.replicas import ReplicaParts, Replicas
from mas.files import read_secret
from mas.locks import (
    ClientLocks,
    GlobalLockService,
    Leases,
    LockClient,
    LockServer,
    LockSettings,
    LockStore,
    join,
)
from mas.membership import Membership, Operations, Roster
from mas.multiraft import HostConfig, RaftHost, WorkerThread
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
from mas.resource import ReplicaAdmin, ResourceSettings
from mas.rpc.client import BucketClient
from mas.rpc.server import BucketServer
from mas.runtime import Actor, Clock, Dice, Supervisor, SystemClock
from mas.storage.open import check_version, open_account_db, open_raft_log, open_tm_store

_log = logging.getLogger(__name__)

_API_GRACE_SECONDS = 0.5
_HAND_OVER_SECONDS = 0.5
_FIRST_ANSWERS_SECONDS = 1.0
"""Until a node that doesn't answer is nobody to wait for."""
_POLL_SECONDS = 0.02
_OPERATOR = "operator:root"


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
        self._supervisor = supervisor
        self._dice = dice
        self._clock: Clock = SystemClock()
        self._servers: list[ApiServer] = []
        self._shares = Shares(config.shares, self._clock)
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._host: RaftHost | None = None
        self._coordinator: TransactionCoordinator | None = None
        self._greeting: list[str] = []

        self._tls = self._certificates() if config.tls.enabled else None
        self._secret = (
            read_secret(Path(config.node.secret_file))
            if config.node.secret_file
            else directory.secret("cluster.secret", dice)
        )
        self._transport = self._make_transport()
        self._membership = Membership(config.node.id, roster, self._transport, directory)
        self._router = BucketClient(
            self._transport,
            {members.bucket: members.voters for members in roster.buckets},
            clock=self._clock,
            dice=dice,
        )
        self._operations = Operations(
            config.node.cluster_id, self._membership, self._router, self._clock
        )

    # -- starting ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start every part that the role asks for.

        Raises:
            MasError: a part can't start; `stop` all the same.
        """
        config = self._config
        for remark in config.remarks():
            _log.warning("%s", remark)
        self._membership.start()
        self._membership.on_change(self._route)
        self._transport.on_frame(Channel.ROSTER, self._membership.on_frame)
        self._transport.on_frame(Channel.REPLY, self._router.on_reply)
        self._transport.on_store(self._membership.recognise)
        self._transport.on_peer(self._membership.on_peer)
        self._transport.on_peer(self._router.on_peer)
        self._closers.append(self._transport.stop)
        await self._transport.start()
        self._spawn(self._transport)
        self._spawn(self._membership)
        self._supervisor.spawn("operations", self._operations.run())
        role = config.node.role
        if role in ("all", "rm"):
            await self._start_resource_manager()
        if role in ("all", "tm", "tc", "gls"):
            await self._start_transaction_manager()
        for server in self._servers:
            await server.start()

    def greeting(self) -> str:
        """What to tell whoever started this process, now that it serves."""
        node = self._config.node
        ready = f"mas: node {node.id} ({node.role}) of cluster {node.cluster_id!r} is ready"
        return "\n".join((ready, *self._greeting))

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
            self._router.set_replicas(members.bucket, members.voters)

    def _spawn(self, actor: Actor) -> None:
        self._supervisor.spawn(actor.name, actor.run())

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

    def _make_transport(self) -> PeerTransport:
        tls = self._tls if self._config.tls.mutual else None
        return PeerTransport(
            Identity(
                self._config.node.cluster_id,
                self._config.node.id,
                self._secret,
                self._directory.store,
            ),
            host=self._config.listen.host,
            port=self._config.listen.peer,
            clock=self._clock,
            dice=self._dice,
            server_tls=server_context(tls) if tls else None,
            client_tls=client_context(tls) if tls else None,
        )

    # -- resource manager --------------------------------------------------------------------------------

    async def _start_resource_manager(self) -> None:
        config, path = self._config, self._directory.path
        check_version(config, path)
        self._directory.check_log()
        log = open_raft_log(config, path)
        self._directory.note_log()
        log_thread, file_thread = WorkerThread("raft-log"), WorkerThread("snapshots")
        database = open_account_db(config, path)
        self._closers += [
            _closing(log_thread.close),
            _closing(file_thread.close),
            _closing(log.close),
            database.close,
        ]
        host = RaftHost(
            self._host_config(),
            log=log,
            log_thread=log_thread,
            peers=self._transport,
            snapshots=database,
            file_thread=file_thread,
            clock=self._clock,
            dice=self._dice,
        )
        await host.finish_snapshots()
        members = ReplicaAdmin(config.node.id, host)
        server = BucketServer(self._transport, members.answer)
        parts = ReplicaParts(
            self._membership,
            host,
            database,
            server,
            members,
            self._router,
            proposer=int.from_bytes(self._dice.randbytes(7), "big"),
        )
        replicas = Replicas(
            config.node.id, parts, self._clock, self._resource_settings(), self._supervisor
        )
        await replicas.open_all()
        self._transport.on_frame(Channel.RAFT, host.on_frame)
        self._transport.on_frame(Channel.SNAPSHOT, host.on_snapshot_frame)
        self._transport.on_frame(Channel.REQUEST, server.on_frame)
        self._transport.on_peer(host.on_peer)
        self._spawn(host)
        self._spawn(replicas)
        self._host = host
        secret = ClusterSecret(self._secret)
        self._serve(
            config.listen.rm,
            TransactionServicer(self._router, secret),
            NodeServicer(self, self._operations, secret),
        )

    def _host_config(self) -> HostConfig:
        config = self._config
        return HostConfig(
            node=config.node.id,
            snapshot_folder=self._directory.path / "snapshots",
            tick_ms=config.raft.tick_ms,
            heartbeat_tick=config.raft.heartbeat_tick,
            election_tick=config.raft.election_tick,
            log_write_seconds=config.storage.log_write_seconds,
            log_margin_entries=config.storage.log_margin_entries,
            log_margin_seconds=config.storage.log_margin_seconds,
        )

    def _resource_settings(self) -> ResourceSettings:
        config = self._config
        return ResourceSettings(
            cluster=config.node.cluster_id,
            buckets=len(self._membership.roster.buckets),
            lock_timeout=config.lock_timeout_seconds,
            read_patience=config.read_patience_seconds,
            cached_rows=config.storage.cache_accounts,
            unflushed=config.storage.flush_backlog_rows_max,
        )

    def view(self) -> NodeView:
        """What this node says of itself."""
        groups = self._host.groups if self._host is not None else {}
        return NodeView(
            node=self._config.node.id,
            cluster=self._config.node.cluster_id,
            version=__version__,
            roles=(self._config.node.role,),
            buckets=tuple(groups),
            leads=tuple(bucket for bucket, group in groups.items() if group.status().leading),
        )

    # -- transaction manager -----------------------------------------------------------------------------

    async def _start_transaction_manager(self) -> None:
        config = self._config
        role = config.node.role
        store = open_tm_store(config, self._directory.path)
        self._closers.append(store.close)
        key = self._token_key()
        authenticator = Authenticator(
            key, self._clock, config.jwt.algorithm, config.jwt.issuer, config.jwt.audience
        )
        secret = ClusterSecret(self._secret)
        locks = self._start_locks(store)
        if role != "tc":
            self._serve(
                config.listen.gls, LockServicer(ClientLocks(locks, self._clock), authenticator)
            )
        if role != "gls":
            self._coordinator = TransactionCoordinator(
                CoordinatorPorts(self._router, store, locks),
                CoordinatorSettings(len(self._membership.roster.buckets), config.locking),
                self._clock,
                self._dice,
            )
            self._spawn(self._coordinator)
            issuer = None
            if config.jwt.algorithm == "HS256":
                issuer = TokenIssuer(key, config.jwt.issuer, config.jwt.audience, self._clock)
            accounts = AccountServicer(
                self._coordinator,
                self._router,
                authenticator,
                issuer,
                self._shares,
                self._dice,
            )
            api = self._serve(config.listen.api, accounts)
            operators = self._serve(
                config.listen.node_service, NodeServicer(self, self._operations, secret)
            )
            if role == "all" and issuer is not None:
                self._welcome(api, operators, issuer, authenticator)

    def _start_locks(self, store: LockStore) -> Leases:
        """The lock service itself on the one node where it is at work, the way to it on all others."""
        where = self._config.lock_node()
        if where != self._config.node.id:
            remote = LockClient(self._transport, lambda: where, clock=self._clock, dice=self._dice)
            self._transport.on_frame(Channel.LOCKS, join(None, remote))
            self._transport.on_peer(remote.on_peer)
            return remote
        service = GlobalLockService(
            f"node {where}",
            buckets=self._router,
            store=store,
            clock=self._clock,
            settings=LockSettings(
                buckets=len(self._membership.roster.buckets),
                lease=self._config.lock_timeout_seconds,
            ),
        )
        door = LockServer(service, self._transport, self._clock)
        self._transport.on_frame(Channel.LOCKS, join(door, None))
        self._spawn(service)
        return service

    def _token_key(self) -> bytes:
        jwt = self._config.jwt
        if jwt.algorithm != "HS256":
            return read_file(Path(jwt.public_key_file))
        if jwt.secret_file:
            return read_secret(Path(jwt.secret_file))
        return self._directory.secret("jwt.secret", self._dice)

    def _welcome(
        self,
        api: ApiServer,
        operators: ApiServer,
        issuer: TokenIssuer,
        authenticator: Authenticator,
    ) -> None:
        """A single node to play with: leave its address and an operator's token where the command line finds them."""
        host = self._config.listen.host
        address = join_address(host, api.port)
        secret = self._config.node.secret_file or self._directory.path / "cluster.secret"
        found = profile.Profile(
            address=address,
            ca=str(self._tls.ca.resolve()) if self._tls else "",
            token=issuer.issue(_OPERATOR, Role.GATEWAY),
            plaintext=self._tls is None,
            node_service=join_address(host, operators.port),
            secret_file=str(Path(secret).resolve()),
            cluster=self._config.node.cluster_id,
        )
        kept = profile.leave(
            found,
            authenticator.accepts,
            self._directory.path.resolve() / profile.PROFILE_NAME,
        )
        default = profile.default_path()
        named = "" if kept == default else " --profile " + shlex.quote(str(kept))
        if named:
            self._greeting.append(f"{default} isn't this cluster's, and stays as it is.")
        self._greeting += [
            f"API on {address}; its CA and an operator's token are in {kept}. Try:",
            "",
            f"  mas account create alice --balance 100.00{named}",
            f"  mas account create bob{named}",
            f"  mas pay alice bob 12.50{named}",
            f"  mas account get alice{named}",
            "",
            "Ctrl-C stops it; everything is kept in " + str(self._directory.path),
        ]

    def _serve(self, port: int, *services: Service) -> ApiServer:
        tls = None
        if self._tls is not None:
            tls = ServerTls(read_file(self._tls.certificate), read_file(self._tls.key))
        server = ApiServer(
            self._config.listen.host,
            port,
            services,
            tls,
            self._shares,
            self._clock,
            connections=connections_of_a_server(),
        )
        self._servers.append(server)
        return server

    # -- stopping ----------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Let what is under way end within a bound, then stop everything and close the stores. Idempotent."""
        servers, self._servers = self._servers, []
        if servers and self._coordinator is not None:
            await self._coordinator.finish(_API_GRACE_SECONDS)
        for server in servers:
            await server.stop(_API_GRACE_SECONDS)
        await self._hand_over()
        await self._supervisor.stop()
        closers, self._closers = self._closers, []
        for close in closers:
            await close()

    async def _hand_over(self) -> None:
        """Spare the others an election: have them lead what this node leads."""
        if self._host is None or len(self._membership.roster.nodes()) < 2:
            return
        self._host.hand_over()
        groups = self._host.groups.values()
        try:
            async with asyncio.timeout(_HAND_OVER_SECONDS):
                while any(group.status().leading for group in groups):
                    await self._clock.sleep(0.01)
        except TimeoutError:
            _log.info("stopping while leading: nobody took over in time")


def _closing(close: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    async def closing() -> None:
        close()

    return closing
