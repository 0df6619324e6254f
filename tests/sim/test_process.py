"""Processes that die between two awaits: nothing of theirs runs any more, not even what always does."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from mas.sim import run_virtual
from mas.sim.process import Process


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        self.lines.append(line)


async def count(log: Log, name: str) -> None:
    try:
        for number in range(100):
            log.add(f"{name}{number}")
            await asyncio.sleep(1)
    finally:
        log.add(f"{name} ends")


def make(log: Log, work: Coroutine[Any, Any, None]) -> Process:
    process = Process(asyncio.get_running_loop(), 1, lambda: log.add("dead"))
    process.spawn("work", work)
    return process


async def bury(*processes: Process) -> None:
    """Let the loop end without waiting for the dead."""
    for process in processes:
        process.bury()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def test_the_dead_run_nothing_not_even_their_finally() -> None:
    async def main() -> None:
        log = Log()
        process = make(log, count(log, "a"))
        await asyncio.sleep(2.5)
        process.kill()
        await asyncio.sleep(10)
        assert log.lines == ["a0", "a1", "a2"]
        process.thaw()
        process.post(log.add, "posted")
        await asyncio.sleep(10)
        assert log.lines == ["a0", "a1", "a2"]
        await bury(process)

    run_virtual(main())


def test_what_a_process_begins_is_its_own() -> None:
    """Tasks of tasks, and callbacks of timers: all of it dies with the process."""

    async def parent(log: Log) -> None:
        loop = asyncio.get_running_loop()
        loop.create_task(count(log, "child"))  # noqa: RUF006  (kept by the loop for as long as it sleeps)
        loop.call_later(5, log.add, "timer")
        await count(log, "parent")

    async def main() -> None:
        log = Log()
        process = make(log, parent(log))
        await asyncio.sleep(0.5)
        process.kill()
        await asyncio.sleep(10)
        assert sorted(log.lines) == ["child0", "parent0"]
        await bury(process)

    run_virtual(main())


def test_a_fuse_burns_step_by_step() -> None:
    async def main() -> None:
        log = Log()
        process = make(log, count(log, "a"))
        process.burn_fuse(
            3
        )  # one step begins the task; then each second takes two, a timer's and the task's
        await asyncio.sleep(10)
        assert log.lines == ["a0", "dead"]
        assert process.is_dead
        await bury(process)

    run_virtual(main())


def test_the_frozen_go_on_where_they_stood() -> None:
    async def main() -> None:
        log = Log()
        process = make(log, count(log, "a"))
        await asyncio.sleep(1.5)
        process.freeze()
        process.post(log.add, "posted")
        await asyncio.sleep(10)
        assert log.lines == ["a0", "a1"]
        process.thaw()
        await asyncio.sleep(0.1)
        assert log.lines == ["a0", "a1", "posted", "a2"]
        process.kill()
        await bury(process)
        assert log.lines[-1] == "a ends"

    run_virtual(main())
