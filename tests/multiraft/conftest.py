"""Nodes in one event loop: real hosts over logs in memory, and a network, databases and disks that do as they are told.

The loop's time is virtual, so that no election depends on how busy the machine is.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import TypeVar

import msgspec
import pytest
import pytest_asyncio

from mas.errors import CorruptData
from mas.multiraft import (
    Committed,
    HostConfig,
    Leadership,
    RaftGroup,
    RaftHost,
    ReadReady,
    Refused,
    Restored,
)
from mas.raft import ConfState, EntryType, SnapshotMetadata
from mas.sim.loop import VirtualLoop
from mas.storage.raft_log.memory import MemoryRaftLog

T = TypeVar("T")

_WORK_SECONDS = 0.0002
"""What a disk takes for a piece of work."""


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Clusters live on virtual time; what has threads of its own doesn't."""
    if "cluster" in getattr(item, "fixturenames", ()):
        return {"virtual": VirtualLoop}
    return {"real": asyncio.new_event_loop}


class LoopClock:
    """The loop's own time, which may be virtual."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def now_us(self) -> int:
        return round(1e6 * self.monotonic())

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Disk:
    """Fits `multiraft.ports.Worker`: one piece of work after the other, and none while the gate is shut.

    As with a thread, who is cancelled doesn't keep a disk from ending what was handed to it.
    """

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task] = set()

    async def run(self, work: Callable[[], T]) -> T:
        task = asyncio.get_running_loop().create_task(self._run(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _run(self, work: Callable[[], T]) -> T:
        async with self._turn:
            self.waiting += 1
            await self.gate.wait()
            self.waiting -= 1
            await asyncio.sleep(_WORK_SECONDS)
            return work()

    async def close(self) -> None:
        """End what was begun; what hasn't begun never will be."""
        self.gate.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Rows(msgspec.Struct, array_like=True):
    """A bucket's rows: everything it has ever applied."""

    applied: int = 0
    term: int = 0
    data: list[bytes] = []


class Log(MemoryRaftLog):
    """Counts its commits, and keeps them waiting while the gate of its disk is shut."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = Disk()
        self.commits: list[tuple[list, bool]] = []

    @property
    def gate(self) -> asyncio.Event:
        return self.disk.gate

    @property
    def waiting(self) -> int:
        return self.disk.waiting

    def write(self, changes: list, *, sync: bool) -> None:
        self.commits.append((changes, sync))
        super().write(changes, sync=sync)


class Network:
    """Every frame that was sent, and where none may go."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {}
        self.cut: list[int] = []
        self.sent: list[tuple[int, int, int, bytes]] = []
        self.losses: list[int] = []
        """Channels of which the next frame is lost."""

    def carries(self, one: int, other: int) -> bool:
        alive = other in self.nodes and self.nodes[other].is_running
        return alive and one not in self.cut and other not in self.cut

    def deliver(self, sender: int, to: int, channel: int, payload: bytes) -> None:
        if not self.carries(sender, to):
            return
        if channel in self.losses:
            self.losses.remove(channel)
            return
        host = self.nodes[to].host
        (host.on_frame if channel == 1 else host.on_snapshot_frame)(sender, payload)


class Peers:
    def __init__(self, node: int, network: Network) -> None:
        self._node, self._network = node, network

    def send(self, peer: int, channel: int, payload: bytes) -> bool:
        if not self._network.carries(self._node, peer):
            return False
        self._network.sent.append((self._node, peer, channel, payload))
        deliver = self._network.deliver
        asyncio.get_running_loop().call_soon(deliver, self._node, peer, channel, payload)
        return True

    def is_connected(self, peer: int) -> bool:
        return self._network.carries(self._node, peer)


class Files:
    """Snapshots of a node's databases, each padded so that it takes several pieces."""

    def __init__(self, databases: dict[int, Rows]) -> None:
        self._databases = databases
        self.padding = 700_000
        self.exports = self.installs = 0
        self.room = 1 << 40
        """Bytes that snapshots may take."""

    def room_for(self, size: int) -> bool:
        return self.room >= size

    async def export(self, group: int, path: Path) -> SnapshotMetadata:
        self.exports += 1
        rows = self._databases[group]
        path.write_bytes(msgspec.msgpack.encode((rows, bytes(self.padding))))
        return SnapshotMetadata(rows.applied, rows.term, ConfState())

    async def check(self, group: int, path: Path) -> SnapshotMetadata:
        rows = self._read(path)
        return SnapshotMetadata(rows.applied, rows.term, ConfState())

    async def install(self, group: int, path: Path) -> None:
        self.installs += 1
        self._databases[group] = self._read(path)

    def _read(self, path: Path) -> Rows:
        try:
            return msgspec.msgpack.decode(path.read_bytes(), type=tuple[Rows, bytes])[0]
        except msgspec.DecodeError as error:
            raise CorruptData(str(error)) from error


class Machine:
    """Keeps one group's state, as the AccountService does, and every event that it heard."""

    def __init__(self, group: RaftGroup, databases: dict[int, Rows]) -> None:
        self.group = group
        self.databases = databases
        rows = databases.setdefault(group.id, Rows())
        self.applied, self.data = rows.applied, list(rows.data)
        self.term = rows.term
        self.events: list = []
        self.refused: list[Refused] = []
        self.flushes = True
        self.is_open = asyncio.Event()
        self.is_open.set()

    @property
    def is_leading(self) -> bool:
        changes = [event for event in self.events if isinstance(event, Leadership)]
        return bool(changes) and changes[-1].leading

    async def run(self) -> None:
        while True:
            await self.is_open.wait()
            for event in await self.group.commit_c.drain():
                self.events.append(event)
                self._take(event)
            self.refused.extend(self.group.error_c.drain_nowait())

    async def run_errors(self) -> None:
        while True:
            self.refused.extend(await self.group.error_c.drain())

    def _take(self, event: object) -> None:
        match event:
            case Committed():
                for entry in event.entries:
                    assert entry.index == self.applied + 1, (entry.index, self.applied)
                    self.applied, self.term = entry.index, entry.term
                    if entry.type is EntryType.NORMAL and entry.data:
                        self.data.append(entry.data)
            case Restored():
                rows = self.databases[self.group.id]
                assert rows.applied == event.index
                self.applied, self.term, self.data = rows.applied, rows.term, list(rows.data)
            case ReadReady():
                assert self.applied >= event.index
        self.flush()

    def flush(self) -> None:
        if self.flushes:
            self.databases[self.group.id] = Rows(self.applied, self.term, list(self.data))
        self.group.set_applied(self.applied, self.databases[self.group.id].applied)


class Node:
    """What survives a crash, and the host that doesn't."""

    def __init__(self, node: int, network: Network, folder: Path, **settings: object) -> None:
        self.id = node
        self.network = network
        network.nodes[node] = self
        self.log = Log()
        self.databases: dict[int, Rows] = {}
        self.files = Files(self.databases)
        self.settings = {"tick_ms": 5, "balance_tick": 1_000_000, "log_margin_seconds": 0.0}
        self.settings |= settings
        self.folder = folder / str(node)
        self.file_disk = Disk()
        self.host: RaftHost
        self.machines: dict[int, Machine] = {}
        self.is_running = False
        self.clock = LoopClock()
        self._tasks: list[asyncio.Task] = []

    async def start(self, groups: dict[int, tuple[int, ...]]) -> None:
        self.log.disk, self.file_disk = Disk(), Disk()
        self.host = RaftHost(
            HostConfig(node=self.id, snapshot_folder=self.folder, **self.settings),
            log=self.log,
            log_thread=self.log.disk,
            peers=Peers(self.id, self.network),
            snapshots=self.files,
            file_thread=self.file_disk,
            clock=self.clock,
            dice=Random(self.id),
        )
        await self.host.finish_snapshots()
        self.machines = {}
        for group, voters in groups.items():
            rows = self.databases.get(group, Rows())
            handle = self.host.add_group(
                group, voters, applied=rows.applied, applied_term=rows.term
            )
            self.machines[group] = Machine(handle, self.databases)
        self.is_running = True
        loop = asyncio.get_running_loop()
        self.task = loop.create_task(self.host.run())
        self._tasks = [self.task]
        for machine in self.machines.values():
            self._tasks += [loop.create_task(machine.run()), loop.create_task(machine.run_errors())]

    async def kill(self) -> None:
        """Like a power cut: what isn't synced is gone."""
        self.is_running = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.log.disk.close()
        await self.file_disk.close()
        self._tasks = []
        self.log.crash()


class Cluster:
    def __init__(self, folder: Path) -> None:
        self.network = Network()
        self.folder = folder
        self.groups: dict[int, tuple[int, ...]] = {}

    @property
    def nodes(self) -> dict[int, Node]:
        return self.network.nodes

    async def start(
        self, nodes: tuple[int, ...] = (1, 2, 3), groups: int = 1, **settings: object
    ) -> None:
        self.groups = dict.fromkeys(range(1, groups + 1), nodes)
        for node in nodes:
            await Node(node, self.network, self.folder, **settings).start(self.groups)

    async def restart(self, node: Node) -> None:
        await node.start(self.groups)

    async def wait(self, condition: Callable[[], object], seconds: float = 10) -> None:
        for node in self.nodes.values():
            if node.is_running and node.task.done():
                await node.task
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.001)

    async def leader(self, group: int = 1) -> Node:
        def leading() -> list[Node]:
            return [
                node
                for node in self.nodes.values()
                if node.is_running
                and node.id not in self.network.cut
                and group in node.machines
                and node.machines[group].is_leading
            ]

        await self.wait(leading)
        return leading()[0]

    def followers(self, leader: Node) -> list[Node]:
        return [node for node in self.nodes.values() if node is not leader and node.is_running]

    async def propose(self, node: Node, *data: bytes, group: int = 1) -> None:
        """Return once the node has applied them."""
        machine = node.machines[group]
        for number, item in enumerate(data):
            machine.group.propose(number, item)
        await self.wait(lambda: data[-1] in machine.data)

    def machines(self, group: int) -> list[Machine]:
        """Of the running nodes that hold the group."""
        running = [node for node in self.nodes.values() if node.is_running]
        return [node.machines[group] for node in running if group in node.machines]

    async def agree(self, *data: bytes, group: int = 1) -> None:
        """Return once every running node has applied this, and nothing else."""
        machines = self.machines(group)
        await self.wait(lambda: all(machine.data == list(data) for machine in machines))

    async def settle(self, group: int = 1) -> None:
        """Return once every running node has applied as much as the others."""
        machines = self.machines(group)
        await self.wait(lambda: len({machine.applied for machine in machines}) == 1)


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    for node in made.nodes.values():
        await node.kill()


@pytest.fixture
def make_node() -> type[Node]:
    return Node


@pytest.fixture
def make_cluster() -> type[Cluster]:
    return Cluster
