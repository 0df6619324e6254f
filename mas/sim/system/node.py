"""A process of the cluster: what survives its death, and its present life, wired as the daemon wires it."""

import asyncio
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any, Literal, Protocol

from msgspec.structs import replace

from mas.channels import Channel
from mas.config import BucketConfig, Config
from mas.coordinator import CoordinatorSettings, TransactionCoordinator
from mas.coordinator import Ports as CoordinatorPorts
from mas.daemon.joining import find_roster
from mas.daemon.replicas import ReplicaParts, Replicas
from mas.errors import ConfigError, DatabaseUnavailable, StorageError
from mas.ledger import BucketRow
from mas.locks import GlobalLockService, Leases, LockClient, LockServer, LockSettings, join
from mas.membership import Membership, Roster
from mas.multiraft import HostConfig, RaftGroup, RaftHost
from mas.resource import ReplicaAdmin, ResourceSettings
from mas.rpc.client import BucketClient
from mas.rpc.server import BucketServer
from mas.runtime import Promise, Supervisor
from mas.sim.clock import VirtualClock
from mas.sim.disk import Disk, SimLog, SimWorker
from mas.sim.process import Process
from mas.sim.system.account_db import DatabaseDisk, SimAccountDB
from mas.sim.system.older import Copy, Gag, Had
from mas.sim.system.plan import Plan
from mas.sim.system.tm_store import SimTmStore, StoreDisk, encode_rows
from mas.sim.system.wires import Transport, Wires
from mas.sim.trace import Trace
from mas.storage.raft_log.value import Change, Create, GroupLog

TICK_MS = 100
CLUSTER = "simulated"
_SPEED = 50


class _Erasures:
    """Sees the logs that are erased. All else of a disk `mas sim --world raft` watches."""

    def __init__(self, on_erased: Callable[[int, int], None]) -> None:
        self._on_erased = on_erased

    def on_write(
        self, disk: Disk, group: int, before: GroupLog | None, after: GroupLog, change: Change
    ) -> None:
        """A log changes."""
        if isinstance(change, Create) and change.removed_at:
            self._on_erased(group, change.removed_at)

    def on_stored(self, disk: Disk) -> None:
        """A log has changed."""


class RosterFile:
    """A node's roster on its disk. Fits `mas.membership.ports.RosterStore` and `mas.daemon.joining.Directory`."""

    def __init__(self, node: int) -> None:
        self.path = Path(f"node{node}")
        self.store = b""
        self.roster = Roster()

    @property
    def roster_path(self) -> Path:
        """Its name."""
        return self.path / "roster.json"

    def read_roster(self) -> Roster:
        """Read what is kept; empty at the first start."""
        return self.roster

    def write(self, roster: Roster) -> None:
        """Keep it, synced."""
        self.roster = roster


class Around(Protocol):
    """What a process needs of its world."""

    plan: Plan
    trace: Trace
    wires: Wires
    seed: int
    lock_node: int
    processes: list[Process]

    @property
    def buckets(self) -> tuple[int, ...]: ...

    def on_group(self, node: "Node", group: RaftGroup) -> None:
        """A replica takes part in a group."""

    def on_flushed(self, node: int, bucket: BucketRow) -> None:
        """A replica's state is durable."""

    def on_note(self, node: "Node") -> None:
        """The installation of a snapshot begins or ends."""

    def on_erased(self, node: "Node", bucket: int, removed_at: int) -> None:
        """A replica's log begins anew, behind the change that had removed it."""

    def on_death(self, node: "Node") -> None:
        """It is dead, and may be started again."""


class Node:
    """One process of the cluster, dead or alive."""

    def __init__(
        self, around: Around, config: Config, *, has_buckets: bool, coordinates: bool
    ) -> None:
        node = config.node.id
        self.id = node
        self.config = self._right_config = config
        self.mistyped = 0
        """The bucket for which its configuration names founders that weren't."""
        self.files_refused = 0
        """So often it didn't start for that."""
        self.refused: dict[int, str] = {}
        """By peer: why it refused what this node had to say, or this node what it had."""
        self.has_buckets = has_buckets
        self.coordinates = coordinates
        self.life = 0
        self.crashes = 0
        self.dice = Random(f"{around.seed} node {node}")  # noqa: S311  (nobody's secret)
        speed = 1 + (self.dice.randrange(2 * _SPEED + 1) - _SPEED) / 1000
        self.clock = VirtualClock(
            asyncio.get_running_loop(), speed=speed if "clock" in around.plan.classes else 1
        )
        self.database = DatabaseDisk()
        self.store = StoreDisk()
        self.store_backup = b""
        self.database_backup: dict[int, bytes] = {}
        self.expects_rollback = False
        """Its databases were put back under it: it has to notice, and stop."""
        self.copy: Copy | None = None
        """Of its whole directory."""
        self.had: dict[int, Had] = {}
        """What its logs held before its directory was put back last."""
        self.process: Process
        self.callers: dict[Promise[Any], None] = {}
        """Whoever waits for this process outside."""
        self.coordinator: TransactionCoordinator | None = None
        self.router: BucketClient | None = None
        self.locks: Leases | None = None
        self.members: ReplicaAdmin | None = None
        self.disk: Disk
        self._host: RaftHost | None = None
        self._roster_file = RosterFile(node)
        self._around = around
        self._workers: list[SimWorker] = []

    def make_disk(self, folder: Path) -> None:
        """Give it the disk that its logs are on."""
        watcher = _Erasures(lambda bucket, at: self._around.on_erased(self, bucket, at))
        self.disk = Disk(
            self.id, folder, self.dice, watcher, on_note=lambda: self._around.on_note(self)
        )

    @property
    def is_up(self) -> bool:
        """Whether it lives; what stands still lives too."""
        return self.life > 0 and not self.process.is_dead

    @property
    def roster(self) -> Roster:
        """What it has kept of the cluster's members."""
        return self._roster_file.roster

    @property
    def groups(self) -> dict[int, RaftGroup]:
        """The buckets that it holds replicas of, and serves."""
        return {} if self._host is None else self._host.groups

    @property
    def lacks(self) -> list[int]:
        """The buckets of which it doesn't hold again what it held before its directory was put back."""
        logs = self.disk.written
        return [bucket for bucket, had in self.had.items() if not had.is_held(logs.get(bucket))]

    def why_stopped(self, bucket: int) -> str:
        """Return why its replica is stopped, empty where it isn't, or where nobody can say."""
        if bucket in self.groups:
            return self.groups[bucket].status().error
        return "" if self.members is None else self.members.stopped.get(bucket, "")

    def leads(self, bucket: int) -> bool:
        """Tell whether it believes to lead this bucket."""
        group = self.groups.get(bucket)
        return self.is_up and group is not None and group.status().leading

    def start(self) -> None:
        """Begin another life, with what the disks hold."""
        self.life += 1
        self._around.trace.add(self.id, f"starts, life {self.life}")
        self.process = Process(asyncio.get_running_loop(), self.id, self._on_death)
        self._around.processes.append(self.process)
        self.process.spawn(f"node {self.id}", self._run())

    def kill(self) -> None:
        """Let the power fail."""
        self.process.kill()
        self._on_death()

    def mistype(self, bucket: int, founders: tuple[int, ...]) -> None:
        """Have its configuration name other founders, from its next start on."""
        self.mistyped = bucket
        buckets = tuple(
            BucketConfig(id=each.id, voters=founders if each.id == bucket else each.voters)
            for each in self._right_config.buckets
        )
        self.config = replace(self._right_config, buckets=buckets)

    @property
    def is_founded_otherwise(self) -> bool:
        """Whether its first start had other founders than its configuration has."""
        kept = self.roster.holders()
        return any(
            each.id in kept and set(kept[each.id].founders) != set(each.voters)
            for each in self.config.buckets
        )

    def mend_config(self) -> None:
        """Put it back as it was."""
        self.mistyped, self.config = 0, self._right_config

    def begin_anew(self) -> None:
        """Let the power fail, and begin the next life with an empty directory and the right configuration."""
        self.kill()
        self.mend_config()
        self.disk.put_back({})
        self.database.restore({})
        self.store.lose()
        self.refused.clear()
        self.had, self.copy, self.database_backup = {}, None, {}
        self._roster_file.write(Roster())

    def take_copy(self) -> None:
        """Keep a copy of its directory, unless a snapshot is being installed there."""
        logs = self.disk.durable
        if not any(log.note or log.lost for log in logs.values()):
            store = encode_rows(self.store.rows)
            self.copy = Copy(dict(logs), self.database.backup(), self.roster, store)

    def put_back(self, copy: Copy) -> None:
        """Let the power fail, and begin the next life with an older directory."""
        self.kill()
        self.had = {bucket: Had.of(log) for bucket, log in self.disk.durable.items()}
        self.disk.put_back(copy.logs)
        self.database.restore(copy.rows)
        self.store.restore(copy.store)
        self._roster_file.write(copy.roster)
        self.copy, self.database_backup = None, {}

    # -- inside its process --------------------------------------------------------------------

    async def _run(self) -> None:
        trace = self._around.trace
        try:
            await self._serve()
        except ConfigError as error:
            trace.require(self.id, bool(self.mistyped), "doesn't start: {}", error)
            trace.add(self.id, "refuses its file:", str(error))
            self.files_refused += 1
            self.mend_config()
        except DatabaseUnavailable as error:
            trace.add(self.id, "can't start:", str(error))
        except StorageError as error:
            expected = self.disk.fails_next_sync or self.expects_rollback
            trace.require(self.id, expected, "stops: {}", error)
        except Exception as error:  # noqa: BLE001  (whatever it is, it is what the simulation looks for)
            where = traceback.extract_tb(error.__traceback__)[-1]
            trace.violate(self.id, f"fails in {where.name}, {Path(where.filename).name}: {error!r}")
        self.process.burn_fuse(1)
        await asyncio.sleep(0)

    async def _serve(self) -> None:
        around = self._around
        self.expects_rollback = False
        was_founded_otherwise = self.is_founded_otherwise
        roster = await find_roster(self.config, self._roster_file)
        around.trace.require(
            self.id,
            not was_founded_otherwise,
            "starts with a configuration that names other founders of bucket {} than it began with",
            self.mistyped,
        )
        transport = Transport(around.wires, self.id, self.process, self.refused)
        membership = Membership(self.id, roster, transport, self._roster_file)
        router = BucketClient(
            transport,
            {members.bucket: members.voters for members in membership.roster.buckets},
            clock=self.clock,
            dice=self.dice,
        )

        def route() -> None:
            for members in membership.roster.buckets:
                router.set_replicas(members.bucket, members.voters)

        membership.start()
        membership.on_change(route)
        transport.on_frame(Channel.ROSTER, membership.on_frame)
        transport.on_frame(Channel.REPLY, router.on_reply)
        transport.on_peer(membership.on_peer)
        transport.on_peer(router.on_peer)
        async with Supervisor() as supervisor:
            supervisor.spawn(membership.name, membership.run())
            if self.has_buckets:
                await self._serve_buckets(supervisor, transport, membership, router)
            if self.coordinates:
                self._coordinate(supervisor, transport, router)
            around.wires.attach(transport)
            await supervisor.wait()

    async def _serve_buckets(
        self,
        supervisor: Supervisor,
        transport: Transport,
        membership: Membership,
        router: BucketClient,
    ) -> None:
        around, plan = self._around, self._around.plan
        database = SimAccountDB(
            self.database, self._worker(plan.flush_seconds / 4), self.id, around
        )
        host = RaftHost(
            HostConfig(
                node=self.id,
                snapshot_folder=self.disk.folder,
                tick_ms=TICK_MS,
                election_tick=plan.election_tick,
                log_margin_entries=plan.log_margin_entries,
                log_margin_seconds=0.0,
                snapshot_idle_seconds=2.0,
            ),
            log=SimLog(self.disk),
            log_thread=self._worker(plan.log_seconds),
            peers=Gag(transport, self.had, self.disk),
            snapshots=database,
            file_thread=self._worker(0.02),
            clock=self.clock,
            dice=self.dice,
        )
        host.on_members(lambda group: around.on_group(self, group))
        await host.finish_snapshots()
        members = ReplicaAdmin(self.id, host)
        server = BucketServer(transport, members.answer)
        parts = ReplicaParts(
            membership,
            host,
            database,
            server,
            members,
            router,
            proposer=int.from_bytes(self.dice.randbytes(7), "big"),
        )
        settings = ResourceSettings(
            cluster=CLUSTER,
            buckets=len(around.buckets),
            lock_timeout=plan.lock_timeout,
            cached_rows=plan.cached_rows,
        )
        replicas = Replicas(self.id, parts, self.clock, settings, supervisor)
        await replicas.open_all()
        transport.on_frame(Channel.RAFT, host.on_frame)
        transport.on_frame(Channel.SNAPSHOT, host.on_snapshot_frame)
        transport.on_frame(Channel.REQUEST, server.on_frame)
        transport.on_peer(host.on_peer)
        supervisor.spawn("host", host.run())
        supervisor.spawn(replicas.name, replicas.run())
        self.members = members
        self._host = host

    def _coordinate(
        self, supervisor: Supervisor, transport: Transport, router: BucketClient
    ) -> None:
        around = self._around
        store = SimTmStore(self.store, self._worker(0.005))
        locks: Leases
        if self.id == around.lock_node:
            service = GlobalLockService(
                f"node {self.id}",
                buckets=router,
                store=store,
                clock=self.clock,
                settings=LockSettings(len(around.buckets), lease=5.0),
            )
            transport.on_frame(
                Channel.LOCKS, join(LockServer(service, transport, self.clock), None)
            )
            supervisor.spawn(service.name, service.run())
            locks = service
        else:
            remote = LockClient(
                transport, lambda: around.lock_node, clock=self.clock, dice=self.dice
            )
            transport.on_frame(Channel.LOCKS, join(None, remote))
            transport.on_peer(remote.on_peer)
            locks = remote
        locking: Literal["escrow", "exclusive"] = (
            "exclusive" if around.plan.locking == "exclusive" else "escrow"
        )
        coordinator = TransactionCoordinator(
            CoordinatorPorts(router, store, locks),
            CoordinatorSettings(len(around.buckets), locking),
            self.clock,
            self.dice,
        )
        supervisor.spawn(coordinator.name, coordinator.run())
        self.locks = locks
        self.router = router
        self.coordinator = coordinator

    def _worker(self, seconds: float) -> SimWorker:
        worker = SimWorker(lambda: seconds * (1 + self.dice.randrange(1000)) / 1000)
        self._workers.append(worker)
        return worker

    # -- outside -------------------------------------------------------------------------------

    def call(self, start: Callable[[Callable[[Any], None]], None]) -> Promise[Any]:
        """Have something asked of this process; the result is None where it has died."""
        promise: Promise[Any] = Promise()

        def answer(result: Any) -> None:  # noqa: ANN401  (a caller knows what it has asked for)
            self.callers.pop(promise, None)
            promise.set(result)

        self.callers[promise] = None
        self.process.post(start, answer)
        return promise

    def call_task(self, name: str, make: Callable[[], Coroutine[Any, Any, Any]]) -> Promise[Any]:
        """Like `call`, for what takes a task; an error is the result."""

        def start(answer: Callable[[Any], None]) -> None:
            async def run() -> None:
                try:
                    result = await make()
                except Exception as error:  # noqa: BLE001  (whoever called has to judge it)
                    result = error
                answer(result)

            self.process.spawn(name, run())

        return self.call(start)

    def _on_death(self) -> None:
        around = self._around
        self.crashes += 1
        around.trace.add(self.id, "dies")
        self.coordinator, self.locks, self.members, self.router = None, None, None, None
        self._host = None
        for worker in self._workers:
            worker.die(self.dice)
        self._workers = []
        if self.has_buckets:
            self.disk.cut_power()
        self.database.is_away = self.store.is_away = False
        if self.dice.randrange(2):
            self.store.cut_power()
        around.wires.on_death(self.id)
        callers, self.callers = self.callers, {}
        for promise in callers:
            promise.set(None)
        around.on_death(self)
