"""Whom a strike hits, and for how long."""

from collections.abc import Callable, Sequence
from typing import Protocol

from mas.runtime import Dice
from mas.sim.plan import pick
from mas.sim.system.node import Node
from mas.sim.system.plan import Plan
from mas.sim.system.wires import Wires
from mas.sim.trace import Trace


class Victims(Protocol):
    """A cluster, as faults see it."""

    plan: Plan
    trace: Trace
    wires: Wires

    @property
    def nodes(self) -> Sequence[Node]:
        """All processes, dead or alive."""

    @property
    def placement(self) -> dict[int, tuple[int, ...]]:
        """The nodes that each bucket was founded with."""


Strikes = dict[str, Sequence[Callable[[], None]]]
"""What may happen at a strike of each class of faults; what stands there twice happens twice as often."""


class Aim:
    """Draws whom a strike hits, and for how long."""

    def __init__(self, cluster: Victims, dice: Dice) -> None:
        self.cluster = cluster
        self.dice = dice

    def node(self) -> Node | None:
        """A process, or None where that one is down."""
        node = pick(self.dice, self.cluster.nodes)
        return node if node.is_up else None

    def manager(self) -> Node | None:
        """One that coordinates, dead or alive; None where there is none."""
        managers = [node for node in self.cluster.nodes if node.coordinates]
        return pick(self.dice, managers) if managers else None

    def leader(self) -> Node | None:
        """One that believes to lead some bucket."""
        return self.leader_of(pick(self.dice, list(self.cluster.placement)))

    def leader_of(self, bucket: int) -> Node | None:
        """One that believes to lead this bucket."""
        leaders = [node for node in self.cluster.nodes if node.leads(bucket)]
        return pick(self.dice, leaders) if leaders else None

    def seconds(self, most: float) -> float:
        """Some time, at most so long."""
        return most * (1 + self.dice.randrange(1000)) / 1000

    def buckets_of(self, node: Node) -> list[int]:
        """The buckets that were founded with this node."""
        return [each for each, nodes in self.cluster.placement.items() if node.id in nodes]
