"""One connection with a peer after its handshake: bounded lanes out, frames in.

What goes out has two lanes. Snapshots have one of their own, and go only while the other is empty: heartbeats and appends,
without which a follower stands for election, never wait behind a file.
"""

import asyncio
from collections import deque
from collections.abc import Callable

import msgspec

from mas import limits
from mas.channels import BULK
from mas.network.frames import (
    FRAME_OVERHEAD_BYTES,
    MESSAGE_FRAMES_BYTES,
    Frame,
    Packer,
    Unpacker,
)
from mas.network.message_socket import ConnectionEnded, MessageSocket

_FRAMES_WAITING_MAX = 65_536


class ConnectionStatistics(msgspec.Struct, frozen=True):
    """What has gone over one connection."""

    frames_sent: int
    frames_received: int
    frames_refused: int
    """Found their lane full."""
    frames_waiting: int
    bytes_waiting: int


class Connection:
    """Frames to and from one peer; each is delivered once and in order of its lane, or never."""

    def __init__(
        self, peer: int, socket: MessageSocket, keys: tuple[bytes, bytes] | None, *, dialled: bool
    ) -> None:
        """`keys`: of what the dialler sends, and of what the listener sends; None over TLS."""
        self.peer = peer
        self.dialled = dialled
        self.socket = socket
        of_dialler, of_listener = keys or (None, None)
        self._packer = Packer(of_dialler if dialled else of_listener)
        self._unpacker = Unpacker(of_listener if dialled else of_dialler)
        self._urgent = _Lane(limits.PEER_QUEUE_BYTES_MAX)
        self._bulk = _Lane(limits.PEER_BULK_BYTES_MAX)
        self._wake = asyncio.Event()
        self._sent = 0
        self._received = 0
        self._refused = 0

    def offer(self, channel: int, payload: bytes) -> bool:
        """Queue a frame, without waiting. False, and not taken, where its lane is full."""
        lane = self._bulk if channel in BULK else self._urgent
        if not lane.offer((channel, payload)):
            self._refused += 1
            return False
        self._wake.set()
        return True

    async def write(self) -> None:
        """Send what is queued, until cancelled or until the connection is gone."""
        try:
            while True:
                # Either way this task goes on in a later turn, so that all that this one has to say goes along.
                if self._wake.is_set():
                    await asyncio.sleep(0)
                else:
                    await self._wake.wait()
                lane = self._urgent if self._urgent.frames else self._bulk
                batch, size = lane.take()
                if not self._urgent.frames and not self._bulk.frames:
                    self._wake.clear()
                await self.socket.send(self._packer.pack(batch))
                lane.bytes_waiting -= size
                self._sent += len(batch)
        except ConnectionEnded:
            return  # `read` is told too, and says why

    async def read(self, take: Callable[[int, list[Frame]], None]) -> str:
        """Hand over what comes, until the connection ends; why it did.

        Raises:
            NetworkError: what came can't be taken; close the connection.
        """
        while True:
            try:
                message = await self.socket.receive()
            except ConnectionEnded as end:
                return str(end)
            frames = self._unpacker.unpack(message)
            self._received += len(frames)
            take(self.peer, frames)

    def statistics(self) -> ConnectionStatistics:
        """Return what has gone over it so far."""
        return ConnectionStatistics(
            frames_sent=self._sent,
            frames_received=self._received,
            frames_refused=self._refused,
            frames_waiting=len(self._urgent.frames) + len(self._bulk.frames),
            bytes_waiting=self._urgent.bytes_waiting + self._bulk.bytes_waiting,
        )


class _Lane:
    """Frames that wait, in order, within a bound."""

    def __init__(self, bytes_max: int) -> None:
        self.frames: deque[Frame] = deque()
        self.bytes_waiting = 0
        """Those of the message that is being sent among them."""
        self._bytes_max = bytes_max

    def offer(self, frame: Frame) -> bool:
        size = len(frame[1]) + FRAME_OVERHEAD_BYTES
        if self.bytes_waiting + size > self._bytes_max or len(self.frames) >= _FRAMES_WAITING_MAX:
            return False
        self.frames.append(frame)
        self.bytes_waiting += size
        return True

    def take(self) -> tuple[list[Frame], int]:
        """Take the frames of the next message, at least one, and return them and their bytes."""
        batch: list[Frame] = []
        total = 0
        while self.frames:
            size = len(self.frames[0][1]) + FRAME_OVERHEAD_BYTES
            if batch and total + size > MESSAGE_FRAMES_BYTES:
                break
            batch.append(self.frames.popleft())
            total += size
        return batch, total
