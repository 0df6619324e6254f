"""The nouns: what travels survives the way, and what the room exports is what it says."""

import msgspec
import pytest

import mas.raft
from mas.errors import MasError
from mas.raft import (
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    NotLeader,
    RaftError,
)
from tests.raft.group import snapshot_of


def test_a_message_survives_its_encoding() -> None:
    message = Message(
        MessageType.SNAPSHOT,
        to=1,
        from_=2,
        term=3,
        entries=(Entry(1, 1, EntryType.CONF_CHANGE, b"\x00"), Entry(2, 1)),
        snapshot=snapshot_of(7, 2, ConfState((1, 2), (1,), (3,), (), auto_leave=True), b"ref"),
        context=b"\xff",
    )
    encoded = msgspec.msgpack.encode(message)
    assert msgspec.msgpack.decode(encoded, type=Message) == message


def test_what_was_handed_out_does_not_change() -> None:
    for noun in (Message(MessageType.VOTE, 1, 2), Entry(1, 1), HardState(), ConfState()):
        with pytest.raises(AttributeError):
            noun.term = 9  # type: ignore[misc, union-attr]


def test_the_room_exports_what_it_names() -> None:
    names = mas.raft.__all__
    assert names == sorted(names)
    assert all(hasattr(mas.raft, name) for name in names)
    errors = [getattr(mas.raft, name) for name in names]
    errors = [one for one in errors if isinstance(one, type) and issubclass(one, Exception)]
    assert len(errors) == 9
    assert all(issubclass(one, RaftError) and issubclass(one, MasError) for one in errors)


def test_who_may_be_asked_instead_is_told() -> None:
    assert NotLeader("not here", 3).leader == 3
    assert NotLeader().leader == 0
    assert NotLeader.retryable
