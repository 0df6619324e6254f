"""The smallest state machine that stands where the AccountService stands: an append-only list of what was proposed.

It does what that service does with its group: applies what commit_c brings, flushes behind everybody's back, answers
what it proposed itself, serves reads through the read index, and starts from what was flushed.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec
import xxhash

from mas.errors import DatabaseUnavailable, MasError, StorageError
from mas.multiraft import Committed, Leadership, RaftGroup, ReadReady, Refused, Restored
from mas.raft import Entry, EntryType
from mas.runtime import Actor, Clock, Supervisor
from mas.sim.history import Operation

_RETRY_SECONDS = 0.5


class State(msgspec.Struct, frozen=True):
    """The list as its length and the digest of all that is in it."""

    applied: int = 0
    term: int = 0
    length: int = 0
    digest: int = 0

    def apply(self, entry: Entry) -> "State":
        """The state behind the next entry."""
        if entry.type is not EntryType.NORMAL or not entry.data:
            return State(entry.index, entry.term, self.length, self.digest)
        digest = xxhash.xxh3_64_intdigest(entry.data, self.digest)
        return State(entry.index, entry.term, self.length + 1, digest)


class Command(msgspec.Struct, frozen=True, array_like=True):
    """What an entry holds: which operation it is, and who proposed it in which life."""

    operation: int
    proposer: int
    number: int
    padding: bytes = b""


encode_command = msgspec.msgpack.Encoder().encode
decode_command = msgspec.msgpack.Decoder(Command).decode


class Database(Protocol):
    """Where one node's states are kept."""

    def read(self, group: int) -> State: ...

    async def open(self, group: int) -> State:
        """Raises `DatabaseUnavailable`."""

    async def flush(self, group: int, before: int, state: State) -> bool:
        """Conditional on the applied index `before` (rule 25, conditional flush). Raises `DatabaseUnavailable`."""


class Watcher(Protocol):
    """Who holds the state machines to their promises."""

    def on_committed(self, node: int, group: int, entries: tuple[Entry, ...]) -> None: ...

    def on_applied(self, node: int, group: int, state: State) -> None: ...

    def on_leadership(self, node: int, group: int, leadership: Leadership) -> None: ...

    def on_restored(self, node: int, group: int, state: State, restored: Restored) -> None: ...

    def on_answer(self, operation: Operation) -> None: ...


class ListService(Actor):
    """Keeps one group's list on one node."""

    def __init__(
        self,
        node: int,
        proposer: int,
        group: RaftGroup,
        database: Database,
        clock: Clock,
        watcher: Watcher,
        flush_pause: Callable[[], float],
    ) -> None:
        """`proposer` is this life of the node's own; `flush_pause` the seconds until the next flush."""
        self.name = f"list-{group.id}"
        self.group = group
        self.is_leading = False
        self._node = node
        self._proposer = proposer
        self._database = database
        self._clock = clock
        self._watcher = watcher
        self._flush_pause = flush_pause
        self._state = database.read(group.id)
        self._flushed = self._state.applied
        self._dirty = asyncio.Event()
        self._last_number = 0
        self._proposed: dict[int, Operation] = {}
        self._reading: dict[int, Operation] = {}
        self._reads_waiting: list[tuple[int, Operation]] = []

    @property
    def length(self) -> int:
        """Of the list as it is applied."""
        return self._state.length

    def submit(self, operation: Operation, padding: int) -> None:
        """A client's question, with so many bytes to fill an entry with."""
        self._last_number += 1
        number = self._last_number
        try:
            if operation.kind == "write":
                self._proposed[number] = operation
                command = Command(operation.number, self._proposer, number, bytes(padding))
                self.group.propose(number, encode_command(command))
            else:
                self._reading[number] = operation
                self.group.read_index(number)
        except MasError:
            self._refuse(number, read=operation.kind == "read")

    async def run(self) -> None:
        """Serve until cancelled."""
        async with Supervisor() as supervisor:
            supervisor.spawn(f"{self.name}.commit", self._run_commit())
            supervisor.spawn(f"{self.name}.error", self._run_error())
            supervisor.spawn(f"{self.name}.flush", self._run_flush())
            await supervisor.wait()

    async def _run_commit(self) -> None:
        while True:
            for event in await self.group.commit_c.drain():
                match event:
                    case Committed():
                        self._apply(event.entries)
                    case Leadership():
                        self._on_leadership(event)
                    case ReadReady():
                        self._on_read_ready(event)
                    case Restored():
                        await self._on_restored(event)

    def _apply(self, entries: tuple[Entry, ...]) -> None:
        self._watcher.on_committed(self._node, self.group.id, entries)
        for entry in entries:
            self._state = self._state.apply(entry)
            self._watcher.on_applied(self._node, self.group.id, self._state)
            if entry.type is EntryType.NORMAL and entry.data:
                self._acknowledge(decode_command(entry.data))
        self.group.set_applied(self._state.applied, self._flushed)
        self._dirty.set()
        waiting, self._reads_waiting = self._reads_waiting, []
        for index, operation in waiting:
            self._read_at(index, operation)

    def _acknowledge(self, command: Command) -> None:
        if command.proposer == self._proposer:
            operation = self._proposed.pop(command.number, None)
            if operation is not None:
                self._answer(operation)

    def _on_leadership(self, leadership: Leadership) -> None:
        """Answer that what was proposed under another leadership is unknown (rule 39, unknown results)."""
        self.is_leading = leadership.leading
        if not leadership.leading:
            self._proposed.clear()
        self._watcher.on_leadership(self._node, self.group.id, leadership)

    def _on_read_ready(self, ready: ReadReady) -> None:
        for number in ready.numbers:
            operation = self._reading.pop(number, None)
            if operation is not None:
                self._read_at(ready.index, operation)

    def _read_at(self, index: int, operation: Operation) -> None:
        if index <= self._state.applied:
            operation.digest = self._state.digest
            self._answer(operation)
        else:
            self._reads_waiting.append((index, operation))

    def _answer(self, operation: Operation) -> None:
        operation.length = self._state.length
        self._watcher.on_answer(operation)

    async def _on_restored(self, restored: Restored) -> None:
        """The database holds a snapshot: memory starts from there, and what waited for other events is never answered."""
        self._proposed.clear()
        self._reading.clear()
        self._reads_waiting.clear()
        self.is_leading = False
        self._state = await self._open()
        self._flushed = self._state.applied
        self._watcher.on_restored(self._node, self.group.id, self._state, restored)

    async def _open(self) -> State:
        while True:
            try:
                return await self._database.open(self.group.id)
            except DatabaseUnavailable:
                await self._clock.sleep(_RETRY_SECONDS)

    async def _run_error(self) -> None:
        while True:
            for refused in await self.group.error_c.drain():
                self._on_refused(refused)

    def _on_refused(self, refused: Refused) -> None:
        self._refuse(refused.number, read=refused.read)

    def _refuse(self, number: int, *, read: bool) -> None:
        operation = (self._reading if read else self._proposed).pop(number, None)
        if operation is not None:
            operation.refused = True
            self._watcher.on_answer(operation)

    async def _run_flush(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await self._clock.sleep(self._flush_pause())
            await self._flush()

    async def _flush(self) -> None:
        state, before = self._state, self._flushed
        if state.applied == before:
            return
        while not await self._try_flush(before, state):
            await self._clock.sleep(_RETRY_SECONDS)
        self._flushed = state.applied
        self.group.set_applied(self._state.applied, self._flushed)

    async def _try_flush(self, before: int, state: State) -> bool:
        """False where the database is away. Raises StorageError where it isn't where this process left it (rule 25)."""
        try:
            if not await self._database.flush(self.group.id, before, state):
                raise StorageError(
                    f"group {self.group.id}: the database isn't at {before} any more"
                )
        except DatabaseUnavailable:
            return False
        return True
