"""Faults of the network: lines cut, silenced or broken, nodes left behind."""

import asyncio

from mas.sim.plan import pick
from mas.sim.system.faults.aim import Aim, Strikes
from mas.sim.trace import WORLD


class LineFaults:
    """Cuts the lines between nodes, and heals them."""

    def __init__(self, aim: Aim) -> None:
        self._aim = aim
        self._cluster = aim.cluster
        self._trace = aim.cluster.trace
        self._wires = aim.cluster.wires
        self._dice = aim.dice
        self._loop = asyncio.get_running_loop()
        self.strikes: Strikes = {
            "partition": (self._cut_off, self._cut_off_leader, self._cut_line, self._break_line),
            "compact": (self._leave_behind,),
        }
        self.meeting = (self._lose_answers,)
        """What a drill of answers that are lost has instead of partitions."""

    def _cut_off(self) -> None:
        """Some from the others, both ways or one."""
        self._cut_off_side([node.id for node in self._cluster.nodes if self._dice.randrange(2)])

    def _cut_off_leader(self) -> None:
        leader = self._aim.leader()
        if leader is not None:
            self._cut_off_side([leader.id])

    def _cut_off_side(self, side: list[int]) -> None:
        others = [node.id for node in self._cluster.nodes if node.id not in side]
        direction = pick(self._dice, ("both ways", "outwards", "inwards", "with notice"))
        self._trace.add(WORLD, f"cuts off nodes {side} {direction}")
        for one in side:
            for other in others:
                if direction == "with notice":
                    self._wires.close(one, other)
                if direction in ("both ways", "outwards"):
                    self._wires.silence(one, other)
                if direction in ("both ways", "inwards"):
                    self._wires.silence(other, one)
        self._loop.call_later(self._aim.seconds(pick(self._dice, (2.0, 12.0))), self.heal)

    def _cut_line(self) -> None:
        one, other = pick(self._dice, self._cluster.nodes), pick(self._dice, self._cluster.nodes)
        if one is not other:
            self._trace.add(WORLD, f"silences the line from node {one.id} to node {other.id}")
            self._wires.silence(one.id, other.id)
            self._loop.call_later(self._aim.seconds(12.0), self.heal)

    def _lose_answers(self) -> None:
        """A manager doesn't hear a leader, which hears it; then its answers come, or the connection breaks and they never do."""
        leader, manager = self._aim.leader(), self._aim.manager()
        if leader is None or manager is None or leader is manager:
            return
        self._trace.add(WORLD, f"keeps node {leader.id}'s answers from node {manager.id}")
        self._wires.silence(leader.id, manager.id)
        seconds = self._aim.seconds(3.0)
        if self._dice.randrange(2):
            self._loop.call_later(seconds, self._wires.hang_up, leader.id, manager.id)
        self._loop.call_later(seconds, self._wires.open_line, leader.id, manager.id)

    def _break_line(self) -> None:
        one, other = pick(self._dice, self._cluster.nodes), pick(self._dice, self._cluster.nodes)
        if one is not other:
            self._trace.add(WORLD, f"breaks the connection of nodes {one.id} and {other.id}")
            self._wires.hang_up(one.id, other.id)

    def _leave_behind(self) -> None:
        """One node, for as long as the others need to cut their logs beyond what it has."""
        node = self._aim.node()
        if node is None or not node.has_buckets:
            return
        self._trace.add(node.id, "is left behind")
        for other in self._cluster.nodes:
            if other is not node:
                self._wires.close(node.id, other.id)
        self._loop.call_later(2.0 + self._aim.seconds(3.0), self.heal)

    def heal(self) -> None:
        """Open all lines."""
        self._trace.add(WORLD, "heals all lines")
        self._wires.heal()
