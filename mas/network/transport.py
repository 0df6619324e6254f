"""Carries frames between the nodes of a cluster, over WebSockets.

Every node listens on its peer port and dials every peer whose address it knows; it sends on the connection that it
dialled, and on the one that the peer dialled where it has no other. A frame is delivered once, in the order of its lane
(`mas.network.connection`), or never: what a broken connection had queued is gone, and is never carried over to the next
one. Whoever sends is told at once when a frame isn't taken, and whoever waits for an answer is told when a connection
broke (`on_peer`).

The parts live differently long: a `Peer` as long as it is a member, the `PeerDialler` and `PeerListener` from `start` to
`stop`, a `Connection` as long as it lasts. The transport joins them.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable

from aiohttp import WSCloseCode

from mas import limits
from mas.channels import Channel
from mas.errors import NetworkError, Unavailable
from mas.network import handshake
from mas.network.authenticator import Authenticator
from mas.network.connection import Connection
from mas.network.dialler import PeerDialler
from mas.network.frames import Frame
from mas.network.handshake import Identity
from mas.network.listener import PeerListener
from mas.network.peer import Peer, PeerStatistics
from mas.network.settings import TransportSettings
from mas.runtime import Actor, Clock, Dice, Supervisor

_log = logging.getLogger(__name__)

FrameHandler = Callable[[int, bytes], None]
PeerHandler = Callable[[int, bool], None]

_REFUSALS = frozenset(handshake.Refusal)
_CHANNELS = frozenset(int(channel) for channel in Channel)


class PeerTransport(Actor):
    """Sends and receives over all connections of this node. `start` it, then have a supervisor `run` it."""

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
        self._host = host
        self._port = port
        self._peers: dict[int, Peer] = {}
        self._frame_handlers: dict[int, FrameHandler] = {}
        self._peer_handlers: list[PeerHandler] = []
        self._loopback: list[Frame] = []
        self._supervisor = Supervisor()
        settings = settings or TransportSettings()
        self._authenticator = Authenticator(identity, dice, over_tls=server_tls is not None)
        self._dialler = PeerDialler(
            self._authenticator,
            tls=client_tls,
            settings=settings,
            clock=clock,
            dice=dice,
            serve=self._serve,
        )
        self._listener = PeerListener(
            self._authenticator,
            tls=server_tls,
            settings=settings,
            clock=clock,
            is_member=self._peers.__contains__,
            serve=self._serve_accepted,
        )

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
        self._authenticator.recognise = handler

    def add_peer(self, node: int, address: str = "") -> None:
        """Add a member of the cluster. With an address ("host:port") it is dialled; else it has to call."""
        assert node != self.node
        assert node not in self._peers
        peer = self._peers[node] = Peer(node, address)
        if self._dialler.is_open:
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
        await self._listener.open(self._host, self._port)
        self._dialler.open()
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
        await self._listener.close()
        await self._supervisor.stop()
        await self._dialler.close()
        await self._listener.shutdown()

    # -- sending ----------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """Where it listens, once started."""
        return self._listener.port

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
        """Return whether a connection to this peer stands."""
        if peer == self.node:
            return True
        known = self._peers.get(peer)
        return known is not None and known.route() is not None

    def statistics(self) -> list[PeerStatistics]:
        """Return the state of each peer's connections, in the order in which the peers were added."""
        return [peer.statistics() for peer in self._peers.values()]

    def has_answers(self) -> bool:
        """Return whether every peer that is dialled is connected or known to be in trouble."""
        dialled = [peer for peer in self._peers.values() if peer.address]
        return all(peer.route() or peer.trouble for peer in dialled)

    def refusal(self) -> str:
        """Return why all peers that answer refuse this node; empty where one talks to it, or none answers."""
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

    def _attach(self, peer: Peer, connection: Connection) -> None:
        was_up = peer.route() is not None
        replaced = peer.attach(connection)
        if replaced is not None:
            self._hang_up(replaced, "a newer connection takes its place")
        _log.info("connected with node %d, %s", peer.node, _direction(connection))
        if not was_up:
            self._tell(peer.node, up=True)

    def _detach(self, peer: Peer, connection: Connection, reason: str) -> None:
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

    def _start_dialling(self, peer: Peer) -> None:
        if peer.address:
            peer.task = self._supervisor.spawn(
                f"peer-{peer.node}.dial", self._dialler.keep_connected(peer)
            )

    async def _serve_accepted(self, connection: Connection) -> None:
        """Serve in a task of this transport's, because aiohttp would swallow what a frame's handler raises."""
        try:
            task = self._supervisor.spawn(
                f"peer-{connection.peer}.accepted", self._serve(connection)
            )
        except Unavailable:
            await connection.socket.close("stopping", WSCloseCode.GOING_AWAY)
        else:
            await asyncio.wait([task])


def _direction(connection: Connection) -> str:
    return "dialled" if connection.dialled else "accepted"
