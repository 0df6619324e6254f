"""Mistakes of operators: configuration files that name the wrong founders."""

import asyncio

from mas.sim.plan import pick
from mas.sim.system.faults.aim import Aim, Strikes
from mas.sim.system.faults.processes import ProcessFaults
from mas.sim.system.node import Node


class FileMistakes:
    """Changes configuration files, and mends them."""

    def __init__(self, aim: Aim, processes: ProcessFaults) -> None:
        self._aim = aim
        self._cluster = aim.cluster
        self._plan = aim.cluster.plan
        self._trace = aim.cluster.trace
        self._dice = aim.dice
        self._loop = asyncio.get_running_loop()
        self._processes = processes
        self._alone: Node | None = None
        """It was founded otherwise than the others."""
        self.strikes: Strikes = {"files": (self._mistype,)}

    def mistype_first(self) -> None:
        """Before the first start: one node's configuration has it hold a bucket alone; some time later an operator mends that."""
        if "files" not in self._plan.classes:
            return
        holders = [
            node for node in self._cluster.nodes if node.has_buckets and not node.coordinates
        ]
        node = pick(self._dice, holders)
        bucket = pick(self._dice, self._aim.buckets_of(node))
        self._trace.add(node.id, f"is to hold bucket {bucket} alone, by its file")
        node.mistype(bucket, (node.id,))
        self._alone = node
        self._loop.call_later(1.0 + self._aim.seconds(2.0), self._begin_anew, node)

    def _begin_anew(self, node: Node) -> None:
        """In a new cluster, the node whose file was wrong gets an empty directory; others have refused it since it began."""
        if node is not self._alone:
            return
        self._trace.require(
            node.id,
            bool(node.refused),
            "was founded otherwise than the others, and nobody says so",
        )
        node.begin_anew()
        self._alone = None

    def _mistype(self) -> None:
        """A file is changed between two lives: voters that aren't a bucket's founders."""
        node = self._aim.node()
        if node is None or not node.has_buckets or node.mistyped or not node.roster.buckets:
            return
        bucket = pick(self._dice, self._aim.buckets_of(node))
        others = [each.id for each in self._cluster.nodes if each.has_buckets and each is not node]
        founders = pick(self._dice, ((node.id,), tuple(others[:3]), (*others[:2], node.id)))
        if set(founders) != set(self._cluster.placement[bucket]):
            self._trace.add(node.id, f"has its file changed: bucket {bucket} is of {founders}")
            node.mistype(bucket, tuple(sorted(founders)))
            self._processes.burn(node)

    def stop_mistyping(self) -> None:
        """All files are as they were."""
        if self._alone is not None:
            self._begin_anew(self._alone)
        for node in self._cluster.nodes:
            node.mend_config()
