"""The network between simulated nodes: it loses, delays, reorders and repeats frames, and is cut in either direction.

The real transport delivers a frame once, in order, or never. Raft must bear more than that, so frames of the RAFT channel
may come again and in any order; those of the SNAPSHOT channel only late, or never.
"""

import asyncio
import contextvars
from collections.abc import Callable
from enum import Enum
from typing import Protocol

import msgspec

from mas.channels import Channel
from mas.multiraft.frames import decode_frame
from mas.raft import Message
from mas.runtime import Dice
from mas.sim.trace import Trace

_IN_ORDER_SECONDS = 2e-6
"""Between two frames that must not overtake one another: more than a loop shuffles timers by."""


Messages = list[tuple[int, Message]]
"""What is in a frame, by group."""
_Frame = tuple[int, bytes, Messages]
"""Channel, bytes, and what the bytes say."""


class Line(Enum):
    """One direction between two nodes."""

    OPEN = "open"
    CLOSED = "closed"
    """Known to be down: nothing is sent."""
    SILENT = "silent"
    """Takes everything, and brings nothing."""


class Weather(msgspec.Struct, frozen=True):
    """What happens to a frame: chances in percent, times in seconds."""

    drop: int = 0
    duplicate: int = 0
    reorder: int = 0
    delay_seconds: float = 0.002


class Receiver(Protocol):
    """A node, as the network sees it."""

    id: int
    life: int

    @property
    def is_up(self) -> bool: ...

    def receive(self, sender: int, channel: int, payload: bytes, messages: Messages) -> None:
        """`messages` are what a frame of the RAFT channel holds."""

    def on_peer_down(self, peer: int) -> None: ...


class Network:
    """All lines, and what is on them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dice: Dice,
        trace: Trace,
        on_messages: Callable[[int, Messages], None],
    ) -> None:
        """`on_messages` hears what a node says to another, before anybody else does."""
        self.nodes: dict[int, Receiver] = {}
        self.weather = Weather()
        self._loop = loop
        self._outside = contextvars.copy_context()
        self._dice = dice
        self._trace = trace
        self._on_messages = on_messages
        self._lines: dict[tuple[int, int], Line] = {}
        self._last_due: dict[tuple[int, int], float] = {}

    def line(self, sender: int, to: int) -> Line:
        """Return the line from one node to another."""
        return self._lines.get((sender, to), Line.OPEN)

    def cut(self, sender: int, to: int, line: Line) -> None:
        """Change one direction. Where it is closed both ends hear of it, in a while."""
        self._lines[sender, to] = line
        if line is Line.CLOSED:
            for node, peer in ((sender, to), (to, sender)):
                self._later(self._tell_down, node, peer)

    def heal(self) -> None:
        """Open all lines."""
        self._lines.clear()

    def on_death(self, node: int) -> None:
        """Its peers' connections to this node break, as they learn in a while."""
        for peer in self.nodes:
            if peer != node:
                self._later(self._tell_down, peer, node)

    def send(self, sender: int, to: int, channel: int, payload: bytes) -> bool:
        """A node's `Peers.send`."""
        receiver = self.nodes.get(to)
        if not self.nodes[sender].is_up or receiver is None or not receiver.is_up:
            return False
        line = self.line(sender, to)
        if line is Line.CLOSED:
            return False
        messages = self._overhear(sender, to, channel, payload)
        if line is Line.SILENT or self._happens(self.weather.drop):
            self._trace.add(sender, "lost on the way to", to)
            return True
        overtakes = channel == Channel.RAFT and self._happens(self.weather.reorder)
        frame = channel, payload, messages
        self._carry(sender, receiver, frame, in_order=not overtakes)
        if channel == Channel.RAFT and self._happens(self.weather.duplicate):
            self._trace.add(sender, "goes twice to", to)
            self._carry(sender, receiver, frame, in_order=False)
        return True

    def _overhear(self, sender: int, to: int, channel: int, payload: bytes) -> Messages:
        if channel != Channel.RAFT:
            self._trace.add(sender, "sends a snapshot frame to", to, len(payload))
            return []
        messages = list(decode_frame(payload).messages)
        self._trace.add(sender, "to", to, messages)
        self._on_messages(sender, messages)
        return messages

    def _carry(self, sender: int, receiver: Receiver, frame: _Frame, *, in_order: bool) -> None:
        due = self._loop.time() + self._seconds()
        if in_order:
            due = max(due, self._last_due.get((sender, receiver.id), 0.0) + _IN_ORDER_SECONDS)
            self._last_due[sender, receiver.id] = due
        else:
            due += self._seconds() * 20
        # What overtakes may also arrive in a later life of the receiver: Raft is promised no less.
        life = receiver.life if in_order else 0
        self._loop.call_at(due, self._arrive, sender, receiver, life, frame, context=self._outside)

    def _arrive(self, sender: int, receiver: Receiver, life: int, frame: _Frame) -> None:
        if not receiver.is_up or life not in (0, receiver.life):
            return
        if self.line(sender, receiver.id) is not Line.OPEN:
            self._trace.add(sender, "lost on the way to", receiver.id)
            return
        receiver.receive(sender, *frame)

    def _tell_down(self, node: int, peer: int) -> None:
        receiver = self.nodes.get(node)
        if receiver is not None and receiver.is_up:
            receiver.on_peer_down(peer)

    def _later(self, callback: Callable[[int, int], None], node: int, peer: int) -> None:
        self._loop.call_later(self._seconds() * 10, callback, node, peer, context=self._outside)

    def _seconds(self) -> float:
        return self.weather.delay_seconds * (100 + self._dice.randrange(900)) / 1000

    def _happens(self, percent: int) -> bool:
        return percent > 0 and self._dice.randrange(100) < percent


class SimPeers:
    """The network as one life of a node sees it. Fits `multiraft.ports.Peers`."""

    def __init__(self, network: Network, node: int) -> None:
        self._network = network
        self._node = node
        self._life = network.nodes[node].life

    def send(self, peer: int, channel: int, payload: bytes) -> bool:
        """False: not connected; nothing was sent."""
        return self._is_alive() and self._network.send(self._node, peer, channel, payload)

    def is_connected(self, peer: int) -> bool:
        """Tell whether the line to this peer isn't known to be down."""
        receiver = self._network.nodes.get(peer)
        is_up = receiver is not None and receiver.is_up
        return is_up and self._network.line(self._node, peer) is not Line.CLOSED

    def _is_alive(self) -> bool:
        node = self._network.nodes[self._node]
        return node.is_up and node.life == self._life
