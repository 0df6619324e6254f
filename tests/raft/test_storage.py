"""MemoryStorage: what it holds, what it refuses."""

import pytest

from mas.raft import (
    Compacted,
    ConfState,
    Entry,
    HardState,
    MemoryStorage,
    Snapshot,
    SnapshotMetadata,
    Unavailable,
)
from mas.raft.storage import within

CONF = ConfState(voters=(1, 2))


def holding(first: int, *terms: int) -> MemoryStorage:
    """Entries of these terms from `first` on, all before it being compacted with term 3."""
    storage = MemoryStorage(CONF)
    storage.apply_snapshot(Snapshot(SnapshotMetadata(first - 1, 3, CONF)))
    storage.append([Entry(first + place, term, data=b"12345") for place, term in enumerate(terms)])
    return storage


def test_an_empty_log_begins_at_one() -> None:
    storage = MemoryStorage(CONF)
    assert (storage.first_index(), storage.last_index(), storage.term(0)) == (1, 0, 0)
    assert storage.initial_state() == (HardState(), CONF)


def test_terms_are_known_from_the_entry_before_the_first_on() -> None:
    storage = holding(4, 4, 5)
    assert [storage.term(index) for index in (3, 4, 5)] == [3, 4, 5]
    with pytest.raises(Compacted):
        storage.term(2)
    with pytest.raises(Unavailable):
        storage.term(6)


def test_entries_come_within_a_size_and_never_none() -> None:
    storage = holding(4, 4, 5, 6)
    assert [entry.index for entry in storage.entries(4, 7)] == [4, 5, 6]
    assert [entry.index for entry in storage.entries(4, 7, 0)] == [4]
    assert [entry.index for entry in storage.entries(4, 7, 10)] == [4, 5]
    with pytest.raises(Compacted):
        storage.entries(3, 5)
    with pytest.raises(Unavailable):
        storage.entries(4, 8)


def test_an_append_replaces_what_is_there_and_leaves_no_gap() -> None:
    storage = holding(4, 4, 4, 4)
    storage.append([Entry(2, 1), Entry(3, 3), Entry(4, 4), Entry(5, 6)])
    assert [storage.term(index) for index in range(3, 6)] == [3, 4, 6]
    assert storage.last_index() == 5
    storage.append([Entry(2, 1), Entry(3, 3)])
    assert storage.last_index() == 5
    with pytest.raises(Unavailable):
        storage.append([Entry(7, 6)])


def test_compaction_keeps_the_term_of_what_it_drops_last() -> None:
    storage = holding(4, 4, 5, 6)
    storage.compact(5)
    assert (storage.first_index(), storage.term(5), storage.last_index()) == (6, 5, 6)
    with pytest.raises(Compacted):
        storage.compact(5)
    with pytest.raises(Unavailable):
        storage.compact(7)
    storage.compact(6)
    assert (storage.first_index(), storage.last_index(), storage.term(6)) == (7, 6, 6)


def test_snapshots_do_not_go_back() -> None:
    storage = holding(4, 4, 5)
    taken = storage.create_snapshot(4, CONF, b"state")
    assert taken == storage.snapshot() == Snapshot(SnapshotMetadata(4, 4, CONF), b"state")
    assert storage.first_index() == 4
    with pytest.raises(Compacted):
        storage.create_snapshot(3, CONF)
    with pytest.raises(Compacted):
        storage.apply_snapshot(Snapshot(SnapshotMetadata(3, 3, CONF)))
    with pytest.raises(Unavailable):
        storage.create_snapshot(6, CONF)


def test_an_applied_snapshot_stands_for_log_and_configuration() -> None:
    storage = holding(4, 4, 5)
    conf = ConfState(voters=(7, 8))
    storage.apply_snapshot(Snapshot(SnapshotMetadata(9, 6, conf)))
    assert (storage.first_index(), storage.last_index(), storage.term(9)) == (10, 9, 6)
    assert storage.initial_state()[1] == conf


def test_the_configuration_is_what_was_set_last_or_the_snapshots() -> None:
    storage = holding(1, 3, 3, 3)
    older, newer = ConfState(voters=(1, 2, 3)), ConfState(voters=(1, 2, 3, 4))
    storage.create_snapshot(1, older)
    assert storage.initial_state()[1] == older
    storage.set_conf_state(newer)
    storage.create_snapshot(2, older)
    assert storage.initial_state()[1] == newer


def test_a_size_of_exactly_the_limit_fits() -> None:
    entries = [
        Entry(1, 1, data=b"123"),
        Entry(2, 1),
        Entry(3, 1, data=b"45"),
        Entry(4, 1, data=b"6"),
    ]
    assert within(entries, 5) == entries[:3]
    assert within(entries, 4) == entries[:2]
    assert within(entries, None) == entries


def test_a_limit_of_nothing_is_one_entry_even_where_entries_hold_nothing() -> None:
    entries = [Entry(1, 1), Entry(2, 1), Entry(3, 1)]
    assert within(entries, 0) == entries[:1]
    assert within([], 0) == []
