"""The hand that strikes: cuts lines, kills and freezes nodes, spoils disks, moves leadership and members."""

import asyncio
import errno
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mas.errors import Unavailable
from mas.multiraft import RaftGroup
from mas.raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfState,
)
from mas.runtime import Dice
from mas.sim.clock import VirtualClock
from mas.sim.disk import Disk
from mas.sim.machine import ListService
from mas.sim.network import Line, Network
from mas.sim.plan import Plan, pick
from mas.sim.process import Process
from mas.sim.trace import WORLD, Trace

_HOUR_US = 3_600_000_000


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


class Nemesis:
    """Strikes a cluster, again and again."""

    def __init__(self, cluster: Victims, plan: Plan, dice: Dice, trace: Trace) -> None:
        self._cluster = cluster
        self._plan = plan
        self._dice = dice
        self._trace = trace
        self._loop = asyncio.get_running_loop()
        strikes: dict[str, Sequence[Callable[[], None]]] = {
            "partition": (
                self._cut_off,
                self._cut_off_leader,
                self._cut_off_leader,
                self._cut_one_line,
            ),
            "crash": (self._crash, self._crash, self._crash, self._black_out),
            "fsync": (self._fail_sync,),
            "database": (self._take_database_away,),
            "disk": (self._fill_disk, self._fail_files, self._slow_files, self._hang),
            "damage": (self._damage,),
            "clock": (self._jump,),
            "pause": (self._pause,),
            "members": (self._change_members, self._change_members),
            "transfer": (self._transfer,),
            "compact": (self._leave_behind,),
        }
        self._strikes = [
            strike for name in plan.classes if name in strikes for strike in strikes[name]
        ]

    async def run(self) -> None:
        """Strike until cancelled."""
        while True:
            await asyncio.sleep(self._seconds(2 * self._plan.pause_between))
            if self._strikes:
                pick(self._dice, self._strikes)()

    # -- the network ---------------------------------------------------------------------------

    def _cut_off(self) -> None:
        """Some from the others, both ways or one."""
        self._cut_off_side([node.id for node in self._cluster.victims if self._dice.randrange(2)])

    def _cut_off_leader(self) -> None:
        """It goes on leading for a while, and doesn't know who else does."""
        leader = self._leader()
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
        self._loop.call_later(self._seconds(6.0), self._heal)

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
        node = self._node()
        leader = self._leader()
        if node is None or leader is None or leader[0] is node:
            return
        self._trace.add(node.id, "is left behind")
        self._connect(node.id, Line.SILENT)
        self._loop.call_later(2.0 + self._seconds(4.0), self._connect, node.id, Line.OPEN)

    def _connect(self, node: int, line: Line) -> None:
        for other in self._cluster.victims:
            if other.id != node:
                self._cluster.network.cut(node, other.id, line)
                self._cluster.network.cut(other.id, node, line)

    def _heal(self) -> None:
        self._trace.add(WORLD, "heals all lines")
        self._cluster.network.heal()

    # -- nodes and their disks -----------------------------------------------------------------

    def _crash(self) -> None:
        node = self._node()
        if node is not None:
            node.process.burn_fuse(1 + self._dice.randrange(300))

    def on_note(self, node: Victim) -> None:
        """A node is installing a snapshot: a good time to die (rule 28)."""
        if "crash" in self._plan.classes and not self._dice.randrange(3):
            node.process.burn_fuse(1 + self._dice.randrange(30))

    def _black_out(self) -> None:
        for node in self._cluster.victims:
            if node.is_up:
                node.process.burn_fuse(1 + self._dice.randrange(30))

    def _fail_sync(self) -> None:
        node = self._node()
        if node is not None:
            node.disk.fails_next_sync = True

    def _take_database_away(self) -> None:
        node = self._node()
        if node is not None:
            self._trace.add(node.id, "loses its database for a while")
            node.disk.is_database_away = True
            self._loop.call_later(self._seconds(4.0), self._bring_database_back, node.disk)

    def _bring_database_back(self, disk: Disk) -> None:
        disk.is_database_away = False

    def _fill_disk(self) -> None:
        node = self._node()
        if node is not None:
            self._trace.add(node.id, "has no room for snapshots for a while")
            node.disk.room = -1
            self._mend_later(node.disk)

    def _fail_files(self) -> None:
        """Of snapshots, whatever is done with them: the log is on another disk, or was written before."""
        node = self._node()
        if node is not None:
            node.disk.file_error = pick(self._dice, (errno.EIO, errno.ENOSPC))
            self._trace.add(node.id, f"fails at its files for a while: {node.disk.file_error}")
            self._mend_later(node.disk)

    def _slow_files(self) -> None:
        node = self._node()
        if node is not None:
            self._trace.add(node.id, "is slow at its files for a while")
            node.disk.file_seconds = self._seconds(2.0)
            self._mend_later(node.disk)

    def _mend_later(self, disk: Disk) -> None:
        self._loop.call_later(self._seconds(8.0), disk.mend_files)

    def _hang(self) -> None:
        """Until its process has had enough."""
        node = self._node()
        if node is not None:
            self._trace.add(node.id, "writes no log any more")
            node.disk.hangs = True

    def _damage(self) -> None:
        """One record of a group, where the others can do without this replica for good."""
        node, group = (
            pick(self._dice, self._cluster.victims),
            pick(self._dice, self._cluster.groups),
        )
        log = node.disk.durable.get(group)
        is_first = not any(group in other.disk.damaged for other in self._cluster.victims)
        if log is None or log.last == log.start or not is_first:
            return
        if self._cluster.is_safe(self._cluster.conf(group), group, node.id):
            index = log.start + 1 + self._dice.randrange(log.last - log.start)
            self._trace.add(node.id, f"has record {index} of group {group} damaged")
            node.disk.damage(group, index)

    def _pause(self) -> None:
        node = self._node()
        if node is not None:
            self._trace.add(node.id, "stands still")
            node.process.freeze()
            self._loop.call_later(self._seconds(4.0), self._resume, node.id, node.process)

    def _resume(self, node: int, process: Process) -> None:
        if not process.is_dead:
            self._trace.add(node, "goes on")
            process.thaw()

    def _jump(self) -> None:
        node = pick(self._dice, self._cluster.victims)
        node.clock.ahead_us = self._dice.randrange(2 * _HOUR_US) - _HOUR_US
        self._trace.add(node.id, f"has its calendar ahead by {node.clock.ahead_us} us")

    # -- leadership and members ----------------------------------------------------------------

    def _transfer(self) -> None:
        leader = self._leader()
        if leader is not None:
            node, group = leader
            self._trace.add(node.id, f"is to hand over group {group.id}")
            node.process.post(group.transfer_leadership)

    def _change_members(self) -> None:
        leader = self._leader()
        if leader is None:
            return
        node, group = leader
        change = self._random_change(group.id, node.id)
        if change is not None:
            self._trace.add(node.id, f"is to change group {group.id}: {_show(change)}")
            node.process.post(attempt, group.change_members, change)

    def _random_change(self, group: int, leader: int) -> ConfChange | None:
        """Members come under new ids, change their part, and go; the leader isn't one of them."""
        conf = self._cluster.conf(group)
        if conf.voters_outgoing:
            return ConfChange()
        changes: dict[int, ConfChangeSingle] = {}
        for _ in range(1 + self._dice.randrange(3)):
            one = self._random_single(conf, leader)
            if one is not None:
                changes[one.node_id] = one
        voters = set(conf.voters)
        for one in changes.values():
            voters.discard(one.node_id)
            if one.type is ConfChangeType.ADD_NODE:
                voters.add(one.node_id)
        after = ConfState(voters=tuple(sorted(voters)))
        if not changes or len(voters) < 3 or not self._cluster.is_safe(after, group, 0):
            return None
        return ConfChange(tuple(changes.values()), pick(self._dice, list(ConfChangeTransition)))

    def _random_single(self, conf: ConfState, leader: int) -> ConfChangeSingle | None:
        others = [node for node in conf.voters + conf.learners if node != leader]
        kind = pick(self._dice, list(ConfChangeType))
        newcomer = None
        if kind is not ConfChangeType.REMOVE_NODE and self._dice.randrange(2):
            newcomer = self._cluster.newcomer()
        node = newcomer or (pick(self._dice, others) if others else None)
        return None if node is None else ConfChangeSingle(kind, node)

    # -- who -----------------------------------------------------------------------------------

    def _node(self) -> Victim | None:
        node = pick(self._dice, self._cluster.victims)
        return node if node.is_up else None

    def _leader(self) -> tuple[Victim, RaftGroup] | None:
        """One that believes to lead some group."""
        wanted = pick(self._dice, self._cluster.groups)
        leaders = [
            (node, node.services[wanted].group)
            for node in self._cluster.victims
            if node.is_up and wanted in node.services and node.services[wanted].is_leading
        ]
        return pick(self._dice, leaders) if leaders else None

    def _seconds(self, most: float) -> float:
        return most * (1 + self._dice.randrange(1000)) / 1000


def _show(change: ConfChange) -> str:
    if not change.changes:
        return "leave the joint configuration"
    singles = ", ".join(f"{one.type.name} {one.node_id}" for one in change.changes)
    return f"{singles} ({change.transition.name})"
