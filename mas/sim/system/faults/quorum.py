"""Buckets without their majority, or without a word of their leader, for a stated time."""

import asyncio

from mas.sim.plan import pick
from mas.sim.system.faults.aim import Aim, Strikes
from mas.sim.system.faults.lines import LineFaults
from mas.sim.system.history import Trouble
from mas.sim.system.plan import LONG
from mas.sim.trace import WORLD

_REST_SECONDS = 3.0
"""Between two strikes of a drill: a bucket that has its majority again has a leader by then."""


class QuorumFaults:
    """Takes buckets their majority, and says for how long."""

    def __init__(self, aim: Aim, lines: LineFaults) -> None:
        self._aim = aim
        self._cluster = aim.cluster
        self._plan = aim.cluster.plan
        self._trace = aim.cluster.trace
        self._wires = aim.cluster.wires
        self._dice = aim.dice
        self._loop = asyncio.get_running_loop()
        self._lines = lines
        self.troubles: list[Trouble] = []
        """What a drill excuses."""
        self.busy_until = 0.0
        """On the loop's clock: until then, a drill strikes nobody else."""
        self.strikes: Strikes = {"quorum": (self._lose_quorum,)}
        self.drill: Strikes = {"quorum": (self._lose_quorum,), "pause": (self._drill_pause,)}

    def _lose_quorum(self) -> None:
        """All but one of a bucket's nodes that no other bucket needs for its majority are dead for a while."""
        placement = self._cluster.placement
        bucket = pick(self._dice, list(placement))
        victims: list[int] = []
        for node in placement[bucket]:
            dead = [*victims, node]
            others = [voters for other, voters in placement.items() if other != bucket]
            if all(2 * sum(each not in dead for each in voters) > len(voters) for voters in others):
                victims = dead
        if 2 * (len(placement[bucket]) - len(victims)) > len(placement[bucket]):
            return
        self._trace.add(WORLD, f"takes bucket {bucket} its majority: nodes {victims}")
        seconds = self._aim.seconds(12.0)
        if self._plan.drill in LONG:
            seconds = 6.0 + seconds / 2
        now = self._loop.time()
        self.troubles.append(Trouble(bucket, now, now + seconds + _REST_SECONDS))
        if self._plan.is_drill:
            self._cut_away(victims, seconds)
        else:
            self._stand_still(victims, seconds)

    def _drill_pause(self) -> None:
        """A leader is silent, not dead."""
        leader = self._aim.leader()
        if leader is not None:
            self._stand_still([leader.id], 5.0 + self._aim.seconds(5.0))

    def _stand_still(self, nodes: list[int], seconds: float) -> None:
        self._trace.add(WORLD, f"has nodes {nodes} stand still for {seconds:.1f} s")
        for node in self._cluster.nodes:
            if node.id in nodes and node.is_up:
                node.process.freeze()
                self._loop.call_later(seconds, node.process.thaw)
        if self._plan.is_drill:
            self.busy_until = self._loop.time() + seconds + _REST_SECONDS

    def _cut_away(self, nodes: list[int], seconds: float) -> None:
        """Nobody reaches them, and everybody knows."""
        for node in nodes:
            for other in self._cluster.nodes:
                if other.id != node:
                    self._wires.close(node, other.id)
        self._loop.call_later(seconds, self._lines.heal)
        self.busy_until = self._loop.time() + seconds + _REST_SECONDS
