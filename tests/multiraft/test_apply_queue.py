"""A group's events reach whoever applies them in order, and none is dropped."""

from mas.multiraft import Committed, Leadership, Restored
from mas.multiraft.apply_queue import ApplyQueue
from mas.multiraft.events import CommitEvent
from mas.raft import (
    ConfState,
    Entry,
    MemoryStorage,
)
from mas.runtime import Mailbox


def make_apply_queue(capacity: int, last: int) -> tuple[Mailbox[CommitEvent], ApplyQueue]:
    storage = MemoryStorage()
    storage.append([Entry(i, 1, data=b"%d" % i) for i in range(1, last + 1)])
    commit_c: Mailbox[CommitEvent] = Mailbox("commit_c", capacity)
    return commit_c, ApplyQueue(commit_c, storage, 0)


def entries(first: int, last: int) -> tuple[Entry, ...]:
    return tuple(Entry(i, 1, data=b"%d" % i) for i in range(first, last + 1))


def test_what_finds_no_room_waits_as_a_range_and_comes_in_order() -> None:
    commit_c, apply_queue = make_apply_queue(1, 9)
    leads, follows = Leadership(1, 1, leading=True), Leadership(2, 2, leading=False)
    apply_queue.commit(entries(1, 2))
    apply_queue.commit(entries(3, 4))
    apply_queue.commit(entries(5, 6))
    apply_queue.push(leads)
    apply_queue.commit(entries(7, 9))
    apply_queue.push(follows)
    assert (apply_queue.pushed, apply_queue.committed) == (2, 9)

    taken = []
    while batch := commit_c.drain_nowait():
        taken += batch
        apply_queue.resume()

    assert taken == [
        Committed(entries(1, 2)),
        Committed(entries(3, 6)),
        leads,
        Committed(entries(7, 9)),
        follows,
    ]
    assert apply_queue.pushed == 9
    assert not apply_queue.is_waiting


def test_a_paused_queue_hands_out_nothing_and_a_restart_forgets() -> None:
    commit_c, apply_queue = make_apply_queue(9, 9)
    apply_queue.paused = True
    apply_queue.commit(entries(1, 3))
    apply_queue.resume()
    assert commit_c.drain_nowait() == []

    restored = Restored(7, 1, ConfState())
    apply_queue.restart(restored)
    apply_queue.commit(entries(8, 9))

    assert commit_c.drain_nowait() == [restored, Committed(entries(8, 9))]


def test_owner_that_stops_loses_nothing() -> None:
    commit_c, apply_queue = make_apply_queue(9, 9)
    commit_c.close()

    apply_queue.commit(entries(1, 3))

    assert apply_queue.is_waiting
