"""Cuts the groups' logs, a few groups a tick; how far each may be cut says its `compaction.LogMargin`."""

from collections.abc import Callable, Mapping

from mas.multiraft.group import RaftGroup
from mas.multiraft.writer import LogWriter

# Every group is looked at in so many ticks, or in as many as there are groups.
_TICKS = 32


class LogCompactor:
    """Cuts the logs of all groups, a few groups a tick."""

    def __init__(
        self,
        groups: Mapping[int, RaftGroup],
        writer: LogWriter,
        spare: Callable[[int, int], int],
    ) -> None:
        """`spare(group, index)` returns the index, or less for a snapshot that still needs the entries behind it."""
        self._groups = groups
        self._writer = writer
        self._spare = spare
        self._next: list[int] = []

    def tick(self) -> None:
        """Look at some groups, quiescent ones too, since their databases may have flushed meanwhile."""
        if not self._next:
            self._next = list(self._groups)
        count = 1 + len(self._groups) // _TICKS
        group_ids, self._next = self._next[:count], self._next[count:]
        for group_id in group_ids:
            if group_id in self._groups:  # else: it has left this node
                self._compact(self._groups[group_id])

    def _compact(self, group: RaftGroup) -> None:
        index = group.may_cut()
        if not index:
            return
        index = self._spare(group.id, index)
        if index >= group.storage.first_index():
            self._writer.batch.compact(group.id, index)
            self._writer.batch.set_conf_state(group.id, group.members.at(index))
            group.members.forget_before(index)
            self._writer.submit(sync=False)
