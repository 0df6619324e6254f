"""Dials peers: keeps one connection to each whose address is known, and tries again with growing pauses."""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable

import aiohttp

from mas.errors import NetworkError, PeerRefused
from mas.limits import clip
from mas.network.authenticator import Authenticator
from mas.network.connection import Connection
from mas.network.frames import MESSAGE_BYTES_MAX
from mas.network.message_socket import MessageSocket
from mas.network.peer import Peer
from mas.network.settings import TransportSettings
from mas.runtime import Clock, Dice

_log = logging.getLogger(__name__)


class PeerDialler:
    """Makes connections to peers, from `open` to `close`."""

    def __init__(
        self,
        authenticator: Authenticator,
        *,
        tls: ssl.SSLContext | None,
        settings: TransportSettings,
        clock: Clock,
        dice: Dice,
        serve: Callable[[Connection], Awaitable[None]],
    ) -> None:
        """`serve` uses a connection for as long as it lasts."""
        self._authenticator = authenticator
        self._tls = tls
        self._settings = settings
        self._clock = clock
        self._dice = dice
        self._serve = serve
        self._session: aiohttp.ClientSession | None = None

    @property
    def is_open(self) -> bool:
        """Whether peers can be dialled."""
        return self._session is not None

    def open(self) -> None:
        """Begin to be able to dial."""
        self._session = aiohttp.ClientSession(trust_env=False)

    async def close(self) -> None:
        """Give back what dialling holds. Idempotent."""
        if self._session is not None:
            await self._session.close()

    async def keep_connected(self, peer: Peer) -> None:
        """Keep a connection to this peer until cancelled."""
        failures = 0
        while True:
            pause = 0.0
            began = self._clock.monotonic()
            try:
                async with asyncio.timeout(self._settings.connect):
                    connection = await self._connect(peer)
            except PeerRefused as error:
                pause = self._settings.backoff_refused
                _on_trouble(peer, error.reason, f"refused: {error}")
            except (NetworkError, TimeoutError) as error:
                _on_trouble(peer, "unreachable", _describe(error))
            else:
                peer.trouble = ""
                await self._serve(connection)
                if self._clock.monotonic() - began >= self._settings.steady:
                    failures = 0
            await self._clock.sleep(max(pause, self._backoff(failures)))
            failures += 1

    async def _connect(self, peer: Peer) -> Connection:
        return await self._authenticator.dial(peer.node, await self._call(peer.address))

    async def _call(self, address: str) -> MessageSocket:
        """Open a WebSocket to this address; raise NetworkError, whatever aiohttp raised."""
        assert self._session is not None
        scheme = "https" if self._tls else "http"
        try:
            socket = await self._session.ws_connect(
                f"{scheme}://{address}/peer",
                ssl=self._tls or True,
                timeout=aiohttp.ClientWSTimeout(ws_close=self._settings.close),
                heartbeat=self._settings.heartbeat,
                max_msg_size=MESSAGE_BYTES_MAX,
                compress=0,
            )
        except Exception as error:
            raise NetworkError(_describe(error)) from error
        return MessageSocket(socket, self._settings.close)

    def _backoff(self, failures: int) -> float:
        pause = min(
            self._settings.backoff_max, self._settings.backoff_min * (1 << min(failures, 16))
        )
        return pause * (0.5 + self._dice.randrange(1 << 16) / (1 << 17))


def _on_trouble(peer: Peer, trouble: str, detail: str) -> None:
    """Note why a peer can't be dialled. Log each kind of trouble once, not each try."""
    if peer.trouble != trouble:
        peer.trouble, peer.detail = trouble, detail
        _log.warning("node %d at %s: %s", peer.node, peer.address, detail)


def _describe(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error  # without the socket's and the context's insides
    return clip(str(error)) or type(error).__name__
