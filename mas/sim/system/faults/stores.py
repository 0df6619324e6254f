"""Faults of what is stored: syncs that fail, databases and TM stores that are away, old or lost."""

import asyncio

from mas.sim.system.faults.aim import Aim, Strikes
from mas.sim.system.faults.processes import ProcessFaults
from mas.sim.system.node import Node


class StoreFaults:
    """Spoils disks, databases and TM stores."""

    def __init__(self, aim: Aim, processes: ProcessFaults) -> None:
        self._aim = aim
        self._trace = aim.cluster.trace
        self._dice = aim.dice
        self._loop = asyncio.get_running_loop()
        self._processes = processes
        self.strikes: Strikes = {
            "fsync": (self._fail_sync,),
            "database": (self._take_database_away,),
            "rollback": (self._roll_back,),
            "store": (self._take_store_away, self._put_store_back, self._lose_store),
        }

    def _fail_sync(self) -> None:
        node = self._aim.node()
        if node is not None and node.has_buckets:
            self._trace.add(node.id, "is to fail a sync")
            node.disk.fails_next_sync = True

    def _take_database_away(self) -> None:
        node = self._aim.node()
        if node is not None and node.has_buckets:
            self._trace.add(node.id, "has its database taken away")
            node.database.is_away = True
            self._loop.call_later(self._aim.seconds(4.0), self._bring_database_back, node)

    def _bring_database_back(self, node: Node) -> None:
        self._trace.add(node.id, "has its database back")
        node.database.is_away = False

    def _roll_back(self) -> None:
        """A database goes back to what it held: the first strike keeps a copy, the next puts it back."""
        node = self._aim.node()
        if node is None or not node.has_buckets:
            return
        if not node.database_backup:
            node.database_backup = node.database.backup()
            return
        self._trace.add(node.id, "has its database put back")
        node.database.restore(node.database_backup)
        node.database_backup = {}
        node.expects_rollback = True
        if self._dice.randrange(2):
            self._processes.burn(node)

    def _take_store_away(self) -> None:
        manager = self._aim.manager()
        if manager is not None:
            self._trace.add(manager.id, "has its TM store taken away")
            manager.store.is_away = True
            self._loop.call_later(self._aim.seconds(4.0), self._bring_store_back, manager)

    def _bring_store_back(self, manager: Node) -> None:
        manager.store.is_away = False

    def _put_store_back(self) -> None:
        manager = self._aim.manager()
        if manager is None:
            return
        if not manager.store_backup:
            manager.store.sync()
            manager.store_backup = manager.store.synced
            return
        self._trace.add(manager.id, "has its TM store put back")
        manager.store.restore(manager.store_backup)
        manager.store_backup = b""

    def _lose_store(self) -> None:
        manager = self._aim.manager()
        if manager is not None:
            self._trace.add(manager.id, "loses its TM store")
            manager.store.lose()
            self._processes.burn(manager)
