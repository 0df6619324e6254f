"""How frames lie in a message of a connection.

    message = frame*, over TLS; else AES-256-GCM of frame*
    frame   = channel (1)  length (4, big-endian)  payload

What queued up for a peer since the last write is one message: one encryption, one system call. A message that was
damaged, lost, repeated, forged, or meant for another connection is never taken for the next one, so a frame is taken once
(rule 6, decide). TLS sees to that; where there is none, the key is the connection's own for this direction, and the
nonce counts the messages.
"""

import struct
from collections.abc import Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mas import limits
from mas.errors import NetworkError

_TAG_BYTES = 16
_NONCE_BYTES = 12
_HEADER = struct.Struct(">BI")
MESSAGE_FRAMES_BYTES = 256 * 1024
"""Frames are put together up to here; one that is larger by itself travels alone."""
FRAME_OVERHEAD_BYTES = _HEADER.size
MESSAGE_BYTES_MAX = limits.FRAME_BYTES_MAX + _TAG_BYTES + FRAME_OVERHEAD_BYTES + 1
"""For aiohttp, which refuses a message of exactly its limit."""

Frame = tuple[int, bytes]


class Packer:
    """One direction of one connection, at its sender."""

    def __init__(self, key: bytes | None) -> None:
        """`key`: None over TLS."""
        self._cipher = AESGCM(key) if key is not None else None
        self._count = 0

    def pack(self, frames: list[Frame]) -> bytes:
        """Make the next message."""
        parts = []
        for channel, payload in frames:
            parts.append(_HEADER.pack(channel, len(payload)))
            parts.append(payload)
        body = b"".join(parts)
        if self._cipher is None:
            return body
        nonce = self._count.to_bytes(_NONCE_BYTES, "big")
        self._count += 1
        return self._cipher.encrypt(nonce, body, None)


class Unpacker:
    """One direction of one connection, at its receiver."""

    def __init__(self, key: bytes | None) -> None:
        """`key`: None over TLS."""
        self._cipher = AESGCM(key) if key is not None else None
        self._count = 0

    def unpack(self, message: bytes) -> list[Frame]:
        """Return the frames of the next message.

        Raises:
            NetworkError: it isn't the next message of this connection, as it was sent.
        """
        if self._cipher is not None:
            message = self._open(self._cipher, message)
        return list(_split(memoryview(message)))

    def _open(self, cipher: AESGCM, message: bytes) -> bytes:
        nonce = self._count.to_bytes(_NONCE_BYTES, "big")
        try:
            body = cipher.decrypt(nonce, message, None)
        except InvalidTag:
            raise NetworkError(
                "a message is damaged, forged, or out of its turn: the connection is closed"
            ) from None
        self._count += 1
        return body


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
