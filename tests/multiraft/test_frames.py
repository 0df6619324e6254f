"""Frames between hosts, and what waits to go into them."""

import msgspec
import pytest

from mas.errors import NetworkError
from mas.limits import TURN_BYTES_MAX
from mas.multiraft.frames import HostHeartbeat, Outbox, decode_frame, encode_frame
from mas.raft import (
    Entry,
    EntryType,
    Message,
    MessageType,
)


class FakePeers:
    def __init__(self, *refusing: int) -> None:
        self.refusing = refusing
        self.sent: list[tuple[int, int, bytes]] = []

    def send(self, peer: int, channel: int, payload: bytes) -> bool:
        if peer in self.refusing:
            return False
        self.sent.append((peer, channel, payload))
        return True

    def is_connected(self, peer: int) -> bool:
        return peer not in self.refusing


def heartbeat(to: int) -> Message:
    return Message(MessageType.HEARTBEAT, to, 1, 5)


def append(to: int, *sizes: int) -> Message:
    entries = tuple(Entry(1 + i, 1, EntryType.NORMAL, bytes(size)) for i, size in enumerate(sizes))
    return Message(MessageType.APPEND, to, 1, 5, entries=entries)


def test_frame_survives_the_way() -> None:
    messages = [(1, heartbeat(2)), (7, append(2, 10, 0))]

    frame = decode_frame(encode_frame(123, messages))

    assert frame.clock_us == 123
    assert list(frame.messages) == messages


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x93\x02\x00\x90",
        b"\x93\x01\x00",
        b"nonsense",
        msgspec.msgpack.encode((1, 0, (), (1, 2, 3, 4))),
        msgspec.msgpack.encode((1, 0, (), (b"",))),
    ],
)
def test_what_is_no_frame_is_a_network_error(payload: bytes) -> None:
    with pytest.raises(NetworkError, match="expected version 1"):
        decode_frame(payload)


def test_outbox_sends_one_frame_a_peer() -> None:
    peers = FakePeers()
    outbox = Outbox(peers)
    for group in range(100):
        outbox.add(group, heartbeat(2))
        outbox.add(group, heartbeat(3))

    assert outbox.send(9, {}, with_riders=False) == []

    assert [(peer, channel) for peer, channel, _ in peers.sent] == [(2, 1), (3, 1)]
    assert len(decode_frame(peers.sent[0][2]).messages) == 100
    outbox.send(10, {}, with_riders=True)
    assert len(peers.sent) == 2


def sent_to(peers: FakePeers, peer: int) -> list[tuple[int, Message]]:
    frames = [decode_frame(payload).messages for to, _, payload in peers.sent if to == peer]
    return [message for messages in frames for message in messages]


def test_news_of_a_commit_rides_with_the_next_frame_or_the_next_tick() -> None:
    peers = FakePeers()
    outbox = Outbox(peers)
    older, newer = append(2), msgspec.structs.replace(append(2), commit=7)
    outbox.add(1, older)
    outbox.add(1, newer)
    outbox.add(1, append(3))
    outbox.send(0, {}, with_riders=False)
    assert peers.sent == []

    outbox.add(9, heartbeat(2))
    outbox.send(0, {}, with_riders=False)
    assert sent_to(peers, 2) == [(9, heartbeat(2)), (1, newer)]
    assert sent_to(peers, 3) == []
    outbox.send(0, {}, with_riders=True)
    assert sent_to(peers, 3) == [(1, append(3))]
    outbox.send(0, {}, with_riders=True)
    assert len(peers.sent) == 2


def test_an_append_with_entries_says_what_a_rider_would() -> None:
    peers = FakePeers()
    outbox = Outbox(peers)
    outbox.add(1, append(2))
    outbox.add(1, append(2, 5))
    outbox.send(0, {}, with_riders=True)
    assert sent_to(peers, 2) == [(1, append(2, 5))]


def test_a_groups_appends_of_a_turn_travel_as_one() -> None:
    peers = FakePeers()
    outbox = Outbox(peers)
    whole = append(2, 1, 2, 3, 4)
    one, two, three, four = whole.entries
    first = msgspec.structs.replace(whole, entries=(one, two))
    second = msgspec.structs.replace(whole, index=2, log_term=1, entries=(three,), commit=1)
    after_a_gap = msgspec.structs.replace(whole, index=4, log_term=1, entries=(four,))
    of_a_later_term = msgspec.structs.replace(after_a_gap, term=6, index=5)
    for group, message in ((1, first), (1, second), (2, after_a_gap), (1, after_a_gap)):
        outbox.add(group, message)
    outbox.add(1, of_a_later_term)
    outbox.send(0, {}, with_riders=False)

    assert sent_to(peers, 2) == [
        (1, msgspec.structs.replace(whole, entries=(one, two, three), commit=1)),
        (2, after_a_gap),
        (1, after_a_gap),
        (1, of_a_later_term),
    ]


def test_appends_are_joined_up_to_a_turns_bytes() -> None:
    peers = FakePeers()
    outbox = Outbox(peers)
    for index in range(3):
        entry = Entry(index + 1, 1, data=bytes(TURN_BYTES_MAX // 2))
        outbox.add(1, msgspec.structs.replace(append(2), index=index, entries=(entry,)))
    outbox.send(0, {}, with_riders=False)
    assert [len(message.entries) for _, message in sent_to(peers, 2)] == [2, 1]


def test_frames_are_cut_at_a_turns_bytes_in_order() -> None:
    peers = FakePeers()
    outbox = Outbox(peers)
    for group in range(10):
        outbox.add(group, append(2, TURN_BYTES_MAX // 3))
    outbox.add(10, append(2, 3 * TURN_BYTES_MAX))
    outbox.send(0, {}, with_riders=False)

    frames = [decode_frame(payload).messages for _, _, payload in peers.sent]
    assert [group for messages in frames for group, _ in messages] == list(range(11))
    assert [len(messages) for messages in frames] == [2, 2, 2, 2, 2, 1]
    assert all(len(payload) <= TURN_BYTES_MAX for _, _, payload in peers.sent[:-1])


def test_frames_are_cut_at_a_turns_messages() -> None:
    peers = FakePeers()
    outbox = Outbox(peers)
    for group in range(2_500):
        outbox.add(group, heartbeat(2))
    outbox.send(0, {}, with_riders=False)

    frames = [decode_frame(payload).messages for _, _, payload in peers.sent]
    assert [len(messages) for messages in frames] == [1_000, 1_000, 500]


def test_a_host_heartbeat_goes_behind_all_messages_or_alone() -> None:
    peers = FakePeers()
    outbox = Outbox(peers)
    heartbeats = {
        2: HostHeartbeat(b"\x03", b"", 2, drains=False),
        3: HostHeartbeat(b"", b"\x04", 0, drains=True),
    }
    outbox.add(1, append(2, TURN_BYTES_MAX))
    outbox.add(2, append(2, TURN_BYTES_MAX))

    outbox.send(0, heartbeats, with_riders=True)

    frames = [(peer, decode_frame(payload)) for peer, _, payload in peers.sent]
    assert [(peer, len(frame.messages), frame.heartbeat) for peer, frame in frames] == [
        (2, 1, None),
        (2, 1, heartbeats[2]),
        (3, 0, heartbeats[3]),
    ]


def test_a_frame_without_a_host_heartbeat_can_be_read() -> None:
    """As nodes send it that don't know of host heartbeats; they ignore what comes behind the messages."""
    frame = decode_frame(msgspec.msgpack.encode((1, 5, ())))

    assert frame.heartbeat is None
    assert decode_frame(msgspec.msgpack.encode((1, 5, (), None, "later"))).heartbeat is None


def test_what_could_not_be_sent_is_told() -> None:
    outbox = Outbox(FakePeers(2))
    lost = append(2, 1)
    outbox.add(4, lost)
    outbox.add(4, append(3, 1))

    assert outbox.send(0, {}, with_riders=False) == [(4, lost)]
