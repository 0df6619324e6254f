"""Frames of a peer with a fault, well formed and without sense: its connection ends at most, never the node."""

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mas.errors import NetworkError
from mas.multiraft import snapshots
from mas.multiraft.frames import RaftFrame
from tests.strange import values_of

FRAMES = values_of(snapshots.SnapshotMessage).map(lambda tree: msgspec.msgpack.encode([1, tree]))


@given(frames=st.lists(FRAMES, min_size=1, max_size=30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
def test_kind_4_strange_snapshot_frames_end_no_node(
    make_cluster: Callable[[Path], Any], frames: list[bytes]
) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            cluster = make_cluster(Path(folder))
            await cluster.start(nodes=(1,))
            node = await cluster.leader()
            await cluster.propose(node, b"first")
            for frame in frames:
                for peer in (2, 9):
                    try:
                        node.host.on_snapshot_frame(peer, frame)
                    except NetworkError:
                        continue
            await asyncio.sleep(0.02)
            await cluster.propose(node, b"still there")
            await node.kill()

    asyncio.run(run())


RAFT_FRAMES = values_of(RaftFrame).map(msgspec.msgpack.encode)


@given(sent=st.lists(RAFT_FRAMES, min_size=1, max_size=10))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
def test_kind_4_strange_raft_frames_end_no_node(
    make_cluster: Callable[[Path], Any], sent: list[bytes]
) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            cluster = make_cluster(Path(folder))
            await cluster.start()
            leader = await cluster.leader()
            await cluster.propose(leader, b"first")
            for frame in sent:
                for node in cluster.nodes.values():
                    node.host.on_frame(node.id % 3 + 1, frame)  # from another member
                    node.host.on_frame(9, frame)  # from none
            await asyncio.sleep(0.05)
            # A replica that is told what can't be may stop, alone: its node goes on.
            assert not [node.id for node in cluster.nodes.values() if node.task.done()]
            for node in cluster.nodes.values():
                await node.kill()

    asyncio.run(run())
