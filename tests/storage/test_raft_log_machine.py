"""Random batches, restarts and damage: the RocksDB raft log and the one in memory always hold the same."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mas.errors import CorruptData
from mas.raft import ConfState, Entry, EntryType, HardState, SnapshotMetadata
from mas.storage.raft_log.memory import MemoryRaftLog
from mas.storage.raft_log.rocksdb import RocksRaftLog
from mas.storage.raft_log.value import Change, GroupLog, change_groups
from tests.storage.raft_log_writer import MEMORY
from tests.storage.test_raft_log_contract import RocksDisk

GROUPS = st.integers(1, 2)
CONF_STATES = st.sampled_from([ConfState(voters=(1, 2, 3)), ConfState(voters=(1,), learners=(4,))])
TAIL_BYTES = 30
"""Of a few entries: most reads go to the database."""


class LogMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY)
        self.disk = RocksDisk(Path(self.folder.name) / "raft", TAIL_BYTES)
        self.memory = MemoryRaftLog()
        self.staged: dict[int, GroupLog] = {}
        """The groups as they will be behind the batch, to draw changes that a host could make."""
        self._begin()
        for group in (1, 2):
            self._change("create", group, ConfState(voters=(1, 2, 3)))
            self._change("append", group, [Entry(index, 1) for index in range(1, 6)])

    def _begin(self) -> None:
        self.batches = [self.disk.log.batch(), self.memory.batch()]

    def _change(self, name: str, *arguments: Any) -> None:
        changes: list[tuple[int, Change]] = []
        for batch in self.batches:
            before = len(batch.changes)
            getattr(batch, name)(*arguments)
            changes = batch.changes[before:]
        change_groups(self.staged, changes)

    # -- changes ---------------------------------------------------------------------------------

    @rule(group=GROUPS, back=st.integers(0, 4), count=st.integers(1, 6), data=st.binary(max_size=9))
    def append(self, group: int, back: int, count: int, data: bytes) -> None:
        log = self.staged.get(group)
        if log is None:
            return
        first = max(log.last + 1 - back, log.start + 1, log.hard_state.commit + 1)
        if first > log.last + 1:
            return
        term = max(log.term(first - 1), log.hard_state.term) + (back > 0)
        kinds = (EntryType.NORMAL, EntryType.CONF_CHANGE)
        self._change(
            "append",
            group,
            [Entry(first + i, term, kinds[i % 2], data * i) for i in range(count)],
        )

    @rule(group=GROUPS, vote=st.integers(0, 3), share=st.floats(0, 1))
    def set_hard_state(self, group: int, vote: int, share: float) -> None:
        if (log := self.staged.get(group)) is not None:
            old = log.hard_state
            commit = old.commit + round(share * (log.last - old.commit))
            term = max(old.term, log.term(log.last))
            self._change("set_hard_state", group, HardState(term, vote, commit))

    @rule(group=GROUPS, conf_state=CONF_STATES)
    def set_conf_state(self, group: int, conf_state: ConfState) -> None:
        if group in self.staged:
            self._change("set_conf_state", group, conf_state)

    @rule(group=GROUPS, note=st.none() | st.binary(max_size=4))
    def set_note(self, group: int, note: bytes | None) -> None:
        if group in self.staged:
            self._change("set_note", group, note)

    @rule(group=GROUPS, share=st.floats(0, 1))
    def compact(self, group: int, share: float) -> None:
        if (log := self.staged.get(group)) is not None:
            self._change("compact", group, log.start + round(share * (log.last - log.start)))

    @rule(group=GROUPS, ahead=st.integers(-3, 4), conf_state=CONF_STATES)
    def restore(self, group: int, ahead: int, conf_state: ConfState) -> None:
        if (log := self.staged.get(group)) is not None:
            index = max(log.last + ahead, log.start, log.hard_state.commit)
            held = log.term(index) if index <= log.last else log.term(log.last) + 1
            self._change("restore", group, SnapshotMetadata(index, held, conf_state))

    @rule(group=GROUPS, conf_state=CONF_STATES, anew=st.booleans())
    def drop(self, group: int, conf_state: ConfState, anew: bool) -> None:
        self._change("drop", group)
        if anew:
            self._change("create", group, conf_state)
            self._change("append", group, [Entry(1, 1), Entry(2, 2)])

    # -- commits, restarts and faults --------------------------------------------------------------

    @rule(sync=st.booleans(), behind_it=st.sampled_from(["", "restart", "power cut"]))
    def commit(self, sync: bool, behind_it: str) -> None:
        for batch in self.batches:
            batch.commit(sync=sync)
        if behind_it:
            self.disk.loses_power = behind_it == "power cut"
            self.disk.restart()
            self.memory.crash(0 if self.disk.loses_power else self.memory.unsynced)
        self._look_again()

    @precondition(lambda self: self._is_empty())
    @rule(group=GROUPS, hard_state=st.booleans())
    def damage(self, group: int, hard_state: bool) -> None:
        if group in self.staged:
            self.disk.damage(group, hard_state=hard_state)
            self.memory.crash(self.memory.unsynced)
            self.memory.damage(group, hard_state=hard_state)
            self._look_again()

    def _is_empty(self) -> bool:
        return not self.batches[1].changes

    def _look_again(self) -> None:
        self.staged = dict(self.memory._disk.groups)
        self._begin()

    # -- what must hold ----------------------------------------------------------------------------

    @precondition(lambda self: self._is_empty())
    @invariant()
    def both_hold_the_same(self) -> None:
        one, other = self.disk.log, self.memory
        assert one.groups() == other.groups()
        for group in one.groups():
            for read in (hard_state, note, state, terms, all_entries, some_entries):
                assert outcome(read, one, group) == outcome(read, other, group), read

    def teardown(self) -> None:
        self.disk.log.close()
        self.folder.cleanup()


Log = MemoryRaftLog | RocksRaftLog


def outcome(read: Callable[[Log, int], object], log: Log, group: int) -> object:
    try:
        return read(log, group)
    except CorruptData:
        return CorruptData


def hard_state(log: Log, group: int) -> object:
    return log.hard_state(group)


def note(log: Log, group: int) -> object:
    return log.note(group)


def state(log: Log, group: int) -> object:
    storage = log.storage(group)
    return storage.initial_state(), storage.snapshot()


def terms(log: Log, group: int) -> object:
    storage = log.storage(group)
    return [storage.term(i) for i in range(storage.first_index() - 1, storage.last_index() + 1)]


def all_entries(log: Log, group: int) -> object:
    storage = log.storage(group)
    return storage.entries(storage.first_index(), storage.last_index() + 1)


def some_entries(log: Log, group: int) -> object:
    storage = log.storage(group)
    first, last = storage.first_index(), storage.last_index()
    return [storage.entries(i, last + 1, 12) for i in range(first, last + 1)]


TestLogMachine = pytest.mark.timeout(120)(LogMachine.TestCase)
TestLogMachine.settings = settings(stateful_step_count=60)
