"""Queues a group's events for commit_c: in order, without dropping any, in no more memory than commit_c has.

Where commit_c has no room, committed entries wait as a range of indexes and are read from the log again;
the group's consensus goes on meanwhile, and so do all other groups.
"""

from collections import deque

import msgspec

from mas.errors import MailboxClosed
from mas.limits import TURN_BYTES_MAX
from mas.multiraft.events import CommitEvent, Committed, Restored
from mas.raft import Entry, Storage
from mas.runtime import Mailbox


class _Range(msgspec.Struct, gc=False):
    first: int
    last: int


class ApplyQueue:
    """Hands a group's events to whoever applies them."""

    def __init__(self, commit_c: Mailbox[CommitEvent], storage: Storage, applied: int) -> None:
        self._commit_c = commit_c
        self._storage = storage
        self._waiting: deque[_Range | CommitEvent] = deque()
        self.paused = False
        self.committed = applied
        """The last index that the group has committed here."""
        self.pushed = applied
        """The last index that commit_c has got."""

    @property
    def is_waiting(self) -> bool:
        """Whether something has not found room yet."""
        return bool(self._waiting)

    def commit(self, entries: tuple[Entry, ...]) -> None:
        """Hand out committed entries, which are in this node's own synced log (rule 21, apply what is synced)."""
        first, last = entries[0].index, entries[-1].index
        assert first == self.committed + 1
        self.committed = last
        if not self.paused and not self._waiting and self._offer(Committed(entries)):
            self.pushed = last
        elif self._waiting and isinstance(behind := self._waiting[-1], _Range):
            behind.last = last
        else:
            self._waiting.append(_Range(first, last))

    def push(self, event: CommitEvent) -> None:
        """Hand out an event behind all that is committed by now."""
        if self.paused or self._waiting or not self._offer(event):
            self._waiting.append(event)

    def resume(self) -> None:
        """Hand out what waits, as far as there is room."""
        while self._waiting and not self.paused:
            item = self._waiting[0]
            if not (self._push_range(item) if isinstance(item, _Range) else self._offer(item)):
                return
            self._waiting.popleft()

    def end(self) -> list[CommitEvent]:
        """Hand out no more entries: they stay in the log. The events that waited, for whoever hopes for them."""
        events = [item for item in self._waiting if not isinstance(item, _Range)]
        self._waiting.clear()
        self.paused = False
        return events

    def restart(self, restored: Restored) -> None:
        """Begin anew from a restored state: what waited is part of it, or comes again."""
        self._waiting.clear()
        self.paused = False
        self.committed = self.pushed = restored.index
        self.push(restored)

    def _push_range(self, waiting: _Range) -> bool:
        while waiting.first <= waiting.last:
            entries = self._storage.entries(waiting.first, waiting.last + 1, TURN_BYTES_MAX)
            if not self._offer(Committed(tuple(entries))):
                return False
            self.pushed = entries[-1].index
            waiting.first = self.pushed + 1
        return True

    def _offer(self, event: CommitEvent) -> bool:
        try:
            return self._commit_c.offer(event)
        except MailboxClosed:
            return False  # its owner is stopping, and starts again from what it has stored
