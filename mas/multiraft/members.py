"""Who is a member of a group, at every index that may be asked about: the log itself tells.

It stores the membership that its first entry stands on; each later one is the effect of an entry.
"""

from mas.limits import TURN_BYTES_MAX
from mas.raft import (
    ConfChange,
    ConfChangeType,
    ConfigError,
    ConfState,
    Entry,
    EntryType,
    Storage,
    confchange,
)


def members_of(conf_state: ConfState) -> tuple[int, ...]:
    """Return all members: voters, of both halves where the membership is joint, and learners."""
    return conf_state.voters + conf_state.voters_outgoing + conf_state.learners


class Members:
    """A group's memberships since some index."""

    def __init__(self, index: int, conf_state: ConfState) -> None:
        self._history = [(index, conf_state)]

    @property
    def newest(self) -> ConfState:
        """As of the last change."""
        return self._history[-1][1]

    @property
    def changed_at(self) -> int:
        """The index of the last change; where there was none, of where the log begins."""
        return self._history[-1][0]

    def changed(self, index: int, conf_state: ConfState) -> None:
        """Note that the entry at `index` has made the membership this."""
        assert index > self._history[-1][0]
        self._history.append((index, conf_state))

    def at(self, index: int) -> ConfState:
        """Return the membership as of the entry at `index`."""
        assert index >= self._history[0][0]
        return next(conf for changed, conf in reversed(self._history) if changed <= index)

    def forget_before(self, index: int) -> None:
        """Forget what only matters before `index`, which nobody asks about any more."""
        conf_state = self.at(index)
        later = [item for item in self._history if item[0] > index]
        self._history = [(index, conf_state), *later]


def read_members(storage: Storage, until: int) -> Members:
    """Return the membership up to the index `until`, from the log alone."""
    first = storage.first_index()
    members = Members(first - 1, storage.initial_state()[1])
    while first <= until:
        entries = storage.entries(first, until + 1, TURN_BYTES_MAX)
        for entry in entries:
            if entry.type is EntryType.CONF_CHANGE:
                change = ConfChange.decode(entry.data)
                try:
                    members.changed(entry.index, confchange.apply(members.newest, change))
                except ConfigError:
                    continue  # refused when it was applied, and changed nothing
        first = entries[-1].index + 1
    return members


def is_member_behind(storage: Storage, index: int, node: int) -> bool:
    """Return whether a log says that the node is a member behind `index`, committed or not.

    A node that was removed at `index` and has such a log was added again since, and may have acknowledged entries
    as a member.
    """
    first = storage.first_index()
    if first - 1 > index:
        base = storage.initial_state()[1]
        if node in members_of(base):
            return True
    first, last = max(first, index + 1), storage.last_index()
    while first <= last:
        entries = storage.entries(first, last + 1, TURN_BYTES_MAX)
        if any(adds(entry, node) for entry in entries):
            return True
        first = entries[-1].index + 1
    return False


def adds(entry: Entry, node: int) -> bool:
    """Return whether the entry is a change that makes the node a member."""
    return entry.type is EntryType.CONF_CHANGE and any(
        one.node_id == node and one.type is not ConfChangeType.REMOVE_NODE
        for one in ConfChange.decode(entry.data).changes
    )
