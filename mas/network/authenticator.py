"""Shakes hands over a new socket, on either side, and makes the connection that comes of it.

`mas.network.handshake` says what each side proves; here its messages travel.
"""

from collections.abc import Callable

from mas.network import handshake
from mas.network.connection import Connection
from mas.network.handshake import NONCE_BYTES, Identity
from mas.network.message_socket import MessageSocket
from mas.network.tls import certified_nodes
from mas.runtime import Dice


class Authenticator:
    """Proves this node to peers, and has peers prove themselves."""

    def __init__(self, identity: Identity, dice: Dice, *, over_tls: bool) -> None:
        """`over_tls`: TLS encrypts, and certificates name the peers; else the connection has keys of its own."""
        self._identity = identity
        self._dice = dice
        self._over_tls = over_tls
        self.recognise: handshake.Recognise = handshake.recognise_all
        """Called with the node and store of every peer that has proved itself; it may raise `PeerRefused`."""

    async def dial(self, node: int, socket: MessageSocket) -> Connection:
        """Shake hands as the side that has dialled `node`. Closes the socket where that fails.

        Raises:
            PeerRefused: one of the two refuses the other.
            NetworkError: the socket ended.
        """
        try:
            dialler = handshake.Dialler(
                self._identity, node, self._nonce(), self.recognise, self._certified(socket)
            )
            await socket.send(dialler.hello())
            await socket.send(dialler.on_challenge(await socket.receive()))
            keys = dialler.on_welcome(await socket.receive())
        except BaseException:
            await socket.close("handshake")
            raise
        return Connection(node, socket, self._keys(keys), dialled=True)

    async def accept(
        self, socket: MessageSocket, is_member: Callable[[int], bool], admit: Callable[[], bool]
    ) -> Connection | None:
        """Shake hands as the side that was dialled. None where `admit`, called on the caller's proof, says no.

        Raises:
            PeerRefused: the caller isn't let in; tell it so and close the socket.
            NetworkError: the socket ended.
        """
        listener = handshake.Listener(
            self._identity, is_member, self._nonce(), self.recognise, self._certified(socket)
        )
        await socket.send(listener.on_hello(await socket.receive()))
        welcome = listener.on_proof(await socket.receive())
        if not admit():
            return None
        await socket.send(welcome)
        return Connection(listener.peer, socket, self._keys(listener.keys()), dialled=False)

    def _keys(self, keys: tuple[bytes, bytes]) -> tuple[bytes, bytes] | None:
        return None if self._over_tls else keys

    def _certified(self, socket: MessageSocket) -> frozenset[int] | None:
        return certified_nodes(socket.certificate()) if self._over_tls else None

    def _nonce(self) -> bytes:
        return self._dice.randbytes(NONCE_BYTES)
