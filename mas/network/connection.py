"""One connection with a peer after its handshake: a bounded queue out, frames in."""

from collections.abc import Callable, Iterator

import aiohttp
import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from mas import limits
from mas.network.frames import (
    FRAME_OVERHEAD_BYTES,
    MESSAGE_FRAMES_BYTES,
    Frame,
    Packer,
    Unpacker,
)
from mas.runtime import Mailbox

Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse[bool]

_FRAMES_WAITING_MAX = 65_536
_REASON_BYTES_MAX = 120
"""A WebSocket's close frame has room for 123."""


class ConnectionStatistics(msgspec.Struct, frozen=True):
    """What has gone over one connection."""

    frames_sent: int
    frames_received: int
    frames_refused: int
    """Found the queue full."""
    frames_waiting: int
    bytes_waiting: int


class Connection:
    """Frames to and from one peer; each is delivered once and in order, or never."""

    def __init__(
        self, peer: int, socket: Socket, numbers: tuple[int, int], *, dialled: bool
    ) -> None:
        self.peer = peer
        self.dialled = dialled
        self._socket = socket
        ours, theirs = numbers if dialled else reversed(numbers)
        self._packer = Packer(ours)
        self._unpacker = Unpacker(theirs)
        self._frames: Mailbox[Frame] = Mailbox(f"peer-{peer}.frames", _FRAMES_WAITING_MAX)
        self._bytes_waiting = 0
        self._sent = 0
        self._received = 0
        self._refused = 0

    def offer(self, channel: int, payload: bytes) -> bool:
        """Queue a frame, without waiting. False, and not taken, where the queue is full."""
        size = len(payload) + FRAME_OVERHEAD_BYTES
        if self._bytes_waiting + size > limits.PEER_QUEUE_BYTES_MAX or not self._frames.offer(
            (channel, payload)
        ):
            self._refused += 1
            return False
        self._bytes_waiting += size
        return True

    async def write(self) -> None:
        """Send what is queued, until cancelled or until the connection is gone."""
        try:
            while True:
                for batch, size in _cut(await self._frames.drain()):
                    await self._socket.send_bytes(self._packer.pack(batch))
                    self._bytes_waiting -= size
                    self._sent += len(batch)
        except OSError:
            return  # `read` is told too, and says why

    async def read(self, take: Callable[[int, list[Frame]], None]) -> str:
        """Hand over what comes, until the connection ends; why it did.

        Raises:
            NetworkError: what came can't be taken; close the connection.
        """
        while True:
            message = await self._socket.receive()
            if message.type is not WSMsgType.BINARY:
                return _why_ended(message.type, message.data, message.extra)
            frames = self._unpacker.unpack(message.data)
            self._received += len(frames)
            take(self.peer, frames)

    async def close(self, reason: str, code: int = WSCloseCode.OK) -> None:
        """End the connection, telling the peer why; idempotent."""
        text = reason.encode()[:_REASON_BYTES_MAX].decode(errors="ignore").encode()
        await self._socket.close(code=code, message=text)

    def statistics(self) -> ConnectionStatistics:
        """What has gone over it so far."""
        return ConnectionStatistics(
            frames_sent=self._sent,
            frames_received=self._received,
            frames_refused=self._refused,
            frames_waiting=len(self._frames),
            bytes_waiting=self._bytes_waiting,
        )


def _cut(frames: list[Frame]) -> Iterator[tuple[list[Frame], int]]:
    """As few messages as their bound allows, each with its bytes."""
    batch: list[Frame] = []
    size = 0
    for frame in frames:
        frame_size = len(frame[1]) + FRAME_OVERHEAD_BYTES
        if batch and size + frame_size > MESSAGE_FRAMES_BYTES:
            yield batch, size
            batch, size = [], 0
        batch.append(frame)
        size += frame_size
    yield batch, size


def _why_ended(kind: WSMsgType, data: object, extra: str | None) -> str:
    match kind:
        case WSMsgType.CLOSE:
            return f"closed by the peer ({data}{f', {extra}' if extra else ''})"
        case WSMsgType.ERROR:
            return f"broken: {data}"
        case WSMsgType.CLOSED | WSMsgType.CLOSING:
            return "closed"
        case _:
            return f"not a binary message but {kind.name}"
