"""What happened in a run: the last events as text for people, and a digest of all of them.

Two runs of a seed have the same digest. The first broken promise is kept, and ends the run.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import xxhash

from mas.raft import Message, MessageType
from mas.sim.process import PROCESS

WORLD = 0
"""The node number of what happens to all."""
_KEPT = 400

_Event = tuple[float, int, str, tuple[object, ...]]


class Trace:
    """The events of a run, in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, kept: int | None = _KEPT) -> None:
        """`kept`: how many of the last events; None for all of them."""
        self._loop = loop
        self._events: deque[_Event] = deque(maxlen=kept)
        self._digest = xxhash.xxh3_128()
        self._encode = msgspec.msgpack.Encoder().encode
        self.count = 0
        self.violation = ""
        """The first promise that was broken; empty while all hold."""
        self.ended = asyncio.Event()
        """Set by a violation."""

    def add(self, node: int, what: str, *details: object) -> None:
        """Something has happened. The details are what msgspec encodes."""
        event = (self._loop.time(), node, what, details)
        self._events.append(event)
        self._digest.update(self._encode(event))
        self.count += 1

    def violate(self, node: int, promise: str) -> None:
        """A promise doesn't hold."""
        self.add(node, "VIOLATION:", promise)
        if not self.violation:
            self.violation = f"at {self._loop.time():.4f} s, {_name(node)}: {promise}"
        self.ended.set()

    def require(self, node: int, holds: bool, promise: str, *details: object) -> None:  # noqa: FBT001  (an assertion's condition)
        """A violation unless `holds`; `promise` is a format for the details."""
        if not holds:
            self.violate(node, promise.format(*details))

    def digest(self) -> str:
        """Of everything that has happened."""
        return self._digest.hexdigest()

    def lines(self) -> Iterator[str]:
        """The kept events, for people."""
        if self.count > len(self._events):
            yield f"... {self.count - len(self._events)} events before"
        for time, node, what, details in self._events:
            words = " ".join(_show(detail) for detail in details)
            yield f"{time:10.4f}  {_name(node):7}  {what} {words}".rstrip()

    @contextmanager
    def hear_logs(self, hide: str) -> Iterator[None]:
        """Take in what the actors log, instead of printing it; `hide` is a path, and no two runs' the same."""
        logger = logging.getLogger("mas")
        handler = _Handler(self, hide)
        before = logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(before[0])
            logger.propagate = before[1]


class _Handler(logging.Handler):
    def __init__(self, trace: Trace, hide: str) -> None:
        super().__init__()
        self._trace = trace
        self._hide = hide

    def emit(self, record: logging.LogRecord) -> None:
        process = PROCESS.get(None)
        if process is None or not process.is_dead:
            text = record.getMessage().replace(self._hide, "")
            node = WORLD if process is None else process.node
            self._trace.add(node, f"{record.levelname.lower()}:", text)


def _name(node: int) -> str:
    return f"node {node}" if node else "world"


def _show(detail: object) -> str:
    if isinstance(detail, tuple) and len(detail) == 2 and isinstance(detail[1], Message):
        return f"[{detail[0]}: {_show_message(detail[1])}]"
    if isinstance(detail, list):
        return " ".join(_show(item) for item in detail)
    return str(detail)


def _show_message(message: Message) -> str:
    parts = [MessageType(message.type).name, f"term {message.term}"]
    if message.reject:
        parts.append("REJECT")
    if message.index or message.log_term:
        parts.append(f"at {message.index}/{message.log_term}")
    if message.entries:
        parts.append(f"+{len(message.entries)}")
    if message.commit:
        parts.append(f"commit {message.commit}")
    return " ".join(parts)
