"""A cluster on virtual time: the production host and its groups on every node, between simulated ports.

Everything of consensus that runs here is `mas.multiraft`'s own; what is simulated is the network, the disks, the clocks,
the dice, the threads, and the state machine that stands where the AccountService stands.
"""

import asyncio
import contextvars
from collections.abc import Sequence
from pathlib import Path
from random import Random

import msgspec

from mas.channels import Channel
from mas.errors import CorruptData, DatabaseUnavailable, StorageError, WriteHangs
from mas.multiraft import HostConfig, RaftHost
from mas.raft import ConfState, CorruptState
from mas.runtime import Supervisor
from mas.sim import history
from mas.sim.checks import Checks
from mas.sim.clients import Clients
from mas.sim.clock import VirtualClock
from mas.sim.disk import Disk, SimDatabases, SimLog, SimWorker
from mas.sim.faults import Nemesis
from mas.sim.growth import Growth
from mas.sim.leases import Leases
from mas.sim.machine import ListService
from mas.sim.network import Messages, Network, SimPeers
from mas.sim.plan import Plan, draw
from mas.sim.process import Process
from mas.sim.recovery import Recovery
from mas.sim.trace import WORLD, Trace

TICK_MS = 100
_SPARE_NODES = 3
"""How many may be added to a cluster in its life."""
_LOOK_SECONDS = 0.1
_HANGING_SECONDS = 3.0
_FOR_EVER = 1e6


class Options(msgspec.Struct, frozen=True):
    """What is simulated."""

    nodes: int = 3
    ticks: int = 150
    """Of hardship, at 100 ms; what follows is as long as the cluster needs to recover."""
    faults: tuple[str, ...] = ()
    """The classes that may strike."""


class Outcome(msgspec.Struct, frozen=True):
    """How a run went."""

    violation: str
    """The promise that was broken; empty where all held."""
    digest: str
    lines: tuple[str, ...]
    """The last events."""
    seconds: float
    events: int
    operations: int
    committed: int
    leaders: int
    crashes: int
    restored: int
    members_changed: int
    isolated: int


class Node:
    """What survives a node's death, and its present life."""

    def __init__(self, world: "World", node: int, folder: Path) -> None:
        self.id = node
        self.life = 0
        self.services: dict[int, ListService] = {}
        self.process: Process
        self.dice = Random(f"{world.seed} node {node}")  # noqa: S311  (nobody's secret)
        self.disk = Disk(node, folder, self.dice, world.checks, on_note=self._on_note)
        speed = 1 + (self.dice.randrange(101) - 50) / 1000 if "clock" in world.plan.classes else 1
        self.clock = VirtualClock(asyncio.get_running_loop(), speed=speed)
        self.crashes = 0
        self._world = world
        self._host: RaftHost | None = None
        self._workers: list[SimWorker] = []

    @property
    def is_up(self) -> bool:
        """Whether it lives; what stands still lives too."""
        return self.life > 0 and not self.process.is_dead

    def start(self) -> None:
        """Begin another life, with what the disk holds."""
        self.life += 1
        self._world.trace.add(self.id, f"starts, life {self.life}")
        self.process = Process(asyncio.get_running_loop(), self.id, self._on_death)
        self._world.processes.append(self.process)
        self.process.spawn(f"node {self.id}", self._run())

    def kill(self) -> None:
        """Let the power fail."""
        self.process.kill()
        self._on_death()

    def receive(self, sender: int, channel: int, payload: bytes, messages: Messages) -> None:
        """A frame arrives."""
        self.process.post(self._take, sender, channel, payload, messages)

    def on_peer_down(self, peer: int) -> None:
        """The transport has lost a connection."""
        self.process.post(self._lose_peer, peer)

    # -- inside its process --------------------------------------------------------------------

    def _take(self, sender: int, channel: int, payload: bytes, messages: Messages) -> None:
        if self._host is None:
            return
        if channel == Channel.RAFT:
            self._world.checks.on_received(self.id, messages)
            self._host.on_frame(sender, payload)
        else:
            self._host.on_snapshot_frame(sender, payload)

    def _lose_peer(self, peer: int) -> None:
        if self._host is not None:
            self._host.on_peer(peer, up=False)

    async def _run(self) -> None:
        try:
            await self._serve()
        except DatabaseUnavailable as error:
            self._world.trace.add(self.id, "can't start:", str(error))
        except StorageError as error:
            hangs = self.disk.hangs and isinstance(error, WriteHangs)
            expected = self.disk.fails_next_sync or hangs
            self._world.trace.require(self.id, expected, "stops: {}", error)
        except Exception as error:  # noqa: BLE001  (whatever it is, it is what the simulation looks for)
            self._world.trace.violate(self.id, f"fails: {error!r}")
        self.process.burn_fuse(1)
        await asyncio.sleep(0)

    async def _serve(self) -> None:
        plan, dice, disk = self._world.plan, self.dice, self.disk
        log_worker, database_worker, file_worker = self._workers = [
            SimWorker(self._log_seconds),
            SimWorker(lambda: plan.flush_seconds * (1 + dice.randrange(1000)) / 4000),
            SimWorker(
                lambda: 0.001 * (1 + dice.randrange(20)) + disk.file_seconds, disk.check_files
            ),
        ]
        databases = SimDatabases(
            self.disk, database_worker, dice, lambda: plan.snapshot_padding, self._tell
        )
        host = RaftHost(
            HostConfig(
                node=self.id,
                snapshot_folder=self.disk.folder,
                tick_ms=TICK_MS,
                election_tick=plan.election_tick,
                log_margin_entries=plan.log_margin_entries,
                log_margin_seconds=0.0,
                log_write_seconds=_HANGING_SECONDS,
                snapshot_idle_seconds=2.0,
            ),
            log=SimLog(self.disk),
            log_thread=log_worker,
            peers=SimPeers(self._world.network, self.id),
            snapshots=databases,
            file_thread=file_worker,
            clock=self.clock,
            dice=dice,
        )
        await host.finish_snapshots()
        services = {}
        for group in self._world.groups:
            service = self._open(host, group, databases)
            if service is not None:
                services[group] = service
        self.services = services
        self._host = host
        async with Supervisor() as supervisor:
            supervisor.spawn("host", host.run())
            for service in services.values():
                supervisor.spawn(service.name, service.run())
            await supervisor.wait()

    def _log_seconds(self) -> float:
        if self.disk.hangs:
            return _FOR_EVER
        return self._world.plan.log_seconds * (1 + self.dice.randrange(1000)) / 1000

    def _open(self, host: RaftHost, group: int, databases: SimDatabases) -> ListService | None:
        state = databases.read(group)
        try:
            handle = host.add_group(
                group, self._world.founders, applied=state.applied, applied_term=state.term
            )
        except (CorruptData, CorruptState) as error:
            self._world.isolate(self.id, group, error)
            return None
        self._world.checks.groups[group].on_start(self.id, self.disk.written[group], state)
        proposer = self.id << 32 | self.life
        return ListService(
            self.id,
            proposer,
            handle,
            databases,
            self.clock,
            self._world.checks,
            self._flush_pause,
        )

    def _flush_pause(self) -> float:
        """Mostly short, sometimes as long as the plan allows: then others are far ahead."""
        return self._world.plan.flush_seconds * ((1 + self.dice.randrange(1000)) / 1000) ** 4

    def _on_note(self) -> None:
        self._world.nemesis.on_note(self)

    def _tell(self, what: str, group: int, index: int) -> None:
        self._world.trace.add(self.id, f"{what} of group {group} at {index}")

    # -- outside -------------------------------------------------------------------------------

    def _on_death(self) -> None:
        self.crashes += 1
        self._world.trace.add(self.id, "dies")
        self.services = {}
        self._host = None
        for worker in self._workers:
            worker.die(self.dice)
        self.disk.cut_power()
        if "damage" in self._world.plan.classes and self.dice.randrange(2):
            self.disk.spoil_files()
        self._world.network.on_death(self.id)
        self._world.restart_later(self)


class World:
    """One seed's cluster, from its start to its last check."""

    def __init__(self, seed: int, options: Options, folder: Path, kept: int | None) -> None:
        loop = asyncio.get_running_loop()
        self.seed = seed
        self.processes: list[Process] = []
        dice = self._dice("plan")
        self.plan: Plan = draw(dice, options.faults)
        self.groups: Sequence[int] = range(1, 2 + dice.randrange(2))
        self.founders = tuple(range(1, options.nodes + 1))
        self.trace = Trace(loop, kept)
        self.nodes: dict[int, Node] = {}
        self._disks: dict[int, Disk] = {}
        self._options = options
        self._folder = folder
        self._loop = loop
        self._outside = contextvars.copy_context()
        conf = ConfState(voters=self.founders)
        self.checks = Checks(
            dict.fromkeys(self.groups, conf), self._disks, self.trace, self._leases, loop.time
        )
        self.network = Network(loop, self._dice("network"), self.trace, self.checks.on_sent)
        self._clients = Clients(self, self.plan, self._dice("clients"), self.checks.on_question)
        self.recovery = Recovery(self, self._clients, self._dice("recovery"))
        self._growth = Growth(self.plan.log_margin_entries)
        self.nemesis = Nemesis(self, self.plan, self._dice("nemesis"), self.trace)

    # -- the life of a cluster -----------------------------------------------------------------

    async def run(self) -> Outcome:
        """Hardship, recovery, and the verdict."""
        self._loop.set_exception_handler(self._on_error)
        with self.trace.hear_logs(hide=str(self._folder)):
            faults = ", ".join(self.plan.classes) or "none"
            self.trace.add(WORLD, f"begins: {len(self.groups)} groups, faults: {faults}")
            self.network.weather = self.plan.weather
            for node in self.founders:
                self._add(node)
            tasks = [
                self._loop.create_task(coroutine)
                for coroutine in (self._clients.run(), self.nemesis.run(), self._look_again())
            ]
            await self.wait(self._options.ticks * TICK_MS / 1000)
            tasks.pop(1).cancel()
            if not self.trace.violation:
                await self.recovery.run()
            tasks.pop(0).cancel()
            tasks.pop(0).cancel()
            if not self.trace.violation:
                self._judge()
            outcome = self._outcome()
            await self._bury()
        return outcome

    async def wait(self, seconds: float) -> None:
        """For so long, or until a promise is broken."""
        try:
            async with asyncio.timeout(seconds):
                await self.trace.ended.wait()
        except TimeoutError:
            return

    def _judge(self) -> None:
        for group, checks in self.checks.groups.items():
            operations = [
                operation for operation in self._clients.operations if operation.group == group
            ]
            fault = history.check(operations, checks.places, checks.digests)
            if fault is not None:
                self.trace.violate(WORLD, f"group {group} isn't linearizable: {fault}")

    async def _bury(self) -> None:
        """Cancel everything that is left, dead or alive: what it does now, nobody sees."""
        for process in self.processes:
            process.is_dead = True
            process.bury()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- what others ask of it -----------------------------------------------------------------

    @property
    def victims(self) -> Sequence[Node]:
        """All nodes, up or not."""
        return list(self.nodes.values())

    def conf(self, group: int) -> ConfState:
        """The newest membership that is known to be committed."""
        return self.checks.groups[group].conf

    def is_safe(self, conf: ConfState, group: int, without: int) -> bool:
        """Tell whether each half has a majority, of nodes whose replica isn't damaged, without this one."""
        return all(
            2 * sum(self._is_healthy(node, group) and node != without for node in half) > len(half)
            for half in (conf.voters, conf.voters_outgoing)
            if half
        )

    def newcomer(self) -> int | None:
        """Another node, running, and of no group yet."""
        node = len(self.nodes) + 1
        if node > self._options.nodes + _SPARE_NODES:
            return None
        self._add(node)
        return node

    def isolate(self, node: int, group: int, error: BaseException) -> None:
        """A replica is out of service, as only damage may bring about."""
        checks = self.checks.groups[group]
        if node in checks.isolated:
            return
        self.trace.add(node, f"is out of service in group {group}:", str(error))
        expected = isinstance(error, CorruptData) and group in self.nodes[node].disk.damaged
        self.trace.require(node, expected, "stops group {}: {!r}", group, error)
        checks.isolated[node] = None

    def restart_later(self, node: Node) -> None:
        """It has died, and comes back unless it is to stay down."""
        if node.id not in self.recovery.stays_down:
            seconds = self.plan.restart_seconds * (1 + node.dice.randrange(1000)) / 1000
            self._loop.call_later(seconds, self._restart, node, context=self._outside)

    # -- inside --------------------------------------------------------------------------------

    def _restart(self, node: Node) -> None:
        if not node.is_up and node.id not in self.recovery.stays_down:
            node.start()

    def _add(self, node: int) -> None:
        made = self.nodes[node] = Node(self, node, self._folder / str(node))
        self._disks[node] = made.disk
        self.network.nodes[node] = made
        made.start()

    def _is_healthy(self, node: int, group: int) -> bool:
        return node in self.nodes and group not in self.nodes[node].disk.damaged

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for node in self.nodes.values():
                for group, service in node.services.items():
                    if service.group.error is not None:
                        self.isolate(node.id, group, service.group.error)
                        continue
                    grown = self._growth.look(node.id, node.life, service.group, self._loop.time())
                    self.trace.require(node.id, not grown, "{}, in group {}", grown, group)

    def _leases(self, group: int) -> Leases:
        seconds = Leases.of_ticks(self.plan.election_tick, TICK_MS / 1000)
        return Leases(
            seconds,
            lambda node: self.nodes[node].clock.monotonic(),
            lambda node, what: self.trace.violate(node, f"group {group}: {what}"),
        )

    def _dice(self, stream: str) -> Random:
        return Random(f"{self.seed} {stream}")  # noqa: S311  (nobody's secret)

    def _on_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        self.trace.violate(WORLD, f"{context.get('message')}: {error!r}")

    def _outcome(self) -> Outcome:
        groups = self.checks.groups.values()
        return Outcome(
            violation=self.trace.violation,
            digest=self.trace.digest(),
            lines=tuple(self.trace.lines()),
            seconds=self._loop.time(),
            events=self.trace.count,
            operations=len(self._clients.operations),
            committed=sum(len(group.committed) for group in groups),
            leaders=sum(len(group.leaders) for group in groups),
            crashes=sum(node.crashes for node in self.nodes.values()),
            restored=self.checks.restored,
            members_changed=sum(len(group.confs) - 1 for group in groups),
            isolated=sum(len(group.isolated) for group in groups),
        )
