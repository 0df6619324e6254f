"""What faults strike: a cluster and its nodes, as faults see them."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mas.errors import Unavailable
from mas.raft import (
    ConfState,
)
from mas.sim.clock import VirtualClock
from mas.sim.disk import Disk
from mas.sim.machine import ListService
from mas.sim.network import Network
from mas.sim.process import Process


def attempt(call: Callable[[Any], object], argument: object) -> None:
    """Do what may be refused for now: a refusal is no fault of the cluster's."""
    try:
        call(argument)
    except Unavailable:
        return


class Victim(Protocol):
    """A node, as faults see it."""

    id: int
    disk: Disk
    clock: VirtualClock
    process: Process
    services: dict[int, ListService]

    @property
    def is_up(self) -> bool: ...


class Victims(Protocol):
    """A cluster, as faults see it."""

    network: Network

    @property
    def victims(self) -> Sequence[Victim]:
        """All nodes that there are, up or not."""

    @property
    def groups(self) -> Sequence[int]: ...

    def conf(self, group: int) -> ConfState:
        """The newest membership that is known."""

    def is_safe(self, conf: ConfState, group: int, without: int) -> bool:
        """Tell whether a group of these members could do for good without this node, if it had to."""

    def newcomer(self) -> int | None:
        """The id of a node that may be added, and runs; None where there are enough."""
