"""Three nodes of the Raft benchmark as processes on loopback, in a temporary directory, and how it stands with them."""

import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
import msgspec

from mas.bench import raft_wire as wire
from mas.bench.processes import BenchFailed
from mas.bench.raft_client import open_channel
from mas.bench.raft_node import Settings
from mas.bench.raft_wire import Applied, GroupState
from mas.runtime import SystemClock
from mas.testing.local_cluster import free_ports
from mas.testing.program import Program, end_all

NODES = (1, 2, 3)
_START_SECONDS = 120.0
_SETTLE_SECONDS = 60.0
_POLL_SECONDS = 0.05


class RaftCluster:
    """Nodes that end, and whose files go, with the block."""

    def __init__(self, groups: int, *, log_margin_entries: int = 10_000) -> None:
        self.groups = groups
        self._clock = SystemClock()
        self._temporary = tempfile.TemporaryDirectory(prefix="mas-raft-bench-")
        self._channels: dict[int, grpc.aio.Channel] = {}
        ports = free_ports(2 * len(NODES))
        self.addresses = {
            node: f"127.0.0.1:{port}" for node, port in zip(NODES, ports, strict=False)
        }
        peers = {
            node: f"127.0.0.1:{port}" for node, port in zip(NODES, ports[len(NODES) :], strict=True)
        }
        self.nodes: dict[int, Program] = {}
        for node in NODES:
            directory = Path(self._temporary.name) / str(node)
            directory.mkdir()
            settings = Settings(
                node=node,
                peers=peers,
                api=self.addresses[node],
                directory=str(directory),
                groups=groups,
                log_margin_entries=log_margin_entries,
            )
            file = directory / "settings.json"
            file.write_bytes(msgspec.json.encode(settings))
            command = [sys.executable, "-m", "mas.bench.raft_node", str(file)]
            self.nodes[node] = Program(command, directory / "log")

    async def __aenter__(self) -> Self:
        try:
            for program in self.nodes.values():
                program.start()
            for node in NODES:
                self._channels[node] = open_channel(self.addresses[node])
                await self.wait_ready(node)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        for channel in self._channels.values():
            await channel.close(None)
        end_all(self.nodes.values())
        self._temporary.cleanup()

    async def wait_ready(self, node: int) -> None:
        """Until it says that it serves.

        Raises:
            BenchFailed: its process ended, or that took too long; the message ends with its log.
        """
        deadline = self._clock.monotonic() + _START_SECONDS
        program = self.nodes[node]
        while " is ready" not in program.log():
            if not program.is_running() or self._clock.monotonic() > deadline:
                raise BenchFailed(f"raft node {node} doesn't serve; its log:\n{program.log()}")
            await self._clock.sleep(_POLL_SECONDS)

    def channel(self, node: int) -> grpc.aio.Channel:
        """To the node's API; it lasts as long as the cluster."""
        return self._channels[node]

    async def states(self) -> dict[int, tuple[GroupState, ...]]:
        """Every group as each node knows it."""
        return {node: await self._state(node) for node in NODES}

    async def _state(self, node: int) -> tuple[GroupState, ...]:
        call = self._channels[node].unary_unary(
            wire.STATE, request_serializer=bytes, response_deserializer=wire.decode_states
        )
        state: tuple[GroupState, ...] = await call(b"", wait_for_ready=True, timeout=_START_SECONDS)
        return state

    async def wait_leaders(self) -> dict[int, int]:
        """Until every group has one, how many lead at each node.

        Raises:
            BenchFailed: some have none in time.
        """
        deadline = self._clock.monotonic() + _START_SECONDS
        while True:
            leads = {
                node: sum(group.leading for group in groups)
                for node, groups in (await self.states()).items()
            }
            missing = self.groups - sum(leads.values())
            if not missing:
                return leads
            if self._clock.monotonic() > deadline:
                raise BenchFailed(f"{missing} of {self.groups} groups have no leader")
            await self._clock.sleep(_POLL_SECONDS)

    async def check(self, committed: dict[int, Applied]) -> None:
        """Tell whether every node has applied, in every group, just what was answered as committed.

        Raises:
            BenchFailed: something is lost, or nobody was told of it; the figures are worth nothing.
        """
        deadline = self._clock.monotonic() + _SETTLE_SECONDS
        while True:
            wrong = differences(committed, await self.states())
            if not wrong:
                return
            if self._clock.monotonic() > deadline:
                raise BenchFailed(f"not what was answered as committed: {wrong[0]}")
            await self._clock.sleep(_POLL_SECONDS)


def differences(
    committed: dict[int, Applied], states: dict[int, tuple[GroupState, ...]]
) -> list[str]:
    """Find where a node hasn't applied just what was answered as committed; empty where all have."""
    wrong: list[str] = []
    for node, groups in states.items():
        for group in groups:
            wanted = committed.get(group.group, Applied())
            if (group.count, group.digest) != (wanted.count, wanted.digest):
                wrong.append(
                    f"node {node} has applied {group.count} entries in group {group.group} "
                    f"(digest {group.digest:x}), {wanted.count} were answered (digest {wanted.digest:x})"
                )
    return wrong
