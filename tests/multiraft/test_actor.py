"""The host's turns: consensus over several nodes, and what may and may not happen while a write is on its way."""

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec
import pytest

from mas.errors import LostLog, NotLeading, StorageError, WriteHangs
from mas.multiraft import Committed, Leadership, ReadReady
from mas.multiraft.frames import decode_frame, encode_frame
from mas.raft import Entry, Message, MessageType, ProgressState
from mas.storage.raft_log.value import Append

if TYPE_CHECKING:
    from tests.multiraft.conftest import Cluster

pytestmark = pytest.mark.asyncio


async def test_three_nodes_elect_and_replicate(cluster: "Cluster") -> None:
    await cluster.start()
    leader = await cluster.leader()

    await cluster.propose(leader, b"a", b"b", b"c")

    await cluster.agree(b"a", b"b", b"c")


async def test_leader_is_announced_behind_the_first_entry_of_its_term(cluster: "Cluster") -> None:
    await cluster.start()
    leader = await cluster.leader()

    events = leader.machines[1].events
    announced = next(event for event in events if isinstance(event, Leadership) and event.leading)
    before = [event for event in events[: events.index(announced)] if isinstance(event, Committed)]
    assert before[-1].entries[-1].term == announced.term
    assert announced.leader == leader.id


async def test_leader_dies_and_another_goes_on(cluster: "Cluster") -> None:
    await cluster.start()
    first = await cluster.leader()
    await cluster.propose(first, b"a")
    await first.kill()

    second = await cluster.leader()
    await cluster.propose(second, b"b")
    await cluster.restart(first)

    assert second is not first
    await cluster.agree(b"a", b"b")


async def test_all_nodes_restart_from_their_logs(cluster: "Cluster") -> None:
    await cluster.start()
    leader = await cluster.leader()
    for node in cluster.nodes.values():
        node.machines[1].flushes = False
    await cluster.propose(leader, b"a", b"b")
    await cluster.agree(b"a", b"b")

    for node in cluster.nodes.values():
        await node.kill()
        await cluster.restart(node)
    await cluster.leader()

    await cluster.agree(b"a", b"b")


async def test_restart_hands_out_nothing_that_the_database_holds(cluster: "Cluster") -> None:
    await cluster.start(nodes=(1,))
    node = await cluster.leader()
    await cluster.propose(node, b"a", b"b")
    await node.kill()
    await cluster.restart(node)

    await cluster.propose(await cluster.leader(), b"c")

    handed_out = [
        entry.data
        for event in node.machines[1].events
        if isinstance(event, Committed)
        for entry in event.entries
        if entry.data
    ]
    assert handed_out == [b"c"]


async def test_loop_goes_on_while_a_write_is_on_its_way(cluster: "Cluster") -> None:
    await cluster.start(groups=2)
    leader = await cluster.leader()
    await cluster.leader(2)
    before = leader.host.statistics().turns
    leader.log.gate.clear()
    leader.machines[1].group.propose(1, b"a")
    await cluster.wait(lambda: leader.log.waiting)

    # Heartbeats and ticks go on: other groups' heartbeats are heard and answered.
    sent = len(cluster.network.sent)
    await cluster.wait(lambda: leader.host.statistics().turns > before + 20)
    await cluster.wait(lambda: len(cluster.network.sent) > sent + 20)
    assert leader.log.waiting == 1

    leader.log.gate.set()
    await cluster.wait(lambda: leader.machines[1].data == [b"a"])


async def test_a_write_that_hangs_ends_the_process_and_nothing_piles_up_meanwhile(
    cluster: "Cluster",
) -> None:
    """What the core said to others grew by hundreds a second, for as long as the disk didn't answer."""
    await cluster.start(log_write_seconds=20.0)
    leader = await cluster.leader()
    follower = cluster.followers(leader)[0]
    await cluster.settle()
    follower.log.gate.clear()
    leader.machines[1].group.propose(1, b"a")
    await cluster.wait(lambda: follower.log.waiting)
    group = follower.machines[1].group

    for number in range(38):
        await asyncio.sleep(0.5)
        await cluster.propose(leader, b"%d" % number)
        assert group._core.messages_waiting <= 256
    assert not follower.task.done()
    assert group._core.messages_waiting == 256, "there was more to say than there is room for"

    await asyncio.sleep(6.0)
    assert follower.task.done()
    with pytest.raises(WriteHangs, match="20 seconds: the disk hangs"):
        await follower.task
    follower.is_running = False
    await cluster.propose(leader, b"others go on")


async def test_a_process_that_stood_still_goes_on(cluster: "Cluster") -> None:
    """Its clock says that a write took a minute: it was the process, not the disk."""
    await cluster.start(nodes=(1,), log_write_seconds=20.0)
    node = await cluster.leader()
    node.log.gate.clear()
    node.machines[1].group.propose(1, b"a")
    await cluster.wait(lambda: node.log.waiting)

    loop = asyncio.get_running_loop()
    loop._now += 60.0
    await asyncio.sleep(0.1)
    assert not node.task.done()
    node.log.gate.set()
    await cluster.agree(b"a")


async def test_what_is_asked_while_a_ready_is_in_flight_takes_no_turn_and_is_not_forgotten(
    cluster: "Cluster",
) -> None:
    await cluster.start()
    leader = await cluster.leader()
    machine, wake = leader.machines[1], leader.host._wake
    leader.log.gate.clear()
    machine.group.propose(1, b"a")
    await cluster.wait(lambda: leader.log.waiting and not wake.is_set())

    machine.group.propose(2, b"b")
    machine.group.read_index(3)

    assert not wake.is_set()
    leader.log.gate.set()
    await cluster.agree(b"a", b"b")
    await cluster.wait(lambda: any(isinstance(event, ReadReady) for event in machine.events))


async def test_a_replica_that_stopped_with_a_write_on_its_way_still_refuses(
    cluster: "Cluster",
) -> None:
    await cluster.start()
    leader = await cluster.leader()
    machine = leader.machines[1]
    leader.log.gate.clear()
    machine.group.propose(1, b"a")
    await cluster.wait(lambda: leader.log.waiting)
    machine.group.isolate(AssertionError("broken"))
    leader.log.gate.set()
    await cluster.wait(lambda: not leader.log.waiting and not leader.host._wake.is_set())

    machine.group.propose(2, b"b")

    assert leader.host._wake.is_set()  # at once, not with the next tick
    await cluster.wait(lambda: 2 in [refused.number for refused in machine.refused])


async def test_leader_sends_appends_before_its_own_write_returns_and_applies_after(
    cluster: "Cluster",
) -> None:
    await cluster.start()
    leader = await cluster.leader()
    await cluster.settle()
    leader.log.gate.clear()

    leader.machines[1].group.propose(1, b"a")
    followers = cluster.followers(leader)

    # A quorum holds it without the leader, whose log doesn't: it hands out nothing (rule 21).
    await cluster.wait(lambda: all(node.log.storage(1).last_index() == 2 for node in followers))
    turns = leader.host.statistics().turns
    await cluster.wait(lambda: leader.host.statistics().turns > turns + 5)
    assert leader.machines[1].data == []
    leader.log.gate.set()
    await cluster.agree(b"a")
    sent = [
        message.to
        for sender, _, _, payload in cluster.network.sent
        if sender == leader.id
        for _, message in decode_frame(payload).messages
        if message.type is MessageType.APPEND
        for entry in message.entries
        if entry.data == b"a"
    ]
    assert sorted(sent) == sorted(node.id for node in followers), "once to each"


async def test_nothing_is_acknowledged_or_applied_before_the_sync_returns(
    cluster: "Cluster",
) -> None:
    await cluster.start()
    leader = await cluster.leader()
    await cluster.settle()
    followers = cluster.followers(leader)
    for node in followers:
        node.log.gate.clear()
    sent = len(cluster.network.sent)

    leader.machines[1].group.propose(1, b"a")
    await cluster.wait(lambda: all(node.log.waiting for node in followers))
    ticks = leader.host.statistics().turns
    await cluster.wait(lambda: leader.host.statistics().turns > ticks + 5)

    acknowledged = [
        message
        for sender, _, channel, payload in cluster.network.sent[sent:]
        if channel == 1 and sender != leader.id
        for _, message in decode_frame(payload).messages
        if message.type is MessageType.APPEND_RESPONSE and message.index >= 2
    ]
    assert acknowledged == []
    assert all(node.machines[1].data == [] for node in cluster.nodes.values())
    for node in followers:
        node.log.gate.set()
    await cluster.wait(lambda: leader.machines[1].data == [b"a"])


async def test_votes_wait_for_the_sync(cluster: "Cluster") -> None:
    await cluster.start()
    leader = await cluster.leader()
    await cluster.settle()
    voter, candidate = cluster.followers(leader)
    await leader.kill()
    voter.log.gate.clear()
    sent = len(cluster.network.sent)

    await cluster.wait(lambda: voter.log.waiting)
    turns = candidate.host.statistics().turns
    await cluster.wait(lambda: candidate.host.statistics().turns > turns + 20)

    votes = [
        message
        for sender, _, _, payload in cluster.network.sent[sent:]
        if sender == voter.id
        for _, message in decode_frame(payload).messages
        if message.type in (MessageType.VOTE, MessageType.VOTE_RESPONSE)
    ]
    assert votes == []


async def test_entries_of_many_groups_are_one_commit(cluster: "Cluster") -> None:
    await cluster.start(nodes=(1,), groups=20)
    for group in range(1, 21):
        await cluster.leader(group)
    node = cluster.nodes[1]
    before = len(node.log.commits)
    for machine in node.machines.values():
        machine.group.propose(1, b"a")
    await cluster.wait(lambda: all(machine.data for machine in node.machines.values()))

    commits = node.log.commits[before:]
    assert len(commits) == 1
    changes, sync = commits[0]
    assert sync
    assert len({group for group, change in changes if isinstance(change, Append)}) == 20


async def test_groups_share_the_next_write_while_one_is_on_its_way(cluster: "Cluster") -> None:
    await cluster.start(nodes=(1,), groups=20)
    for group in range(1, 21):
        await cluster.leader(group)
    node = cluster.nodes[1]
    before = len(node.log.commits)
    node.log.gate.clear()
    node.machines[1].group.propose(1, b"a")
    await cluster.wait(lambda: node.log.waiting)
    for machine in node.machines.values():
        machine.group.propose(2, b"b")
    turns = node.host.statistics().turns
    await cluster.wait(lambda: node.host.statistics().turns > turns + 2)
    node.log.gate.set()

    await cluster.wait(lambda: all(b"b" in machine.data for machine in node.machines.values()))
    # The first; all the others together; and the first group's second, which had a Ready in flight.
    assert len(node.log.commits) - before <= 3


async def test_one_frame_a_peer_and_turn_for_all_groups(cluster: "Cluster") -> None:
    await cluster.start(groups=20, tick_ms=20)
    for group in range(1, 21):
        await cluster.leader(group)
    node = await cluster.leader()
    sent, turns = len(cluster.network.sent), node.host.statistics().turns

    for machine in node.machines.values():
        machine.group.propose(1, b"a")
    await cluster.wait(lambda: node.host.statistics().turns > turns + 20)

    done = node.host.statistics().turns - turns
    for peer in {1, 2, 3} - {node.id}:
        frames = [frame for frame in cluster.network.sent[sent:] if frame[:3] == (node.id, peer, 1)]
        assert 0 < len(frames) <= done + 1
        most = max(len(decode_frame(frame[3]).messages) for frame in frames)
        assert most >= max(2, sum(machine.is_leading for machine in node.machines.values()))


async def test_commit_index_alone_costs_no_write(cluster: "Cluster") -> None:
    await cluster.start(nodes=(1,))
    node = await cluster.leader()
    before = len(node.log.commits)

    await cluster.propose(node, b"a")

    assert len(node.log.commits) - before == 1


async def test_read_is_answered_once_leadership_is_confirmed(cluster: "Cluster") -> None:
    await cluster.start()
    leader = await cluster.leader()
    await cluster.propose(leader, b"a")

    for number in (7, 8, 9):
        leader.machines[1].group.read_index(number)

    def ready() -> list[ReadReady]:
        return [event for event in leader.machines[1].events if isinstance(event, ReadReady)]

    await cluster.wait(ready)
    assert [event.numbers for event in ready()] == [(7, 8, 9)]
    assert ready()[0].index == leader.machines[1].applied


async def test_follower_refuses_proposals_and_reads_naming_the_leader(cluster: "Cluster") -> None:
    await cluster.start()
    leader = await cluster.leader()
    await cluster.propose(leader, b"a")
    await cluster.settle()
    follower = cluster.followers(leader)[0].machines[1]

    follower.group.propose(5, b"b")
    follower.group.read_index(6)

    await cluster.wait(lambda: len(follower.refused) == 2)
    assert {(refused.number, refused.read) for refused in follower.refused} == {
        (5, False),
        (6, True),
    }
    for refused in follower.refused:
        assert isinstance(refused.error, NotLeading)
        assert refused.error.leader == leader.id


async def test_reads_of_a_lost_leadership_are_refused(cluster: "Cluster") -> None:
    await cluster.start()
    leader = await cluster.leader()
    cluster.network.cut.append(leader.id)

    leader.machines[1].group.read_index(3)

    await cluster.wait(lambda: leader.machines[1].refused)
    refused = leader.machines[1].refused[0]
    assert refused.number == 3
    assert refused.read
    assert not leader.machines[1].is_leading
    assert not [event for event in leader.machines[1].events if isinstance(event, ReadReady)]


async def test_failed_sync_stops_the_host(
    cluster: "Cluster", caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL + 1)
    await cluster.start(nodes=(1,))
    node = await cluster.leader()
    node.log.fail_next_sync()
    node.machines[1].group.propose(1, b"a")

    with pytest.raises(StorageError, match="fsync failed"):
        await asyncio.wait_for(asyncio.shield(node.task), 10)
    assert node.machines[1].data == []


async def test_database_ahead_of_its_log_is_refused(cluster: "Cluster") -> None:
    await cluster.start(nodes=(1,))
    node = await cluster.leader()
    await cluster.propose(node, b"a")
    await node.kill()
    node.databases[1].applied += 1

    with pytest.raises(LostLog, match="the log was lost"):
        await cluster.restart(node)


async def test_database_without_any_log_is_refused(cluster: "Cluster") -> None:
    await cluster.start(nodes=(1,))
    node = await cluster.leader()
    await cluster.propose(node, b"a")
    await node.kill()
    node.log = type(node.log)()

    with pytest.raises(LostLog):
        await cluster.restart(node)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff" * 40,
        msgspec.msgpack.encode((2, 0, ())),
        msgspec.msgpack.encode((1, 0, ((1, (99, 1, 2)),))),
        encode_frame(0, [(1, Message(MessageType.HEARTBEAT, 1, 3, 1))]),
        encode_frame(0, [(1, Message(MessageType.SNAPSHOT, 1, 2, 1))]),
        encode_frame(0, [(1, Message(MessageType.HEARTBEAT, 9, 2, 1))]),
        encode_frame(0, [(1, Message(MessageType.HEARTBEAT, 1, 2, 9, commit=10**6))]),
        encode_frame(
            0, [(1, Message(MessageType.APPEND, 1, 2, 9, entries=(Entry(5, 1), Entry(9, 1))))]
        ),
        encode_frame(0, [(77, Message(MessageType.HEARTBEAT, 1, 2, 9))]),
    ],
)
async def test_bad_frame_is_dropped(cluster: "Cluster", payload: bytes) -> None:
    await cluster.start(nodes=(1,))
    node = await cluster.leader()

    node.host.on_frame(2, payload)

    await cluster.propose(node, b"a")
    assert node.machines[1].group.status().error == ""
    assert node.machines[1].is_leading


async def test_bad_frame_names_its_peer_in_the_log(
    cluster: "Cluster", caplog: pytest.LogCaptureFixture
) -> None:
    await cluster.start(nodes=(1,))
    node = await cluster.leader()

    node.host.on_frame(2, b"\xff")
    node.host.on_snapshot_frame(3, b"\xff")

    await cluster.wait(lambda: node.host.statistics().frames_dropped == 2)
    assert "from node 2" in caplog.text
    assert "from node 3" in caplog.text


async def test_too_many_frames_are_dropped_not_kept(cluster: "Cluster") -> None:
    await cluster.start(nodes=(1,))
    node = await cluster.leader()

    for _ in range(100):
        node.host.on_frame(2, bytes(1 << 20))

    assert node.host.statistics().frames_dropped >= 60


async def test_frames_that_were_read_make_room(cluster: "Cluster") -> None:
    await cluster.start(nodes=(1,))
    node = await cluster.leader()
    for number in range(1, 41):
        node.host.on_frame(2, bytes(1 << 20))
        await cluster.wait(lambda least=number: node.host.statistics().frames_dropped >= least)

    assert node.host._frames_bytes == 0


async def test_a_leader_probes_a_follower_that_a_frame_could_not_be_sent_to(
    cluster: "Cluster",
) -> None:
    await cluster.start()
    leader = await cluster.leader()
    await cluster.propose(leader, b"a")
    await cluster.agree(b"a")
    away = cluster.followers(leader)[0]

    def state() -> ProgressState:
        return leader.host.groups[1].status().raft.progress[away.id].state

    await cluster.wait(lambda: state() is ProgressState.REPLICATE)
    await away.kill()
    await cluster.propose(leader, b"b")

    await cluster.wait(lambda: state() is ProgressState.PROBE)


async def test_leadership_is_handed_over_before_a_stop(cluster: "Cluster") -> None:
    await cluster.start(groups=3)
    node = await cluster.leader()
    for group in (2, 3):
        await cluster.leader(group)

    node.host.transfer_leadership()

    await cluster.wait(lambda: not any(m.is_leading for m in node.machines.values()))
    assert (await cluster.leader()) is not node
