"""Tasks stop in the reverse of their order, and a failure is never silent: on asyncio and on uvloop."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from mas.errors import Unavailable
from mas.runtime import Supervisor

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    def run_on_loop(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(main)

    return run_on_loop


Run = Callable[[Coroutine[Any, Any, None]], None]


def _sleeper(seen: list[str], name: str, goodbye: Awaitable[None] | None = None) -> Any:
    async def sleep() -> None:
        seen.append(f"start {name}")
        try:
            await asyncio.Event().wait()
        finally:
            if goodbye is not None:
                await goodbye
            seen.append(f"stop {name}")

    return sleep()


async def _fail(message: str) -> None:
    raise ValueError(message)


def test_tasks_start_in_order_and_stop_in_reverse_each_awaited(run: Run) -> None:
    seen: list[str] = []

    async def main() -> None:
        async with Supervisor() as supervisor:
            for name in "abc":
                # A slow goodbye shows that the next task is not cancelled before this one ended.
                supervisor.spawn(name, _sleeper(seen, name, asyncio.sleep(0.001)))
            await asyncio.sleep(0)

    run(main())
    assert seen == ["start a", "start b", "start c", "stop c", "stop b", "stop a"]


def test_wait_raises_the_failure_of_a_task_and_the_rest_is_stopped(run: Run) -> None:
    seen: list[str] = []

    async def main() -> None:
        async with Supervisor() as supervisor:
            supervisor.spawn("a", _sleeper(seen, "a"))
            supervisor.spawn("broken", _fail("first"))
            await supervisor.wait()

    with pytest.raises(ValueError, match="first"):
        run(main())
    assert seen == ["start a", "stop a"]


def test_a_failure_nobody_waited_for_is_raised_on_leaving_the_block(run: Run) -> None:
    async def main() -> None:
        async with Supervisor() as supervisor:
            supervisor.spawn("broken", _fail("unseen"))
            await asyncio.sleep(0)

    with pytest.raises(ValueError, match="unseen"):
        run(main())


def test_the_first_failure_wins_and_every_failure_is_logged(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        supervisor = Supervisor()
        supervisor.spawn("one", _fail("first"))
        supervisor.spawn("two", _fail("second"))
        with pytest.raises(ValueError, match="first"):
            await supervisor.wait()
        await supervisor.stop()
        with pytest.raises(ValueError, match="first"):
            await supervisor.wait()

    with caplog.at_level(logging.ERROR):
        run(main())
    assert caplog.messages == ["task one failed", "task two failed"]


def test_a_failure_while_stopping_is_not_lost(run: Run) -> None:
    async def bad_goodbye() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("goodbye")

    async def main() -> None:
        async with Supervisor() as supervisor:
            supervisor.spawn("bad", bad_goodbye())
            await asyncio.sleep(0)

    with pytest.raises(ValueError, match="goodbye"):
        run(main())


def test_a_task_may_return_or_be_cancelled_by_its_holder(run: Run) -> None:
    async def main() -> None:
        async with Supervisor() as supervisor:
            short = supervisor.spawn("short", asyncio.sleep(0))
            held = supervisor.spawn("held", _sleeper([], "held"))
            await short
            held.cancel()
            with pytest.raises(asyncio.CancelledError):
                await held
            stop = asyncio.create_task(supervisor.stop())
            await supervisor.wait()
            await stop

    run(main())


def test_stop_is_idempotent_and_nothing_starts_after_it(run: Run) -> None:
    async def main() -> None:
        supervisor = Supervisor()
        supervisor.spawn("a", _sleeper([], "a"))
        await supervisor.stop()
        await supervisor.stop()
        await supervisor.wait()
        with pytest.raises(Unavailable, match="late"):
            supervisor.spawn("late", _sleeper([], "late"))

    run(main())


def test_cancelling_stop_does_not_look_like_the_task_having_stopped(run: Run) -> None:
    seen: list[str] = []

    async def main() -> None:
        may_end = asyncio.Event()
        supervisor = Supervisor()
        supervisor.spawn("slow", _sleeper(seen, "slow", may_end.wait()))
        await asyncio.sleep(0)
        stop = asyncio.create_task(supervisor.stop())
        await asyncio.sleep(0)
        stop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stop
        assert seen == ["start slow"]
        may_end.set()
        while "stop slow" not in seen:
            await asyncio.sleep(0)
        await supervisor.stop()

    run(main())
    assert seen == ["start slow", "stop slow"]
