"""How two nodes prove to each other that they belong together, before any frame passes.

    dialler  -> Hello      version, cluster, who calls, whom it means, a nonce
    listener -> Challenge  a nonce, and proof that it knows the cluster's secret
    dialler  -> Proof      the same proof of its own
    listener -> Welcome    or, at any point, Refused with a reason

A proof is an HMAC over everything that both have said, nonces included, under a label of its side: it can't be used
twice, reflected, or carried to another connection, cluster or node. The secret itself never travels. What both end
with are the connection's *keys*, one a direction, which follow from the secret and both nonces. Where there is no TLS its
frames are encrypted with them: whoever passes the handshake on, between the two, can neither read nor say anything
afterwards.

Each side also names its *store*, drawn once for its data directory: a node that comes back under its id with another has
lost what it promised, and whoever knew it refuses it.

Over TLS each side has shown a certificate, and is only believed to be a node that this one names.

Nothing here waits or knows a socket: bytes in, bytes out.
"""

import hashlib
import hmac
from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

import msgspec

from mas.decoding import Buffer, msgpack_decoder
from mas.errors import PeerRefused
from mas.limits import clip, shorten

PROTOCOL_VERSION = 1
NONCE_BYTES = 32
MESSAGE_BYTES_MAX = 4 * 1024
"""Of any message here: nobody has proved anything yet."""


class Refusal(StrEnum):
    """Why a node doesn't talk to another; `PeerRefused.reason`."""

    VERSION = "version"
    CLUSTER = "cluster"
    SECRET = "secret"  # noqa: S105 - the word, not the thing
    UNKNOWN_ID = "unknown-id"
    OWN_ID = "own-id"
    WRONG_NODE = "wrong-node"
    WIPED = "wiped"
    CERTIFICATE = "certificate"
    MALFORMED = "malformed"


class Identity(msgspec.Struct, frozen=True):
    """Who this node is, to the others."""

    cluster: str
    node: int
    secret: bytes
    store: bytes = b""
    """Names its data directory, for as long as that lasts."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The dialler's first word. Its first field stays first for all versions."""

    version: int
    cluster: str
    node: int
    to: int
    nonce: bytes
    store: bytes = b""


class Challenge(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The listener has found the Hello in order."""

    nonce: bytes
    proof: bytes
    store: bytes = b""


class Proof(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The dialler's side."""

    proof: bytes


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Frames may pass."""


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The listener closes the connection."""

    reason: Refusal
    detail: str


Message = Hello | Challenge | Proof | Welcome | Refused
T = TypeVar("T", Hello, Challenge, Proof, Welcome)

Recognise = Callable[[int, bytes], None]
"""Takes a node that has proved itself, and its store; raises `PeerRefused` where that isn't the one known."""


def recognise_all(_node: int, _store: bytes) -> None:
    """Accept any store."""


encode = msgspec.msgpack.Encoder().encode


class Dialler:
    """The side that opens the connection. Its methods raise `PeerRefused`."""

    def __init__(
        self,
        identity: Identity,
        peer: int,
        nonce: bytes,
        recognise: Recognise = recognise_all,
        certified: frozenset[int] | None = None,
    ) -> None:
        """`certified`: the nodes that the listener may be by its certificate; None where there is no TLS."""
        assert len(nonce) == NONCE_BYTES
        _check_certified(peer, certified)
        self._identity = identity
        self._recognise = recognise
        self._hello = Hello(
            PROTOCOL_VERSION, identity.cluster, identity.node, peer, nonce, identity.store
        )
        self._seal: _Seal | None = None

    def hello(self) -> bytes:
        """Return the first message."""
        return encode(self._hello)

    def on_challenge(self, data: bytes) -> bytes:
        """Check the listener's proof; this side's own is the answer."""
        challenge = _expect(Challenge, data)
        self._seal = _Seal(self._identity.secret, self._hello, challenge.nonce, challenge.store)
        if not hmac.compare_digest(challenge.proof, self._seal.proof("listener")):
            raise PeerRefused(
                f"node {self._hello.to} has another cluster secret: give all nodes the same",
                Refusal.SECRET,
            )
        self._recognise(self._hello.to, challenge.store)
        return encode(Proof(self._seal.proof("dialler")))

    def on_welcome(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the connection's keys: of what the dialler sends, and of what the listener sends."""
        _expect(Welcome, data)
        assert self._seal is not None
        return self._seal.keys()


class Listener:
    """The side that was called. Its methods raise `PeerRefused`; `refusal` then tells the dialler."""

    def __init__(
        self,
        identity: Identity,
        knows: Callable[[int], bool],
        nonce: bytes,
        recognise: Recognise = recognise_all,
        certified: frozenset[int] | None = None,
    ) -> None:
        """`knows` says who is a member; `certified`: which nodes the dialler may be by its certificate, None without TLS."""
        assert len(nonce) == NONCE_BYTES
        self._identity = identity
        self._recognise = recognise
        self._knows = knows
        self._certified = certified
        self._nonce = nonce
        self._seal: _Seal | None = None
        self._store = b""
        self.peer = 0
        """Who says that it calls; true once `on_proof` has returned."""

    def on_hello(self, data: bytes) -> bytes:
        """Check who calls, and whom; the answer challenges it."""
        _check_version(data)
        hello = _expect(Hello, data)
        self.peer = hello.node
        self._check(hello)
        self._store = hello.store
        mine = self._identity
        self._seal = _Seal(mine.secret, hello, self._nonce, mine.store)
        return encode(Challenge(self._nonce, self._seal.proof("listener"), mine.store))

    def on_proof(self, data: bytes) -> bytes:
        """Check the dialler's proof; the answer lets it in."""
        proof = _expect(Proof, data)
        assert self._seal is not None
        if not hmac.compare_digest(proof.proof, self._seal.proof("dialler")):
            raise PeerRefused(
                f"a caller that says it is node {self.peer} has another cluster secret",
                Refusal.SECRET,
            )
        self._recognise(self.peer, self._store)
        return encode(Welcome())

    def keys(self) -> tuple[bytes, bytes]:
        """Return the connection's keys: of what the dialler sends, and of what the listener sends."""
        assert self._seal is not None
        return self._seal.keys()

    def _check(self, hello: Hello) -> None:
        mine = self._identity
        if hello.cluster != mine.cluster:
            raise PeerRefused(
                f"node {hello.node} belongs to cluster {shorten(hello.cluster)}, this node to another",
                Refusal.CLUSTER,
            )
        if hello.node == mine.node:
            raise PeerRefused(
                f"two nodes have the id {mine.node}: give each its own", Refusal.OWN_ID
            )
        if hello.to != mine.node:
            raise PeerRefused(
                f"node {hello.node} calls node {hello.to} here, this is node {mine.node}: mend its address",
                Refusal.WRONG_NODE,
            )
        if len(hello.nonce) != NONCE_BYTES:
            raise _malformed(f"a nonce of {len(hello.nonce)} bytes")
        _check_certified(hello.node, self._certified)
        if not self._knows(hello.node):
            raise PeerRefused(
                f"node {hello.node} isn't a member of cluster {mine.cluster!r}: it hasn't joined yet, or is retired, "
                "and then its id is never used again",
                Refusal.UNKNOWN_ID,
            )


def refusal(error: PeerRefused) -> bytes:
    """Return the last message to a dialler that is refused."""
    return encode(Refused(Refusal(error.reason), str(error)))


class _Seal:
    """What both sides can compute, and nobody without the secret."""

    def __init__(self, secret: bytes, hello: Hello, nonce: bytes, store: bytes) -> None:
        """`nonce` and `store` are the listener's."""
        self._secret = secret
        self._transcript = encode((hello, nonce, store))

    def proof(self, side: str) -> bytes:
        return hmac.digest(self._secret, b"mas " + side.encode() + self._transcript, hashlib.sha256)

    def keys(self) -> tuple[bytes, bytes]:
        return self.proof("frames of the dialler"), self.proof("frames of the listener")


def _expect(kind: type[T], data: bytes) -> T:
    _check_size(data)
    message = _decode(data)
    if isinstance(message, Refused):
        raise PeerRefused(clip(message.detail), message.reason)
    if not isinstance(message, kind):
        raise _malformed(f"{type(message).__name__} where {kind.__name__} was due")
    return message


def _check_version(data: bytes) -> None:
    """Check a Hello's version before anything else of it is read: another version's other fields may be anything."""
    _check_size(data)
    fields = _decode_fields(data)
    if len(fields) < 2:
        raise _malformed(f"no handshake, but {len(fields)} fields")
    version = _decode_int(fields[1])
    if version != PROTOCOL_VERSION:
        raise PeerRefused(
            f"the caller speaks version {version} of the peer protocol, this node {PROTOCOL_VERSION}",
            Refusal.VERSION,
        )


def _check_certified(node: int, certified: frozenset[int] | None) -> None:
    if certified is not None and node not in certified:
        shown = ", ".join(map(str, sorted(certified))) or "no node"
        raise PeerRefused(
            f"node {node}'s certificate is of {shown}: give each node the files that `mas certs` makes for it",
            Refusal.CERTIFICATE,
        )


def _check_size(data: bytes) -> None:
    if len(data) > MESSAGE_BYTES_MAX:
        raise _malformed(f"{len(data)} bytes where at most {MESSAGE_BYTES_MAX} were due")


def _malformed(what: str) -> PeerRefused:
    return PeerRefused(
        f"the other side sent {what}: is something else on its port?", Refusal.MALFORMED
    )


_decode: Callable[[Buffer], Message] = msgpack_decoder(Message, "a message", _malformed)
_decode_fields = msgpack_decoder(list[msgspec.Raw], "a message", _malformed)
_decode_int = msgpack_decoder(int, "a version", _malformed)
