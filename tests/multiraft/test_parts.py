"""The host's small parts, each by itself: frames, clocks, the log's margin, memberships, delivery."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import msgspec
import pytest

from mas.errors import CorruptData, LostLog, NetworkError
from mas.limits import TURN_BYTES_MAX
from mas.multiraft import Committed, Leadership, Restored, WorkerThread
from mas.multiraft.apply_queue import ApplyQueue
from mas.multiraft.clocks import PeerClocks
from mas.multiraft.compaction import LogMargin
from mas.multiraft.events import CommitEvent
from mas.multiraft.frames import HostHeartbeat, Outbox, decode_frame, encode_frame
from mas.multiraft.group_log import check_database
from mas.multiraft.members import Members, read_members
from mas.multiraft.writer import LogWriter
from mas.raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    ConfState,
    Entry,
    EntryType,
    MemoryStorage,
    Message,
    MessageType,
)
from mas.runtime import Mailbox
from mas.storage.raft_log.memory import MemoryRaftLog

T = TypeVar("T")


class FakeClock:
    def __init__(self) -> None:
        self.seconds = 1_000.0
        self.us = 1_000_000_000

    def monotonic(self) -> float:
        return self.seconds

    def now_us(self) -> int:
        return self.us

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


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


# -- frames ------------------------------------------------------------------------------------


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


def test_a_beat_goes_behind_all_messages_or_alone() -> None:
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


def test_a_frame_without_a_beat_can_be_read() -> None:
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


# -- writes --------------------------------------------------------------------------------------


class Inline:
    """Works at once."""

    async def run(self, work: Callable[[], T]) -> T:
        return work()


@pytest.mark.asyncio
async def test_behind_a_write_for_many_groups_others_get_their_turn() -> None:
    writer = LogWriter(MemoryRaftLog(), Inline(), seconds_max=20)
    finished: list[int] = []
    for number in range(300):
        writer.submit(lambda number=number: finished.append(number), sync=True)
    task = asyncio.get_running_loop().create_task(writer.run())

    seen = []
    while len(finished) < 300:
        await asyncio.sleep(0)
        seen.append(len(finished))
    task.cancel()

    assert finished == list(range(300))
    assert writer.commits == 1
    assert {128, 256} <= set(seen)


# -- clocks (rule 12) --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ({}, 0),
        ({2: 3_600_000_000}, 0),
        ({2: 3_600_000_000, 3: 3_600_000_500}, 3_600_000_000),
        ({2: -3_600_000_000, 3: -3_600_000_500}, -3_600_000_000),
        ({2: 900_000, 3: 950_000}, 0),
        ({2: 3_600_000_000, 3: 100}, 0),
        ({2: 3_600_000_000, 9: 3_600_000_000}, 0),
    ],
    ids=["alone", "two", "behind", "ahead", "close", "one-is-off", "no-member"],
)
def test_stamp_is_own_time_or_the_median(offsets: dict[int, int], expected: int) -> None:
    clock = FakeClock()
    clocks = PeerClocks(1, clock)
    for peer, offset in offsets.items():
        clocks.heard(peer, clock.us + offset)
    clock.us += 5_000_000
    clock.seconds += 5

    assert clocks.stamp_us((1, 2, 3)) - clock.us == expected


@pytest.mark.parametrize("hours", [1, -1])
def test_bank_6_a_clock_that_jumps_shows_itself_before_anybody_is_heard_of(hours: int) -> None:
    """One leader's clock an hour ahead would spoil all later stamps of its bucket, which never go back (rule 12)."""
    clock = FakeClock()
    clocks = PeerClocks(1, clock)
    clocks.heard(2, clock.us + 100)
    clocks.heard(3, clock.us + 200)
    clock.seconds += 5
    right = clock.us + 5_000_000
    clock.us = right + hours * 3_600_000_000

    assert abs(clocks.stamp_us((1, 2, 3)) - right) < 1_000


def test_bank_6_a_clock_that_is_set_right_counts_again_at_once() -> None:
    clock = FakeClock()
    clocks = PeerClocks(1, clock)
    right = clock.us
    clock.us += 3_600_000_000
    clocks.heard(2, right)
    clocks.heard(3, right)
    assert clocks.stamp_us((1, 2, 3)) == right
    clock.us = right + 7
    assert clocks.stamp_us((1, 2, 3)) == right + 7


def test_a_clock_not_heard_of_lately_does_not_count() -> None:
    clock = FakeClock()
    clocks = PeerClocks(1, clock)
    clocks.heard(2, clock.us + 3_600_000_000)
    clocks.heard(3, clock.us + 3_600_000_000)
    clock.seconds += 60

    assert clocks.stamp_us((1, 2, 3)) == clock.us


# -- the log's margin (rule 26) ----------------------------------------------------------------


def test_margin_in_entries() -> None:
    margin = LogMargin(80, 0.0, FakeClock())
    margin.allows(1, 1_000)
    margin.allows(1, 1_000)

    assert margin.allows(1, 1_000) == 920
    assert margin.allows(912, 1_000) == 0, "not worth a write"
    assert margin.allows(911, 1_000) == 920


def test_margin_in_seconds() -> None:
    clock = FakeClock()
    margin = LogMargin(0, 60.0, clock)
    cuts = []
    for second in range(200):
        clock.seconds = 1_000.0 + second
        cuts.append(margin.allows(1, second))

    assert all(cut <= second - 60 for second, cut in enumerate(cuts) if cut)
    assert cuts[-1] >= 199 - 121


def test_slow_follower_is_spared_within_reason() -> None:
    margin = LogMargin(100, 0.0, FakeClock())

    assert margin.spare(cut=9_900, flushed=10_000, needed=9_500) == 9_500
    assert margin.spare(cut=9_900, flushed=10_000, needed=10) == 9_000
    assert margin.spare(cut=9_900, flushed=10_000, needed=9_999) == 9_900


# -- memberships -------------------------------------------------------------------------------


def conf_change(index: int, kind: ConfChangeType, node: int) -> Entry:
    data = ConfChange((ConfChangeSingle(kind, node),)).encode()
    return Entry(index, 1, EntryType.CONF_CHANGE, data)


def test_membership_is_read_from_the_log() -> None:
    storage = MemoryStorage(ConfState(voters=(1, 2)))
    storage.append(
        [
            Entry(1, 1),
            conf_change(2, ConfChangeType.ADD_LEARNER, 3),
            conf_change(3, ConfChangeType.ADD_NODE, 3),
            conf_change(4, ConfChangeType.REMOVE_NODE, 1),
        ]
    )

    members = read_members(storage, 3)

    assert members.at(1) == ConfState(voters=(1, 2))
    assert members.at(2) == ConfState(voters=(1, 2), learners=(3,))
    assert members.newest == members.at(3) == ConfState(voters=(1, 2, 3))


def test_a_change_that_was_refused_changes_nothing() -> None:
    storage = MemoryStorage(ConfState(voters=(1,)))
    storage.append([conf_change(1, ConfChangeType.REMOVE_NODE, 1)])

    assert read_members(storage, 1).newest == ConfState(voters=(1,))


def test_old_memberships_are_forgotten() -> None:
    members = Members(0, ConfState(voters=(1,)))
    members.changed(5, ConfState(voters=(1, 2)))
    members.changed(9, ConfState(voters=(1, 2, 3)))

    members.forget_before(7)

    assert members.at(7) == members.at(8) == ConfState(voters=(1, 2))
    assert members.at(9) == ConfState(voters=(1, 2, 3))


def test_database_must_fit_the_log() -> None:
    storage = MemoryStorage()
    storage.append([Entry(1, 1), Entry(2, 3)])

    check_database(1, storage, 0, 0)
    check_database(1, storage, 2, 3)
    with pytest.raises(LostLog):
        check_database(1, storage, 3, 3)
    with pytest.raises(CorruptData, match="don't belong together"):
        check_database(1, storage, 2, 2)


# -- apply queue ----------------------------------------------------------------------------------


def make_apply_queue(capacity: int, last: int) -> tuple[Mailbox[CommitEvent], ApplyQueue]:
    storage = MemoryStorage()
    storage.append([Entry(i, 1, data=b"%d" % i) for i in range(1, last + 1)])
    commit_c: Mailbox[CommitEvent] = Mailbox("commit_c", capacity)
    return commit_c, ApplyQueue(commit_c, storage, 0)


def entries(first: int, last: int) -> tuple[Entry, ...]:
    return tuple(Entry(i, 1, data=b"%d" % i) for i in range(first, last + 1))


def test_what_finds_no_room_waits_as_a_range_and_comes_in_order() -> None:
    commit_c, apply_queue = make_apply_queue(1, 9)
    leads, follows = Leadership(1, 1, leading=True), Leadership(2, 2, leading=False)
    apply_queue.commit(entries(1, 2))
    apply_queue.commit(entries(3, 4))
    apply_queue.commit(entries(5, 6))
    apply_queue.push(leads)
    apply_queue.commit(entries(7, 9))
    apply_queue.push(follows)
    assert (apply_queue.pushed, apply_queue.committed) == (2, 9)

    taken = []
    while batch := commit_c.drain_nowait():
        taken += batch
        apply_queue.resume()

    assert taken == [
        Committed(entries(1, 2)),
        Committed(entries(3, 6)),
        leads,
        Committed(entries(7, 9)),
        follows,
    ]
    assert apply_queue.pushed == 9
    assert not apply_queue.is_waiting


def test_paused_delivery_hands_out_nothing_and_a_restart_forgets() -> None:
    commit_c, apply_queue = make_apply_queue(9, 9)
    apply_queue.paused = True
    apply_queue.commit(entries(1, 3))
    apply_queue.resume()
    assert commit_c.drain_nowait() == []

    restored = Restored(7, 1, ConfState())
    apply_queue.restart(restored)
    apply_queue.commit(entries(8, 9))

    assert commit_c.drain_nowait() == [restored, Committed(entries(8, 9))]


def test_owner_that_stops_loses_nothing() -> None:
    commit_c, apply_queue = make_apply_queue(9, 9)
    commit_c.close()

    apply_queue.commit(entries(1, 3))

    assert apply_queue.is_waiting


# -- threads -----------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_worker_thread_runs_in_order_and_raises_what_is_raised() -> None:
    thread = WorkerThread("test")
    done: list[int] = []
    await asyncio.gather(*(thread.run(lambda n=n: done.append(n)) for n in range(20)))
    assert done == list(range(20))

    def fail() -> None:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        await thread.run(fail)
    thread.close()
