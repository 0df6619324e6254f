"""An event loop whose time is a number: it leaps to the next timer when nobody has anything to do.

Ordinary tasks, futures and timeouts run on it unchanged, thousands of simulated seconds a second. What
would let the real world in is refused: threads, sockets and subprocesses have no virtual time.
"""

import asyncio
import contextvars
import threading
from asyncio.base_events import BaseEventLoop
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, Never, TypeVar, TypeVarTuple

from mas.runtime import Dice
from mas.sim.process import PROCESS

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_RESOLUTION_SECONDS = 1e-6
"""Timers this close are due together, in the order of their moments."""
_RESOLUTION_NANOSECONDS = 1_000


class Deadlock(RuntimeError):
    """Nobody can run and no timer is set: the program would wait for ever."""


class VirtualLoop(BaseEventLoop):
    """A deterministic event loop: the same program and dice give the same run.

    What is ready runs first come, first served, as everywhere in asyncio. The order of timers that
    are due at the same moment is nobody's promise, so the dice, where given, shuffle it: actors that
    tick in step meet in every order, over the seeds.

    What belongs to a simulated `Process` runs only while that lives.
    """

    def __init__(self, dice: Dice | None = None) -> None:
        super().__init__()
        self._now = 0.0
        self._dice = dice
        self._thread = threading.get_ident()
        # Read by BaseEventLoop, for which we are the selector too: it "waits" by leaping.
        self._clock_resolution = _RESOLUTION_SECONDS
        self._selector = self

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def select(self, timeout: float | None) -> list[Never]:
        """Called once a turn, with the time until the next timer, None when there is none.

        Raises:
            Deadlock: there is nothing to wait for.
        """
        if timeout is None:
            raise Deadlock(self._who_waits())
        self._now += timeout
        return []

    def _process_events(self, events: list[Never]) -> None:
        assert not events

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call back at a virtual moment; one already past means the next turn."""
        if self._dice is not None:
            when += self._dice.randrange(_RESOLUTION_NANOSECONDS) * 1e-9
        process = PROCESS.get(None) if context is None else context.get(PROCESS)
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        return super().call_at(when, process.step, callback, args, context=context)

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """Call back in this turn or the next, first come, first served."""
        process = PROCESS.get(None) if context is None else context.get(PROCESS)
        if process is None:
            return super().call_soon(callback, *args, context=context)
        return super().call_soon(process.step, callback, args, context=context)

    def call_soon_threadsafe(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """Like `call_soon`: asyncio itself calls it from its own thread.

        Raises:
            RuntimeError: from another thread.
        """
        if threading.get_ident() != self._thread:
            raise RuntimeError(
                "another thread can't reach a virtual loop: its moment would be chance"
            )
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> Never:
        """Refused.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            f"no threads on a virtual loop: replace whatever calls {func!r} by a simulated port"
        )

    def _who_waits(self) -> str:
        waits = []
        for task in asyncio.all_tasks(self):
            frames = task.get_stack(limit=1)
            place = f"{frames[0].f_code.co_qualname}, line {frames[0].f_lineno}" if frames else "?"
            waits.append(f"\n  {task.get_name()}: {place}")
        return f"at {self._now:.6f} s nobody can run and no timer is set:" + "".join(sorted(waits))


def run_virtual(main: Coroutine[Any, Any, T], dice: Dice | None = None) -> T:
    """Run a program on a virtual loop of its own, and return its result.

    Raises:
        Deadlock: the program waits for something that can't come.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(dice)) as runner:
        return runner.run(main)
