"""The connections between simulated nodes, with what the real transport promises and no more.

A frame is delivered once, in order, or never, and never on another connection than its own. Whoever sends hears at once
when nobody takes the frame; both ends of a connection that broke hear so, each in its own time. A line may be silent in one
direction: what is sent then arrives late, once it is heard again, unless the connection is given up before. Frames of the
RAFT channel may come again and in any order besides: consensus must bear that.
"""

import asyncio
import contextvars
from collections.abc import Callable

import msgspec

from mas.channels import Channel
from mas.errors import NetworkError
from mas.ledger import decode_batch
from mas.multiraft.frames import decode_frame
from mas.rpc.messages import Request, Submit, decode_replies, decode_requests
from mas.runtime import Dice
from mas.sim.process import Process
from mas.sim.trace import Trace

FrameHandler = Callable[[int, bytes], None]
PeerHandler = Callable[[int, bool], None]

GIVE_UP_SECONDS = 7.5
"""Of silence, until a connection is taken for broken: the transport's heartbeat and half of it."""
_IN_ORDER_SECONDS = 2e-6
_WATCH_SECONDS = 0.25
_QUEUE_FRAMES_MAX = 2_000
"""That wait on a silent line; then nothing more is taken."""


class Weather(msgspec.Struct, frozen=True):
    """What happens to a frame: chances in percent, times in seconds."""

    drop: int = 0
    duplicate: int = 0
    """Of the RAFT channel's."""
    reorder: int = 0
    """Of the RAFT channel's."""
    delay_seconds: float = 0.002


class Frame(msgspec.Struct, frozen=True):
    """What a trace keeps of a frame; read only where somebody wants to see it."""

    channel: int
    payload: bytes

    def __str__(self) -> str:
        """Its messages."""
        match self.channel:
            case Channel.RAFT:
                return str(decode_frame(self.payload).messages)
            case Channel.REQUEST:
                return " ".join(map(_show_request, decode_requests(self.payload)))
            case Channel.REPLY:
                return " ".join(map(str, decode_replies(self.payload)))
            case _:
                return f"{Channel(self.channel).name} {len(self.payload)} bytes"


def _show_request(request: Request) -> str:
    if isinstance(request, Submit):
        return f"Submit({request.request}, bucket {request.bucket}, {decode_batch(request.batch)})"
    return str(request)


class Line(msgspec.Struct, eq=False):
    """One direction between two nodes."""

    is_silent: bool = False
    since: float = 0.0
    last_due: float = 0.0
    late_until: float = 0.0
    """Frames of the RAFT channel arrive no sooner."""
    held: list[tuple[int, int, bytes]] = []
    """Connection, channel and payload of what was sent into the silence."""


class Transport:
    """One life's end of all its connections. Fits every room's `Peers`."""

    def __init__(
        self, wires: "Wires", node: int, process: Process, refused: dict[int, str]
    ) -> None:
        """`refused` is told, by peer, why a frame of it was refused."""
        self.node = node
        self.process = process
        self._refused = refused
        self.connections: dict[int, int] = {}
        """By peer: the number of the connection with it."""
        self.known: dict[int, None] = {}
        self._wires = wires
        self._frame_handlers: dict[int, FrameHandler] = {}
        self._peer_handlers: list[PeerHandler] = []
        self._loopback: list[tuple[int, bytes]] = []

    def on_frame(self, channel: Channel, handler: FrameHandler) -> None:
        """Have `handler(peer, payload)` called for every frame of this channel."""
        assert channel not in self._frame_handlers
        self._frame_handlers[channel] = handler

    def on_peer(self, handler: PeerHandler) -> None:
        """Have `handler(peer, up)` called when a peer can be reached, and when the connection with it broke."""
        self._peer_handlers.append(handler)

    def add_peer(self, node: int, address: str = "") -> None:
        """Know a member of the cluster, and call it."""
        assert node != self.node, address
        self.known[node] = None

    def remove_peer(self, node: int) -> None:
        """Forget a member, and hang up."""
        self.known.pop(node, None)
        self._wires.hang_up(self.node, node)

    def send(self, peer: int, channel: int, payload: bytes) -> bool:
        """False: nothing was sent. A frame to oneself arrives on a later turn of the loop."""
        if self.process.is_dead:
            return False
        if peer == self.node:
            if not self._loopback:
                asyncio.get_running_loop().call_soon(self._deliver_to_oneself)
            self._loopback.append((channel, payload))
            return True
        number = self.connections.get(peer)
        return number is not None and self._wires.carry(self.node, peer, number, channel, payload)

    def is_connected(self, peer: int) -> bool:
        """Tell whether a frame to this peer has a way to go."""
        return peer == self.node or peer in self.connections

    # -- the wires' side -----------------------------------------------------------------------

    def take(self, peer: int, channel: int, payload: bytes) -> None:
        """A frame is here."""
        handler = self._frame_handlers.get(channel)
        if handler is not None:
            self.process.post(self._handle, handler, peer, payload, self.connections.get(peer))

    def _handle(self, handler: FrameHandler, peer: int, payload: bytes, number: int | None) -> None:
        """A frame that is refused ends its connection, and whatever else came over it."""
        if self.connections.get(peer) != number:
            return
        try:
            handler(peer, payload)
        except NetworkError as error:
            self._refused[peer] = str(error)
            self._wires.refuse(self.node, peer)

    def tell(self, peer: int, *, up: bool) -> None:
        """A connection is there, or is gone."""
        for handler in self._peer_handlers:
            self.process.post(handler, peer, up)

    def _deliver_to_oneself(self) -> None:
        frames, self._loopback = self._loopback, []
        for channel, payload in frames:
            handler = self._frame_handlers.get(channel)
            if handler is not None:
                handler(self.node, payload)


class Wires:
    """All lines and connections."""

    def __init__(self, loop: asyncio.AbstractEventLoop, dice: Dice, trace: Trace) -> None:
        self.weather = Weather()
        self._loop = loop
        self._outside = contextvars.copy_context()
        self._dice = dice
        self._trace = trace
        self._ends: dict[int, Transport] = {}
        self._lines: dict[tuple[int, int], Line] = {}
        self._closed: dict[tuple[int, int], None] = {}
        """Pairs that can't be connected."""
        self._calling: dict[tuple[int, int], None] = {}
        self._last_number = 0

    # -- lives ---------------------------------------------------------------------------------

    def attach(self, end: Transport) -> None:
        """A node begins another life, and calls whom it knows."""
        self._ends[end.node] = end

    def on_death(self, node: int) -> None:
        """Its peers learn of it: soon where its machine lives on, else by its silence."""
        end = self._ends.pop(node, None)
        if end is None:
            return
        soon = self._dice.randrange(4) > 0
        for peer, number in end.connections.items():
            seconds = self._seconds() * 10 if soon else GIVE_UP_SECONDS * self._fraction()
            self._later(seconds, self._lose, peer, node, number)

    # -- trouble -------------------------------------------------------------------------------

    def silence(self, sender: int, to: int) -> None:
        """From now on nothing arrives in this direction; it isn't lost yet."""
        line = self._line(sender, to)
        if not line.is_silent:
            line.is_silent, line.since = True, self._loop.time()

    def hold_up(self, sender: int, to: int, seconds: float) -> None:
        """For so long no frame of the RAFT channel arrives in this direction; then all do."""
        self._line(sender, to).late_until = self._loop.time() + seconds

    def close(self, one: int, other: int) -> None:
        """Break the connection, and let none come about."""
        self._closed[_pair(one, other)] = None
        self.hang_up(one, other)

    def hang_up(self, one: int, other: int) -> None:
        """Break a connection: each end hears of it in its own time, and what is on its way arrives until then or never."""
        for node, peer in ((one, other), (other, one)):
            end = self._ends.get(node)
            if end is not None and peer in end.connections:
                number = end.connections[peer]
                self._later(self._seconds() * 10, self._lose, node, peer, number)

    def refuse(self, node: int, peer: int) -> None:
        """Break a connection: this end is gone at once, the other hears of it."""
        number = self._ends[node].connections[peer]
        self.hang_up(node, peer)
        self._lose(node, peer, number)

    def heal(self) -> None:
        """Open all lines: what waits on them arrives, late."""
        self._closed.clear()
        for sender, to in list(self._lines):
            self.open_line(sender, to)

    def open_line(self, sender: int, to: int) -> None:
        """Let what waits on this line arrive, late."""
        line = self._line(sender, to)
        if line.is_silent:
            line.is_silent = False
            held, line.held = line.held, []
            for number, channel, payload in held:
                self._carry_in_order(line, sender, to, (number, channel, payload))

    # -- frames --------------------------------------------------------------------------------

    def carry(self, sender: int, to: int, number: int, channel: int, payload: bytes) -> bool:
        """A transport's `send`."""
        line = self._line(sender, to)
        self._trace.add(sender, "to", to, Frame(channel, payload))
        frame = number, channel, payload
        if line.is_silent:
            if len(line.held) >= _QUEUE_FRAMES_MAX:
                return False
            line.held.append(frame)
            return True
        if self._happens(self.weather.drop):
            self._trace.add(sender, "lost on the way to", to)
            return True
        is_raft = channel == Channel.RAFT
        if is_raft and self._loop.time() < line.late_until:
            line.late_until += _IN_ORDER_SECONDS
            self._loop.call_at(
                line.late_until, self._arrive, sender, to, frame, context=self._outside
            )
        elif is_raft and self._happens(self.weather.reorder):
            self._later(self._seconds() * 20, self._arrive, sender, to, frame)
        else:
            self._carry_in_order(line, sender, to, frame)
        if is_raft and self._happens(self.weather.duplicate):
            self._later(self._seconds() * 20, self._arrive, sender, to, frame)
        return True

    def _carry_in_order(
        self, line: Line, sender: int, to: int, frame: tuple[int, int, bytes]
    ) -> None:
        due = max(self._loop.time() + self._seconds(), line.last_due + _IN_ORDER_SECONDS)
        line.last_due = due
        self._loop.call_at(due, self._arrive, sender, to, frame, context=self._outside)

    def _arrive(self, sender: int, to: int, frame: tuple[int, int, bytes]) -> None:
        number, channel, payload = frame
        end = self._ends.get(to)
        if end is None or end.connections.get(sender) != number:
            return
        line = self._line(sender, to)
        if line.is_silent:
            line.held.append(frame)
        else:
            end.take(sender, channel, payload)

    # -- connections ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect whoever knows one another, and give up what is silent for too long; until cancelled."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS * (0.5 + self._fraction()))
            for one in sorted(self._ends):
                for other in sorted(self._ends[one].known):
                    if one < other:
                        self._look_at(one, other)

    def _look_at(self, one: int, other: int) -> None:
        first, second = self._ends[one], self._ends.get(other)
        if second is None or one not in second.known:
            return
        silent = [
            line.since
            for line in (self._line(one, other), self._line(other, one))
            if line.is_silent
        ]
        silent += [end.process.frozen_since for end in (first, second) if end.process.is_frozen]
        if silent:
            if self._loop.time() - min(silent) > GIVE_UP_SECONDS:
                self.hang_up(one, other)
            return
        if _pair(one, other) in self._closed:
            return
        if other not in first.connections and one not in second.connections:
            self._last_number += 1
            self._connect(first, other)
            self._connect(second, one)

    def _connect(self, end: Transport, peer: int) -> None:
        end.connections[peer] = self._last_number
        end.tell(peer, up=True)

    def _lose(self, node: int, peer: int, number: int) -> None:
        end = self._ends.get(node)
        if end is not None and end.connections.get(peer) == number:
            del end.connections[peer]
            self._trace.add(node, "loses the connection with", peer)
            end.tell(peer, up=False)

    # -- small things --------------------------------------------------------------------------

    def _line(self, sender: int, to: int) -> Line:
        line = self._lines.get((sender, to))
        if line is None:
            line = self._lines[sender, to] = Line()
        return line

    def _later(self, seconds: float, callback: Callable[..., None], *args: object) -> None:
        self._loop.call_later(seconds, callback, *args, context=self._outside)

    def _seconds(self) -> float:
        return self.weather.delay_seconds * (100 + self._dice.randrange(900)) / 1000

    def _fraction(self) -> float:
        return (1 + self._dice.randrange(1000)) / 1000

    def _happens(self, percent: int) -> bool:
        return percent > 0 and self._dice.randrange(100) < percent


def _pair(one: int, other: int) -> tuple[int, int]:
    return (min(one, other), max(one, other))
