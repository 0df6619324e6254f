"""The raft log's records in RocksDB: what a change writes of a group, and a group put together again from what was written.

group (8 bytes) | kind (1) | index (8), big-endian  ->  crc32 | payload
"""

from struct import Struct

import msgspec
from rocksdict import WriteBatch

from mas.decoding import msgpack_decoder
from mas.errors import CorruptData
from mas.raft import ConfState, Entry, EntryType, HardState
from mas.storage.raft_log.value import (
    Append,
    Change,
    Compact,
    Create,
    Drop,
    GroupLog,
    Restore,
    SetConfState,
    SetHardState,
    SetLost,
    SetNote,
)
from mas.storage.rocksdb import seal, unseal

_KEY = Struct(">QBQ")
_REMOVED_AT, _START, _HARD_STATE, _CONF_STATE, _NOTE, _LOST, _ENTRY = range(7)
_HEADER = Struct(">QB")
"""Of an entry's payload: term and type, before its data."""
_PLACE = Struct(">QQ")
"""Index and term before the first entry."""
_INDEX = Struct(">Q")
_encode = msgspec.msgpack.Encoder().encode
_decode_hard_state = msgpack_decoder(HardState, "a hard state", CorruptData)
_decode_conf_state = msgpack_decoder(ConfState, "a configuration", CorruptData)


FIRST_KEY = _KEY.pack(1, 0, 0)
"""Behind the database's own keys, before those of all groups."""


def parse_key(key: bytes) -> tuple[int, int, int]:
    """Group, kind and index."""
    group, kind, index = _KEY.unpack(key)
    return group, kind, index


def entry_key(group: int, index: int) -> bytes:
    """Return the key of an entry."""
    return _KEY.pack(group, _ENTRY, index)


def hard_state_key(group: int) -> bytes:
    """Return the key of a group's hard state."""
    return _KEY.pack(group, _HARD_STATE, 0)


def read_entry(key: bytes, record: bytes, index: int) -> Entry:
    """The entry in the record at its key. Raises `CorruptData`."""
    return _decode_entry(index, unseal(key, record))


def read_hard_state(key: bytes, record: bytes) -> HardState:
    """The hard state in the record at its key. Raises `CorruptData`."""
    return _decode_hard_state(unseal(key, record))


class Recovery:
    """One group, put together from its records in the order of their keys: entries come last."""

    def __init__(self, tail_entries: int, tail_bytes: int) -> None:
        """Set how much of it is kept in memory."""
        self._tail_entries = tail_entries
        self._tail_bytes = tail_bytes
        self._fields: dict[int, bytes] = {}
        self._log: GroupLog | None = None
        self._entries: list[Entry] = []
        self._damage: CorruptData | None = None

    def add(self, key: bytes, kind: int, index: int, record: bytes) -> None:
        """The next record; behind a bad one nothing counts."""
        if self._damage is None:
            try:
                self._add(kind, index, unseal(key, record))
            except CorruptData as error:
                self._damage = error

    def finish(self) -> GroupLog:
        """The log as it was. Raises `CorruptData`."""
        if self._damage is not None:
            raise self._damage
        log = self._take_entries()
        if log.hard_state.commit > log.last:
            raise CorruptData(
                f"entries up to {log.hard_state.commit} were committed, and the log ends at {log.last}"
            )
        return log

    def _add(self, kind: int, index: int, payload: bytes) -> None:
        if kind != _ENTRY:
            self._fields[kind] = payload
            return
        if self._log is None:
            self._log = _decode_fields(self._fields)
        expected = self._log.last + len(self._entries) + 1
        if index != expected:
            raise CorruptData(f"entry {expected} is missing: the next is {index}")
        self._entries.append(_decode_entry(index, payload))
        if len(self._entries) == self._tail_entries:
            self._log = self._take_entries()

    def _take_entries(self) -> GroupLog:
        log = self._log if self._log is not None else _decode_fields(self._fields)
        entries, self._entries = self._entries, []
        return log.append(entries).trim(self._tail_entries, self._tail_bytes) if entries else log


def stage(staged: dict[int, GroupLog], records: WriteBatch, group: int, change: Change) -> None:
    """Make the change in `staged`, and put what it writes to `records`."""
    match change:
        case Create():
            assert group not in staged, f"group {group} exists"
            after = GroupLog(change.conf_state, removed_at=change.removed_at)
            staged[group] = after
            if after.removed_at:
                _put(records, group, _REMOVED_AT, _INDEX.pack(after.removed_at))
            _put_start(records, group, after)
            _put(records, group, _HARD_STATE, _encode(after.hard_state))
            _put(records, group, _CONF_STATE, _encode(after.conf_state))
        case Drop():
            staged.pop(group, None)
            records.delete_range(_KEY.pack(group, 0, 0), _KEY.pack(group + 1, 0, 0))
        case _:
            before = staged[group]
            after = staged[group] = before.change(change)
            _erase_entries(records, group, before, after)
            _put_change(records, group, change, after)


def _erase_entries(records: WriteBatch, group: int, before: GroupLog, after: GroupLog) -> None:
    if after.start > before.start:
        first, end = before.start + 1, after.start + 1
        records.delete_range(_KEY.pack(group, _ENTRY, first), _KEY.pack(group, _ENTRY, end))
    first = after.last + 1
    if before.last >= first:
        records.delete_range(
            _KEY.pack(group, _ENTRY, first), _KEY.pack(group, _ENTRY, before.last + 1)
        )


def _put_change(records: WriteBatch, group: int, change: Change, after: GroupLog) -> None:
    match change:
        case Append():
            for entry in change.entries:
                _put(records, group, _ENTRY, _encode_entry(entry), entry.index)
        case SetHardState():
            _put(records, group, _HARD_STATE, _encode(change.hard_state))
        case SetConfState():
            _put(records, group, _CONF_STATE, _encode(change.conf_state))
        case Restore():
            _put_start(records, group, after)
            _put(records, group, _CONF_STATE, _encode(after.conf_state))
        case Compact():
            _put_start(records, group, after)
        case SetLost():
            _put(records, group, _LOST, change.proof.encode())
        case SetNote(note=None):
            records.delete(_KEY.pack(group, _NOTE, 0))
        case SetNote(note=bytes() as note):
            _put(records, group, _NOTE, note)
        case _:
            raise AssertionError(f"{change} has no records")


def _put(records: WriteBatch, group: int, kind: int, payload: bytes, index: int = 0) -> None:
    key = _KEY.pack(group, kind, index)
    records.put(key, seal(key, payload))


def _put_start(records: WriteBatch, group: int, log: GroupLog) -> None:
    _put(records, group, _START, _PLACE.pack(log.start, log.start_term))


def _encode_entry(entry: Entry) -> bytes:
    return _HEADER.pack(entry.term, entry.type) + entry.data


def _decode_entry(index: int, payload: bytes) -> Entry:
    term, kind = _HEADER.unpack_from(payload)
    return Entry(index, term, EntryType(kind), payload[_HEADER.size :])


def _decode_fields(fields: dict[int, bytes]) -> GroupLog:
    missing = {_START, _HARD_STATE, _CONF_STATE}.difference(fields)
    if missing:
        raise CorruptData("its beginning, hard state or configuration is missing")
    start, start_term = _PLACE.unpack(fields[_START])
    [removed_at] = _INDEX.unpack(fields.get(_REMOVED_AT, bytes(_INDEX.size)))
    return GroupLog(
        conf_state=_decode_conf_state(fields[_CONF_STATE]),
        hard_state=_decode_hard_state(fields[_HARD_STATE]),
        note=fields.get(_NOTE),
        start=start,
        start_term=start_term,
        last=start,
        removed_at=removed_at,
        lost=fields.get(_LOST, b"").decode(),
    )
