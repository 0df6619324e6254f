"""Whom a strike hits, and for how long."""

from collections.abc import Callable, Sequence

from mas.multiraft import RaftGroup
from mas.runtime import Dice
from mas.sim.faults.victims import Victim, Victims
from mas.sim.plan import pick

Strikes = dict[str, Sequence[Callable[[], None]]]
"""What may happen at a strike of each class of faults; what stands there twice happens twice as often."""


class Aim:
    """Draws whom a strike hits, and for how long."""

    def __init__(self, cluster: Victims, dice: Dice) -> None:
        self._cluster = cluster
        self._dice = dice

    def node(self) -> Victim | None:
        """A node, or None where that one is down."""
        node = pick(self._dice, self._cluster.victims)
        return node if node.is_up else None

    def leader(self) -> tuple[Victim, RaftGroup] | None:
        """One that believes to lead some group."""
        wanted = pick(self._dice, self._cluster.groups)
        leaders = [
            (node, node.services[wanted].group)
            for node in self._cluster.victims
            if node.is_up and wanted in node.services and node.services[wanted].is_leading
        ]
        return pick(self._dice, leaders) if leaders else None

    def seconds(self, most: float) -> float:
        """Some time, at most so long."""
        return most * (1 + self._dice.randrange(1000)) / 1000
