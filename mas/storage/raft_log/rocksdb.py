"""The raft log of a node in one RocksDB: entries, hard state, configuration and beginning of every group.

A commit is one write and one fsync for all groups (`write`, then `flush_wal`: a write with sync=True would hold the
interpreter lock for the whole fsync), in the log's own thread. The states that the core reads change behind it, each by
one assignment. Recent entries are kept in memory, so that replication and apply don't read RocksDB; older ones are read
from it where a slow follower needs them, and checked.

Damage that RocksDB itself finds stops the node; a record with a wrong checksum, or a hole, stops its group's replica.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from rocksdict import Rdict, WriteBatch

from mas.errors import CorruptData, StorageError
from mas.raft import Entry, HardState, Storage
from mas.runtime import failpoint
from mas.storage.raft_log.engine import ChangeBatch, GroupStorage
from mas.storage.raft_log.records import (
    FIRST_KEY,
    Recovery,
    entry_key,
    hard_state_key,
    parse_key,
    read_entry,
    read_hard_state,
    stage,
)
from mas.storage.raft_log.value import Change, Drop, GroupLog, check_drops
from mas.storage.rocksdb import damaged, open_database, storage_error
from mas.storage.rocksdb_files import SyncedMark

_log = logging.getLogger(__name__)

TAIL_BYTES_MAX = 4 * 1024 * 1024
"""Data of the entries that one group keeps in memory."""
TAIL_ENTRIES_MAX = 2_048

REPLACE_NODE = (
    "remove this node from its buckets with `mas admin replica remove`, and have a new node join in its place, with "
    "an empty data directory and another id"
)
"""What to do where a node has lost what it promised: its id is spent."""


class RocksRaftLog:
    """The log of all groups of a node. Fits `mas.multiraft.ports.RaftLog`."""

    def __init__(self, path: Path, database: Rdict, mark: SyncedMark, tail_bytes: int) -> None:
        """Use `open`."""
        self._path = path
        self._database = database
        self._mark = mark
        self._tail_bytes = tail_bytes
        self._groups: dict[int, GroupLog] = {}
        self._storages: dict[int, GroupStorage] = {}
        self._damaged: dict[int, CorruptData] = {}
        self._failure: StorageError | None = None

    @classmethod
    def open(cls, path: Path, cluster: str, node: int, *, tail_bytes: int = TAIL_BYTES_MAX) -> Self:
        """Open or create the log in this directory, and verify every record of it.

        Raises:
            DataDirectoryError: it can't be written, another process uses it, or it belongs to another cluster or node.
            CorruptData: there is damage that isn't a torn tail, or what was synced isn't there.
        """
        database = open_database(
            path, kind="raft log", cluster=cluster, node=node, remedy=REPLACE_NODE
        )
        log = cls(path, database, SyncedMark(path), tail_bytes)
        try:
            log._check_end()
            log._recover()
        except BaseException:
            log.close()
            raise
        return log

    def groups(self) -> list[int]:
        """The groups that this node holds, ascending; the damaged ones too."""
        return sorted([*self._groups, *self._damaged])

    def storage(self, group: int) -> Storage:
        """Return what the core reads: the state after the last commit.

        Raises:
            CorruptData: this group's records are damaged; the others can go on.
        """
        return self._storage(group)

    def hard_state(self, group: int) -> HardState:
        """Term, vote and commit, also where the rest of the group's log is damaged.

        Raises:
            CorruptData: this very record is damaged, and what this node has promised lost with it.
        """
        if group not in self._damaged:
            return self._groups[group].hard_state
        key = hard_state_key(group)
        try:
            return read_hard_state(key, self._get(key))
        except CorruptData as error:
            raise CorruptData(
                f"the hard state (term and vote) of bucket {group} in {self._path} is damaged: {error}. What this "
                f"node has promised in the bucket is lost, so its replica can't be rebuilt: {REPLACE_NODE}"
            ) from error

    def note(self, group: int) -> bytes | None:
        """The snapshot being installed (rule 28, snapshots). Raises `CorruptData`."""
        return self._view(group).note

    def removed_at(self, group: int) -> int:
        """Return where this node was removed, before the log began anew; 0: it was not. Raises `CorruptData`."""
        return self._view(group).removed_at

    def lost(self, group: int) -> str:
        """The proof that this log has lost what its node had acknowledged, if there is one. Raises `CorruptData`."""
        return self._view(group).lost

    def batch(self) -> "RocksBatch":
        """Writes to come."""
        return RocksBatch(self)

    def close(self) -> None:
        """Close the database; nothing may be under way.

        Raises:
            StorageError: it can't be closed as it should, and that is the first that is heard of it.
        """
        try:
            self._database.close()
        except Exception as error:
            if self._failure is None:
                raise self._error("closing the raft log in", error) from error
            _log.warning("behind its failure, the raft log can't be closed either: %s", error)
        finally:
            self._mark.close()

    def write(self, changes: list[tuple[int, Change]], *, sync: bool) -> None:
        """A batch's commit, in the log's thread."""
        if self._failure is not None:
            # A second fsync may say "fine" about pages that the first one has lost.
            raise self._failure
        check_drops(changes, self._damaged)
        groups = dict.fromkeys(group for group, _ in changes)
        staged = {group: self._groups[group] for group in groups if group in self._groups}
        records = WriteBatch(raw_mode=True)
        for group, change in changes:
            stage(staged, records, group, change)
        self._write(records, sync=sync)
        for group, change in changes:
            if isinstance(change, Drop):
                # What was hidden of the old log says nothing of one created anew.
                self._storages.pop(group, None)
        for group in groups:
            self._publish(group, staged.get(group))

    def hide(self, group: int, index: int) -> None:
        """On the loop: entries up to and including `index` are being compacted."""
        if group in self._groups:
            self._storage(group).hide(index)

    def _write(self, records: WriteBatch, *, sync: bool) -> None:
        failpoint("raft_log.before_write")
        try:
            self._database.write(records)
            failpoint("raft_log.before_sync")
            if sync:
                self._database.flush_wal(sync=True)
                self._mark.write(self._database.latest_sequence_number())
        except Exception as error:
            self._failure = self._error("writing the raft log to", error)
            raise self._failure from error
        failpoint("raft_log.after_sync")

    def _publish(self, group: int, log: GroupLog | None) -> None:
        if log is not None:
            self._groups[group] = log.trim(TAIL_ENTRIES_MAX, self._tail_bytes)
        else:
            self._groups.pop(group, None)
        self._damaged.pop(group, None)

    def _storage(self, group: int) -> GroupStorage:
        storage = self._storages.get(group)
        if storage is None:
            self._view(group)
            storage = GroupStorage(
                lambda: self._groups[group],
                lambda lo, hi, max_bytes: self._fetch(group, lo, hi, max_bytes),
            )
            self._storages[group] = storage
        return storage

    def _view(self, group: int) -> GroupLog:
        if group in self._damaged:
            raise self._damaged[group]
        return self._groups[group]

    def _fetch(self, group: int, lo: int, hi: int, max_bytes: int | None) -> list[Entry]:
        entries: list[Entry] = []
        size = 0
        for key, record in self._scan(entry_key(group, lo)):
            entry = self._read_entry(group, key, record, lo + len(entries))
            size += len(entry.data)
            if max_bytes is not None and size > max_bytes and entries:
                break
            entries.append(entry)
            if entry.index == hi - 1:
                break
        if not entries:
            raise self._damage(group, f"entry {lo} is missing")
        return entries

    def _read_entry(self, group: int, key: bytes, record: bytes, expected: int) -> Entry:
        if key != entry_key(group, expected):
            raise self._damage(group, f"entry {expected} is missing")
        try:
            return read_entry(key, record, expected)
        except CorruptData as error:
            raise self._damage(group, f"entry {expected}: {error}") from error

    def _check_end(self) -> None:
        try:
            synced = self._mark.read()
        except OSError as error:
            raise self._error("reading the raft log in", error) from error
        newest = self._database.latest_sequence_number()
        if newest < synced:
            raise damaged(
                self._path,
                f"it was synced up to change {synced}, and ends at {newest}",
                REPLACE_NODE,
            )

    def _recover(self) -> None:
        groups: dict[int, Recovery] = {}
        for key, record in self._scan(FIRST_KEY):
            group, kind, index = parse_key(key)
            recovery = groups.get(group)
            if recovery is None:
                recovery = groups[group] = Recovery(TAIL_ENTRIES_MAX, self._tail_bytes)
            recovery.add(key, kind, index, record)
        for group, recovery in groups.items():
            try:
                self._groups[group] = recovery.finish()
            except CorruptData as error:
                self._damaged[group] = self._damage(group, str(error))
                self._check_promises(group)

    def _check_promises(self, group: int) -> None:
        try:
            self.hard_state(group)
        except CorruptData as error:
            self._damaged[group] = error  # Worse: it can't even be rebuilt.

    def _get(self, key: bytes) -> bytes:
        try:
            record: bytes | None = self._database.get(key)
        except Exception as error:
            raise self._error("reading the raft log in", error) from error
        if record is None:
            raise CorruptData(f"there is no record at {key.hex()}")
        return record

    def _scan(self, key: bytes) -> Iterator[tuple[bytes, bytes]]:
        scan = self._database.iter()
        scan.seek(key)
        while scan.valid():
            yield scan.key(), scan.value()
            scan.next()
        try:
            # An iterator that met damage just ends: its status says so.
            scan.status()
        except Exception as error:
            raise self._error("reading the raft log in", error) from error

    def _error(self, doing: str, error: Exception) -> StorageError:
        return storage_error(self._path, doing, error, REPLACE_NODE)

    def _damage(self, group: int, what: str) -> CorruptData:
        return CorruptData(
            f"the raft log of bucket {group} in {self._path} is damaged: {what}. This replica takes no part any more; "
            f"rebuild it from the others with `mas admin replica rebuild`"
        )


class RocksBatch(ChangeBatch):
    """Writes of one turn: collected on the loop, encoded and written in the log's thread by `commit`."""

    def __init__(self, log: RocksRaftLog) -> None:
        super().__init__()
        self._log = log

    def compact(self, group: int, index: int) -> None:
        """Drop entries up to and including `index`; its term is still known. They are hidden at once."""
        self._log.hide(group, index)
        super().compact(group, index)

    def commit(self, *, sync: bool) -> None:
        """Write it all at once; with `sync` it is durable on return.

        Raises:
            StorageError: nobody knows what is on the disk; the process must stop.
        """
        self._log.write(self.changes, sync=sync)
