"""Who may stand at a node's peer port: callers that nobody knows yet, few at a time, for a short while, with few bytes.

A caller is a *stranger* from the moment it connects until it has proved itself: through TLS, the HTTP header and the
handshake, which share one deadline and one allowance of bytes. Strangers are counted in all, and for each address that
they come from. Where there are too many, the one that has stood there longest goes, and not the one that comes: a peer
proves itself within milliseconds, so a crowd that says nothing keeps nobody out. An address from which a peer has proved
itself has room of its own, whatever strangers from elsewhere do.
"""

import asyncio
import errno
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable
from typing import cast

import msgspec

from mas.addresses import bare_host, join_address
from mas.errors import ConfigError
from mas.runtime import Clock, Supervisor
from mas.telemetry import Seldom

_BACKLOG = 256
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_NO_ROOM_SECONDS = 0.2
_KNOWN_ADDRESSES_MAX = 1_000


class DoorSettings(msgspec.Struct, frozen=True):
    """How many strangers, for how long, with how much."""

    strangers: int = 256
    """At a time; those from addresses of peers aren't among them."""
    per_address: int = 32
    """Of one address; of IPv6, of one network of 64 bits, which is what a single caller is given."""
    seconds: float = 5.0
    """From its connection until a stranger has proved itself."""
    bytes: int = 6 * 1024
    """That a stranger may send: an HTTP header, and a handshake of at most 4 KiB."""


async def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens on this port; "::" is IPv4's addresses as well.

    Raises:
        ConfigError: the port can't be listened on.
    """
    try:
        [(family, _, _, _, address), *_] = await asyncio.get_running_loop().getaddrinfo(
            bare_host(host), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        return socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=both)
    except OSError as error:
        raise ConfigError(
            f"the peer port {join_address(host, port)} can't be listened on: {error.strerror}"
        ) from error


class Door:
    """A listening port, and the strangers at it."""

    def __init__(
        self,
        make_protocol: Callable[[], asyncio.Protocol],
        *,
        tls: ssl.SSLContext | None,
        clock: Clock,
        settings: DoorSettings,
    ) -> None:
        """`make_protocol` makes what serves a connection; `welcome` takes one of these."""
        self._make_protocol = make_protocol
        self._tls = tls
        self._settings = settings
        self._log = Seldom(logging.getLogger(__name__), clock.monotonic)
        self._supervisor = Supervisor()
        self._socket: socket.socket | None = None
        self._guests: dict[asyncio.Protocol, _Guest] = {}
        # By address, the oldest first.
        self._strangers: dict[str, dict[_Guest, None]] = {}
        self._known: dict[str, None] = {}

    @property
    def port(self) -> int:
        """Where it listens, once opened."""
        assert self._socket is not None
        port: int = self._socket.getsockname()[1]
        return port

    async def open(self, host: str, port: int) -> None:
        """Listen, and let callers come to the door.

        Raises:
            ConfigError: the port can't be listened on.
        """
        self._socket = await listening_socket(host, port)
        self._socket.settimeout(0)
        self._listen()

    async def close(self) -> None:
        """Listen no more, and send all strangers away. Idempotent."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        guests = list(self._guests.values())
        for guest in guests:
            self._send_away(guest)
        await self._supervisor.stop()
        for guest in guests:
            if not guest.greeted:
                guest.socket.close()

    def welcome(self, protocol: asyncio.Protocol) -> bool:
        """Count a caller that has proved itself as a stranger no more. False: it has been sent away meanwhile."""
        guest = self._guests.get(protocol)
        if guest is None:
            return False
        self._forget(guest)
        self._known.pop(guest.address, None)
        self._known[guest.address] = None
        if len(self._known) > _KNOWN_ADDRESSES_MAX:
            del self._known[next(iter(self._known))]
        guest.step_aside()
        return True

    def strangers(self) -> int:
        """Return how many strangers there are."""
        return len(self._guests)

    # -- strangers --------------------------------------------------------------------------------

    def _listen(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._accept, self._socket)

    def _accept(self, listening: socket.socket) -> None:
        try:
            connection, address = listening.accept()
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._pause(listening, error)
            return  # else the caller has gone already
        connection.settimeout(0)
        self._admit(connection, _network(address[0]))

    def _pause(self, listening: socket.socket, error: OSError) -> None:
        """Accept nobody for a moment, because this process has no more files and strangers hold some of them."""
        self._log.warning("files", "nobody can be let in for a moment: %s", error.strerror)
        if self._guests:
            self._send_away(next(iter(self._guests.values())))
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        loop.call_later(_NO_ROOM_SECONDS, self._listen)

    def _admit(self, connection: socket.socket, address: str) -> None:
        self._make_room(address)
        guest = _Guest(
            self._make_protocol(), connection, address, self._settings.bytes, self._on_excess
        )
        guest.timer = asyncio.get_running_loop().call_later(
            self._settings.seconds, self._send_away, guest
        )
        self._guests[guest.inner] = guest
        self._strangers.setdefault(address, {})[guest] = None
        self._supervisor.spawn("peer-transport.guest", self._greet(guest))

    def _make_room(self, address: str) -> None:
        crowd = self._strangers.get(address, {})
        if len(crowd) < self._settings.per_address:
            if address in self._known:
                return
            crowds = {
                each: them for each, them in self._strangers.items() if each not in self._known
            }
            if sum(map(len, crowds.values())) < self._settings.strangers:
                return
            crowd = max(crowds.values(), key=len)
        oldest = next(iter(crowd))
        self._log.warning(
            "crowd",
            "strangers crowd the peer port, %d of them from %s: those who have waited longest are sent away",
            len(crowd),
            oldest.address,
        )
        self._send_away(oldest)

    async def _greet(self, guest: "_Guest") -> None:
        """Begin TLS, where there is any, and then give the connection to `inner`."""
        guest.greeted = True
        timeout = self._settings.seconds if self._tls else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: guest, guest.socket, ssl=self._tls, ssl_handshake_timeout=timeout
            )
        except Exception as error:  # noqa: BLE001 - whatever a stranger causes ends the stranger
            self._log.warning("tls", "a caller from %s isn't let in: %s", guest.address, error)
            self._send_away(guest)
            return
        await guest.over.wait()
        self._forget(guest)

    def _on_excess(self, guest: "_Guest") -> None:
        self._log.warning(
            "bytes", "a caller from %s sends too much before it has proved itself", guest.address
        )
        self._send_away(guest)

    def _send_away(self, guest: "_Guest") -> None:
        self._forget(guest)
        guest.hang_up()

    def _forget(self, guest: "_Guest") -> None:
        if self._guests.pop(guest.inner, None) is None:
            return
        if guest.timer is not None:
            guest.timer.cancel()
        crowd = self._strangers[guest.address]
        del crowd[guest]
        if not crowd:
            del self._strangers[guest.address]


class _Guest(asyncio.Protocol):
    """A stranger's connection: what it sends is counted, and passed on to whoever serves it."""

    def __init__(
        self,
        inner: asyncio.Protocol,
        connection: socket.socket,
        address: str,
        bytes_max: int,
        on_excess: "Callable[[_Guest], None]",
    ) -> None:
        self.inner = inner
        self.socket = connection
        self.address = address
        self.timer: asyncio.TimerHandle | None = None
        self.greeted = False
        """A transport has the socket, and closes it."""
        self.over = asyncio.Event()
        """It has gone, or is a stranger no more."""
        self._bytes_left = bytes_max
        self._on_excess = on_excess
        self._transport: asyncio.Transport | None = None

    def step_aside(self) -> None:
        """Leave the connection to whoever serves it."""
        assert self._transport is not None
        self._transport.set_protocol(self.inner)
        self.over.set()

    def hang_up(self) -> None:
        """End the connection, however far it has come: what reads it finds its end."""
        self._bytes_left = 0
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it has ended already

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none, but as good as one
        self.inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if len(data) > self._bytes_left:
            self._on_excess(self)
            return
        self._bytes_left -= len(data)
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self.over.set()
        self.inner.connection_lost(error)

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()


def _network(address: str) -> str:
    """Return what one caller can come from: an IPv4 address, or the network of an IPv6 one."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
