"""Quiet groups rest, and whatever could need them awake wakes them."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from mas.errors import NotLeading
from mas.multiraft import Restored
from mas.multiraft.frames import HostHeartbeat, decode_frame, encode_frame
from mas.raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    Message,
    MessageType,
    Role,
)

if TYPE_CHECKING:
    from tests.multiraft.conftest import Cluster, Node

pytestmark = pytest.mark.asyncio

ELECTION_TICK = 10


def rests(node: "Node", group: int = 1) -> bool:
    return group not in node.host._quiescence.awake


def tick_of(node: "Node") -> int:
    return node.host._quiescence._now


async def all_rest(cluster: "Cluster") -> None:
    """Return once every group rests on every running node."""
    running = [node for node in cluster.nodes.values() if node.is_running]
    await cluster.wait(lambda: all(not node.host._quiescence.awake for node in running))


async def ticks(cluster: "Cluster", node: "Node", count: int) -> None:
    until = tick_of(node) + count
    await cluster.wait(lambda: tick_of(node) >= until)


async def at_rest(cluster: "Cluster", groups: int = 1) -> "Node":
    """Three nodes, all groups at rest; the first group's leader."""
    await cluster.start(groups=groups)
    for group in range(1, groups + 1):
        await cluster.leader(group)
    await all_rest(cluster)
    return await cluster.leader()


def messages(cluster: "Cluster", since: int = 0) -> Iterator[Message]:
    for _, _, channel, payload in cluster.network.sent[since:]:
        if channel == 1:
            for _, message in decode_frame(payload).messages:
                yield message


def heartbeats(cluster: "Cluster", since: int = 0) -> Iterator[tuple[int, HostHeartbeat]]:
    for sender, _, channel, payload in cluster.network.sent[since:]:
        heartbeat = decode_frame(payload).heartbeat if channel == 1 else None
        if heartbeat is not None:
            yield sender, heartbeat


# -- rest ----------------------------------------------------------------------------------------


async def test_groups_at_rest_cost_no_message_and_one_frame_a_peer_and_tick(
    cluster: "Cluster",
) -> None:
    leader = await at_rest(cluster, groups=20)
    sent, began = len(cluster.network.sent), tick_of(leader)

    await ticks(cluster, leader, 3 * ELECTION_TICK)

    assert list(messages(cluster, sent)) == []
    to_one = [frame for frame in cluster.network.sent[sent:] if frame[0] == leader.id]
    assert len(to_one) <= 2 * (tick_of(leader) - began + 1)
    assert all(rests(node, group) for node in cluster.nodes.values() for group in range(1, 21))


async def test_nobody_campaigns_while_its_leader_rests(cluster: "Cluster") -> None:
    leader = await at_rest(cluster, groups=5)
    terms = [group.status().raft.term for group in leader.host.groups.values()]

    await ticks(cluster, leader, 6 * ELECTION_TICK)

    assert [group.status().raft.term for group in leader.host.groups.values()] == terms
    assert leader.machines[1].is_leading


async def test_a_group_of_one_rests(cluster: "Cluster") -> None:
    await cluster.start(nodes=(1,))
    node = await cluster.leader()
    await all_rest(cluster)
    await cluster.propose(node, b"a")
    await all_rest(cluster)


async def test_a_group_at_rest_is_cut_once_its_database_has_flushed(cluster: "Cluster") -> None:
    await cluster.start(log_margin_entries=4)
    leader = await cluster.leader()
    leader.machines[1].flushes = False
    await cluster.propose(leader, *[b"%d" % number for number in range(30)])
    await all_rest(cluster)
    assert leader.log.storage(1).first_index() == 1

    leader.machines[1].flushes = True
    leader.machines[1].flush()

    await cluster.wait(lambda: leader.log.storage(1).first_index() > 20)
    assert rests(leader)


async def test_a_group_with_something_under_way_does_not_rest(cluster: "Cluster") -> None:
    leader = await at_rest(cluster)
    other = cluster.followers(leader)[0]
    other.log.gate.clear()
    leader.machines[1].group.propose(1, b"a")
    await cluster.wait(lambda: other.log.waiting and leader.machines[1].data)
    await ticks(cluster, leader, 1)
    sent = len(cluster.network.sent)

    await ticks(cluster, leader, 3 * ELECTION_TICK)

    assert not rests(leader)
    assert not rests(other)
    quiet = [
        heartbeat.quiet for sender, heartbeat in heartbeats(cluster, sent) if sender == leader.id
    ]
    assert len(quiet) > ELECTION_TICK
    assert not any(quiet), "a group isn't quiet while a member that is there lacks an entry"
    other.log.gate.set()
    await all_rest(cluster)
    await cluster.agree(b"a")


async def test_a_slow_database_keeps_its_replica_awake(cluster: "Cluster") -> None:
    leader = await at_rest(cluster)
    slow = cluster.followers(leader)[0]
    slow.machines[1].is_open.clear()
    written = [b"%d" % number for number in range(100)]
    for number, data in enumerate(written):
        leader.machines[1].group.propose(number, data)
        await cluster.wait(lambda data=data: data in leader.machines[1].data)
    await cluster.wait(lambda: slow.host.groups[1].apply_queue.is_waiting)
    await ticks(cluster, leader, 3)
    until = tick_of(leader) + 2 * ELECTION_TICK

    def is_over() -> bool:
        assert not rests(slow)
        assert not rests(leader), "a leader rests only once its followers do"
        return tick_of(leader) > until

    await cluster.wait(is_over)
    slow.machines[1].is_open.set()
    await cluster.agree(*written)
    await all_rest(cluster)


async def test_a_group_is_still_only_where_nothing_waits_or_is_under_way(
    cluster: "Cluster",
) -> None:
    leader = await at_rest(cluster)
    group = leader.host.groups[1]
    assert group.quiescent_status() is not None
    for name, value in (
        ("in_flight", True),
        ("is_frozen", True),
    ):
        before = getattr(group, name)
        setattr(group, name, value)
        assert group.quiescent_status() is None, name
        setattr(group, name, before)
    group.apply_queue.paused = True
    assert group.quiescent_status() is None
    group.apply_queue.paused = False
    intake = group._intake
    for mailbox in (intake.propose_c, intake.reads):
        mailbox.put(object())
        assert group.quiescent_status() is None, mailbox.name
        mailbox.drain_nowait()
    for name, value in (("_rounds", {b"round": (1,)}), ("_refusals", [object()])):
        before = getattr(intake, name)
        setattr(intake, name, value)
        assert group.quiescent_status() is None, name
        setattr(intake, name, before)
    group._core.step(Message(MessageType.PRE_VOTE, leader.id, 2 if leader.id != 2 else 3, 1))
    assert group.quiescent_status() is None, "an answer is due"


async def test_a_group_whose_log_is_not_all_applied_is_not_still(cluster: "Cluster") -> None:
    leader = await at_rest(cluster)
    for node in cluster.followers(leader):
        node.log.gate.clear()

    leader.machines[1].group.propose(1, b"a")
    await cluster.wait(lambda: leader.log.storage(1).last_index() == 2)
    group = leader.host.groups[1]
    await cluster.wait(lambda: not group.in_flight and not group._core.has_ready())

    assert group.quiescent_status() is None
    for node in cluster.followers(leader):
        node.log.gate.set()


# -- what reaches a group wakes it -----------------------------------------------------------------


async def test_a_proposal_wakes_leader_and_followers(cluster: "Cluster") -> None:
    leader = await at_rest(cluster, groups=3)

    await cluster.propose(leader, b"a")
    await cluster.agree(b"a")

    await all_rest(cluster)
    await cluster.propose(leader, b"b")
    await cluster.agree(b"a", b"b")


async def test_a_read_is_answered_from_rest(cluster: "Cluster") -> None:
    leader = await at_rest(cluster)
    events = len(leader.machines[1].events)

    leader.machines[1].group.read_index(5)

    await cluster.wait(lambda: leader.machines[1].events[events:])
    assert leader.machines[1].events[events].numbers == (5,)


async def test_a_membership_change_is_made_from_rest(cluster: "Cluster") -> None:
    leader = await at_rest(cluster)
    removed = cluster.followers(leader)[0]
    single = ConfChangeSingle(ConfChangeType.REMOVE_NODE, removed.id)

    leader.machines[1].group.change_members(ConfChange((single,)))

    await cluster.wait(
        lambda: removed.id not in leader.host.groups[1].status().raft.conf_state.voters
    )
    # Two are left, and rest; who was removed follows nobody, and disturbs nobody.
    await cluster.wait(lambda: rests(leader))
    assert leader.machines[1].is_leading


async def test_leadership_is_transferred_from_rest(cluster: "Cluster") -> None:
    leader = await at_rest(cluster)
    target = cluster.followers(leader)[0]

    leader.machines[1].group.transfer_leadership(target.id)

    await cluster.wait(lambda: target.machines[1].is_leading)
    await all_rest(cluster)


async def test_who_proposes_while_leadership_moves_is_sent_to_the_transfer_target(
    cluster: "Cluster",
) -> None:
    """It was told that the bucket had no room, which ended payments in the middle of every rolling restart."""
    leader = await at_rest(cluster)
    target = cluster.followers(leader)[0]

    leader.machines[1].group.transfer_leadership(target.id)
    leader.machines[1].group.propose(7, b"late")
    await cluster.wait(lambda: leader.machines[1].refused)

    [refused] = leader.machines[1].refused
    assert refused.number == 7
    assert isinstance(refused.error, NotLeading)
    assert refused.error.leader == target.id


async def test_a_transfer_that_gets_nowhere_is_given_up(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = await at_rest(cluster)
    target = cluster.followers(leader)[0]
    deliver = cluster.network.deliver

    def lose(sender: int, to: int, channel: int, payload: bytes) -> None:
        found = decode_frame(payload).messages
        if all(message.type is not MessageType.TIMEOUT_NOW for _, message in found):
            deliver(sender, to, channel, payload)

    monkeypatch.setattr(cluster.network, "deliver", lose)
    leader.machines[1].group.transfer_leadership(target.id)
    leader.machines[1].group.transfer_leadership(cluster.followers(leader)[1].id)
    assert leader.host.groups[1].status().raft.lead_transferee == target.id, "one at a time"

    await all_rest(cluster)

    assert leader.host.groups[1].status().raft.lead_transferee == 0
    await cluster.propose(leader, b"a")


async def test_a_leader_at_rest_knows_that_its_followers_are_there(cluster: "Cluster") -> None:
    """It refused every change of members while nothing else woke it: none of them had answered since the last look."""
    await cluster.start(heartbeat_tick=ELECTION_TICK - 1)
    leader = await cluster.leader()
    await all_rest(cluster)
    group = leader.host.groups[1]
    leader.host._quiescence.wake(group)
    # The look that check-quorum takes forgets who was active; rest begins right behind it, before the next heartbeat.
    group._core._core._quorum_is_active()
    await cluster.wait(lambda: rests(leader))

    followers = cluster.followers(leader)
    group.change_members(
        ConfChange((ConfChangeSingle(ConfChangeType.REMOVE_NODE, followers[0].id),))
    )
    await cluster.wait(lambda: followers[0].id not in group.members.newest.voters)
    group.transfer_leadership()
    await cluster.wait(lambda: followers[1].machines[1].is_leading)


async def test_a_campaign_wakes_all(cluster: "Cluster") -> None:
    leader = await at_rest(cluster)
    rebel = cluster.followers(leader)[0]

    rebel.machines[1].group.campaign()

    # Their lease holds: the leader was heard of by its host heartbeats, so the others don't hear the pre-vote.
    await cluster.wait(lambda: not rests(rebel))
    await all_rest(cluster)
    assert leader.machines[1].is_leading
    assert rebel.host.groups[1].status().raft.leader == leader.id


async def test_a_replica_that_starts_from_a_snapshot_is_awake(cluster: "Cluster") -> None:
    leader = await at_rest(cluster)
    group = cluster.followers(leader)[0].host.groups[1]
    status = group.status().raft

    group.restart(group.members, Restored(status.applied, status.term, status.conf_state))

    assert not rests(cluster.followers(leader)[0])
    await all_rest(cluster)


# -- nobody sleeps on ------------------------------------------------------------------------------


async def test_followers_elect_in_time_when_the_leader_dies(cluster: "Cluster") -> None:
    leader = await at_rest(cluster, groups=5)
    led = [group for group, machine in leader.machines.items() if machine.is_leading]
    followers = cluster.followers(leader)
    await leader.kill()
    began = {node.id: tick_of(node) for node in followers}

    def taken_over() -> bool:
        return all(any(node.machines[group].is_leading for node in followers) for group in led)

    await cluster.wait(taken_over)

    # One timeout of at most twice the least, one more where a pre-vote met a lease; rest adds none.
    for node in followers:
        assert tick_of(node) - began[node.id] <= 5 * ELECTION_TICK


async def test_a_follower_has_waited_since_the_last_host_heartbeat(cluster: "Cluster") -> None:
    leader = await at_rest(cluster)
    follower = cluster.followers(leader)[0]
    # Had it waited a while when it came to rest, the host heartbeats since would have counted as heartbeats.
    follower.host.groups[1]._core._core._election_elapsed = 5
    cluster.network.cut.append(leader.id)
    heard = follower.host._quiescence._peers[leader.id].heard

    await cluster.wait(lambda: not rests(follower))

    core = follower.host.groups[1]._core._core
    elapsed = core._election_elapsed
    assert core.leader == leader.id
    assert elapsed == tick_of(follower) - follower.host._quiescence._peers[leader.id].heard
    assert tick_of(follower) - heard <= ELECTION_TICK


async def test_a_leader_wakes_when_a_follower_has_something_to_do(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = await at_rest(cluster)
    follower = cluster.followers(leader)[0]
    group = follower.host.groups[1]

    with monkeypatch.context() as patch:
        patch.setattr(group, "quiescent_status", lambda: None)
        follower.host._quiescence.wake(group)
        sent = len(cluster.network.sent)
        await cluster.wait(lambda: not rests(leader))
        kinds = [message.type for message in messages(cluster, sent)]
        assert MessageType.PRE_VOTE not in kinds, (
            "the host heartbeat said it, before anybody campaigned"
        )

    await all_rest(cluster)
    assert leader.machines[1].is_leading


async def test_what_was_said_before_a_group_woke_does_not_let_it_rest_again(
    cluster: "Cluster",
) -> None:
    leader = await at_rest(cluster)
    quiescence = leader.host._quiescence
    assert all(peer.quiescent == 1 << 1 for peer in quiescence._peers.values())

    quiescence.wake(leader.host.groups[1])

    assert all(peer.quiescent == 0 for peer in quiescence._peers.values())
    await all_rest(cluster)


async def test_a_broken_connection_wakes_what_rests_with_the_peer(cluster: "Cluster") -> None:
    leader = await at_rest(cluster)
    follower, third = cluster.followers(leader)

    follower.host.on_peer(leader.id, up=False)
    third.host.on_peer(follower.id, up=False)
    assert not rests(follower)
    assert rests(third), "it rests under another"
    leader.host.on_peer(follower.id, up=False)
    assert not rests(leader)

    await all_rest(cluster)
    assert leader.machines[1].is_leading


async def test_a_member_that_is_away_is_missed_also_once_its_connection_broke(
    cluster: "Cluster",
) -> None:
    """Its return went unnoticed then: a member that can't stand stayed behind for as long as its group rested."""
    leader = await at_rest(cluster)
    away = cluster.followers(leader)[0]
    await away.kill()
    await cluster.propose(leader, b"a")
    await cluster.wait(lambda: rests(leader))

    leader.host.on_peer(away.id, up=False)
    await cluster.wait(lambda: rests(leader))
    leader.host.on_frame(away.id, encode_frame(0, []))

    await cluster.wait(lambda: not rests(leader))


async def test_a_resting_leader_without_its_peers_steps_down(cluster: "Cluster") -> None:
    leader = await at_rest(cluster)
    cluster.network.cut.append(leader.id)
    began = tick_of(leader)

    await cluster.wait(lambda: leader.host.groups[1].role is not Role.LEADER)

    # Check-quorum takes two looks at most, behind what may pass before silence is noticed.
    assert tick_of(leader) - began <= 3 * ELECTION_TICK


async def test_an_isolated_leader_leaves_nobody_asleep(
    cluster: "Cluster", caplog: pytest.LogCaptureFixture
) -> None:
    leader = await at_rest(cluster)
    followers = cluster.followers(leader)

    leader.host.groups[1].isolate(AssertionError("broken"))

    assert "broken" in caplog.text
    await cluster.wait(lambda: any(node.machines[1].is_leading for node in followers))


async def test_a_dropped_group_leaves_nobody_asleep(cluster: "Cluster") -> None:
    leader = await at_rest(cluster)
    followers = cluster.followers(leader)

    leader.host._quiescence.drop(1)
    del leader.host._groups[1]

    await cluster.wait(lambda: any(node.machines[1].is_leading for node in followers))


@pytest.mark.parametrize("kind", [MessageType.HEARTBEAT, MessageType.VOTE_RESPONSE])
async def test_a_leader_of_the_past_leaves_nobody_asleep(
    cluster: "Cluster", kind: MessageType
) -> None:
    """One follower hears of a later term that the other knows nothing of."""
    leader = await at_rest(cluster)
    first, second = cluster.followers(leader)
    term = leader.host.groups[1].status().raft.term

    message = Message(kind, first.id, second.id, term + 5, reject=kind is MessageType.VOTE_RESPONSE)
    first.host.on_frame(second.id, encode_frame(0, [(1, message)]))
    follows = first.host.groups[1].status
    await cluster.wait(lambda: follows().raft.term > term)
    if kind is MessageType.HEARTBEAT:
        assert follows().raft.leader == second.id, "not whom it rested under"

    await cluster.wait(
        lambda: all(
            node.host.groups[1].status().raft.term > term + 4 for node in cluster.nodes.values()
        )
    )
    await cluster.leader()
    await all_rest(cluster)


async def test_a_restarted_follower_is_fed_by_a_leader_that_rested(cluster: "Cluster") -> None:
    leader = await at_rest(cluster)
    follower = cluster.followers(leader)[0]
    await follower.kill()
    await cluster.restart(follower)

    await cluster.wait(lambda: follower.host.groups[1].status().raft.leader == leader.id)
    await all_rest(cluster)
    assert leader.machines[1].is_leading


async def test_a_group_rests_without_a_node_that_is_away_and_wakes_when_it_is_back(
    cluster: "Cluster",
) -> None:
    leader = await at_rest(cluster)
    away, _ = cluster.followers(leader)
    await away.kill()
    await cluster.wait(lambda: not rests(leader))
    await all_rest(cluster)
    await cluster.propose(leader, b"a")
    await all_rest(cluster)
    leader.host.on_frame(away.id, encode_frame(0, []))
    await cluster.wait(lambda: not rests(leader))
    await all_rest(cluster)
    await cluster.restart(away)

    await cluster.agree(b"a")
    await all_rest(cluster)
    assert leader.machines[1].is_leading


async def test_a_node_that_hears_late_catches_up(cluster: "Cluster") -> None:
    """Cut off, not stopped: it has its groups' old state, and a leader that rests."""
    leader = await at_rest(cluster)
    away, _ = cluster.followers(leader)
    cluster.network.cut.append(away.id)
    await cluster.propose(leader, b"a")
    await cluster.wait(lambda: rests(leader))

    cluster.network.cut.clear()

    await cluster.agree(b"a")
    await all_rest(cluster)


async def test_lost_frames_wake_nobody_for_long(cluster: "Cluster") -> None:
    leader = await at_rest(cluster, groups=4)
    cluster.network.losses += [1] * 3

    await cluster.wait(lambda: not cluster.network.losses)

    await all_rest(cluster)
    assert leader.machines[1].is_leading


# -- who doesn't know of host heartbeats -------------------------------------------------------


async def test_a_peer_that_sends_no_beats_is_heartbeaten(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an earlier version of this program, which ignores what it doesn't know in a frame."""
    await cluster.start()
    leader = await cluster.leader()
    old, _ = cluster.followers(leader)
    monkeypatch.setattr(old.host._quiescence, "settle", lambda **_: {})
    monkeypatch.setattr(old.host._quiescence, "on_frame", _nothing)
    term = leader.host.groups[1].status().raft.term
    await ticks(cluster, leader, ELECTION_TICK)
    until = tick_of(leader) + 6 * ELECTION_TICK

    def is_over() -> bool:
        assert not rests(leader)
        assert not rests(old)
        return tick_of(leader) > until

    await cluster.wait(is_over)
    assert leader.host.groups[1].status().raft.term == term


def _nothing(*_: object) -> None:
    pass


# -- a start (F18) -----------------------------------------------------------------------------


async def test_many_groups_elect_without_a_storm_at_a_start_and_after_a_power_cut(
    cluster: "Cluster",
) -> None:
    groups = 100
    await cluster.start(groups=groups, tick_ms=40)
    for life in (1, 2):
        nodes = list(cluster.nodes.values())

        def led(nodes: list["Node"] = nodes) -> bool:
            leading = (m for node in nodes for m in node.machines.values() if m.is_leading)
            return sum(1 for _ in leading) == groups

        await cluster.wait(led, 20)

        # Nearly every group elects with its first timeout, a few with their second or third.
        assert max(tick_of(node) for node in nodes) <= 8 * ELECTION_TICK
        terms = [group.status().raft.term for group in nodes[0].host.groups.values()]
        assert sum(terms) <= life * 2 * groups
        for node in nodes:
            await node.kill()
        if life == 1:
            for node in nodes:
                await cluster.restart(node)


# -- turns -------------------------------------------------------------------------------------


async def test_a_turn_serves_a_bounded_number_of_groups(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.start(nodes=(1,), groups=300)
    node = cluster.nodes[1]
    for group in range(1, 301):
        await cluster.leader(group)
    await all_rest(cluster)
    served: dict[int, int] = {}
    serve: Callable = node.host._serve

    def count(group: object) -> None:
        turn = node.host.statistics().turns
        served[turn] = served.get(turn, 0) + 1
        serve(group)

    monkeypatch.setattr(node.host, "_serve", count)
    for machine in node.machines.values():
        machine.group.propose(1, b"a")
    await cluster.wait(lambda: all(machine.data for machine in node.machines.values()))

    assert max(served.values()) == 128
