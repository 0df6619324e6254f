"""Messages that this process has sent and waits for: each has a number, by which its reply finds it.

A call ends when its reply comes, or when the connection with its node breaks. Deadlines are the business of whoever
makes the calls.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from mas.errors import NetworkError
from mas.runtime import Dice

NOWHERE = 0
"""No node has this id."""

R = TypeVar("R")
C = TypeVar("C", bound="Call[Any]")


class Call(ABC, Generic[R]):
    """One message on its way to a node, and what its reply or its loss means."""

    __slots__ = ("node", "number")
    kind: type
    """Of the message that was sent."""

    def __init__(self, node: int = NOWHERE) -> None:
        self.node = node
        self.number = 0

    @abstractmethod
    def accepts(self, reply: R) -> bool:
        """Tell whether what was sent can be answered so."""

    @abstractmethod
    def on_reply(self, reply: R) -> None:
        """Take the reply. Raises `NetworkError` where it answers what wasn't asked."""

    @abstractmethod
    def on_lost(self, detail: str) -> None:
        """End without a reply: nobody knows whether the message arrived."""


class Calls(Generic[C, R]):
    """All calls of one kind that this process has under way."""

    def __init__(self, dice: Dice) -> None:
        # A random start, because a reply to this process's previous life must not find a call of this one.
        self._last_number = dice.randrange(1 << 62)
        self._calls: dict[int, C] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[C]:
        """Go through a copy, in the order of their numbers: calls may end and begin meanwhile."""
        return iter(list(self._calls.values()))

    def add(self, call: C) -> int:
        """Give a call its number, which its message has to carry."""
        self._last_number += 1
        call.number = self._last_number
        self._calls[call.number] = call
        return call.number

    def remove(self, call: C) -> None:
        """Forget a call; its reply finds nobody from now on."""
        self._calls.pop(call.number, None)

    def get(self, number: int) -> C | None:
        """Return the call of this number, None where it has ended."""
        return self._calls.get(number)

    def on_reply(self, peer: int, number: int, reply: R) -> None:
        """Give a reply to its call. One whose call has ended, or went to another node, is dropped.

        Raises:
            NetworkError: it isn't an answer to what was asked.
        """
        call = self._calls.get(number)
        if call is None or call.node != peer:
            return
        if not call.accepts(reply):
            raise NetworkError(
                f"node {peer} answers a {call.kind.__name__} with {type(reply).__name__}"
            )
        call.on_reply(reply)

    def lose(self, node: int) -> None:
        """End every call to a node, since the connection with it broke."""
        for call in self:
            if call.node == node:
                call.on_lost(f"the connection with node {node} broke")
