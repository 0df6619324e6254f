"""Frames between the nodes of a cluster, over WebSockets.

Every node listens on its peer port and dials every peer whose address it knows; it sends on the connection that it
dialled, and on the one that the peer dialled where it has no other. A frame is delivered once, in order, or never:
what a broken connection had queued is gone, and is never carried over to the next one. Whoever sends is told at once
when a frame isn't taken, and whoever waits for an answer is told when a connection broke (`on_peer`).
"""

import asyncio
import logging
import ssl
from collections.abc import Callable

import aiohttp
import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from mas import limits
from mas.errors import ConfigError, NetworkError, PeerRefused, Unavailable
from mas.network import handshake
from mas.network.channels import Channel
from mas.network.connection import Connection, ConnectionStatistics, Socket
from mas.network.frames import MESSAGE_BYTES_MAX, Frame
from mas.network.handshake import NONCE_BYTES, Identity
from mas.runtime import Actor, Clock, Dice, Supervisor

_log = logging.getLogger(__name__)

FrameHandler = Callable[[int, bytes], None]
PeerHandler = Callable[[int, bool], None]

_CHANNELS = frozenset(int(channel) for channel in Channel)
_STRANGERS_MAX = 64
"""Connections that may be in their handshake at a time."""
_REFUSALS_LOGGED_MAX = 64


class TransportSettings(msgspec.Struct, frozen=True):
    """How long things take, in seconds."""

    connect: float = 5.0
    """Until a connection stands and its handshake is done."""
    heartbeat: float = 5.0
    """Of silence, until a peer is pinged; it is taken for dead when half as much later it hasn't answered."""
    close: float = 1.0
    """That a peer has to say goodbye."""
    backoff_min: float = 0.05
    """Before the first new try; each further one waits twice as long, by chance down to half of that."""
    backoff_max: float = 2.0
    backoff_refused: float = 5.0
    """Before a new try at a peer that has refused this node."""
    steady: float = 5.0
    """That a connection lasts, to count as one that works."""


class PeerStatistics(msgspec.Struct, frozen=True):
    """How it stands with one peer."""

    peer: int
    address: str
    dialled: ConnectionStatistics | None
    accepted: ConnectionStatistics | None
    connections: int
    """Made so far, both ways."""
    trouble: str
    """Why it can't be dialled; empty where it can."""


class _Peer:
    """A member of the cluster, as this node sees it."""

    def __init__(self, node: int, address: str) -> None:
        self.node = node
        self.address = address
        self.dialled: Connection | None = None
        self.accepted: Connection | None = None
        self.connections = 0
        self.trouble = ""
        self.task: asyncio.Task[None] | None = None

    def route(self) -> Connection | None:
        return self.dialled or self.accepted

    def attach(self, connection: Connection) -> Connection | None:
        """Take a new connection into use; the one whose place it takes."""
        self.connections += 1
        if connection.dialled:
            replaced, self.dialled = self.dialled, connection
        else:
            replaced, self.accepted = self.accepted, connection
        return replaced

    def detach(self, connection: Connection) -> None:
        if self.dialled is connection:
            self.dialled = None
        if self.accepted is connection:
            self.accepted = None

    def statistics(self) -> PeerStatistics:
        return PeerStatistics(
            peer=self.node,
            address=self.address,
            dialled=self.dialled.statistics() if self.dialled else None,
            accepted=self.accepted.statistics() if self.accepted else None,
            connections=self.connections,
            trouble=self.trouble,
        )


class PeerTransport(Actor):
    """This node's end of all its connections. `start` it, then have a supervisor `run` it."""

    name = "peer-transport"

    def __init__(
        self,
        identity: Identity,
        *,
        host: str,
        port: int,
        clock: Clock,
        dice: Dice,
        server_tls: ssl.SSLContext | None = None,
        client_tls: ssl.SSLContext | None = None,
        settings: TransportSettings | None = None,
    ) -> None:
        self.node = identity.node
        self._identity = identity
        self._host = host
        self._port = port
        self._clock = clock
        self._dice = dice
        self._server_tls = server_tls
        self._client_tls = client_tls
        self._settings = settings or TransportSettings()
        self._recognise: handshake.Recognise = handshake.recognise_all

        self._peers: dict[int, _Peer] = {}
        self._frame_handlers: dict[int, FrameHandler] = {}
        self._peer_handlers: list[PeerHandler] = []
        self._loopback: list[Frame] = []
        self._strangers = 0
        self._refusals_logged: dict[tuple[int, str], None] = {}
        self._supervisor = Supervisor()
        self._session: aiohttp.ClientSession | None = None
        self._server: web.Server | None = None
        self._listener: asyncio.Server | None = None

    # -- setting up -------------------------------------------------------------------------------

    def on_frame(self, channel: Channel, handler: FrameHandler) -> None:
        """Have `handler(peer, payload)` called for every frame of this channel; once per channel."""
        assert channel not in self._frame_handlers
        self._frame_handlers[channel] = handler

    def on_peer(self, handler: PeerHandler) -> None:
        """Have `handler(peer, up)` called when a peer can be reached, and when a connection with it broke.

        False says that frames sent to it, or on their way from it, may be lost. Where another connection with it
        still stands, True follows at once.
        """
        self._peer_handlers.append(handler)

    def on_store(self, handler: handshake.Recognise) -> None:
        """Have `handler(peer, store)` called for every peer that has proved itself; it may raise `PeerRefused`."""
        self._recognise = handler

    def add_peer(self, node: int, address: str = "") -> None:
        """Know a member of the cluster. With an address ("host:port") it is dialled; else it has to call."""
        assert node != self.node
        assert node not in self._peers
        peer = self._peers[node] = _Peer(node, address)
        if self._session is not None:
            self._start_dialling(peer)

    def remove_peer(self, node: int) -> None:
        """Forget a member, and hang up."""
        peer = self._peers.pop(node, None)
        if peer is None:
            return
        if peer.task is not None:
            peer.task.cancel()
        for connection in (peer.dialled, peer.accepted):
            if connection is not None:
                self._hang_up(connection, "removed from the cluster")

    async def start(self) -> None:
        """Listen, and begin to dial.

        Raises:
            ConfigError: the port can't be listened on.
        """
        self._server = web.Server(self._on_request, access_log=None)
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                self._server, self._host, self._port, ssl=self._server_tls
            )
        except OSError as error:
            raise ConfigError(
                f"the peer port {self._host}:{self._port} can't be listened on: {error.strerror}"
            ) from error
        self._session = aiohttp.ClientSession(trust_env=False)
        for peer in self._peers.values():
            self._start_dialling(peer)

    async def run(self) -> None:
        """Carry frames until cancelled; raises what a frame's handler raised."""
        try:
            await self._supervisor.wait()
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Hang up everywhere. Idempotent."""
        if self._listener is not None:
            self._listener.close()
        await self._supervisor.stop()
        if self._session is not None:
            await self._session.close()
        if self._server is not None:
            await self._server.shutdown(self._settings.close)

    # -- sending ----------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """Where it listens, once started."""
        assert self._listener is not None
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    def send(self, peer: int, channel: int, payload: bytes) -> bool:
        """Send a frame, without waiting. False: not connected, the bounded queue is full, or too large.

        A frame to oneself arrives on a later turn of the loop.
        """
        if len(payload) > limits.FRAME_BYTES_MAX:
            _log.error(
                "a frame of %d bytes for node %d on channel %d isn't sent: at most %d are",
                len(payload),
                peer,
                channel,
                limits.FRAME_BYTES_MAX,
            )
            return False
        if peer == self.node:
            self._send_to_oneself(channel, payload)
            return True
        known = self._peers.get(peer)
        connection = known.route() if known is not None else None
        return connection is not None and connection.offer(channel, payload)

    def is_connected(self, peer: int) -> bool:
        """Whether a frame to this peer has a way to go."""
        if peer == self.node:
            return True
        known = self._peers.get(peer)
        return known is not None and known.route() is not None

    def statistics(self) -> list[PeerStatistics]:
        """How it stands with each peer, in the order in which they were added."""
        return [peer.statistics() for peer in self._peers.values()]

    def _send_to_oneself(self, channel: int, payload: bytes) -> None:
        if not self._loopback:
            asyncio.get_running_loop().call_soon(self._deliver_to_oneself)
        self._loopback.append((channel, payload))

    def _deliver_to_oneself(self) -> None:
        frames, self._loopback = self._loopback, []
        self._take(self.node, frames)

    # -- connections ------------------------------------------------------------------------------

    def _take(self, peer: int, frames: list[Frame]) -> None:
        for channel, payload in frames:
            handler = self._frame_handlers.get(channel)
            if handler is None:
                if channel not in _CHANNELS:
                    raise NetworkError(f"node {peer} sent a frame on unknown channel {channel}")
                continue  # nothing of this node's role listens there
            handler(peer, payload)

    async def _serve(self, connection: Connection) -> None:
        """Use a connection for as long as it lasts."""
        peer = self._peers.get(connection.peer)
        if peer is None:
            await connection.close("removed from the cluster")
            return
        try:
            writer = self._supervisor.spawn(f"peer-{peer.node}.write", connection.write())
        except Unavailable:
            await connection.close("stopping", WSCloseCode.GOING_AWAY)
            return
        self._attach(peer, connection)
        reason, code = "stopping", WSCloseCode.GOING_AWAY
        try:
            reason, code = await connection.read(self._take), WSCloseCode.OK
        except NetworkError as error:
            reason, code = str(error), WSCloseCode.PROTOCOL_ERROR
        finally:
            writer.cancel()
            self._detach(peer, connection, reason)
            await connection.close(reason, code)

    def _attach(self, peer: _Peer, connection: Connection) -> None:
        was_up = peer.route() is not None
        replaced = peer.attach(connection)
        if replaced is not None:
            self._hang_up(replaced, "a newer connection takes its place")
        _log.info("connected with node %d, %s", peer.node, _direction(connection))
        if not was_up:
            self._tell(peer.node, up=True)

    def _detach(self, peer: _Peer, connection: Connection, reason: str) -> None:
        peer.detach(connection)
        _log.info(
            "connection with node %d, %s, ended: %s", peer.node, _direction(connection), reason
        )
        self._tell(peer.node, up=False)
        if self.is_connected(peer.node):  # whoever was added anew, at another address, meanwhile
            self._tell(peer.node, up=True)

    def _tell(self, node: int, *, up: bool) -> None:
        for handler in self._peer_handlers:
            handler(node, up)

    def _hang_up(self, connection: Connection, reason: str) -> None:
        self._supervisor.spawn(f"peer-{connection.peer}.close", connection.close(reason))

    # -- dialling ---------------------------------------------------------------------------------

    def _start_dialling(self, peer: _Peer) -> None:
        if peer.address:
            peer.task = self._supervisor.spawn(f"peer-{peer.node}.dial", self._dial(peer))

    async def _dial(self, peer: _Peer) -> None:
        """Keep a connection to this peer, for ever."""
        failures = 0
        while True:
            pause = 0.0
            began = self._clock.monotonic()
            try:
                async with asyncio.timeout(self._settings.connect):
                    connection = await self._connect(peer)
            except PeerRefused as error:
                pause = self._settings.backoff_refused
                self._on_trouble(peer, error.reason, f"refused: {error}")
            except (aiohttp.ClientError, OSError, NetworkError) as error:
                self._on_trouble(peer, "unreachable", _describe(error))
            else:
                peer.trouble = ""
                await self._serve(connection)
                if self._clock.monotonic() - began >= self._settings.steady:
                    failures = 0
            await self._clock.sleep(max(pause, self._backoff(failures)))
            failures += 1

    async def _connect(self, peer: _Peer) -> Connection:
        assert self._session is not None
        scheme = "https" if self._client_tls else "http"
        socket = await self._session.ws_connect(
            f"{scheme}://{peer.address}/peer",
            ssl=self._client_tls or True,
            timeout=aiohttp.ClientWSTimeout(ws_close=self._settings.close),
            heartbeat=self._settings.heartbeat,
            max_msg_size=MESSAGE_BYTES_MAX,
            compress=0,
        )
        try:
            dialler = handshake.Dialler(self._identity, peer.node, self._nonce(), self._recognise)
            await socket.send_bytes(dialler.hello())
            await socket.send_bytes(dialler.on_challenge(await _receive(socket)))
            numbers = dialler.on_welcome(await _receive(socket))
        except BaseException:
            await socket.close()
            raise
        return Connection(peer.node, socket, numbers, dialled=True)

    def _on_trouble(self, peer: _Peer, trouble: str, detail: str) -> None:
        """Logged once for each kind of trouble, not for each try."""
        if peer.trouble != trouble:
            peer.trouble = trouble
            _log.warning("node %d at %s: %s", peer.node, peer.address, detail)

    def _backoff(self, failures: int) -> float:
        pause = min(
            self._settings.backoff_max, self._settings.backoff_min * (1 << min(failures, 16))
        )
        return pause * (0.5 + self._dice.randrange(1 << 16) / (1 << 17))

    # -- listening --------------------------------------------------------------------------------

    async def _on_request(self, request: web.BaseRequest) -> web.StreamResponse:
        socket = web.WebSocketResponse(
            timeout=self._settings.close,
            heartbeat=self._settings.heartbeat,
            max_msg_size=MESSAGE_BYTES_MAX,
            compress=False,
        )
        if not socket.can_prepare(request):
            return web.Response(status=426, text="nodes of MAS meet here, over WebSocket\n")
        if self._strangers >= _STRANGERS_MAX:
            return web.Response(status=503, text="too many handshakes at a time\n")
        await socket.prepare(request)
        connection = await self._accept(socket)
        if connection is not None:
            await self._serve_accepted(connection)
        return socket

    async def _serve_accepted(self, connection: Connection) -> None:
        """In a task of ours: aiohttp would swallow what a frame's handler raises."""
        try:
            task = self._supervisor.spawn(
                f"peer-{connection.peer}.accepted", self._serve(connection)
            )
        except Unavailable:
            await connection.close("stopping", WSCloseCode.GOING_AWAY)
        else:
            await asyncio.wait([task])

    async def _accept(self, socket: web.WebSocketResponse) -> Connection | None:
        listener = handshake.Listener(
            self._identity, self._peers.__contains__, self._nonce(), self._recognise
        )
        self._strangers += 1
        try:
            async with asyncio.timeout(self._settings.connect):
                await socket.send_bytes(listener.on_hello(await _receive(socket)))
                await socket.send_bytes(listener.on_proof(await _receive(socket)))
        except PeerRefused as error:
            self._log_refusal(listener.peer, error)
            await _refuse(socket, error)
            return None
        except (OSError, NetworkError) as error:
            _log.info("a caller went away in its handshake: %s", _describe(error))
            await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"handshake")
            return None
        finally:
            self._strangers -= 1
        return Connection(listener.peer, socket, listener.numbers(), dialled=False)

    def _log_refusal(self, node: int, error: PeerRefused) -> None:
        """Once for each caller and reason; callers can't fill the log, or memory."""
        key = (node, error.reason)
        if key not in self._refusals_logged and len(self._refusals_logged) < _REFUSALS_LOGGED_MAX:
            self._refusals_logged[key] = None
            _log.warning("a caller was refused: %s", error)

    def _nonce(self) -> bytes:
        return self._dice.randbytes(NONCE_BYTES)


async def _receive(socket: Socket) -> bytes:
    message = await socket.receive()
    if message.type is WSMsgType.BINARY:
        data: bytes = message.data
        return data
    raise NetworkError(f"the connection ended in the handshake ({message.type.name})")


async def _refuse(socket: web.WebSocketResponse, error: PeerRefused) -> None:
    try:
        await socket.send_bytes(handshake.refusal(error))
        await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=error.reason.encode())
    except OSError:
        return  # gone already


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__


def _direction(connection: Connection) -> str:
    return "dialled" if connection.dialled else "accepted"
