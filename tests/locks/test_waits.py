"""The queues: first come first served, and nobody who can't be let in is looked at twice."""

import pytest

from mas.ledger.instructions import LockMode, compatible
from mas.locks.waits import Waiter, WaitQueues

X, E, S = LockMode.EXCLUSIVE, LockMode.ESCROW, LockMode.SHARED


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [(X, X, False), (X, E, False), (X, S, False), (E, E, True), (E, S, False), (S, S, True)],
)
def test_which_modes_go_together(one: LockMode, other: LockMode, *, together: bool) -> None:
    assert compatible(one, other) == compatible(other, one) == together


def queues(*waiters: tuple[str, LockMode]) -> WaitQueues:
    """Waiters 1, 2, 3 ... for the locks named by letters."""
    waits = WaitQueues()
    for number, (locks, mode) in enumerate(waiters, 1):
        waits.add(Waiter(number, b"owner", tuple(locks), mode, 0.0, 0.0))
    return waits


def candidates(waits: WaitQueues, locks: str) -> list[int]:
    return [waiter.number for waiter in waits.candidates(tuple(locks))]


def test_those_at_the_front_that_go_together_are_candidates() -> None:
    assert candidates(queues(("a", E), ("a", E), ("a", S), ("a", E)), "a") == [1, 2]
    assert candidates(queues(("a", X), ("a", X)), "a") == [1]
    assert candidates(queues(("a", S), ("b", X), ("ab", S)), "ab") == [1, 2, 3]


def test_nobody_passes_an_earlier_one_in_any_queue() -> None:
    waits = queues(("a", X), ("ab", E), ("b", E), ("b", S))
    is_next = {number: waits.is_next(waits._waiters[number]) for number in (1, 2, 3, 4)}
    assert is_next == {1: True, 2: False, 3: True, 4: False}, "2 and 3 can hold b together"


def test_what_is_removed_is_in_no_queue() -> None:
    waits = queues(("ab", X), ("b", X))
    waits.remove(1)
    assert (waits.length("a"), waits.length("b"), len(waits)) == (0, 1, 1)
    assert 1 not in waits
    assert candidates(waits, "ab") == [2]
