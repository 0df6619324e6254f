"""A simulated process: whatever runs in its name can be frozen, or killed for good, between any two awaits.

Tasks and callbacks belong to the process whose context they run in. The loop asks it before each of their steps, so a
killed process runs nothing any more: no `finally`, no cancellation, as after a power cut.
"""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any, TypeVarTuple

Ts = TypeVarTuple("Ts")

PROCESS: contextvars.ContextVar["Process"] = contextvars.ContextVar("PROCESS")
"""The process that what runs now belongs to; unset in the world around."""

_Step = tuple[Callable[..., object], tuple[Any, ...], contextvars.Context]


class Process:
    """One life of a node."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, node: int, on_death: Callable[[], None]
    ) -> None:
        """`on_death` is called outside of the process, once it is dead by `burn_fuse`."""
        self.node = node
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)
        self.is_dead = False
        self.frozen_since = 0.0
        """When it was frozen last, by the loop's time."""
        self._loop = loop
        self._outside = contextvars.copy_context()
        self._on_death = on_death
        self._held: list[_Step] | None = None
        self._fuse = 0

    def spawn(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        """Begin a task of this process."""
        self._loop.create_task(coroutine, name=name, context=self.context)

    def post(self, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Have this called in the process; while it is frozen, once it no longer is."""
        self._loop.call_soon(callback, *args, context=self.context)

    def step(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        """The loop's: run one step of this process, or keep it."""
        if self._held is None and self._fuse:
            self._fuse -= 1
            if not self._fuse:
                self.kill()
                self._outside.run(self._on_death)
        if self._held is not None:
            self._held.append((callback, args, contextvars.copy_context()))
        else:
            callback(*args)

    def burn_fuse(self, steps: int) -> None:
        """Die before so many more steps."""
        self._fuse = steps

    def defuse(self) -> None:
        """Live on, where it would have died before some step."""
        self._fuse = 0

    def freeze(self) -> None:
        """Run nothing until `thaw`."""
        if self._held is None:
            self._held = []
            self.frozen_since = self._loop.time()

    @property
    def is_frozen(self) -> bool:
        """Whether it stands still, or is dead."""
        return self._held is not None

    def thaw(self) -> None:
        """Go on where it stood, if it isn't dead."""
        if not self.is_dead:
            self._release()

    def kill(self) -> None:
        """Never run anything again."""
        self.is_dead = True
        self.freeze()

    def bury(self) -> None:
        """The simulation is over: let the dead be cancelled and collected like all other tasks."""
        self.defuse()
        self._release()

    def _release(self) -> None:
        held, self._held = self._held, None
        for callback, args, context in held or ():
            self._loop.call_soon(callback, *args, context=context)
