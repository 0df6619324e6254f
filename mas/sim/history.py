"""What clients asked and what they were told, and whether one order explains it all.

The model is an append-only list. A write's answer is its place in the list, a read's the length that it saw. So every
answered operation has a *point*: a write at place p takes effect at p, a read of length n behind place n. Points are the
order, and need not be searched for, as for registers: the history is linearizable exactly where it respects time. Whoever
begins after another has ended must have no lower point, and a write a higher one. The list itself says where writes stand
whose answer nobody heard: they end at the end of time, or never were.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec


class Operation(msgspec.Struct):
    """One question to one node, in virtual seconds."""

    number: int
    group: int
    node: int
    kind: Literal["write", "read"]
    asked: float
    answered: float = float("inf")
    floor: int = 0
    """How long the list had become anywhere when this was asked."""
    refused: bool = False
    """The group said that it hasn't taken it, and never will."""
    length: int = 0
    """A write's place in the list, from 1 on; the length that a read saw."""
    digest: int = 0
    """Of all that a read saw."""


def check(
    operations: Sequence[Operation], places: Mapping[int, int], digests: Sequence[int]
) -> str | None:
    """Find what is wrong with one group's history; None where it is linearizable.

    `places` says where the final list has each write, by the operation's number; `digests[n]` what a read of length n
    must have seen.
    """
    for operation in operations:
        fault = _fault(operation, places, digests)
        if fault is not None:
            return fault
    return _out_of_time(operations, places)


def _fault(operation: Operation, places: Mapping[int, int], digests: Sequence[int]) -> str | None:
    """Tell whether the answer is one that the list could have given at any time."""
    is_answered = operation.answered < float("inf") and not operation.refused
    place = places.get(operation.number)
    if operation.refused and place is not None:
        return f"{_show(operation)} was refused, and the list has it at {place}"
    if not is_answered:
        return None
    if operation.kind == "write" and place != operation.length:
        return f"{_show(operation)} was acknowledged at {operation.length}, and the list has it at {place}"
    if operation.kind == "read":
        if operation.length >= len(digests):
            return f"{_show(operation)} saw {operation.length} items, and the list has {len(digests) - 1}"
        if operation.digest != digests[operation.length]:
            return f"{_show(operation)} saw {operation.length} items that the list never had"
    return None


def _out_of_time(operations: Sequence[Operation], places: Mapping[int, int]) -> str | None:
    """Sweep along time: no operation may have a point before that of one that had ended when it began."""
    moments: list[tuple[float, int, Operation]] = []
    for operation in operations:
        if operation.refused or _point(operation, places) is None:
            continue
        moments.append((operation.asked, 1, operation))
        if operation.answered < float("inf"):
            moments.append((operation.answered, 0, operation))
    # At the same moment, answers count before questions: nobody can tell that they don't.
    moments.sort(key=lambda moment: (moment[0], moment[1], moment[2].number))
    highest, ended = -1, None
    for _, begins, operation in moments:
        point = _point(operation, places)
        assert point is not None
        if not begins:
            if point > highest:
                highest, ended = point, operation
        elif point < highest or (point == highest and operation.kind == "write"):
            assert ended is not None
            return (
                f"{_show(operation)} stands at {point}, behind its end {_show(ended)} at {highest}"
            )
    return None


def _point(operation: Operation, places: Mapping[int, int]) -> int | None:
    if operation.kind == "write":
        return places.get(operation.number)
    return operation.length if operation.answered < float("inf") else None


def _show(operation: Operation) -> str:
    return f"{operation.kind} {operation.number} ({operation.asked:.4f} to {operation.answered:.4f} s, node {operation.node})"
