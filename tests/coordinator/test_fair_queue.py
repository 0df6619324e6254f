"""Callers are served in turns, whatever each has brought; each one's own order stays, and nothing is lost or doubled."""

from collections import Counter, defaultdict

import hypothesis.strategies as st
from hypothesis import given

from mas.coordinator.fair_queue import FairQueue


def _items(taken: list[tuple[str, range]]) -> list[tuple[str, int]]:
    return [(batch, item) for batch, items in taken for item in items]


def test_kind_6_one_item_is_among_the_next_however_much_waits_in_front_of_it() -> None:
    queue = FairQueue[str]()
    queue.put("many", "m", 8_192)
    assert queue.take(1_000) == [("m", range(1_000))]
    queue.put("one", "o", 1)
    taken = queue.take(1_000)
    assert ("o", range(1)) in taken
    assert len(_items(taken)) == 1_000
    assert len(queue) == 8_192 - 1_999


def test_the_room_is_shared_evenly() -> None:
    queue = FairQueue[str]()
    for caller in "abc":
        queue.put(caller, caller, 5_000)
    assert Counter(batch for batch, _ in _items(queue.take(900))) == {"a": 300, "b": 300, "c": 300}


def test_what_one_does_not_need_the_others_have() -> None:
    queue = FairQueue[str]()
    queue.put("a", "a", 10)
    queue.put("b", "b", 1_000)
    queue.put("c", "c", 200)
    assert Counter(batch for batch, _ in _items(queue.take(900))) == {"a": 10, "b": 690, "c": 200}


def test_a_callers_own_batches_stay_in_order_and_whole() -> None:
    queue = FairQueue[str]()
    queue.put("a", "first", 3)
    queue.put("a", "second", 4)
    assert queue.take(5) == [("first", range(3)), ("second", range(2))]
    assert queue.take(5) == [("second", range(2, 4))]
    assert queue.take(5) == []


def test_more_callers_than_room_come_one_after_another() -> None:
    queue = FairQueue[str]()
    for caller in "abcde":
        queue.put(caller, caller, 2)
    assert [batch for batch, _ in queue.take(2) + queue.take(2) + queue.take(2)] == list("abcdea")


_Step = st.one_of(st.tuples(st.sampled_from("abcd"), st.integers(1, 50)), st.integers(0, 60))


@given(st.lists(_Step))
def test_nothing_is_lost_doubled_or_overtaken_by_its_own_caller(
    steps: list[tuple[str, int] | int],
) -> None:
    queue = FairQueue[tuple[str, int]]()
    put: dict[str, list[tuple[int, int]]] = defaultdict(list)
    got: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for number, step in enumerate([*steps, 10_000]):
        if isinstance(step, tuple):
            caller, size = step
            queue.put(caller, (caller, number), size)
            put[caller] += [(number, item) for item in range(size)]
            continue
        waited = {caller for caller in put if len(put[caller]) > len(got[caller])}
        before = len(queue)
        taken = queue.take(step)
        for (caller, batch), items in taken:
            got[caller] += [(batch, item) for item in items]
        assert sum(len(items) for _, items in taken) == min(step, before)
        assert len({caller for (caller, _), _ in taken}) >= min(len(waited), step)
    assert got == put
    assert len(queue) == 0
