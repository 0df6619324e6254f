"""The end of all faults, and the bound of what may take until everybody is served again and up to date.

Sometimes one node that all groups can do without stays down for good: progress needs majorities, not everybody.
"""

import asyncio
from collections.abc import Mapping
from random import Random
from typing import Protocol

from mas.raft import ConfChange, ConfState
from mas.sim.checks import Checks
from mas.sim.clients import Clients
from mas.sim.faults import Victim, Victims, attempt
from mas.sim.network import Weather
from mas.sim.trace import WORLD, Trace

BOUND_SECONDS = 60.0
"""From the end of all faults to a write and a read that begin after it, and all members at that write."""
_LOOK_SECONDS = 0.1


class Survivor(Victim, Protocol):
    """A node that may be dead, and can be started."""

    def start(self) -> None: ...

    def kill(self) -> None: ...


class Survivors(Victims, Protocol):
    """A cluster after its hardship."""

    checks: Checks
    trace: Trace

    @property
    def nodes(self) -> Mapping[int, Survivor]:
        """All that there are, by id."""

    async def wait(self, seconds: float) -> None:
        """For so long, or until a promise is broken."""


class Recovery:
    """Brings a cluster back, and waits for it."""

    def __init__(self, cluster: Survivors, clients: Clients, dice: Random) -> None:
        self.stays_down: tuple[int, ...] = ()
        """Nodes that nobody starts any more."""
        self._cluster = cluster
        self._clients = clients
        self._dice = dice
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Return once all groups have recovered, or a promise is broken: that they do within the bound is one."""
        self._calm_down()
        began = self._loop.time()
        waiting = list(self._cluster.groups)
        while waiting and not self._cluster.trace.violation:
            await self._cluster.wait(_LOOK_SECONDS)
            waiting = [group for group in waiting if not self._has_recovered(group, began)]
            if waiting and self._loop.time() - began > BOUND_SECONDS:
                self._complain(waiting)

    def _calm_down(self) -> None:
        cluster = self._cluster
        cluster.trace.add(WORLD, "calms down")
        cluster.network.heal()
        cluster.network.weather = Weather()
        if not self._dice.randrange(3):
            chosen = self._dice.choice(sorted(cluster.nodes))
            if all(cluster.is_safe(cluster.conf(group), group, chosen) for group in cluster.groups):
                self.stays_down = (chosen,)
        for node_id, node in cluster.nodes.items():
            node.disk.fails_next_sync = node.disk.is_database_away = False
            node.disk.mend_files()
            if node_id in self.stays_down:
                if node.is_up:
                    node.kill()
            elif not node.is_up:
                node.start()
            else:
                node.process.thaw()

    def _has_recovered(self, group: int, since: float) -> bool:
        conf = self._cluster.conf(group)
        if not self._cluster.is_safe(conf, group, 0):
            return True  # too many replicas are damaged: nothing was promised
        if any(not self._cluster.is_safe(conf, group, node) for node in self.stays_down):
            self._bring_back()  # members have changed since it was let go
        if conf.voters_outgoing and not conf.auto_leave:
            self._leave_joint(group)
            return False
        place = self._clients.served_since(group, since)
        return place is not None and self._have_all(conf, group, place)

    def _have_all(self, conf: ConfState, group: int, length: int) -> bool:
        out = (*self.stays_down, *self._cluster.checks.groups[group].isolated)
        services = [
            self._cluster.nodes[node].services.get(group)
            for node in conf.voters + conf.learners
            if node not in out
        ]
        return all(service is not None and service.length >= length for service in services)

    def _bring_back(self) -> None:
        nodes, self.stays_down = self.stays_down, ()
        for node in nodes:
            self._cluster.nodes[node].start()

    def _leave_joint(self, group: int) -> None:
        for node in self._cluster.nodes.values():
            service = node.services.get(group)
            if service is not None and service.is_leading:
                node.process.post(attempt, service.group.change_members, ConfChange())

    def _complain(self, groups: list[int]) -> None:
        trace = self._cluster.trace
        for group in groups:
            for node_id, node in self._cluster.nodes.items():
                service = node.services.get(group)
                trace.add(node_id, "no replica" if service is None else str(service.group.status()))
        trace.violate(
            WORLD, f"groups {groups} have made no progress for {BOUND_SECONDS} s without faults"
        )
