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
from tests.strange import values_of

FRAMES = values_of(snapshots.SnapshotMessage).map(lambda tree: msgspec.msgpack.encode([1, tree]))


@given(frames=st.lists(FRAMES, min_size=1, max_size=30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
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
