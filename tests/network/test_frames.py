"""A message is taken as the next one of its connection, whole and once, or not at all (rule 6, M2, M6)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mas.errors import NetworkError
from mas.network.frames import Packer, Unpacker

frames = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), min_size=1, max_size=20)


@given(st.lists(frames, min_size=1, max_size=5), st.integers(0, 2**64 - 1))
def test_what_is_packed_is_unpacked(messages: list[list[tuple[int, bytes]]], number: int) -> None:
    packer, unpacker = Packer(number), Unpacker(number)
    for message in messages:
        assert unpacker.unpack(packer.pack(message)) == message


@given(frames, st.data())
def test_m6_a_flipped_bit_is_noticed(message: list[tuple[int, bytes]], data: st.DataObject) -> None:
    packed = bytearray(Packer(7).pack(message))
    bit = data.draw(st.integers(0, len(packed) * 8 - 1))
    packed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(NetworkError):
        Unpacker(7).unpack(bytes(packed))


@given(frames, st.data())
def test_m6_a_truncated_message_is_noticed(
    message: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    packed = Packer(7).pack(message)
    with pytest.raises(NetworkError):
        Unpacker(7).unpack(packed[: data.draw(st.integers(0, len(packed) - 1))])


def test_m2_a_message_is_taken_once() -> None:
    unpacker = Unpacker(7)
    message = Packer(7).pack([(1, b"pay")])
    unpacker.unpack(message)
    with pytest.raises(NetworkError):
        unpacker.unpack(message)


def test_a_lost_message_is_noticed() -> None:
    packer = Packer(7)
    packer.pack([(1, b"lost")])
    with pytest.raises(NetworkError):
        Unpacker(7).unpack(packer.pack([(1, b"next")]))


def test_m7_another_connections_message_is_not_taken() -> None:
    with pytest.raises(NetworkError):
        Unpacker(8).unpack(Packer(7).pack([(1, b"pay")]))


def test_a_frame_longer_than_its_message_is_refused() -> None:
    from xxhash import xxh3_64_digest

    for body in (b"\x01\x00\x00\x00\x05four", b"\x01\x00"):
        with pytest.raises(NetworkError):
            Unpacker(7).unpack(xxh3_64_digest(body, 7) + body)
