"""Only a node of this cluster, with its secret, gets past the handshake; everybody else hears why not."""

import msgspec
import pytest

from mas.errors import PeerRefused
from mas.network.handshake import (
    NONCE_BYTES,
    PROTOCOL_VERSION,
    Dialler,
    Hello,
    Identity,
    Listener,
    Refusal,
    Refused,
    encode,
    refusal,
)

ONE = Identity("bank", 1, b"secret")
TWO = Identity("bank", 2, b"secret")
NONCE_A = b"a" * NONCE_BYTES
NONCE_B = b"b" * NONCE_BYTES


def knows_all(_node: int) -> bool:
    return True


def meet(dialler: Dialler, listener: Listener) -> None:
    challenge = listener.on_hello(dialler.hello())
    welcome = listener.on_proof(dialler.on_challenge(challenge))
    assert dialler.on_welcome(welcome) == listener.keys()


def refused(dialler: Dialler, listener: Listener) -> str:
    with pytest.raises(PeerRefused) as caught:
        meet(dialler, listener)
    return caught.value.reason


def test_two_nodes_of_one_cluster_agree_on_their_keys() -> None:
    listener = Listener(TWO, knows_all, NONCE_B)
    meet(Dialler(ONE, 2, NONCE_A), listener)
    assert listener.peer == 1
    there, back = listener.keys()
    assert there != back


def test_each_connection_has_its_own_keys() -> None:
    first = Listener(TWO, knows_all, NONCE_B)
    meet(Dialler(ONE, 2, NONCE_A), first)
    second = Listener(TWO, knows_all, NONCE_A)
    meet(Dialler(ONE, 2, NONCE_A), second)
    assert not set(first.keys()) & set(second.keys())


def test_another_secret_is_found_by_the_dialler() -> None:
    listener = Listener(Identity("bank", 2, b"another"), knows_all, NONCE_B)
    assert refused(Dialler(ONE, 2, NONCE_A), listener) == Refusal.SECRET


def test_another_secret_is_found_by_the_listener() -> None:
    dialler = Dialler(ONE, 2, NONCE_A)
    thief = Listener(TWO, knows_all, NONCE_B)
    thief.on_hello(dialler.hello())
    mine = Listener(Identity("bank", 2, b"another"), knows_all, NONCE_B)
    mine.on_hello(dialler.hello())
    with pytest.raises(PeerRefused) as caught:
        mine.on_proof(dialler.on_challenge(thief.on_hello(dialler.hello())))
    assert caught.value.reason == Refusal.SECRET


def test_a_proof_serves_one_connection_only() -> None:
    dialler = Dialler(ONE, 2, NONCE_A)
    first = Listener(TWO, knows_all, NONCE_B)
    proof = dialler.on_challenge(first.on_hello(dialler.hello()))
    second = Listener(TWO, knows_all, b"c" * NONCE_BYTES)
    second.on_hello(dialler.hello())
    with pytest.raises(PeerRefused) as caught:
        second.on_proof(proof)
    assert caught.value.reason == Refusal.SECRET


def test_a_listeners_proof_reflected_is_no_diallers_proof() -> None:
    listener = Listener(TWO, knows_all, NONCE_B)
    challenge = msgspec.msgpack.decode(listener.on_hello(Dialler(ONE, 2, NONCE_A).hello()))
    with pytest.raises(PeerRefused) as caught:
        listener.on_proof(msgspec.msgpack.encode([3, challenge[2]]))
    assert caught.value.reason == Refusal.SECRET


@pytest.mark.parametrize(
    ("dialler", "listener", "reason"),
    [
        (Dialler(Identity("shop", 1, b"secret"), 2, NONCE_A), TWO, Refusal.CLUSTER),
        (Dialler(TWO, 2, NONCE_A), TWO, Refusal.OWN_ID),
        (Dialler(ONE, 3, NONCE_A), TWO, Refusal.WRONG_NODE),
        (Dialler(Identity("bank", 9, b"secret"), 2, NONCE_A), TWO, Refusal.UNKNOWN_ID),
    ],
)
def test_m7_strangers_are_refused_by_name(
    dialler: Dialler, listener: Identity, reason: Refusal
) -> None:
    assert refused(dialler, Listener(listener, (1, 2, 3).__contains__, NONCE_B)) == reason


def test_another_version_is_refused_whatever_else_its_hello_holds() -> None:
    listener = Listener(TWO, knows_all, NONCE_B)
    with pytest.raises(PeerRefused) as caught:
        listener.on_hello(msgspec.msgpack.encode([1, PROTOCOL_VERSION + 1, {"quite": "new"}]))
    assert caught.value.reason == Refusal.VERSION


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"GET / HTTP/1.1",
        msgspec.msgpack.encode([]),
        msgspec.msgpack.encode([1]),
        msgspec.msgpack.encode([1, "1"]),
        encode(Hello(PROTOCOL_VERSION, "bank", 1, 2, b"short")),
        msgspec.msgpack.encode([3, 1, 2, 3]),
    ],
)
def test_m6_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(PeerRefused) as caught:
        Listener(TWO, knows_all, NONCE_B).on_hello(data)
    assert caught.value.reason == Refusal.MALFORMED


def test_the_dialler_hears_the_listeners_reason() -> None:
    with pytest.raises(PeerRefused, match="add it first") as caught:
        Dialler(ONE, 2, NONCE_A).on_challenge(
            refusal(PeerRefused("node 1 isn't a member: add it first", Refusal.UNKNOWN_ID))
        )
    assert caught.value.reason == Refusal.UNKNOWN_ID


def test_security_b12_a_long_message_is_refused_unread() -> None:
    hello = Hello(1, "x" * 5_000, 1, 2, NONCE_A)
    with pytest.raises(PeerRefused, match="at most 4096") as caught:
        Listener(TWO, knows_all, NONCE_B).on_hello(encode(hello))
    assert caught.value.reason == Refusal.MALFORMED


def test_security_b11_what_a_stranger_says_is_told_shortened() -> None:
    hello = Hello(1, "x" * 3_000, 1, 2, NONCE_A)
    with pytest.raises(PeerRefused) as caught:
        Listener(TWO, knows_all, NONCE_B).on_hello(encode(hello))
    assert len(str(caught.value)) < 200
    with pytest.raises(PeerRefused) as told:
        Dialler(ONE, 2, NONCE_A).on_challenge(encode(Refused(Refusal.CLUSTER, "y" * 3_000)))
    assert len(str(told.value)) < 400
