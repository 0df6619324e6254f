"""Faults of processes: they die, stand still, or believe in another time."""

import asyncio

from mas.runtime import Dice
from mas.sim.faults.aim import Aim, Strikes
from mas.sim.faults.victims import Victim, Victims
from mas.sim.plan import pick
from mas.sim.process import Process
from mas.sim.trace import Trace

_HOUR_US = 3_600_000_000


class ProcessFaults:
    """Kills and freezes nodes, and sets their calendars."""

    def __init__(self, aim: Aim, cluster: Victims, dice: Dice, trace: Trace) -> None:
        self._aim = aim
        self._cluster = cluster
        self._dice = dice
        self._trace = trace
        self._loop = asyncio.get_running_loop()
        self.strikes: Strikes = {
            "crash": (self._crash, self._crash, self._crash, self._black_out),
            "pause": (self._pause,),
            "clock": (self._jump,),
        }

    def _crash(self) -> None:
        node = self._aim.node()
        if node is not None:
            node.process.burn_fuse(1 + self._dice.randrange(300))

    def on_note(self, node: Victim) -> None:
        """A node is installing a snapshot: a good time to die (rule 28, snapshots)."""
        if not self._dice.randrange(3):
            node.process.burn_fuse(1 + self._dice.randrange(30))

    def _black_out(self) -> None:
        for node in self._cluster.victims:
            if node.is_up:
                node.process.burn_fuse(1 + self._dice.randrange(30))

    def _pause(self) -> None:
        node = self._aim.node()
        if node is not None:
            self._trace.add(node.id, "stands still")
            node.process.freeze()
            self._loop.call_later(self._aim.seconds(4.0), self._resume, node.id, node.process)

    def _resume(self, node: int, process: Process) -> None:
        if not process.is_dead:
            self._trace.add(node, "goes on")
            process.thaw()

    def _jump(self) -> None:
        node = pick(self._dice, self._cluster.victims)
        node.clock.ahead_us = self._dice.randrange(2 * _HOUR_US) - _HOUR_US
        self._trace.add(node.id, f"has its calendar ahead by {node.clock.ahead_us} us")
