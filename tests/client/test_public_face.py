"""A program that uses `mas.client` needs no other import: all that its signatures name is exported there."""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

import mas.client
from mas import errors

EXPORTED = {name: getattr(mas.client, name) for name in mas.client.__all__}
CLASSES = [each for each in EXPORTED.values() if not issubclass(each, errors.MasError)]


def ours(hint: object) -> Iterator[type]:
    """The classes of MAS that a type hint names, at any depth."""
    if isinstance(hint, type) and hint.__module__.split(".")[0] == "mas":
        yield hint
    for part in get_args(hint):
        yield from ours(part)


def public(owner: type) -> Iterator[Callable[..., Any]]:
    for name, member in inspect.getmembers_static(owner):
        if name == "__init__" or not name.startswith("_"):
            function = member.fget if isinstance(member, property) else member
            if inspect.isfunction(function) and function.__module__.startswith("mas."):
                yield function


@pytest.mark.parametrize("owner", CLASSES)
def test_every_type_that_a_signature_names_is_exported(owner: type) -> None:
    hints = [hint for function in public(owner) for hint in get_type_hints(function).values()]
    if issubclass(owner, msgspec.Struct):
        hints += get_type_hints(owner).values()
    named = {each for hint in hints for each in ours(hint)}
    assert named <= set(EXPORTED.values())


@pytest.mark.parametrize("owner", CLASSES)
def test_every_error_that_a_docstring_names_is_exported(owner: type) -> None:
    said = [owner.__doc__ or "", *(function.__doc__ or "" for function in public(owner))]
    tree = {name for name in dir(errors) if name[0].isupper()} - {"ClassVar"}
    named = {word for text in said for word in re.findall(r"\w+", text)} & tree
    assert named <= set(EXPORTED)


def test_the_signatures_are_seen_whole() -> None:
    hints = {name for function in public(mas.client.Client) for name in get_type_hints(function)}
    assert {"clock", "level", "kind", "return"} <= hints
