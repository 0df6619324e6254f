"""Every decoder of the product: whatever bytes it is given, it returns what it promises or raises our own error."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mas import ledger
from mas.client import profile
from mas.config import parse_config
from mas.daemon import data_directory
from mas.errors import ConfigError, CorruptData, InvalidRequest, MasError, NetworkError, PeerRefused
from mas.locks import remote
from mas.membership.roster import Roster, decode_roster
from mas.multiraft import frames, snapshots
from mas.network import handshake
from mas.raft import ConfChange, ConfChangeSingle, ConfChangeType, Message, MessageType, RaftError
from mas.resource import proposals
from mas.rpc import messages
from mas.storage import rocksdb
from mas.storage.account_db import layout, rows
from mas.storage.account_db import snapshot as snapshot_file
from mas.storage.raft_log import records as raft_log_records
from mas.storage.tm_store import rocksdb as tm_store_rocksdb

Decode = Callable[[bytes], Any]

FROM_OUTSIDE: dict[str, tuple[Decode, type[MasError]]] = {
    "raft frame": (frames.decode_frame, NetworkError),
    "snapshot frame": (snapshots.decode_message, NetworkError),
    "requests": (messages.decode_requests, NetworkError),
    "replies": (messages.decode_replies, NetworkError),
    "locks": (remote._decode, NetworkError),
    "roster": (decode_roster, NetworkError),
    "handshake": (handshake._decode, PeerRefused),
    "hello": (handshake._check_version, PeerRefused),
    "chunk": (ledger.decode_batch, InvalidRequest),
}
FROM_DISK: dict[str, tuple[Decode, type[MasError]]] = {
    "entry": (ledger.decode_proposal, CorruptData),
    "raw entry": (proposals._decode_raw, CorruptData),
    "membership change": (ConfChange.decode, RaftError),
    "note": (snapshots.decode_note, CorruptData),
    "lock": (tm_store_rocksdb._decode_lock, CorruptData),
    "hard state": (raft_log_records._decode_hard_state, CorruptData),
    "configuration": (raft_log_records._decode_conf_state, CorruptData),
    "identity": (rocksdb._decode_identity, CorruptData),
    "number": (tm_store_rocksdb._decode_int, CorruptData),
    "transaction": (tm_store_rocksdb._decode_pending, CorruptData),
    "snapshot's frame": (snapshot_file._decode, CorruptData),
    "kept roster": (data_directory._decode_roster, ConfigError),
    "kept identity": (data_directory._decode_kept, ConfigError),
    **{
        f"{module.__name__}.{name}": (decode, CorruptData)
        for module in (rows, layout, snapshot_file)
        for name, decode in vars(module).items()
        if name.lstrip("_").startswith("decode_")
    },
}
DECODERS = FROM_OUTSIDE | FROM_DISK

SAMPLES: list[bytes] = [
    frames.encode_frame(7, [(1, Message(MessageType.HEARTBEAT, to=2, from_=1, term=3))]),
    snapshots.encode_message(snapshots.Request(1, 2)),
    messages.encode((messages.Submit(1, 2, msgspec.Raw(ledger.encode(ledger.Batch(b"", 0, ())))),)),
    messages.encode((messages.Rejected(1, messages.RejectReason.INVALID, detail="no"),)),
    remote._encode(remote.Withdraw(3)),
    msgspec.msgpack.encode(Roster()),
    handshake.encode(handshake.Hello(1, "mas", 1, 2, bytes(32))),
    ConfChange((ConfChangeSingle(ConfChangeType.ADD_NODE, 3),)).encode(),
    msgspec.json.encode(Roster()),
    msgspec.json.encode({"alice": 1}),
]
DEEP = 5_000
HOSTILE = {
    "nested": b"\x91" * DEEP,
    "nested maps": b"\x81\x01" * DEEP,
    "nested in each field": b"\x9f" + b"".join(b"\x91" * DEEP + b"\x01" for _ in range(3)),
    "nested behind a tag": b"\x92\x01" + b"\x91" * DEEP + b"\x01",
    "nested behind a version": b"\x94\x01" + b"\x91" * DEEP + b"\x01\x01\x01",
    "damaged string": b"\xa2\xff\xfe",
    "damaged string in a list": b"\x92\x01\xa2\xff\xfe",
    "a list of 4 billions": b"\xdd\xff\xff\xff\xff",
    "a map of 4 billions": b"\xdf\xff\xff\xff\xff",
    "4 GB": b"\xc6\xff\xff\xff\xff",
    "4 GB of text": b"\xdb\xff\xff\xff\xff",
    "a great number": b"\xcf" + b"\xff" * 8,
    "an extension": b"\xc7\x08\xff" + b"\xff" * 8,
    "nothing": b"",
    "nested JSON": b"[" * DEEP,
    "nested JSON objects": b'{"a":' * DEEP,
    "damaged JSON": b'"\xff"',
    "a great JSON number": b'{"a":1e999999}',
    "a long JSON number": b'{"a":' + b"9" * DEEP + b"}",
}

objects = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=8) | st.dictionaries(st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=20,
)


@pytest.mark.parametrize("name", DECODERS)
def test_security_b10_hostile_bytes_are_our_own_error(name: str) -> None:
    decode, error = DECODERS[name]
    refused = 0
    for bad in HOSTILE.values():
        with suppress(error):
            decode(bad)
            continue
        refused += 1
    assert refused >= len(HOSTILE) // 2


def test_security_b10_the_errors_that_msgspec_does_not_document_are_raised() -> None:
    """Else the tests above prove nothing: these moments are reached."""
    with pytest.raises(RecursionError):
        msgspec.msgpack.decode(HOSTILE["nested"], type=Any)
    with pytest.raises(UnicodeDecodeError):
        msgspec.msgpack.decode(HOSTILE["damaged string"])
    with pytest.raises(NetworkError) as nested:
        messages.decode_requests(b"\x91\x94\x01\x01\x01" + HOSTILE["nested"])
    assert isinstance(nested.value.__cause__, RecursionError)
    with pytest.raises(NetworkError) as damaged:
        messages.decode_replies(
            messages.encode(
                (messages.Rejected(1, messages.RejectReason.INVALID, detail="no"),)
            ).replace(b"no", b"\xff\xff")
        )
    assert isinstance(damaged.value.__cause__, UnicodeDecodeError)


@given(st.data())
def test_security_b10_any_bytes_are_our_own_error(data: st.DataObject) -> None:
    sample = data.draw(st.sampled_from(SAMPLES))
    bad = data.draw(
        st.binary(max_size=200)
        | objects.map(msgspec.msgpack.encode)
        | objects.map(msgspec.json.encode)
        | st.builds(_damage, st.just(sample), st.integers(0, 999), st.binary(max_size=9))
    )
    for decode, error in DECODERS.values():
        with suppress(error):
            decode(bad)


def _damage(sample: bytes, place: int, junk: bytes) -> bytes:
    place %= len(sample) + 1
    return sample[:place] + junk + sample[place + len(junk) // 2 :]


def test_what_a_coordinator_adds_to_its_instructions_is_not_taken() -> None:
    """What is skipped unread could be nested so deep that the log's entry around it can't be read any more."""
    fields = msgspec.msgpack.decode(ledger.encode(ledger.Batch(b"", 0, ())))
    assert ledger.decode_batch(msgspec.msgpack.encode(fields))
    with pytest.raises(InvalidRequest):
        ledger.decode_batch(msgspec.msgpack.encode([*fields, [[[]]]]))


@pytest.mark.parametrize(
    "text", ["a = " + "[" * DEEP, "a." * 1_100 + "b = 1", "a = " + "9" * 5_000, "\x00"]
)
def test_files_of_an_operator_are_our_own_error(text: str, tmp_path: Any) -> None:
    with pytest.raises(ConfigError):
        parse_config(text)
    file = tmp_path / "client.toml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        profile.read(file)
