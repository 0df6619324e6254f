"""Listens for peers: takes callers from the door through HTTP and the handshake, and hands over their connections."""

import logging
import ssl
from asyncio import Protocol
from collections.abc import Awaitable, Callable
from contextlib import suppress

from aiohttp import WSCloseCode, web

from mas.errors import NetworkError, PeerRefused
from mas.limits import clip
from mas.network import handshake
from mas.network.authenticator import Authenticator
from mas.network.connection import Connection
from mas.network.door import Door
from mas.network.frames import MESSAGE_BYTES_MAX
from mas.network.message_socket import MessageSocket
from mas.network.settings import TransportSettings
from mas.runtime import Clock
from mas.telemetry import Seldom

_log = logging.getLogger(__name__)


class PeerListener:
    """Accepts peers' connections at one port, from `open` to `close`. It then ends what it has accepted by `shutdown`."""

    def __init__(
        self,
        authenticator: Authenticator,
        *,
        tls: ssl.SSLContext | None,
        settings: TransportSettings,
        clock: Clock,
        is_member: Callable[[int], bool],
        serve: Callable[[Connection], Awaitable[None]],
    ) -> None:
        """`serve` uses a connection for as long as it lasts."""
        self._authenticator = authenticator
        self._tls = tls
        self._settings = settings
        self._clock = clock
        self._is_member = is_member
        self._serve = serve
        self._seldom = Seldom(_log, clock.monotonic)
        self._server: web.Server | None = None
        self._door: Door | None = None

    @property
    def port(self) -> int:
        """Where it listens, once open."""
        assert self._door is not None
        return self._door.port

    async def open(self, host: str, port: int) -> None:
        """Listen.

        Raises:
            ConfigError: the port can't be listened on.
        """
        self._server = web.Server(self._on_request, access_log=None, logger=_HttpLog(self._seldom))
        self._door = Door(
            self._server, tls=self._tls, clock=self._clock, settings=self._settings.door
        )
        await self._door.open(host, port)

    async def close(self) -> None:
        """Listen no more; what was accepted stays. Idempotent."""
        if self._door is not None:
            await self._door.close()

    async def shutdown(self) -> None:
        """End what was accepted and still stands. Idempotent."""
        if self._server is not None:
            await self._server.shutdown(self._settings.close)

    async def _on_request(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.WebSocketResponse(
            timeout=self._settings.close,
            heartbeat=self._settings.heartbeat,
            max_msg_size=MESSAGE_BYTES_MAX,
            compress=False,
        )
        if not response.can_prepare(request):
            return web.Response(status=426, text="nodes of MAS meet here, over WebSocket\n")
        try:
            await response.prepare(request)
        except Exception as error:  # noqa: BLE001 - the caller's connection has ended, and nothing else
            self._seldom.info("gone", "a caller went away before its handshake: %s", error)
            return response
        socket = MessageSocket(response, self._settings.close)
        connection = await self._accept(socket, request.protocol)
        if connection is not None:
            await self._serve(connection)
        return response

    async def _accept(self, socket: MessageSocket, protocol: Protocol) -> Connection | None:
        """Shake hands, within the door's deadline for it."""
        door = self._door
        assert door is not None
        try:
            return await self._authenticator.accept(
                socket, self._is_member, lambda: door.welcome(protocol)
            )
        except PeerRefused as error:
            # For each reason, so that a crowd of one kind doesn't hide a node that needs help.
            self._seldom.warning(error.reason, "a caller was refused: %s", error)
            await _refuse(socket, error)
        except NetworkError as error:
            self._seldom.info("gone", "a caller went away in its handshake: %s", error)
            await socket.close("handshake", WSCloseCode.POLICY_VIOLATION)
        return None


async def _refuse(socket: MessageSocket, error: PeerRefused) -> None:
    with suppress(NetworkError):  # gone already
        await socket.send(handshake.refusal(error))
    await socket.close(error.reason, WSCloseCode.POLICY_VIOLATION)


class _HttpLog(logging.Logger):
    """Logs callers that don't speak HTTP by a line a minute, where aiohttp would log a traceback for each."""

    def __init__(self, seldom: Seldom) -> None:
        super().__init__("aiohttp")
        self._seldom = seldom

    def handle(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._seldom.info(
            "http", "a caller sent no HTTP: %s", clip(str(error or record.getMessage()))
        )
