"""A message is taken as the next one of its connection, whole and once, or not at all (rule 6, M2, M6)."""

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from mas.errors import NetworkError
from mas.network.frames import Packer, Unpacker

KEY = bytes(range(32))

frames = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), min_size=1, max_size=20)


@given(st.lists(frames, min_size=1, max_size=5), st.none() | st.binary(min_size=32, max_size=32))
def test_what_is_packed_is_unpacked(
    messages: list[list[tuple[int, bytes]]], key: bytes | None
) -> None:
    packer, unpacker = Packer(key), Unpacker(key)
    for message in messages:
        assert unpacker.unpack(packer.pack(message)) == message


@given(frames, st.data())
def test_m6_a_flipped_bit_is_noticed(message: list[tuple[int, bytes]], data: st.DataObject) -> None:
    packed = bytearray(Packer(KEY).pack(message))
    bit = data.draw(st.integers(0, len(packed) * 8 - 1))
    packed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(NetworkError):
        Unpacker(KEY).unpack(bytes(packed))


@given(frames, st.data())
def test_m6_a_truncated_message_is_noticed(
    message: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    packed = Packer(KEY).pack(message)
    with pytest.raises(NetworkError):
        Unpacker(KEY).unpack(packed[: data.draw(st.integers(0, len(packed) - 1))])


def test_m2_a_message_is_taken_once() -> None:
    unpacker = Unpacker(KEY)
    message = Packer(KEY).pack([(1, b"pay")])
    unpacker.unpack(message)
    with pytest.raises(NetworkError):
        unpacker.unpack(message)


def test_a_lost_message_is_noticed() -> None:
    packer = Packer(KEY)
    packer.pack([(1, b"lost")])
    with pytest.raises(NetworkError):
        Unpacker(KEY).unpack(packer.pack([(1, b"next")]))


def test_m7_another_connections_message_is_not_taken() -> None:
    with pytest.raises(NetworkError):
        Unpacker(bytes(32)).unpack(Packer(KEY).pack([(1, b"pay")]))


def test_a_frame_longer_than_its_message_is_refused() -> None:
    for body in (b"\x01\x00\x00\x00\x05four", b"\x01\x00"):
        sealed = AESGCM(KEY).encrypt(bytes(12), body, None)
        with pytest.raises(NetworkError, match="a frame ends"):
            Unpacker(KEY).unpack(sealed)


def test_security_b13_who_knows_what_was_said_can_neither_read_nor_forge() -> None:
    """A short message, all of it known: of a checksum with a secret seed the seed would follow."""
    packed = Packer(KEY).pack([(1, b"beat")])
    assert b"beat" not in packed
    for known in (b"", b"\x01\x00\x00\x00\x04beat"):
        with pytest.raises(NetworkError):
            Unpacker(KEY).unpack(known)
    # A stream cipher alone would let this through: the same length, another word.
    there, wanted = b"beat", b"dead"
    forged = bytearray(packed)
    for i, (one, other) in enumerate(zip(there, wanted, strict=True)):
        forged[5 + i] ^= one ^ other
    with pytest.raises(NetworkError):
        Unpacker(KEY).unpack(bytes(forged))


@given(st.binary(max_size=300))
def test_any_bytes_are_taken_or_refused(message: bytes) -> None:
    with pytest.raises(NetworkError):
        Unpacker(KEY).unpack(message)


@given(st.binary(max_size=300))
def test_any_bytes_over_tls_are_frames_or_refused(message: bytes) -> None:
    try:
        found = Unpacker(None).unpack(message)
    except NetworkError:
        return
    assert Packer(None).pack(found) == message
