"""Owns the tasks of a process: starts them in order, stops them in reverse, and fails loudly.

`asyncio.TaskGroup` cancels its children in the order of a set, so that one seed would not give one
run; here the order is the order of spawning.
"""

import asyncio
import logging
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from mas.errors import Unavailable

_log = logging.getLogger(__name__)


class Supervisor:
    """Keeps tasks in the order of spawning. A task that fails is a reason to stop the process.

        async with Supervisor() as supervisor:
            supervisor.spawn("resource", resource.run())
            await supervisor.wait()

    A task may return, or be cancelled by whoever holds it, and is then forgotten. One that raises
    makes `wait` raise the same; leaving the block stops the rest.
    """

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._failure: BaseException | None = None
        self._stopping = False
        self._over = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()
        if error is None and self._failure is not None:
            raise self._failure

    def spawn(self, name: str, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task.

        Raises:
            Unavailable: the supervisor is stopping; the coroutine was closed.
        """
        if self._stopping:
            coroutine.close()
            raise Unavailable(f"task {name} can't start: the process is stopping")
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._on_done)
        return task

    async def wait(self) -> None:
        """Return once stopped; raise the first failure of a task as soon as there is one."""
        await self._over.wait()
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """Cancel the tasks, the last spawned first, each awaited before the next. Idempotent.

        A failure while stopping is logged, and `wait` raises it.
        """
        self._stopping = True
        assert asyncio.current_task() not in self._tasks, "a task can't stop its own supervisor"
        while self._tasks:
            task = next(reversed(self._tasks))
            task.cancel()
            # Unlike `await task`, this doesn't take our own cancellation for the task's, and
            # it returns after `_on_done`, which was the task's first callback.
            await asyncio.wait([task])
        self._over.set()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        _log.error("task %s failed", task.get_name(), exc_info=error)
        if self._failure is None:
            self._failure = error
        self._over.set()
