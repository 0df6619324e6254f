"""Replicas that come and go while a host runs: what a learner needs to vote, and what is left of a replica that is erased."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import msgspec
import pytest

from mas.errors import CorruptData, StorageError, Unavailable
from mas.multiraft import Committed, RaftGroup
from mas.multiraft.frames import decode_frame, encode_frame
from mas.multiraft.members import is_member_behind
from mas.raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    ProgressState,
    Role,
)
from mas.storage.raft_log.memory import MemoryRaftLog
from tests.multiraft.conftest import Machine, Rows

if TYPE_CHECKING:
    from tests.multiraft.conftest import Cluster, Node

pytestmark = pytest.mark.asyncio

VOTERS = (1, 2, 3)


def change(kind: ConfChangeType, node: int) -> ConfChange:
    return ConfChange((ConfChangeSingle(kind, node),))


def add(node: int) -> ConfChange:
    return change(ConfChangeType.ADD_LEARNER, node)


def remove(node: int) -> ConfChange:
    return change(ConfChangeType.REMOVE_NODE, node)


async def propose_change(cluster: "Cluster", wanted: ConfChange) -> "Node":
    """Until some leader has taken it, and applied it."""

    async def proposed() -> "Node":
        while True:
            leader = await cluster.leader()
            try:
                leader.machines[1].group.change_members(wanted)
            except Unavailable:
                await asyncio.sleep(0.002)
            else:
                return leader

    async with asyncio.timeout(10):
        leader = await proposed()
    [one] = wanted.changes
    holds = one.type is not ConfChangeType.REMOVE_NODE

    def is_so() -> bool:
        conf = leader.host.groups[1].members.newest
        return (one.node_id in conf.voters + conf.learners) == holds

    await cluster.wait(is_so)
    return leader


async def open_group(node: "Node", voters: tuple[int, ...] = VOTERS) -> Machine:
    """As `Replicas` does while the host runs."""
    rows = node.databases.get(1, Rows())
    await node.host.logs.create(1, voters, applied=rows.applied)
    group = node.host.add_group(1, voters, applied=rows.applied, applied_term=rows.term)
    machine = node.machines[1] = Machine(group, node.databases)
    loop = asyncio.get_running_loop()
    node._tasks += [loop.create_task(machine.run()), loop.create_task(machine.run_errors())]
    return machine


async def erase(node: "Node") -> None:
    removed_at = next(
        other.host.groups[1].members.changed_at
        for other in node.network.nodes.values()
        if other is not node and 1 in other.machines and other.machines[1].is_leading
    )
    node.host.leave_group(1)
    machine = node.machines.pop(1)
    machine.databases = dict(machine.databases)  # its writer is ended, as `Replicas` does
    node.databases.pop(1, None)
    await node.host.logs.erase(1, VOTERS, removed_at=removed_at)


def members(node: "Node") -> ConfState:
    return node.host.groups[1].members.newest


# -- learners ------------------------------------------------------------------------------------------


async def test_a_node_that_joins_becomes_a_voter_by_itself(
    cluster: "Cluster", make_node: type["Node"]
) -> None:
    await cluster.start()
    await cluster.propose(await cluster.leader(), b"a", b"b")
    new = make_node(4, cluster.network, cluster.folder)
    await new.start({})
    await propose_change(cluster, add(4))
    await open_group(new)

    await cluster.wait(lambda: members(new).voters == (1, 2, 3, 4))
    await cluster.agree(b"a", b"b")
    assert members(new).learners == ()


async def test_a_learner_that_is_behind_does_not_become_a_voter(
    cluster: "Cluster", make_node: type["Node"]
) -> None:
    await cluster.start()
    leader = await cluster.leader()
    new = make_node(4, cluster.network, cluster.folder)
    await new.start({})
    leader = await propose_change(cluster, add(4))
    machine = await open_group(new)
    new.log.gate.clear()  # it acknowledges nothing any more
    await cluster.propose(leader, b"a")
    ticks = leader.host.statistics().turns
    await cluster.wait(lambda: leader.host.statistics().turns > ticks + 40)
    assert members(leader).learners == (4,)

    new.log.gate.set()
    await cluster.wait(lambda: 4 in members(leader).voters)
    await cluster.wait(lambda: machine.data == [b"a"])


async def test_a_learner_that_is_away_does_not_become_a_voter(cluster: "Cluster") -> None:
    await cluster.start()
    leader = await propose_change(cluster, add(4))
    ticks = leader.host.statistics().turns
    await cluster.wait(lambda: leader.host.statistics().turns > ticks + 40)
    assert members(leader).learners == (4,)


async def test_a_new_leader_promotes_nobody_before_it_knows_what_is_committed(
    cluster: "Cluster",
) -> None:
    """Just started, its commit index is what its database had: any learner looked caught up."""
    await cluster.start()
    leader = await cluster.leader()
    for node in cluster.nodes.values():
        node.machines[1].flushes = False
    await cluster.propose(leader, *[b"%d" % number for number in range(20)])
    await cluster.settle()
    known: list[tuple[bool, int | None]] = []
    for node in cluster.nodes.values():
        await node.kill()
    for node in cluster.nodes.values():
        await cluster.restart(node)
        watch(node.host.groups[1], known)
    await cluster.leader()
    await cluster.wait(lambda: any(leading for leading, _ in known))
    assert all((committed is None) is not leading for leading, committed in known)
    assert all(committed > 20 for leading, committed in known if leading)


def watch(group: RaftGroup, known: list[tuple[bool, int | None]]) -> None:
    """Note behind each tick whether it leads, and what a learner has to hold at the next."""
    tick = group.tick

    def noting(count: int) -> None:
        tick(count)
        known.append((group.status().leading, group._committed_a_tick_ago))

    group.tick = noting


async def test_a_learner_needs_the_change_that_added_it_to_become_a_voter(
    cluster: "Cluster",
) -> None:
    """What it acknowledged before that change may be of an earlier life, and be gone."""
    await cluster.start()
    leader = await propose_change(cluster, add(4))
    await cluster.wait(lambda: leader.host.groups[1]._committed_a_tick_ago)
    group = leader.host.groups[1]
    core, status = group._core, group._core.status()
    added_at = group.members.changed_at
    group._committed_a_tick_ago = added_at - 1
    proposed: list[ConfChange] = []
    for match in (added_at - 1, added_at):
        learner = msgspec.structs.replace(
            status.progress[4], state=ProgressState.REPLICATE, recent_active=True, match=match
        )
        seen = msgspec.structs.replace(status, progress={**status.progress, 4: learner})
        group._core = SimpleNamespace(
            status=lambda seen=seen: seen, propose_conf_change=proposed.append
        )

        group._promote_learner()

        assert proposed == ([change(ConfChangeType.ADD_NODE, 4)] if match == added_at else [])
    group._core = core


async def test_two_learners_are_promoted_one_after_the_other(
    cluster: "Cluster", make_node: type["Node"]
) -> None:
    await cluster.start()
    for node in (4, 5):
        new = make_node(node, cluster.network, cluster.folder)
        await new.start({})
        await propose_change(cluster, add(node))
        await open_group(new)
    leader = await cluster.leader()
    await cluster.wait(lambda: members(leader).voters == (1, 2, 3, 4, 5))


async def test_a_learner_too_far_behind_gets_a_snapshot_and_becomes_a_voter(
    cluster: "Cluster", make_node: type["Node"]
) -> None:
    await cluster.start(log_margin_entries=4)
    leader = await cluster.leader()
    data = await write_much(cluster, leader)
    new = make_node(4, cluster.network, cluster.folder, log_margin_entries=4)
    await new.start({})
    await propose_change(cluster, add(4))
    machine = await open_group(new)
    await cluster.wait(lambda: 4 in members(new).voters)
    await cluster.wait(lambda: machine.data == data)
    assert new.files.installs == 1


# -- quorums -------------------------------------------------------------------------------------------


async def test_a_removal_that_would_lose_the_quorum_is_refused(cluster: "Cluster") -> None:
    await cluster.start()
    leader = await cluster.leader()
    alive, dead = cluster.followers(leader)
    await dead.kill()
    group = leader.host.groups[1]
    await cluster.wait(
        lambda: (
            not group.status().raft.progress[dead.id].recent_active
            and group.status().raft.progress[alive.id].recent_active
        )
    )
    with pytest.raises(Unavailable, match=rf"of which only \[{leader.id}\] answer: bring"):
        group.change_members(remove(alive.id))
    assert members(leader).voters == (1, 2, 3)


async def test_two_changes_at_once_are_one_after_the_other(cluster: "Cluster") -> None:
    await cluster.start()
    leader = await cluster.leader()
    group = leader.host.groups[1]
    await cluster.wait(
        lambda: all(one.recent_active for one in group.status().raft.progress.values())
    )
    group.change_members(add(4))
    with pytest.raises(Unavailable, match="propose again once it is"):
        group.change_members(add(5))
    await cluster.wait(lambda: 4 in members(leader).learners)


async def test_the_removed_leader_hands_over_and_may_leave(cluster: "Cluster") -> None:
    await cluster.start()
    leader = await cluster.leader()
    await cluster.propose(leader, b"a")
    other = await propose_change(cluster, remove(leader.id))
    assert other is not leader
    await erase(leader)
    await cluster.propose(other, b"b")
    assert members(other).voters == tuple(node for node in VOTERS if node != leader.id)


# -- leaving and coming back ---------------------------------------------------------------------------


async def test_an_erased_log_keeps_term_and_vote(cluster: "Cluster") -> None:
    await cluster.start()
    leader = await cluster.leader()
    await cluster.propose(leader, b"a")
    gone = cluster.followers(leader)[0]
    await cluster.settle()
    before = gone.log.hard_state(1)
    assert before.term > 0
    await propose_change(cluster, remove(gone.id))
    await erase(gone)

    after = gone.log.hard_state(1)
    assert (after.term, after.vote, after.commit) == (before.term, before.vote, 0)
    storage = gone.log.storage(1)
    assert (storage.first_index(), storage.last_index()) == (1, 0)
    assert storage.initial_state()[1].voters == VOTERS, "the log is read from its beginning"


@pytest.mark.parametrize("margin", [10_000, 4])
async def test_an_erased_replica_comes_back_under_its_id(cluster: "Cluster", margin: int) -> None:
    """By the log, or by a snapshot where the log was cut."""
    await cluster.start(log_margin_entries=margin)
    leader = await cluster.leader()
    gone = cluster.followers(leader)[0]
    await propose_change(cluster, remove(gone.id))
    await erase(gone)
    leader = await cluster.leader()
    if margin == 4:
        data = await write_much(cluster, leader)
    else:
        data = [b"while it was away"]
        await cluster.propose(leader, *data)
    await propose_change(cluster, add(gone.id))
    machine = await open_group(gone)

    await cluster.wait(lambda: members(gone).voters == VOTERS)
    await cluster.wait(lambda: machine.data == data)
    assert bool(gone.files.installs) == (margin == 4)
    await gone.kill()
    await cluster.restart(gone)
    await cluster.propose(await cluster.leader(), b"after")
    await cluster.wait(lambda: gone.machines[1].data[-1] == b"after")


async def test_a_vote_given_before_the_erasure_is_not_given_again(cluster: "Cluster") -> None:
    await cluster.start()
    leader = await cluster.leader()
    await cluster.settle()
    gone = next(node for node in cluster.followers(leader) if node.log.hard_state(1).vote)
    await propose_change(cluster, remove(gone.id))
    await erase(gone)
    promised = gone.log.hard_state(1)
    await open_group(gone)
    gone.host.groups[1].votes_suspended = False  # as once it has been added again
    rival = next(node for node in VOTERS if node not in (promised.vote, gone.id))
    vote = Message(MessageType.VOTE, gone.id, rival, promised.term, log_term=99, index=99)
    sent = len(cluster.network.sent)

    def answers() -> list[Message]:
        gone.host.on_frame(rival, encode_frame(0, [(1, vote)]))
        return [
            message
            for message in said_by(cluster, gone, sent)
            if message.type is MessageType.VOTE_RESPONSE
        ]

    await cluster.wait(answers)
    assert all(message.reject for message in answers())
    assert gone.log.hard_state(1) == promised


def said_by(cluster: "Cluster", node: "Node", since: int) -> list[Message]:
    """What the node has said for its groups, from that frame of the network's on."""
    return [
        message
        for sender, _, channel, payload in cluster.network.sent[since:]
        if channel == 1 and sender == node.id
        for _, message in decode_frame(payload).messages
    ]


async def test_frames_for_a_group_that_left_are_ignored(cluster: "Cluster") -> None:
    await cluster.start()
    leader = await cluster.leader()
    gone = cluster.followers(leader)[0]
    gone.host.leave_group(1)
    sent = len(cluster.network.sent)
    last = gone.log.storage(1).last_index()
    await cluster.propose(leader, b"a", b"b")
    assert said_by(cluster, gone, sent) == []
    assert gone.log.storage(1).last_index() == last
    gone.host.leave_group(1)  # as often as one likes


async def test_a_write_in_flight_when_its_group_leaves_says_nothing(cluster: "Cluster") -> None:
    await cluster.start()
    leader = await cluster.leader()
    await cluster.settle()
    gone, other = cluster.followers(leader)
    machine = gone.machines[1]
    handed_out = len([event for event in machine.events if isinstance(event, Committed)])
    gone.log.gate.clear()
    leader.machines[1].group.propose(1, b"a")
    await cluster.wait(lambda: gone.log.waiting)
    sent = len(cluster.network.sent)
    gone.host.leave_group(1)
    erasing = asyncio.get_running_loop().create_task(gone.host.logs.erase(1, VOTERS, removed_at=1))
    gone.log.gate.set()
    await erasing
    await cluster.wait(lambda: other.machines[1].data == [b"a"])
    assert said_by(cluster, gone, sent) == []
    assert len([e for e in machine.events if isinstance(e, Committed)]) == handed_out
    assert gone.log.storage(1).last_index() == 0, "what was in flight is erased with the rest"


async def test_a_term_in_flight_when_its_group_leaves_is_kept(cluster: "Cluster") -> None:
    await cluster.start()
    leader = await cluster.leader()
    await cluster.settle()
    gone, other = cluster.followers(leader)
    term = gone.log.hard_state(1).term + 5
    vote = Message(
        MessageType.VOTE, gone.id, other.id, term, log_term=99, index=99, context=b"transfer"
    )
    gone.log.gate.clear()
    gone.host.on_frame(other.id, encode_frame(0, [(1, vote)]))
    await cluster.wait(lambda: gone.log.waiting and gone.host.groups[1].in_flight)
    assert gone.log.hard_state(1).term < term
    gone.host.leave_group(1)
    erasing = asyncio.get_running_loop().create_task(gone.host.logs.erase(1, VOTERS, removed_at=1))
    gone.log.gate.set()
    await erasing
    after = gone.log.hard_state(1)
    assert (after.term, after.vote) == (term, other.id)


async def test_what_a_leaver_proposes_goes_nowhere(cluster: "Cluster") -> None:
    await cluster.start()
    leader = await cluster.leader()
    machine = leader.machines.pop(1)
    leader.host.leave_group(1)
    machine.group.propose(1, b"a")
    machine.group.read_index(2)
    await cluster.propose(await cluster.leader(), b"b")
    await cluster.agree(b"b")
    assert machine.data == []


async def test_erasing_ends_whole_or_not_at_all(cluster: "Cluster") -> None:
    await cluster.start()
    leader = await cluster.leader()
    await cluster.propose(leader, b"a")
    gone = cluster.followers(leader)[0]
    await cluster.settle()
    before = gone.log.storage(1).last_index()
    promised = gone.log.hard_state(1)
    gone.host.leave_group(1)
    gone.log.gate.clear()
    erasing = asyncio.get_running_loop().create_task(gone.host.logs.erase(1, VOTERS, removed_at=1))
    await cluster.wait(lambda: gone.log.waiting)
    gone.log.fail_next_sync()
    await gone.kill()
    erasing.cancel()
    assert gone.log.storage(1).last_index() in (0, before)
    assert gone.log.hard_state(1).term == promised.term
    assert gone.log.hard_state(1).vote == promised.vote


@pytest.mark.parametrize("hard_state", [False, True])
async def test_a_damaged_log_can_be_erased_unless_its_promises_are_lost(
    cluster: "Cluster", hard_state: bool
) -> None:
    await cluster.start()
    leader = await cluster.leader()
    await cluster.propose(leader, b"a")
    await cluster.settle()
    gone = cluster.followers(leader)[0]
    promised = gone.log.hard_state(1)
    await gone.kill()
    gone.log.damage(1, hard_state=hard_state)
    await gone.start({})
    assert not gone.host.logs.is_member_behind(1, 0), "of a damaged log nobody knows"
    if hard_state:
        with pytest.raises(CorruptData, match="hard state"):
            await gone.host.logs.erase(1, VOTERS, removed_at=1)
        return
    await gone.host.logs.erase(1, VOTERS, removed_at=1)
    assert gone.log.hard_state(1) == HardState(promised.term, promised.vote)


async def test_who_is_removed_leaves_once_others_than_the_leader_know(
    cluster: "Cluster", make_node: type["Node"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four became three, one of whom died: the two that were left waited for the vote of the one that had left."""
    await cluster.start()
    leader = await cluster.leader()
    new = make_node(4, cluster.network, cluster.folder)
    await new.start({})
    await propose_change(cluster, add(4))
    await open_group(new)
    await cluster.wait(lambda: 4 in members(leader).voters and 4 in members(new).voters)
    await cluster.settle()
    gone, other = (node for node in cluster.followers(leader) if node is not new)
    deliver = cluster.network.deliver
    told: list[int] = []

    def without_the_new_one_and_then_without_the_leader(
        sender: int, to: int, channel: int, payload: bytes
    ) -> None:
        absent = leader.id if gone.id not in members(leader).voters else new.id
        if absent not in (sender, to):
            deliver(sender, to, channel, payload)

    def leave(group: RaftGroup) -> None:
        if gone.id not in group.members.newest.voters and not told:
            told.append(group.id)
            gone.host.leave_group(1)

    monkeypatch.setattr(cluster.network, "deliver", without_the_new_one_and_then_without_the_leader)
    for node in (leader, other, new):
        node.host.on_members(leave)
    leader.machines[1].group.change_members(remove(gone.id))

    await cluster.wait(lambda: gone.id not in members(other).voters)
    await cluster.wait(lambda: other.machines[1].is_leading)
    assert told


# -- what an erased replica may not do -----------------------------------------------------------------


async def pass_ticks(cluster: "Cluster", nodes: list["Node"]) -> None:
    """Time for several elections."""
    until = {node.id: node.host._quiescence._now + 60 for node in nodes}
    await cluster.wait(lambda: all(node.host._quiescence._now > until[node.id] for node in nodes))


async def test_replicas_that_were_erased_elect_nobody_among_themselves(cluster: "Cluster") -> None:
    """With the founders as voters they were two of three, and began the bucket anew: empty."""
    await cluster.start()
    leader = await cluster.leader()
    await cluster.propose(leader, b"a")
    await cluster.settle()
    erased = cluster.followers(leader)
    for node in erased:
        await propose_change(cluster, remove(node.id))
        await erase(node)
    for node in erased:
        await propose_change(cluster, add(node.id))
    cluster.network.cut.append(leader.id)
    for node in erased:
        await open_group(node)

    await pass_ticks(cluster, erased)

    assert [node.host.groups[1].status().raft.last_index for node in erased] == [0, 0]
    cluster.network.cut.clear()
    await cluster.wait(lambda: members(leader).voters == VOTERS)
    await cluster.agree(b"a")


async def test_an_erased_replica_helps_nobody_to_lead_without_what_it_had(
    cluster: "Cluster", make_node: type["Node"]
) -> None:
    """Who was away needs its vote by the membership that it knows of, and lacks what that vote had committed."""
    await cluster.start()
    leader = await cluster.leader()
    erased, away = cluster.followers(leader)
    cluster.network.cut.append(away.id)
    new = make_node(4, cluster.network, cluster.folder)
    await new.start({})
    await propose_change(cluster, add(4))
    await open_group(new)
    await cluster.wait(lambda: 4 in members(leader).voters)
    await cluster.propose(leader, b"a")
    await propose_change(cluster, remove(erased.id))
    await erase(erased)
    await propose_change(cluster, add(erased.id))
    cluster.network.cut[:] = [leader.id, new.id]
    await open_group(erased)

    await pass_ticks(cluster, [erased, away])

    assert away.host.groups[1].role is not Role.LEADER
    cluster.network.cut.clear()
    await cluster.wait(lambda: members(away).voters == (1, 2, 3, 4))
    await cluster.agree(b"a")
    await cluster.wait(lambda: not erased.host.groups[1].votes_suspended)


# -- snapshots under way -------------------------------------------------------------------------------


async def write_much(cluster: "Cluster", leader: "Node") -> list[bytes]:
    """As much as cuts the log, whoever is away."""
    data = [b"%d" % number for number in range(100)]
    await cluster.propose(leader, *data)
    await cluster.wait(lambda: leader.log.storage(1).first_index() > 20)
    return data


async def behind(cluster: "Cluster") -> tuple["Node", "Node"]:
    """The leader, and a follower that needs a snapshot."""
    await cluster.start(log_margin_entries=4)
    leader = await cluster.leader()
    follower = cluster.followers(leader)[0]
    await follower.kill()
    await write_much(cluster, leader)
    return leader, follower


@pytest.mark.parametrize("fails", [False, True])
async def test_a_piece_on_its_way_to_the_disk_when_the_group_leaves(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """The receiver looked for the group, or its transfer, and took the node down."""
    from mas.multiraft import snapshot_receiver

    _, follower = await behind(cluster)
    write, written = snapshot_receiver._write, 0

    def fail_or_write(path: Path, offset: int, data: bytes) -> None:
        nonlocal written
        written += 1
        if fails:
            raise OSError(28, "No space left on device")
        write(path, offset, data)

    monkeypatch.setattr(snapshot_receiver, "_write", fail_or_write)
    for node in cluster.nodes.values():
        node.files.padding = 10
    await cluster.restart(follower)
    follower.file_disk.gate.clear()
    await cluster.wait(lambda: follower.file_disk.waiting)
    assert follower.host.receiving(1) is not None
    follower.host.leave_group(1)
    assert follower.host.receiving(1) is None
    follower.file_disk.gate.set()
    turns = follower.host.statistics().turns
    await cluster.wait(lambda: written and follower.host.statistics().turns > turns + 10)
    assert not follower.task.done()


async def test_a_group_does_not_leave_while_a_snapshot_is_installed(cluster: "Cluster") -> None:
    _, follower = await behind(cluster)
    gate = asyncio.Event()
    install = follower.files.install

    async def held(group: int, path: Path) -> None:
        await gate.wait()
        await install(group, path)

    follower.files.install = held
    await cluster.restart(follower)
    await cluster.wait(lambda: follower.host._receiver.is_installing(1))
    with pytest.raises(Unavailable, match="a snapshot is being installed, try again"):
        follower.host.leave_group(1)
    gate.set()
    await cluster.wait(lambda: not follower.host._receiver.is_installing(1))
    follower.host.leave_group(1)


async def test_an_export_under_way_when_the_group_leaves(cluster: "Cluster") -> None:
    """The rows were erased under it, and the node went down."""
    leader, follower = await behind(cluster)
    begun, gate = asyncio.Event(), asyncio.Event()

    async def held(group: int, path: Path) -> object:
        begun.set()
        await gate.wait()
        raise StorageError(f"bucket {group} has no rows here: there is nothing to export")

    for node in cluster.nodes.values():
        node.files.export = held
    await cluster.restart(follower)
    await cluster.wait(begun.is_set)
    leader.host.leave_group(1)
    gate.set()
    turns = leader.host.statistics().turns
    await cluster.wait(lambda: leader.host.statistics().turns > turns + 10)
    assert not leader.task.done()


async def test_a_group_that_leaves_takes_its_snapshots_with_it(cluster: "Cluster") -> None:
    leader, follower = await behind(cluster)
    await cluster.restart(follower)
    await cluster.wait(lambda: follower.files.installs)
    await cluster.wait(lambda: list(leader.folder.glob("*.outgoing")))
    leader.host.leave_group(1)
    await cluster.wait(lambda: not list(leader.folder.glob("*.outgoing")))


# -- whether a node was added again --------------------------------------------------------------------


def log_of(*changes: ConfChange | None, compacted: int = 0) -> MemoryRaftLog:
    """A log of one group: entry by entry a change, or something else."""
    log = MemoryRaftLog()
    batch = log.batch()
    batch.create(1, ConfState(voters=VOTERS))
    batch.append(
        1,
        [
            Entry(index, 1, EntryType.NORMAL, b"x")
            if one is None
            else Entry(index, 1, EntryType.CONF_CHANGE, one.encode())
            for index, one in enumerate(changes, 1)
        ],
    )
    batch.commit(sync=True)
    if compacted:
        conf = ConfState(voters=(1, 2), learners=(3,))
        batch = log.batch()
        batch.compact(1, compacted)
        batch.set_conf_state(1, conf)
        batch.commit(sync=True)
    return log


@pytest.mark.parametrize(
    ("log", "index", "node", "expected"),
    [
        (log_of(None, None), 0, 3, False),
        (log_of(None, remove(3)), 2, 3, False),
        (log_of(None, remove(3), None), 2, 3, False),
        (log_of(None, remove(3), None, add(3)), 2, 3, True),
        (log_of(None, remove(3), None, add(3)), 4, 3, False),
        (log_of(None, remove(3), None, add(4)), 2, 3, False),
        (log_of(None, remove(3), change(ConfChangeType.ADD_NODE, 3)), 2, 3, True),
        (log_of(add(3), remove(3), None), 2, 3, False),
        (log_of(remove(3), add(3), None, None, compacted=3), 1, 3, True),
        (log_of(remove(3), add(3), None, None, compacted=3), 1, 4, False),
        (log_of(remove(3), add(3), None, None, compacted=3), 4, 3, False),
    ],
)
async def test_whether_a_log_makes_a_node_a_member_again(
    log: MemoryRaftLog, index: int, node: int, expected: bool
) -> None:
    assert is_member_behind(log.storage(1), index, node) is expected


async def test_no_log_makes_nobody_a_member(cluster: "Cluster") -> None:
    await cluster.start()
    assert not cluster.nodes[1].host.logs.is_member_behind(9, 0)


async def test_hosts_tell_of_groups_that_come_and_of_each_change(cluster: "Cluster") -> None:
    await cluster.start()
    heard: list[tuple[int, tuple[int, ...], int]] = []
    follower = cluster.followers(await cluster.leader())[0]
    follower.host.on_members(
        lambda group: heard.append(
            (group.id, group.members.newest.learners, group.members.changed_at)
        )
    )
    leader = await propose_change(cluster, add(4))
    await cluster.wait(lambda: heard)
    assert heard == [(1, (4,), members(leader) and leader.host.groups[1].members.changed_at)]
    assert leader.host.groups[1].status().raft.progress[4].state is not ProgressState.SNAPSHOT
    assert follower.host.logs.groups == [1]


# -- removal -------------------------------------------------------------------------------------------


async def test_a_removed_member_that_stays_lets_those_who_stay_elect(
    cluster: "Cluster",
) -> None:
    """Only the leader and the one removed know that the removal is committed, and the leader dies: the two others are a
    majority of those who stay, and count four voters. The vote of the one removed makes them three of four.
    """
    await cluster.start((1, 2, 3, 4))
    leader = await cluster.leader()
    await cluster.propose(leader, b"a")
    await cluster.settle()
    gone, *others = cluster.followers(leader)
    deliver = cluster.network.deliver
    group = leader.host.groups[1]

    def is_told(payload: bytes) -> bool:
        return any(
            message.commit >= index
            for _, message in decode_frame(payload).messages
            for index in [group.storage.last_index()]
            if message.type in (MessageType.APPEND, MessageType.HEARTBEAT)
        )

    def keep_from_others(sender: int, to: int, channel: int, payload: bytes) -> None:
        if sender != leader.id or to == gone.id or channel != 1 or not is_told(payload):
            deliver(sender, to, channel, payload)

    cluster.network.deliver = keep_from_others  # type: ignore[method-assign]
    await propose_change(cluster, remove(gone.id))
    await cluster.wait(lambda: gone.id not in members(gone).voters)
    await leader.kill()
    cluster.network.deliver = deliver  # type: ignore[method-assign]
    assert all(gone.id in members(node).voters for node in others), "the moment: they don't know"
    elected = await cluster.leader()
    assert elected in others
    assert gone.id not in members(elected).voters


async def test_a_change_of_members_is_on_disk_once_it_is_applied(
    cluster: "Cluster",
) -> None:
    """Who was removed leaves by the word of those who applied it: a power cut must not take that back."""
    await cluster.start()
    leader = await cluster.leader()
    await cluster.propose(leader, b"a")
    await cluster.settle()
    for node in cluster.nodes.values():
        node.machines[1].flushes = False
    gone, stays = cluster.followers(leader)
    await propose_change(cluster, remove(gone.id))
    await cluster.wait(lambda: gone.id not in members(stays).voters)
    index = stays.host.groups[1].members.changed_at
    await stays.kill()
    assert stays.log.hard_state(1).commit >= index
