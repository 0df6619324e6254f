"""Frames between the nodes of a cluster, over WebSockets.

Every node listens on its peer port and dials every peer whose address it knows; it sends on the connection that it
dialled, and on the one that the peer dialled where it has no other. A frame is delivered once, in the order of its lane
(`mas.network.connection`), or never: what a broken connection had queued is gone, and is never carried over to the next one. Whoever sends is told at once
when a frame isn't taken, and whoever waits for an answer is told when a connection broke (`on_peer`).
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from contextlib import suppress

import aiohttp
import msgspec
from aiohttp import WSCloseCode, web

from mas import limits
from mas.channels import Channel
from mas.errors import NetworkError, PeerRefused, Unavailable
from mas.limits import clip
from mas.network import handshake
from mas.network.connection import Connection, ConnectionStatistics
from mas.network.door import Door, DoorSettings
from mas.network.frames import MESSAGE_BYTES_MAX, Frame
from mas.network.handshake import NONCE_BYTES, Identity
from mas.network.message_socket import MessageSocket
from mas.network.tls import certified_nodes
from mas.runtime import Actor, Clock, Dice, Supervisor
from mas.telemetry import Seldom

_log = logging.getLogger(__name__)

FrameHandler = Callable[[int, bytes], None]
PeerHandler = Callable[[int, bool], None]

_REFUSALS = frozenset(handshake.Refusal)
_CHANNELS = frozenset(int(channel) for channel in Channel)


class TransportSettings(msgspec.Struct, frozen=True):
    """How long things take, in seconds."""

    connect: float = 5.0
    """Until a peer that is dialled stands and has shaken hands."""
    door: DoorSettings = DoorSettings()
    """The same for callers, and how many there may be."""
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
        self.detail = ""
        """What the trouble is, in a sentence."""
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
        self._seldom = Seldom(_log, clock.monotonic)
        self._supervisor = Supervisor()
        self._session: aiohttp.ClientSession | None = None
        self._server: web.Server | None = None
        self._door: Door | None = None

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
        self._server = web.Server(self._on_request, access_log=None, logger=_HttpLog(self._seldom))
        self._door = Door(
            self._server, tls=self._server_tls, clock=self._clock, settings=self._settings.door
        )
        await self._door.open(self._host, self._port)
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
        if self._door is not None:
            await self._door.close()
        await self._supervisor.stop()
        if self._session is not None:
            await self._session.close()
        if self._server is not None:
            await self._server.shutdown(self._settings.close)

    # -- sending ----------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """Where it listens, once started."""
        assert self._door is not None
        return self._door.port

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

    def has_answers(self) -> bool:
        """Whether it is known of every peer that is dialled how it stands with it."""
        dialled = [peer for peer in self._peers.values() if peer.address]
        return all(peer.route() or peer.trouble for peer in dialled)

    def refusal(self) -> str:
        """Why all peers that answer refuse this node; empty where one talks to it, or none answers."""
        if any(peer.route() for peer in self._peers.values()):
            return ""
        refusing = [peer for peer in self._peers.values() if peer.trouble in _REFUSALS]
        return "; ".join(f"node {peer.node}: {peer.detail}" for peer in refusing)

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
            await connection.socket.close("removed from the cluster")
            return
        try:
            writer = self._supervisor.spawn(f"peer-{peer.node}.write", connection.write())
        except Unavailable:
            await connection.socket.close("stopping", WSCloseCode.GOING_AWAY)
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
            await connection.socket.close(reason, code)

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
        self._supervisor.spawn(f"peer-{connection.peer}.close", connection.socket.close(reason))

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
            except (NetworkError, TimeoutError) as error:
                self._on_trouble(peer, "unreachable", _describe(error))
            else:
                peer.trouble = ""
                await self._serve(connection)
                if self._clock.monotonic() - began >= self._settings.steady:
                    failures = 0
            await self._clock.sleep(max(pause, self._backoff(failures)))
            failures += 1

    async def _connect(self, peer: _Peer) -> Connection:
        socket = await self._call(peer.address)
        try:
            certified = self._certified(socket)
            dialler = handshake.Dialler(
                self._identity, peer.node, self._nonce(), self._recognise, certified
            )
            await socket.send(dialler.hello())
            await socket.send(dialler.on_challenge(await socket.receive()))
            keys = dialler.on_welcome(await socket.receive())
        except BaseException:
            await socket.close("handshake")
            raise
        return Connection(peer.node, socket, self._keys(keys), dialled=True)

    async def _call(self, address: str) -> MessageSocket:
        """A WebSocket to this address; raises NetworkError, whatever aiohttp raised."""
        assert self._session is not None
        scheme = "https" if self._client_tls else "http"
        try:
            socket = await self._session.ws_connect(
                f"{scheme}://{address}/peer",
                ssl=self._client_tls or True,
                timeout=aiohttp.ClientWSTimeout(ws_close=self._settings.close),
                heartbeat=self._settings.heartbeat,
                max_msg_size=MESSAGE_BYTES_MAX,
                compress=0,
            )
        except Exception as error:
            raise NetworkError(_describe(error)) from error
        return MessageSocket(socket, self._settings.close)

    def _on_trouble(self, peer: _Peer, trouble: str, detail: str) -> None:
        """Logged once for each kind of trouble, not for each try."""
        if peer.trouble != trouble:
            peer.trouble, peer.detail = trouble, detail
            _log.warning("node %d at %s: %s", peer.node, peer.address, detail)

    def _backoff(self, failures: int) -> float:
        pause = min(
            self._settings.backoff_max, self._settings.backoff_min * (1 << min(failures, 16))
        )
        return pause * (0.5 + self._dice.randrange(1 << 16) / (1 << 17))

    # -- listening --------------------------------------------------------------------------------

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
            await self._serve_accepted(connection)
        return response

    async def _serve_accepted(self, connection: Connection) -> None:
        """In a task of ours: aiohttp would swallow what a frame's handler raises."""
        try:
            task = self._supervisor.spawn(
                f"peer-{connection.peer}.accepted", self._serve(connection)
            )
        except Unavailable:
            await connection.socket.close("stopping", WSCloseCode.GOING_AWAY)
        else:
            await asyncio.wait([task])

    async def _accept(self, socket: MessageSocket, protocol: asyncio.Protocol) -> Connection | None:
        """Shake hands; the door has a deadline for it."""
        assert self._door is not None
        listener = handshake.Listener(
            self._identity,
            self._peers.__contains__,
            self._nonce(),
            self._recognise,
            self._certified(socket),
        )
        try:
            await socket.send(listener.on_hello(await socket.receive()))
            welcome = listener.on_proof(await socket.receive())
            if not self._door.welcome(protocol):
                return None
            await socket.send(welcome)
        except PeerRefused as error:
            # For each reason, so that a crowd of one kind doesn't hide a node that needs help.
            self._seldom.warning(error.reason, "a caller was refused: %s", error)
            await _refuse(socket, error)
            return None
        except NetworkError as error:
            self._seldom.info("gone", "a caller went away in its handshake: %s", error)
            await socket.close("handshake", WSCloseCode.POLICY_VIOLATION)
            return None
        return Connection(listener.peer, socket, self._keys(listener.keys()), dialled=False)

    def _keys(self, keys: tuple[bytes, bytes]) -> tuple[bytes, bytes] | None:
        return None if self._server_tls else keys

    def _certified(self, socket: MessageSocket) -> frozenset[int] | None:
        return certified_nodes(socket.certificate()) if self._server_tls else None

    def _nonce(self) -> bytes:
        return self._dice.randbytes(NONCE_BYTES)


async def _refuse(socket: MessageSocket, error: PeerRefused) -> None:
    with suppress(NetworkError):  # gone already
        await socket.send(handshake.refusal(error))
    await socket.close(error.reason, WSCloseCode.POLICY_VIOLATION)


class _HttpLog(logging.Logger):
    """What aiohttp says of callers that don't speak HTTP: a line a minute, and not a traceback for each."""

    def __init__(self, seldom: Seldom) -> None:
        super().__init__("aiohttp")
        self._seldom = seldom

    def handle(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._seldom.info(
            "http", "a caller sent no HTTP: %s", clip(str(error or record.getMessage()))
        )


def _describe(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error  # without the socket's and the context's insides
    return clip(str(error)) or type(error).__name__


def _direction(connection: Connection) -> str:
    return "dialled" if connection.dialled else "accepted"
