"""A group's mailboxes: bounded, in order, nothing dropped; and what stops one group stops no other."""

from typing import TYPE_CHECKING

import pytest

from mas.errors import CorruptData, InvalidRequest, MailboxFull, NotLeading, Unavailable
from mas.limits import MESSAGE_BYTES_MAX
from mas.multiraft import Committed
from mas.raft import ConfChange, ConfChangeSingle, ConfChangeType, RawNode, Role

if TYPE_CHECKING:
    from tests.multiraft.conftest import Cluster

pytestmark = pytest.mark.asyncio


def change(kind: ConfChangeType, node: int) -> ConfChange:
    return ConfChange((ConfChangeSingle(kind, node),))


async def test_full_commit_c_holds_back_its_group_alone(cluster: "Cluster") -> None:
    await cluster.start(nodes=(1,), groups=2)
    node = await cluster.leader()
    await cluster.leader(2)
    slow = node.machines[1]
    slow.is_open.clear()
    written = [b"%d" % number for number in range(300)]
    storage = node.log.storage(1)
    for number, data in enumerate(written):
        slow.group.propose(number, data)
        await cluster.wait(lambda least=number: storage.last_index() >= least + 2)

    await cluster.propose(node, b"other", group=2)
    assert slow.group.apply_queue.is_waiting
    assert len(slow.group.commit_c) == 64
    assert len(slow.data) <= 1

    slow.is_open.set()
    await cluster.wait(lambda: slow.data == written)
    assert not slow.group.apply_queue.is_waiting


async def test_propose_c_is_bounded(cluster: "Cluster") -> None:
    await cluster.start(nodes=(1,))
    node = await cluster.leader()
    node.log.gate.clear()

    for number in range(1_024):
        node.machines[1].group.propose(number, b"x")
    with pytest.raises(MailboxFull):
        node.machines[1].group.propose(1_024, b"x")

    node.log.gate.set()
    await cluster.wait(lambda: len(node.machines[1].data) == 1_024)


async def test_a_turn_takes_no_more_than_a_turns_bytes(cluster: "Cluster") -> None:
    await cluster.start(nodes=(1,))
    node = await cluster.leader()
    before = len(node.log.commits)
    for number in range(16):
        node.machines[1].group.propose(number, bytes(100_000))

    await cluster.wait(lambda: len(node.machines[1].data) == 16)
    sizes = [
        sum(len(entry.data) for _, item in changes for entry in getattr(item, "entries", ()))
        for changes, _ in node.log.commits[before:]
    ]
    assert max(sizes) <= 300_000


async def test_too_large_a_proposal_is_refused_at_once(cluster: "Cluster") -> None:
    await cluster.start(nodes=(1,))
    node = await cluster.leader()

    with pytest.raises(InvalidRequest):
        node.machines[1].group.propose(1, bytes(MESSAGE_BYTES_MAX + 1))


async def test_corrupt_state_stops_its_group_alone(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await cluster.start(nodes=(1,), groups=2)
    node = await cluster.leader()
    await cluster.leader(2)
    machine = node.machines[1]
    has_ready, core = RawNode.has_ready, machine.group._core

    def fail(this: RawNode) -> bool:
        if this is core:
            raise CorruptData("a record's checksum is wrong")
        return has_ready(this)

    monkeypatch.setattr(RawNode, "has_ready", fail)
    machine.group.propose(1, b"a")
    machine.group.read_index(2)
    await cluster.wait(lambda: machine.group.error)

    await cluster.propose(node, b"b", group=2)
    await cluster.wait(lambda: not machine.is_leading)
    assert machine.group.status().error == "CorruptData: a record's checksum is wrong"
    assert "bucket 1 is stopped" in caplog.text
    machine.group.propose(3, b"c")
    await cluster.wait(lambda: any(refused.number == 3 for refused in machine.refused))
    await cluster.wait(lambda: any(refused.read for refused in machine.refused))
    assert all(isinstance(refused.error, NotLeading) for refused in machine.refused)


async def test_entries_come_in_order_with_their_indexes(cluster: "Cluster") -> None:
    await cluster.start(nodes=(1,))
    node = await cluster.leader()
    await cluster.propose(node, *[b"%d" % number for number in range(50)])

    committed = [event for event in node.machines[1].events if isinstance(event, Committed)]
    indexes = [entry.index for event in committed for entry in event.entries]
    assert indexes == list(range(1, 52))


async def test_a_learner_joins_is_promoted_and_votes(cluster: "Cluster", make_node: type) -> None:
    await cluster.start(nodes=(1, 2))
    leader = await cluster.leader()
    await cluster.propose(leader, b"a")
    new = make_node(3, cluster.network, cluster.folder, log_margin_entries=4)
    await new.start({1: (1, 2)})

    leader.machines[1].group.change_members(change(ConfChangeType.ADD_LEARNER, 3))
    await cluster.agree(b"a")
    leader.machines[1].group.change_members(change(ConfChangeType.ADD_NODE, 3))
    await cluster.wait(lambda: new.host.groups[1].status().raft.conf_state.voters == (1, 2, 3))

    await cluster.followers(leader)[0].kill()
    await cluster.propose(leader, b"b")
    await cluster.agree(b"a", b"b")


async def test_membership_survives_a_restart_and_a_cut_log(cluster: "Cluster") -> None:
    await cluster.start(nodes=(1, 2, 3), log_margin_entries=4)
    leader = await cluster.leader()
    removed = cluster.followers(leader)[0]
    leader.machines[1].group.change_members(change(ConfChangeType.REMOVE_NODE, removed.id))
    for number in range(40):
        await cluster.propose(leader, b"%d" % number)
    await cluster.wait(lambda: leader.log.storage(1).first_index() > 20)
    await leader.kill()
    await cluster.restart(leader)

    left = tuple(sorted({1, 2, 3} - {removed.id}))
    assert leader.host.groups[1].status().raft.conf_state.voters == left


async def test_removing_the_leader_moves_leadership_first(cluster: "Cluster") -> None:
    await cluster.start()
    leader = await cluster.leader()
    await cluster.settle()
    await cluster.wait(
        lambda: all(
            one.recent_active for one in leader.host.groups[1].status().raft.progress.values()
        )
    )

    with pytest.raises(Unavailable, match="leadership moves"):
        leader.machines[1].group.change_members(change(ConfChangeType.REMOVE_NODE, leader.id))

    await cluster.wait(lambda: not leader.machines[1].is_leading)
    other = await cluster.leader()
    other.machines[1].group.change_members(change(ConfChangeType.REMOVE_NODE, leader.id))
    await cluster.wait(
        lambda: leader.id not in other.host.groups[1].status().raft.conf_state.voters
    )


async def test_membership_is_the_leaders_to_change(cluster: "Cluster") -> None:
    await cluster.start()
    leader = await cluster.leader()
    await cluster.settle()
    follower = cluster.followers(leader)[0]
    await cluster.wait(lambda: follower.host.groups[1].status().raft.leader == leader.id)

    with pytest.raises(NotLeading) as caught:
        follower.machines[1].group.change_members(change(ConfChangeType.ADD_LEARNER, 4))
    assert caught.value.leader == leader.id


async def test_status_tells_how_far_a_group_is(cluster: "Cluster") -> None:
    await cluster.start(nodes=(1,))
    node = await cluster.leader()
    await cluster.propose(node, b"a")

    status = node.host.groups[1].status()
    assert status.raft.role is Role.LEADER
    assert status.leading
    assert (status.pushed, status.applied, status.flushed, status.first_index) == (2, 2, 2, 1)
