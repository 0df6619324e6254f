"""A library's WebSocket, of which nothing can go wrong but that it ends.

aiohttp answers pings and closes from within a read, and a peer that stood still and goes on meets both at once: what it
raises there is the connection's error, its own, or a RuntimeError. All of that is one thing for whoever talks to a peer:
this connection has ended, and no other thing has.
"""

import asyncio
import socket
from collections.abc import Mapping
from typing import Any

import aiohttp
from aiohttp import WSCloseCode, WSMsgType, web

from mas.errors import NetworkError
from mas.limits import clip

Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse[bool]

_UNSENT_BYTES = 128 * 1024
_REASON_BYTES_MAX = 120
"""A WebSocket's close frame has room for 123."""


class ConnectionEnded(NetworkError):
    """There is nothing more to read, and nothing can be sent."""


class MessageSocket:
    """Binary messages, one way and the other, until it ends."""

    def __init__(self, websocket: Socket, close_seconds: float) -> None:
        """`close_seconds`: how long `close` waits for a peer that doesn't answer, or doesn't read."""
        self._socket = websocket
        _keep_little_unsent(websocket)
        self._close_seconds = close_seconds

    def certificate(self) -> Mapping[str, Any] | None:
        """Return the peer's certificate in the form of `ssl.SSLSocket.getpeercert`; None without TLS."""
        found: Mapping[str, Any] | None = self._socket.get_extra_info("peercert")
        return found

    async def receive(self) -> bytes:
        """Return the next message. Raises `ConnectionEnded`."""
        try:
            message = await self._socket.receive()
        except Exception as error:
            raise ConnectionEnded(f"broken: {_describe(error)}") from error
        if message.type is WSMsgType.BINARY:
            data: bytes = message.data
            return data
        raise ConnectionEnded(_why(message.type, message.data, message.extra))

    async def send(self, data: bytes) -> None:
        """Send a message, once there is room for it. Raises `ConnectionEnded`."""
        try:
            await self._socket.send_bytes(data)
        except Exception as error:
            raise ConnectionEnded(f"broken: {_describe(error)}") from error

    async def close(self, reason: str, code: int = WSCloseCode.OK) -> None:
        """End it, telling the peer why where it listens; idempotent, and never an error."""
        text = reason.encode(errors="replace")[:_REASON_BYTES_MAX]
        try:
            async with asyncio.timeout(self._close_seconds):
                await self._socket.close(code=code, message=text.decode(errors="ignore").encode())
        except Exception:  # noqa: BLE001, S110 - it has ended, in whatever way
            pass


def _keep_little_unsent(websocket: Socket) -> None:
    """Have what waits wait in our lanes, where a heartbeat passes a snapshot, and not in the kernel's megabytes."""
    kernels: socket.socket | None = websocket.get_extra_info("socket")
    if kernels is not None:
        kernels.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)


def _why(kind: WSMsgType, data: object, extra: str | None) -> str:
    match kind:
        case WSMsgType.CLOSE:
            return f"closed by the peer ({data}{f', {clip(extra)}' if extra else ''})"
        case WSMsgType.ERROR:
            return f"broken: {_describe(data)}"
        case WSMsgType.CLOSED | WSMsgType.CLOSING:
            return "closed"
        case _:
            return f"not a binary message but {kind.name}"


def _describe(error: object) -> str:
    return clip(str(error) or type(error).__name__)
