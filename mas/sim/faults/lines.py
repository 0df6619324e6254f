"""Faults of the network: lines cut both ways or one, nodes left behind."""

import asyncio

from mas.runtime import Dice
from mas.sim.faults.aim import Aim, Strikes
from mas.sim.faults.victims import Victims
from mas.sim.network import Line
from mas.sim.plan import pick
from mas.sim.trace import WORLD, Trace


class LineFaults:
    """Cuts lines between nodes, and heals them."""

    def __init__(self, aim: Aim, cluster: Victims, dice: Dice, trace: Trace) -> None:
        self._aim = aim
        self._cluster = cluster
        self._dice = dice
        self._trace = trace
        self._loop = asyncio.get_running_loop()
        self.strikes: Strikes = {
            "partition": (
                self._cut_off,
                self._cut_off_leader,
                self._cut_off_leader,
                self._cut_one_line,
            ),
            "compact": (self._leave_behind,),
        }

    def _cut_off(self) -> None:
        """Some from the others, both ways or one."""
        self._cut_off_side([node.id for node in self._cluster.victims if self._dice.randrange(2)])

    def _cut_off_leader(self) -> None:
        """It goes on leading for a while, and doesn't know who else does."""
        leader = self._aim.leader()
        if leader is not None:
            self._cut_off_side([leader[0].id])

    def _cut_off_side(self, side: list[int]) -> None:
        others = [node.id for node in self._cluster.victims if node.id not in side]
        direction = pick(self._dice, ("both ways", "both ways", "outwards", "inwards"))
        line = pick(self._dice, (Line.CLOSED, Line.SILENT))
        self._trace.add(WORLD, f"cuts off nodes {side} {direction}: {line.value} lines")
        for one in side:
            for other in others:
                if direction != "inwards":
                    self._cluster.network.cut(one, other, line)
                if direction != "outwards":
                    self._cluster.network.cut(other, one, line)
        self._loop.call_later(self._aim.seconds(6.0), self._heal)

    def _cut_one_line(self) -> None:
        one, other = (
            pick(self._dice, self._cluster.victims),
            pick(self._dice, self._cluster.victims),
        )
        if one is not other:
            self._trace.add(WORLD, f"cuts the line from node {one.id} to node {other.id}")
            self._cluster.network.cut(one.id, other.id, Line.SILENT)

    def _leave_behind(self) -> None:
        """One node, for as long as the others need to cut their logs beyond what it has."""
        node = self._aim.node()
        leader = self._aim.leader()
        if node is None or leader is None or leader[0] is node:
            return
        self._trace.add(node.id, "is left behind")
        self._connect(node.id, Line.SILENT)
        self._loop.call_later(2.0 + self._aim.seconds(4.0), self._connect, node.id, Line.OPEN)

    def _connect(self, node: int, line: Line) -> None:
        for other in self._cluster.victims:
            if other.id != node:
                self._cluster.network.cut(node, other.id, line)
                self._cluster.network.cut(other.id, node, line)

    def _heal(self) -> None:
        self._trace.add(WORLD, "heals all lines")
        self._cluster.network.heal()
