"""One write for all groups, and the loop's turns behind it."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import pytest

from mas.multiraft.writer import LogWriter
from mas.storage.raft_log.memory import MemoryRaftLog

T = TypeVar("T")


class Inline:
    """Works at once."""

    async def run(self, work: Callable[[], T]) -> T:
        return work()


@pytest.mark.asyncio
async def test_behind_a_write_for_many_groups_others_get_their_turn() -> None:
    writer = LogWriter(MemoryRaftLog(), Inline(), seconds_max=20)
    finished: list[int] = []
    for number in range(300):
        writer.submit(lambda number=number: finished.append(number), sync=True)
    task = asyncio.get_running_loop().create_task(writer.run())

    seen = []
    while len(finished) < 300:
        await asyncio.sleep(0)
        seen.append(len(finished))
    task.cancel()

    assert finished == list(range(300))
    assert writer.commits == 1
    assert {128, 256} <= set(seen)
