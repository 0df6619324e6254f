"""How frames lie in a message of a connection.

    message = seal (8 bytes)  frame*
    frame   = channel (1)  length (4, big-endian)  payload

What queued up for a peer since the last write is one message: one seal, one system call. The seal is XXH3 over the
frames, seeded with the connection's number plus the count of messages before: a message that was damaged, lost,
repeated, or meant for another connection is never taken for the next one, so a frame is taken once (rule 6). It
guards against accidents; against people there is TLS.
"""

import struct
from collections.abc import Iterator

from xxhash import xxh3_64_digest

from mas import limits
from mas.errors import NetworkError

_SEAL_BYTES = 8
_HEADER = struct.Struct(">BI")
MESSAGE_FRAMES_BYTES = 256 * 1024
"""Frames are put together up to here; one that is larger by itself travels alone."""
FRAME_OVERHEAD_BYTES = _HEADER.size
MESSAGE_BYTES_MAX = limits.FRAME_BYTES_MAX + _SEAL_BYTES + FRAME_OVERHEAD_BYTES + 1
"""For aiohttp, which refuses a message of exactly its limit."""
_SEED_MASK = 2**64 - 1

Frame = tuple[int, bytes]


class Packer:
    """One direction of one connection, at its sender."""

    def __init__(self, number: int) -> None:
        self._seed = number

    def pack(self, frames: list[Frame]) -> bytes:
        """The next message."""
        parts = []
        for channel, payload in frames:
            parts.append(_HEADER.pack(channel, len(payload)))
            parts.append(payload)
        body = b"".join(parts)
        seal = xxh3_64_digest(body, self._seed)
        self._seed = (self._seed + 1) & _SEED_MASK
        return seal + body


class Unpacker:
    """One direction of one connection, at its receiver."""

    def __init__(self, number: int) -> None:
        self._seed = number

    def unpack(self, message: bytes) -> list[Frame]:
        """The frames of the next message.

        Raises:
            NetworkError: it isn't the next message of this connection, as it was sent.
        """
        body = memoryview(message)[_SEAL_BYTES:]
        if message[:_SEAL_BYTES] != xxh3_64_digest(body, self._seed):
            raise NetworkError("a message is damaged, or out of its turn: the connection is closed")
        self._seed = (self._seed + 1) & _SEED_MASK
        return list(_split(body))


def _split(body: memoryview) -> Iterator[Frame]:
    position = 0
    while position < len(body):
        start = position + _HEADER.size
        if start > len(body):
            raise NetworkError("a frame ends in its header: the connection is closed")
        channel, length = _HEADER.unpack_from(body, position)
        position = start + length
        if position > len(body):
            raise NetworkError("a frame ends before its length: the connection is closed")
        yield channel, bytes(body[start:position])
