"""Faults of disks: syncs and files that fail, hang or are slow, databases that are away, records that are damaged."""

import asyncio
import errno

from mas.runtime import Dice
from mas.sim.disk import Disk
from mas.sim.faults.aim import Aim, Strikes
from mas.sim.faults.victims import Victims
from mas.sim.plan import pick
from mas.sim.trace import Trace


class DiskFaults:
    """Spoils what nodes have on their disks."""

    def __init__(self, aim: Aim, cluster: Victims, dice: Dice, trace: Trace) -> None:
        self._aim = aim
        self._cluster = cluster
        self._dice = dice
        self._trace = trace
        self._loop = asyncio.get_running_loop()
        self.strikes: Strikes = {
            "fsync": (self._fail_sync,),
            "database": (self._take_database_away,),
            "disk": (self._fill_disk, self._fail_files, self._slow_files, self._hang),
            "damage": (self._damage,),
        }

    def _fail_sync(self) -> None:
        node = self._aim.node()
        if node is not None:
            node.disk.fails_next_sync = True

    def _take_database_away(self) -> None:
        node = self._aim.node()
        if node is not None:
            self._trace.add(node.id, "loses its database for a while")
            node.disk.is_database_away = True
            self._loop.call_later(self._aim.seconds(4.0), self._bring_database_back, node.disk)

    def _bring_database_back(self, disk: Disk) -> None:
        disk.is_database_away = False

    def _fill_disk(self) -> None:
        node = self._aim.node()
        if node is not None:
            self._trace.add(node.id, "has no room for snapshots for a while")
            node.disk.room = -1
            self._mend_later(node.disk)

    def _fail_files(self) -> None:
        """Of snapshots, whatever is done with them: the log is on another disk, or was written before."""
        node = self._aim.node()
        if node is not None:
            node.disk.file_error = pick(self._dice, (errno.EIO, errno.ENOSPC))
            self._trace.add(node.id, f"fails at its files for a while: {node.disk.file_error}")
            self._mend_later(node.disk)

    def _slow_files(self) -> None:
        node = self._aim.node()
        if node is not None:
            self._trace.add(node.id, "is slow at its files for a while")
            node.disk.file_seconds = self._aim.seconds(2.0)
            self._mend_later(node.disk)

    def _mend_later(self, disk: Disk) -> None:
        self._loop.call_later(self._aim.seconds(8.0), disk.mend_files)

    def _hang(self) -> None:
        """Until its process has had enough."""
        node = self._aim.node()
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
