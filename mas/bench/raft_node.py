"""A node of the Raft benchmark: MAS's own host, log and transport, under a state machine that only counts.

    python -m mas.bench.raft_node SETTINGS.json

Everything below the AccountService is as in `mas serve`; it answers proposals over gRPC (`raft_wire`). Nothing but the log is
kept: a node that starts again applies it from its beginning, so `log_margin_entries` says how long that works.
"""

import asyncio
import gc
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import msgspec
import uvloop

from mas.api.server import SERVER_OPTIONS
from mas.bench import raft_wire as wire
from mas.bench.raft_wire import Answer, Applied, Batch, GroupState
from mas.channels import Channel
from mas.daemon.main import stop_on_failure
from mas.errors import DatabaseUnavailable, NotLeading, Overloaded
from mas.multiraft import (
    Committed,
    HostConfig,
    Leadership,
    RaftGroup,
    RaftHost,
    ReadReady,
    Restored,
    WorkerThread,
)
from mas.network.handshake import Identity
from mas.network.transport import PeerTransport
from mas.raft import Entry, EntryType, SnapshotMetadata
from mas.runtime import Mailbox, Promise, Supervisor, SystemClock, SystemDice
from mas.storage.raft_log.rocksdb import RocksRaftLog
from mas.telemetry import setup_logging

_CLUSTER = "raft-bench"
_SECRET = b"of a benchmark on loopback"
_ANSWERS = 65_536
_GRACE_SECONDS = 0.1

Answering = Callable[[Answer], object]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One node of a cluster on loopback."""

    node: int
    peers: dict[int, str]
    """Addresses by node, this one's included."""
    api: str
    """Where it serves the load."""
    directory: str
    groups: int
    """Numbered from 1; every node has a replica of each."""
    log_margin_entries: int = 10_000


class _Waiting:
    """A batch of this leader's, until all of it is applied."""

    __slots__ = ("_answer", "_left", "_number")

    def __init__(self, batch: Batch, answer: Answering) -> None:
        self._number = batch.number
        self._left = len(batch.payloads)
        self._answer = answer

    def applied(self, index: int) -> None:
        """One more of its entries; the last one answers."""
        self._left -= 1
        if not self._left:
            self._answer(Answer(self._number, index))

    def give_up(self, leader: int) -> None:
        """Nobody knows about some entry of it; only the first word counts."""
        if self._left > 0:
            self._left = 0
            self._answer(Answer(self._number, 0, leader))


class Machine:
    """The state of one group: each client's entries, once each and in order."""

    def __init__(self, node: int, group: RaftGroup) -> None:
        self._node = node
        self._group = group
        self._leadership = Leadership(0, 0, leading=False)
        self._sequences: dict[int, int] = {}
        self._index = 0
        self._applied = Applied()
        self._waiting: dict[tuple[int, int], _Waiting] = {}

    def propose(self, batch: Batch, answer: Answering) -> None:
        """Answered once all of it is applied, or once this node can't tell."""
        if not self._leadership.leading:
            answer(Answer(batch.number, 0, self._leadership.leader))
            return
        waiting = _Waiting(batch, answer)
        for payload in batch.payloads:
            client, sequence = wire.name_of(payload)
            self._waiting[client, sequence] = waiting
            try:
                self._group.propose(client << 32 | sequence, payload)
            except Overloaded:
                waiting.give_up(self._node)
                return

    async def apply(self) -> None:
        """Apply what is committed, until cancelled."""
        while True:
            for event in await self._group.commit_c.drain():
                match event:
                    case Committed():
                        for entry in event.entries:
                            self._apply(entry)
                        self._group.set_applied(self._index, self._index)
                    case Leadership():
                        self._leadership = event
                        self._forget_all()
                    case ReadReady() | Restored():
                        raise AssertionError(f"nobody asked for {event}")

    async def hear_refusals(self) -> None:
        """Pass on what the group doesn't take, until cancelled."""
        while True:
            for refused in await self._group.error_c.drain():
                waiting = self._waiting.pop(divmod(refused.number, 1 << 32), None)
                if waiting is not None:
                    error = refused.error
                    waiting.give_up(error.leader if isinstance(error, NotLeading) else self._node)

    def state(self) -> GroupState:
        """As it stands."""
        leadership, applied = self._leadership, self._applied
        return GroupState(
            self._group.id,
            leadership.leader,
            leadership.leading,
            self._index,
            applied.count,
            applied.digest,
        )

    def _apply(self, entry: Entry) -> None:
        self._index = entry.index
        if entry.type is not EntryType.NORMAL or not entry.data:
            return
        client, sequence = name = wire.name_of(entry.data)
        last = self._sequences.get(client, 0)
        if sequence == last + 1:
            self._sequences[client] = sequence
            self._applied.add((entry.data,))
        waiting = self._waiting.pop(name, None)
        if waiting is None:
            return
        if sequence <= last + 1:
            waiting.applied(entry.index)
        else:
            waiting.give_up(self._node)  # one before it was not taken

    def _forget_all(self) -> None:
        """Another leader, or none, or this one in another term: what was proposed may never be committed."""
        lost, self._waiting = self._waiting, {}
        for waiting in lost.values():
            waiting.give_up(self._leadership.leader)


class _Service:
    """The gRPC side."""

    def __init__(self, machines: dict[int, Machine]) -> None:
        self._machines = machines

    def handlers(self) -> "grpc.GenericRpcHandler[Batch, Answer]":
        return grpc.method_handlers_generic_handler(
            wire.SERVICE,
            {
                "Propose": grpc.unary_unary_rpc_method_handler(
                    self._propose, wire.decode_batch, wire.encode
                ),
                "Stream": grpc.stream_stream_rpc_method_handler(
                    self._stream, wire.decode_batches, wire.encode
                ),
                "State": grpc.unary_unary_rpc_method_handler(
                    self._state, response_serializer=wire.encode
                ),
            },
        )

    async def _propose(
        self, batch: Batch, context: grpc.aio.ServicerContext[Batch, Answer]
    ) -> Answer:
        answered: Promise[Answer] = Promise()
        self._machines[batch.group].propose(batch, answered.set)
        return await answered

    async def _stream(
        self,
        messages: AsyncIterator[tuple[Batch, ...]],
        context: grpc.aio.ServicerContext[tuple[Batch, ...], list[Answer]],
    ) -> None:
        answers: Mailbox[Answer] = Mailbox("answers", _ANSWERS)

        async def write() -> None:
            while True:
                await context.write(await answers.drain())

        async with Supervisor() as supervisor:
            supervisor.spawn("answers", write())
            async for batches in messages:
                for batch in batches:
                    # A client that is gone, and has no room for an answer, gets none.
                    self._machines[batch.group].propose(batch, answers.offer)

    async def _state(
        self, _: bytes, context: grpc.aio.ServicerContext[bytes, list[GroupState]]
    ) -> list[GroupState]:
        return [machine.state() for machine in self._machines.values()]


class _NoSnapshots:
    """A `multiraft.ports.SnapshotFiles` of a node that keeps no state outside its log."""

    def room_for(self, size: int) -> bool:
        return size == 0

    async def export(self, group: int, path: Path) -> SnapshotMetadata:
        raise DatabaseUnavailable(f"group {group} of a benchmark has no snapshots")

    async def check(self, group: int, path: Path) -> SnapshotMetadata:
        raise DatabaseUnavailable(f"group {group} of a benchmark has no snapshots")

    async def install(self, group: int, path: Path) -> None:
        raise DatabaseUnavailable(f"group {group} of a benchmark has no snapshots")


async def serve(settings: Settings) -> None:
    """Run the node until SIGINT or SIGTERM.

    Raises:
        MasError: a part of it has failed.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    log = RocksRaftLog.open(Path(settings.directory) / "raft", _CLUSTER, settings.node)
    threads = WorkerThread("raft-log"), WorkerThread("snapshots")
    try:
        async with Supervisor() as watch, Supervisor() as parts:
            watch.spawn("watch", stop_on_failure(parts, stop))
            await _start(settings, log, threads, parts)
            await stop.wait()
    finally:
        for thread in threads:
            thread.close()
        log.close()


async def _start(
    settings: Settings,
    log: RocksRaftLog,
    threads: tuple[WorkerThread, WorkerThread],
    parts: Supervisor,
) -> None:
    transport = _make_transport(settings)
    host = RaftHost(
        HostConfig(
            node=settings.node,
            snapshot_folder=Path(settings.directory) / "snapshots",
            log_margin_entries=settings.log_margin_entries,
        ),
        log=log,
        log_thread=threads[0],
        peers=transport,
        snapshots=_NoSnapshots(),
        file_thread=threads[1],
        clock=SystemClock(),
        dice=SystemDice(),
    )
    await host.finish_snapshots()
    machines = _add_groups(settings, host, parts)
    transport.on_frame(Channel.RAFT, host.on_frame)
    transport.on_frame(Channel.SNAPSHOT, host.on_snapshot_frame)
    transport.on_peer(host.on_peer)
    await transport.start()
    parts.spawn(transport.name, transport.run())
    parts.spawn(host.name, host.run())
    parts.spawn("api", _serve_api(settings, _Service(machines)))


def _make_transport(settings: Settings) -> PeerTransport:
    host, _, port = settings.peers[settings.node].rpartition(":")
    transport = PeerTransport(
        Identity(_CLUSTER, settings.node, _SECRET),
        host=host,
        port=int(port),
        clock=SystemClock(),
        dice=SystemDice(),
    )
    for peer, address in settings.peers.items():
        if peer != settings.node:
            transport.add_peer(peer, address)
    return transport


def _add_groups(settings: Settings, host: RaftHost, supervisor: Supervisor) -> dict[int, Machine]:
    machines: dict[int, Machine] = {}
    for group in range(1, settings.groups + 1):
        machine = Machine(settings.node, host.add_group(group, tuple(settings.peers)))
        supervisor.spawn(f"apply {group}", machine.apply())
        supervisor.spawn(f"refusals {group}", machine.hear_refusals())
        machines[group] = machine
    return machines


async def _serve_api(settings: Settings, service: _Service) -> None:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((service.handlers(),))
    server.add_insecure_port(settings.api)
    await server.start()
    gc.collect()
    gc.freeze()
    print(f"raft node {settings.node} is ready", flush=True)  # noqa: T201 - for whoever started it
    try:
        await server.wait_for_termination()
    finally:
        await server.stop(_GRACE_SECONDS)


def main() -> None:
    """Read the settings, and serve."""
    settings = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Settings)
    setup_logging()
    uvloop.run(serve(settings))


if __name__ == "__main__":
    main()
