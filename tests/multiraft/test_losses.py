"""Replicas that have lost what they had acknowledged, words of lives before, and what strangers say."""

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mas.errors import CorruptData
from mas.multiraft import Leadership
from mas.multiraft.frames import decode_frame, encode_frame
from mas.raft import (
    ConfState,
    CorruptState,
    Entry,
    HardState,
    Message,
    MessageType,
    ProgressState,
    Role,
)
from tests.multiraft.test_members import add, erase, members, open_group, propose_change, remove

if TYPE_CHECKING:
    from tests.multiraft.conftest import Cluster, Node

pytestmark = pytest.mark.asyncio


def say(to: "Node", message: Message) -> None:
    """What `message.from_` says to a node."""
    to.host.on_frame(message.from_, encode_frame(1, [(1, message)]))


def leaders(cluster: "Cluster") -> list[int]:
    return [
        node.id
        for node in cluster.nodes.values()
        if node.is_running and node.host.groups[1].role is Role.LEADER
    ]


async def roll_back(cluster: "Cluster") -> tuple["Node", "Node", "Node"]:
    """The leader, a follower that comes back with an older copy of all that it had, and one that was down meanwhile."""
    await cluster.start()
    leader = await cluster.leader()
    await cluster.propose(leader, b"old")
    await cluster.settle()
    back, away = cluster.followers(leader)
    log, databases = back.log._disk, dict(back.databases)
    await away.kill()
    await cluster.propose(leader, *(b"after %d" % number for number in range(5)))
    await cluster.wait(lambda: len(back.machines[1].data) == 6)
    await back.kill()
    back.log._disk = back.log._durable = log
    back.databases.clear()
    back.databases.update(databases)
    return leader, back, away


# -- lost acknowledgements -----------------------------------------------------------------------------


async def test_a_replica_that_is_told_that_it_lost_what_it_acknowledged_votes_no_more(
    cluster: "Cluster",
) -> None:
    """It logged a line a heartbeat, and voted: so it elected one who lacked what had been acknowledged."""
    leader, back, away = await roll_back(cluster)
    await cluster.restart(back)
    group = back.host.groups[1]
    await cluster.wait(lambda: group.error is not None)
    assert "mas admin replica rebuild 1" in group.status().error
    await cluster.wait(lambda: back.log.lost(1))

    await leader.kill()
    await cluster.restart(away)
    await asyncio.sleep(5)
    assert leaders(cluster) == [], "one vote of three"
    assert away.machines[1].data == [b"old"]


async def test_what_was_lost_is_known_after_a_restart_too(cluster: "Cluster") -> None:
    _, back, _ = await roll_back(cluster)
    await cluster.restart(back)
    await cluster.wait(lambda: back.log.lost(1))
    await back.kill()
    with pytest.raises(CorruptData, match="mas admin replica rebuild 1"):
        await cluster.restart(back)


async def test_a_replica_that_lost_entries_is_built_anew(cluster: "Cluster") -> None:
    leader, back, away = await roll_back(cluster)
    await cluster.restart(away)
    await cluster.restart(back)
    await cluster.wait(lambda: back.log.lost(1))
    await propose_change(cluster, remove(back.id))
    await erase(back)
    assert back.log.lost(1) == ""
    await propose_change(cluster, add(back.id))
    await open_group(back)
    await cluster.wait(lambda: members(leader).voters == (1, 2, 3))
    await cluster.wait(lambda: len(back.machines[1].data) == 6)


async def test_a_leader_that_hears_of_more_than_it_has_lost_its_end(
    cluster: "Cluster",
) -> None:
    await cluster.start()
    leader = await cluster.leader()
    await cluster.propose(leader, b"a")
    await cluster.settle()
    group = leader.host.groups[1]
    term, last = group.hard_state.term, group.storage.last_index()
    follower = cluster.followers(leader)[0]
    say(leader, Message(MessageType.APPEND_RESPONSE, leader.id, follower.id, term, index=last + 3))
    await cluster.wait(lambda: leader.log.lost(1))
    assert f"acknowledges {last + 3}" in group.status().error
    await cluster.wait(lambda: leaders(cluster) not in ([], [leader.id]))


async def test_what_a_stranger_says_proves_nothing(cluster: "Cluster") -> None:
    await cluster.start()
    leader = await cluster.leader()
    follower = cluster.followers(leader)[0]
    term = follower.host.groups[1].hard_state.term
    say(follower, Message(MessageType.HEARTBEAT, follower.id, 9, term, commit=1_000))
    await cluster.propose(leader, b"a")
    await cluster.agree(b"a")
    assert follower.log.lost(1) == ""


async def test_who_abstains_may_hear_late_words_of_its_life_before(
    cluster: "Cluster",
) -> None:
    await cluster.start()
    leader = await cluster.leader()
    await cluster.propose(leader, b"a", b"b")
    await cluster.settle()
    gone = cluster.followers(leader)[0]
    await propose_change(cluster, remove(gone.id))
    await erase(gone)
    await open_group(gone)
    term = leader.host.groups[1].hard_state.term
    say(gone, Message(MessageType.HEARTBEAT, gone.id, leader.id, term, commit=3))
    await asyncio.sleep(0.1)
    assert gone.host.groups[1].votes_suspended
    assert (gone.host.groups[1].error, gone.log.lost(1)) == (None, "")


async def test_a_stopped_group_says_so_though_its_events_wait(
    cluster: "Cluster",
) -> None:
    """Its owner went on believing that it leads, for as long as commit_c had been full."""
    await cluster.start((1,))
    leader = await cluster.leader()
    machine = leader.machines[1]
    machine.is_open.clear()
    for number in range(200):
        machine.group.propose(number, b"x")
        await asyncio.sleep(0.002)
    machine.group.read_index(7)
    await cluster.wait(lambda: machine.group.apply_queue.is_waiting)
    assert machine.is_leading

    def damaged(*_: object) -> list[Entry]:
        raise CorruptData("entry 7 is damaged")

    machine.group.apply_queue._storage.entries = damaged  # type: ignore[method-assign]
    machine.group.isolate(CorruptData("the log is damaged"))
    machine.is_open.set()
    await cluster.wait(lambda: not machine.is_leading)
    last = [event for event in machine.events if isinstance(event, Leadership)][-1]
    assert (last.leader, last.leading) == (0, False)
    await cluster.wait(lambda: any(one.read and one.number == 7 for one in machine.refused))


# -- lives ---------------------------------------------------------------------------------------------


async def test_words_of_an_earlier_life_are_not_counted_for_the_new_one(
    cluster: "Cluster",
) -> None:
    """One such word made a voter of an empty log, which was never fed."""
    await cluster.start()
    leader = await cluster.leader()
    gone = cluster.followers(leader)[0]
    await cluster.settle()
    held: list[bytes] = []
    deliver = cluster.network.deliver

    def hold(sender: int, to: int, channel: int, payload: bytes) -> None:
        if (sender, to, channel) == (gone.id, leader.id, 1):
            held.append(payload)
        else:
            deliver(sender, to, channel, payload)

    cluster.network.deliver = hold  # type: ignore[method-assign]
    await cluster.propose(leader, *(b"%d" % number for number in range(20)))
    await cluster.wait(lambda: len(gone.machines[1].data) == 20)
    await propose_change(cluster, remove(gone.id))
    assert leaders(cluster) == [leader.id]
    await erase(gone)
    await propose_change(cluster, add(gone.id))

    cluster.network.deliver = deliver  # type: ignore[method-assign]
    for payload in held:
        leader.host.on_frame(gone.id, payload)
    group = leader.host.groups[1]

    def progress() -> tuple[int, ProgressState]:
        one = group.status().raft.progress[gone.id]
        return one.match, one.state

    await cluster.wait(
        lambda: progress()[0] >= 20
    )  # the moment: it counts for one that holds nothing
    await asyncio.sleep(0.2)
    assert members(leader).learners == (gone.id,), "it doesn't hold the change that added it"
    machine = await open_group(gone)
    await cluster.wait(lambda: progress()[0] == group.storage.last_index())
    assert progress()[1] is ProgressState.REPLICATE
    assert len(machine.data) == 20
    await cluster.wait(lambda: members(leader).voters == (1, 2, 3))
    for payload in held:
        leader.host.on_frame(gone.id, payload)
    await asyncio.sleep(0.1)
    assert progress()[0] == group.storage.last_index(), "what is late still counts for nothing"


async def test_a_refusal_does_not_chase_its_append(cluster: "Cluster") -> None:
    """A peer that refuses what it has acknowledged was sent it again at once, thousands of times a second."""
    await cluster.start()
    leader = await cluster.leader()
    await cluster.propose(leader, b"a")
    await cluster.settle()
    follower = cluster.followers(leader)[0]
    group = leader.host.groups[1]
    await follower.kill()
    leader.host.on_peer(follower.id, False)
    match = group.status().raft.progress[follower.id].match
    sent = len(cluster.network.sent)
    refusal = Message(
        MessageType.APPEND_RESPONSE,
        leader.id,
        follower.id,
        group.hard_state.term,
        index=match,
        reject=True,
    )
    follower.is_running = True  # the network carries to it, and it says nothing but refusals
    follower.host.on_frame = lambda _peer, _payload: say(leader, refusal)  # type: ignore[method-assign]
    await asyncio.sleep(0.5)
    follower.is_running = False
    appends = [
        message
        for _, to, channel, payload in cluster.network.sent[sent:]
        if (to, channel) == (follower.id, 1)
        for _, message in decode_frame(payload).messages
        if message.type is MessageType.APPEND
    ]
    assert len(appends) <= 1 + 0.5 / 0.005


# -- strangers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [MessageType.HEARTBEAT, MessageType.APPEND, MessageType.VOTE])
@pytest.mark.parametrize("ahead", [0, 1, 2**62])
async def test_who_is_no_member_is_not_heard(
    cluster: "Cluster", caplog: pytest.LogCaptureFixture, kind: MessageType, ahead: int
) -> None:
    """A node of the cluster that holds no replica of the bucket was taken for its leader, and its term persisted."""
    await cluster.start()
    leader = await cluster.leader()
    await cluster.settle()
    terms = {node.id: node.host.groups[1].hard_state.term for node in cluster.nodes.values()}
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        for node in cluster.nodes.values():
            term = terms[node.id] + ahead
            for _ in range(10):
                say(node, Message(kind, node.id, 4, term, index=99, log_term=term))
        await cluster.propose(leader, b"a")
        await cluster.agree(b"a")
    assert {n.id: n.host.groups[1].hard_state.term for n in cluster.nodes.values()} == terms
    assert leaders(cluster) == [leader.id]
    assert len([one for one in caplog.records if "isn't a member" in one.message]) == 3


async def test_a_member_is_not_heard_beyond_reach(cluster: "Cluster") -> None:
    await cluster.start()
    leader = await cluster.leader()
    follower = cluster.followers(leader)[0]
    for node in cluster.followers(follower):
        for term in (2**33, 2**62, 2**63 - 1):
            say(node, Message(MessageType.HEARTBEAT, node.id, follower.id, term))
    await cluster.propose(leader, b"a")
    await cluster.agree(b"a")
    assert all(node.host.groups[1].hard_state.term < 100 for node in cluster.nodes.values())


async def test_a_log_that_is_far_behind_hears_those_that_the_cluster_names(
    cluster: "Cluster",
) -> None:
    """All members that it knows may have left."""
    await cluster.start()
    leader = await cluster.leader()
    await cluster.settle()
    group = leader.host.groups[1]
    term, last = group.hard_state.term, group.storage.last_index()
    news = Message(
        MessageType.APPEND,
        leader.id,
        7,
        term + 1,
        log_term=term,
        index=last,
        entries=(Entry(last + 1, term + 1, data=b"news"),),
    )
    say(leader, news)
    await asyncio.sleep(0.05)
    assert group.storage.last_index() == last
    leader.host.introduce(1, (1, 2, 7))
    say(leader, news)
    await cluster.wait(lambda: group.storage.last_index() > last)
    assert group.leader == 7


_numbers = st.sampled_from([0, 1, 2, 3, 9, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**64 - 1])
_entries = st.lists(st.builds(Entry, _numbers, _numbers), max_size=2).map(tuple)
_messages = st.builds(
    Message,
    type=st.sampled_from([kind for kind in MessageType if kind is not MessageType.SNAPSHOT]),
    to=st.just(1),
    from_=st.sampled_from([2, 4]),
    term=_numbers,
    log_term=_numbers,
    index=_numbers,
    commit=_numbers,
    entries=_entries,
    reject=st.booleans(),
    reject_hint=_numbers,
    context=st.sampled_from([b"", b"x", bytes(8)]),
    life=_numbers,
)


@settings(max_examples=30, suppress_health_check=list(HealthCheck), deadline=None)
@given(st.lists(_messages, min_size=1, max_size=8))
async def test_no_numbers_end_more_than_the_group(
    cluster: "Cluster", messages: list[Message]
) -> None:
    if not cluster.nodes:
        await cluster.start()
    node = cluster.nodes[1]
    if not node.is_running:
        await cluster.restart(node)
    before = node.host.groups[1].hard_state.term
    for message in messages:
        say(node, message)
    await asyncio.sleep(0.05)
    assert not node.task.done()
    assert node.log.hard_state(1).term <= min(before + 8 * 2**32, 2**62)
    if node.host.groups[1].error is not None:  # by a member that lies; all else goes on
        await node.kill()
        node.log = type(node.log)()
        node.databases.clear()
        node.files = type(node.files)(node.databases)


async def test_a_persisted_term_beyond_all_stops_the_replica_alone(
    cluster: "Cluster",
) -> None:
    await cluster.start()
    await cluster.leader()
    await cluster.settle()
    node = cluster.nodes[1]
    await node.kill()
    batch = node.log.batch()
    batch.set_hard_state(1, HardState(2**63, 0, 0))
    batch.commit(sync=True)
    with pytest.raises(CorruptState, match="beyond"):
        await cluster.restart(node)
    assert ConfState((1, 2, 3)) == members(cluster.nodes[2])
