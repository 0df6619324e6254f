"""Faults of processes: they die, stand still, or believe in another time."""

import asyncio

from mas.sim.plan import pick
from mas.sim.system.faults.aim import Aim, Strikes
from mas.sim.system.node import Node

_HOUR_US = 3_600_000_000


class ProcessFaults:
    """Kills and freezes processes, and sets their calendars."""

    def __init__(self, aim: Aim) -> None:
        self._aim = aim
        self._cluster = aim.cluster
        self._plan = aim.cluster.plan
        self._trace = aim.cluster.trace
        self._dice = aim.dice
        self._loop = asyncio.get_running_loop()
        self.strikes: Strikes = {
            "crash": (self._crash, self._crash, self._crash_leader, self._crash_manager),
            "pause": (self._pause, self._pause_leader),
            "clock": (self._jump,),
        }

    def _crash(self) -> None:
        self.burn(self._aim.node())

    def _crash_leader(self) -> None:
        self.burn(self._aim.leader())

    def _crash_manager(self) -> None:
        managers = [node for node in self._cluster.nodes if node.coordinates and node.is_up]
        self.burn(pick(self._dice, managers) if managers else None)

    def burn(self, node: Node | None) -> None:
        """Have this one die within its next few hundred steps."""
        if node is not None:
            node.process.burn_fuse(1 + self._dice.randrange(300))

    def on_note(self, node: Node) -> None:
        """A node is installing a snapshot: a good time to die (rule 28, snapshots)."""
        if "crash" in self._plan.classes and not self._dice.randrange(3):
            node.process.burn_fuse(1 + self._dice.randrange(30))

    def on_answer(self, node: Node, *, is_creation: bool) -> None:
        """A manager tells a client that a payment is committed, and hasn't told the other buckets: a good time to die.

        Another one lives on, so that what follows is seen.
        """
        others = [each for each in self._cluster.nodes if each.coordinates and each.is_up]
        if "crash" not in self._plan.classes or len(others) < 2:
            return
        often = 1 if self._plan.is_drill else 3
        if not self._dice.randrange(often if is_creation else 50):
            node.process.burn_fuse(1)

    def _pause(self) -> None:
        self._freeze(self._aim.node())

    def _pause_leader(self) -> None:
        self._freeze(self._aim.leader())

    def _freeze(self, node: Node | None) -> None:
        if node is not None:
            self._trace.add(node.id, "stands still")
            node.process.freeze()
            seconds = self._aim.seconds(pick(self._dice, (1.0, 6.0, 12.0)))
            self._loop.call_later(seconds, node.process.thaw)

    def _jump(self) -> None:
        """A calendar is wrong by up to an hour; sometimes it is right again."""
        node = pick(self._dice, self._cluster.nodes)
        ahead = pick(self._dice, (0, 0, self._dice.randrange(2 * _HOUR_US) - _HOUR_US))
        self._trace.add(node.id, f"believes to be {ahead} us ahead")
        node.clock.ahead_us = ahead
