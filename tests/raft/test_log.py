"""The log in memory and in storage, seen as one."""

import pytest

from mas.raft import Compacted, ConfState, Entry, MemoryStorage, Unavailable
from mas.raft.log import Log
from tests.raft.group import snapshot_of, stored


def entries(first: int, *terms: int) -> tuple[Entry, ...]:
    return tuple(Entry(first + place, term, data=b"12345") for place, term in enumerate(terms))


def terms(log: Log) -> list[int]:
    return [log.term(index) for index in range(log.first_index, log.last_index + 1)]


def write(log: Log, storage: MemoryStorage) -> Entry:
    """Persist what is unstable, as a host does between ready and advance."""
    unstable = log.unstable()
    storage.append(unstable)
    return unstable[-1]


def test_storage_and_memory_are_one_log() -> None:
    log = Log(stored([1, 1, 2]))
    log.append_after(3, entries(4, 2, 3))
    assert terms(log) == [1, 1, 2, 2, 3]
    assert [entry.index for entry in log.slice(2, 6)] == [2, 3, 4, 5]
    assert [entry.index for entry in log.slice(3, 6, 5)] == [3, 4]
    assert [entry.index for entry in log.unstable()] == [4, 5]
    with pytest.raises(Unavailable):
        log.term(6)


@pytest.mark.parametrize(
    ("index", "terms_sent", "expected", "first_unstable"),
    [
        (3, (), [1, 1, 2], 4),
        (2, (2,), [1, 1, 2], 4),
        (3, (3, 3), [1, 1, 2, 3, 3], 4),
        (1, (1, 2, 3), [1, 1, 2, 3], 4),
        (2, (3,), [1, 1, 3], 3),
        (0, (1, 3), [1, 3], 2),
        (1, (1,), [1, 1, 2], 4),
    ],
)
def test_what_matches_stays_and_a_conflict_replaces_the_rest(
    index: int, terms_sent: tuple[int, ...], expected: list[int], first_unstable: int
) -> None:
    log = Log(stored([1, 1, 2]))
    reached = log.append_after(index, entries(index + 1, *terms_sent))
    assert reached == index + len(terms_sent)
    assert terms(log) == expected
    assert log.stable + 1 == first_unstable


def test_a_committed_entry_is_never_replaced() -> None:
    log = Log(stored([1, 1]))
    log.commit_to(2)
    with pytest.raises(AssertionError):
        log.append_after(1, entries(2, 2))


def test_what_was_replaced_while_being_written_is_not_persisted() -> None:
    storage = stored([1])
    log = Log(storage)
    log.append_after(1, entries(2, 1, 1))
    written = write(log, storage)
    log.append_after(1, entries(2, 2, 2))
    log.persisted(written)
    assert log.stable == 1
    log.persisted(write(log, storage))
    assert log.stable == 3
    assert terms(log) == [1, 2, 2]


def test_entries_leave_memory_once_persisted_and_applied() -> None:
    storage = stored([])
    log = Log(storage)
    log.append_after(0, entries(1, 1, 1, 1))
    log.commit_to(2)
    log.applied_to(1)
    log.trim_memory()
    assert len(log._memory) == 3
    log.persisted(write(log, storage))
    log.trim_memory()
    assert [entry.index for entry in log._memory] == [2, 3]
    assert [entry.index for entry in log.unapplied(1 << 20)] == [2]


def test_commit_only_grows_and_never_beyond_the_log() -> None:
    log = Log(stored([1, 1]))
    assert log.commit_to(1)
    assert not log.commit_to(1)
    assert not log.commit_to(0)
    with pytest.raises(AssertionError):
        log.commit_to(3)


def test_a_snapshot_stands_for_everything_before_it() -> None:
    log = Log(stored([1, 1, 2]))
    log.restore(snapshot_of(9, 4, ConfState((1,))))
    assert (log.first_index, log.last_index, log.committed, log.term(9)) == (10, 9, 9, 4)
    assert not log.has_unapplied()
    for index in (3, 8):
        with pytest.raises(Compacted):
            log.term(index)
    with pytest.raises(Compacted):
        log.slice(3, 10)
    log.append_after(9, entries(10, 4))
    assert [entry.index for entry in log.unstable()] == [10]
    log.snapshot_persisted()
    assert log.applied == 9


@pytest.mark.parametrize(
    ("index", "term", "expected"),
    [
        (6, 9, (6, 5)),
        (6, 3, (4, 3)),
        (6, 2, (3, 2)),
        (2, 9, (2, 2)),
        (6, 1, (1, 0)),
        (1, 9, (1, 0)),
    ],
)
def test_a_hint_skips_every_later_term(index: int, term: int, expected: tuple[int, int]) -> None:
    storage = stored([1, 2, 2, 3, 5, 5])
    storage.compact(2)
    assert Log(storage).agreement_at_most(index, term) == expected


@pytest.mark.parametrize(
    ("last_term", "last_index", "expected"),
    [(2, 3, True), (2, 4, True), (3, 1, True), (2, 2, False), (1, 9, False)],
)
def test_5_4_1_later_term_first_then_longer(
    last_term: int, last_index: int, *, expected: bool
) -> None:
    assert Log(stored([1, 1, 2])).is_up_to_date(last_term, last_index) is expected
