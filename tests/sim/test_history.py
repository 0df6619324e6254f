"""The checker itself: histories that one list explains, and those that none does."""

import re
from typing import Literal

import pytest

from mas.sim.history import Operation, check

DIGESTS = [0, 11, 22, 33]
NEVER = float("inf")


def operation(
    number: int,
    kind: Literal["write", "read"],
    times: tuple[float, float],
    length: int = 0,
    *,
    refused: bool = False,
) -> Operation:
    return Operation(
        number=number,
        group=1,
        node=1,
        kind=kind,
        asked=times[0],
        answered=times[1],
        length=length,
        digest=DIGESTS[length] if kind == "read" else 0,
        refused=refused,
    )


def write(number: int, times: tuple[float, float], length: int = 0) -> Operation:
    return operation(number, "write", times, length)


def read(number: int, times: tuple[float, float], length: int) -> Operation:
    return operation(number, "read", times, length)


def test_operations_at_the_same_time_may_have_any_order() -> None:
    history = [write(1, (0, 9), 2), write(2, (1, 8), 1), read(3, (2, 7), 0), read(4, (2, 7), 2)]
    assert check(history, {1: 2, 2: 1}, DIGESTS) is None


def test_a_write_whose_answer_was_lost_may_come_late_or_never() -> None:
    history = [write(1, (0, NEVER)), write(2, (0, NEVER)), read(3, (1, 2), 0), read(4, (50, 51), 1)]
    assert check(history, {1: 1}, DIGESTS) is None


@pytest.mark.parametrize(
    ("history", "places", "fault"),
    [
        ([write(1, (0, 1), 1)], {}, "acknowledged at 1, and the list has it at None"),
        ([write(1, (0, 1), 1)], {1: 2}, "acknowledged at 1, and the list has it at 2"),
        ([operation(1, "write", (0, 1), refused=True)], {1: 1}, "was refused"),
        ([write(1, (0, 1), 1), read(2, (2, 3), 0)], {1: 1}, "read 2 .* stands at 0, behind"),
        ([read(1, (0, 1), 1), read(2, (2, 3), 0)], {9: 1}, "read 2 .* stands at 0, behind"),
        ([write(1, (0, 1), 2), write(2, (2, 3), 1)], {1: 2, 2: 1}, "write 2 .* stands at 1"),
        ([read(1, (0, 1), 1), write(2, (2, 3), 1)], {2: 1}, "write 2 .* stands at 1, behind"),
        ([read(1, (0, 1), 1), write(2, (2, NEVER))], {2: 1}, "write 2 .* stands at 1, behind"),
    ],
)
def test_what_no_list_explains(
    history: list[Operation], places: dict[int, int], fault: str
) -> None:
    found = check(history, places, DIGESTS)
    assert found is not None
    assert re.search(fault, found), found


def test_a_read_of_what_the_list_never_was() -> None:
    wrong = read(1, (0, 1), 2)
    wrong.digest = 23
    assert "never had" in str(check([wrong], {}, DIGESTS))
    wrong.length = 4
    assert "the list has 3" in str(check([wrong], {}, DIGESTS))
