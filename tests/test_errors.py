"""The tree in the docstring is the tree of the classes, and each class says what a caller acts on."""

import inspect

import pytest

from mas import errors
from mas.errors import MasError

CLASSES = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if value.__module__ == errors.__name__
]


def _drawn() -> list[tuple[str, str]]:
    """Every (class, parent) of the docstring's drawing, `mas.raft`'s branch left out."""
    parents: dict[int, str] = {}
    edges = []
    for line in inspect.cleandoc(errors.__doc__ or "").splitlines():
        branch, _, rest = line.rpartition("── ")
        if not branch:
            if line.strip() == "MasError":
                parents[len(line) - len(line.lstrip())] = "MasError"
            continue
        column = len(branch) - 1
        name = rest.split()[0]
        parents[column + 4] = name
        edges.append((name, parents[column]))
    return edges


def test_the_drawing_is_the_tree() -> None:
    built = {(cls.__name__, cls.__base__.__name__) for cls in CLASSES if cls is not MasError}
    drawn = [edge for edge in _drawn() if edge[0] != "RaftError"]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == built


@pytest.mark.parametrize("cls", CLASSES)
def test_each_class_explains_itself(cls: type[MasError]) -> None:
    assert issubclass(cls, MasError)
    assert cls.__doc__
    assert cls.__doc__ != cls.__base__.__doc__
    assert isinstance(cls.retryable, bool)


def test_who_may_try_again() -> None:
    retryable = {cls.__name__ for cls in CLASSES if cls.retryable}
    assert {"Unavailable", "Overloaded", "NotLeading", "OutcomeUnknown"} <= retryable
    assert not {"InvalidRequest", "ConfigError", "CorruptData", "PeerRefused"} & retryable
