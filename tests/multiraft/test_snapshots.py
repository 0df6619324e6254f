"""A follower that is too far behind gets the state as a file, and no crash on the way loses or mixes anything (rule 28)."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mas.errors import CorruptData, DatabaseUnavailable
from mas.multiraft import Restored, snapshot_receiver
from mas.multiraft.snapshots import (
    Note,
    Offer,
    Piece,
    Pull,
    SnapshotMessage,
    decode_message,
    encode_note,
)
from mas.raft import ConfState, Entry, HardState, SnapshotMetadata

if TYPE_CHECKING:
    from tests.multiraft.conftest import Cluster, Node

pytestmark = pytest.mark.asyncio

STEPS = ["snapshot.received", "snapshot.noted", "snapshot.installed", "snapshot.restored"]
MARGIN = {"log_margin_entries": 4, "snapshot_idle_seconds": 0.5}
WRITES = [b"%d" % number for number in range(100)]


class Crash(Exception):
    pass


async def write_all(cluster: "Cluster", leader: "Node") -> None:
    for number, data in enumerate(WRITES):
        leader.machines[1].group.propose(number, data)
        if number % 10 == 9:
            await cluster.wait(lambda data=data: data in leader.machines[1].data)


async def leave_behind(cluster: "Cluster", **settings: float) -> "tuple[Node, Node]":
    """A follower is away until its leader's log has been cut; returns both."""
    await cluster.start(**(MARGIN | settings))
    leader = await cluster.leader()
    await cluster.settle()
    follower = cluster.followers(leader)[0]
    await follower.kill()
    await write_all(cluster, leader)
    await cluster.wait(lambda: leader.log.storage(1).first_index() > 20)
    return leader, follower


def messages(cluster: "Cluster", kind: type[SnapshotMessage]) -> list[SnapshotMessage]:
    return [
        message
        for *_, channel, payload in cluster.network.sent
        if channel == 4 and isinstance(message := decode_message(payload), kind)
    ]


async def test_follower_too_far_behind_gets_a_snapshot(cluster: "Cluster") -> None:
    leader, follower = await leave_behind(cluster)
    await cluster.restart(follower)

    await cluster.agree(*WRITES)

    machine = follower.machines[1]
    restored = [event for event in machine.events if isinstance(event, Restored)]
    assert len(restored) == 1
    assert restored[0].conf_state.voters == (1, 2, 3)
    assert follower.log.note(1) is None
    assert follower.log.storage(1).first_index() >= 20
    await cluster.propose(leader, b"more")
    await cluster.agree(*WRITES, b"more")


async def test_follower_votes_and_leads_after_a_snapshot(cluster: "Cluster") -> None:
    leader, follower = await leave_behind(cluster)
    await cluster.restart(follower)
    await cluster.agree(*WRITES)
    third = next(node for node in cluster.followers(leader) if node is not follower)
    await third.kill()
    await cluster.propose(leader, b"more")
    await leader.kill()
    await cluster.restart(third)

    await cluster.propose(await cluster.leader(), b"last")

    await cluster.agree(*WRITES, b"more", b"last")


async def test_one_export_serves_two_followers(cluster: "Cluster") -> None:
    await cluster.start(nodes=(1, 2, 3, 4, 5), **MARGIN)
    leader = await cluster.leader()
    await cluster.settle()
    away = cluster.followers(leader)[:2]
    for node in away:
        await node.kill()
    await write_all(cluster, leader)
    await cluster.wait(lambda: leader.log.storage(1).first_index() > 20)
    for node in away:
        await cluster.restart(node)

    await cluster.agree(*WRITES)

    assert leader.files.exports == 1


async def test_log_is_cut_with_a_margin_and_files_are_deleted(cluster: "Cluster") -> None:
    leader, follower = await leave_behind(cluster)
    await cluster.restart(follower)
    await cluster.agree(*WRITES)
    await cluster.propose(leader, b"more")
    for data in WRITES:
        await cluster.propose(leader, b"again" + data)

    storage = leader.log.storage(1)
    await cluster.wait(lambda: storage.last_index() - storage.first_index() < 10)
    assert storage.last_index() - storage.first_index() >= 3
    await cluster.wait(lambda: not [*leader.folder.iterdir(), *follower.folder.iterdir()])


async def test_log_is_kept_behind_what_the_database_has(cluster: "Cluster") -> None:
    await cluster.start(nodes=(1,), **MARGIN)
    node = await cluster.leader()
    node.machines[1].flushes = False
    await write_all(cluster, node)

    ticks = node.host.statistics().turns
    await cluster.wait(lambda: node.host.statistics().turns > ticks + 20)
    assert node.log.storage(1).first_index() <= 2

    node.machines[1].flushes = True
    node.machines[1].flush()
    await cluster.wait(lambda: node.log.storage(1).first_index() > 90)


@pytest.mark.parametrize("step", STEPS)
async def test_crash_at_each_step_of_an_installation(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch, step: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")
    _, follower = await leave_behind(cluster)
    hard_state = follower.log.storage(1).initial_state()[0]

    def crash(name: str) -> None:
        if name == step:
            raise Crash(name)

    monkeypatch.setattr(snapshot_receiver, "failpoint", crash)
    await cluster.restart(follower)
    with pytest.raises(Crash, match=step):
        await follower.task
    monkeypatch.undo()
    await follower.kill()

    # Old state or new, never a mix; a note exactly while a start has work to finish.
    database, log = follower.databases[1], follower.log.storage(1)
    assert (database.applied > log.last_index()) == (step == "snapshot.installed")
    assert (follower.log.note(1) is not None) == (step in STEPS[1:3])
    assert log.initial_state()[0].term >= hard_state.term
    await cluster.restart(follower)
    assert follower.log.note(1) is None
    await cluster.agree(*WRITES)
    assert follower.host.groups[1].status().error == ""


async def test_start_without_the_file_keeps_the_old_state(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")
    _, follower = await leave_behind(cluster)

    def crash(name: str) -> None:
        if name == "snapshot.noted":
            raise Crash(name)

    monkeypatch.setattr(snapshot_receiver, "failpoint", crash)
    await cluster.restart(follower)
    with pytest.raises(Crash):
        await follower.task
    monkeypatch.undo()
    await follower.kill()
    (follower.folder / "bucket-1.incoming").write_bytes(b"damaged")

    await cluster.restart(follower)

    assert follower.databases[1].data == []
    await cluster.agree(*WRITES)


async def test_a_voter_keeps_the_entries_behind_the_snapshot(cluster: "Cluster") -> None:
    """A database that lost its rows takes a snapshot for itself; what the log acknowledged stays."""
    await cluster.start(**MARGIN)
    leader = await cluster.leader()
    await write_all(cluster, leader)
    await cluster.agree(*WRITES)
    follower = cluster.followers(leader)[0]
    await cluster.wait(lambda: follower.log.storage(1).first_index() > 20)
    await follower.kill()
    last, hard_state = (
        follower.log.storage(1).last_index(),
        follower.log.storage(1).initial_state()[0],
    )
    del follower.databases[1]

    await cluster.restart(follower)

    assert follower.host.groups[1].status().awaiting_snapshot
    assert follower.log.storage(1).last_index() == last
    await cluster.agree(*WRITES)
    assert follower.log.storage(1).last_index() >= last
    assert follower.log.storage(1).initial_state()[0].term >= hard_state.term
    assert not follower.host.groups[1].status().awaiting_snapshot


async def test_a_leader_without_its_state_steps_aside(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.start(**MARGIN)
    leader = await cluster.leader()
    await write_all(cluster, leader)
    await cluster.agree(*WRITES)
    nodes = list(cluster.nodes.values())
    await cluster.wait(lambda: all(node.log.storage(1).first_index() > 20 for node in nodes))
    for node in nodes:
        await node.kill()
    lost = nodes[0]
    del lost.databases[1]
    may_export = asyncio.Event()
    for node in nodes:
        export = node.files.export

        async def wait_and_export(
            group: int, path: Path, export: Callable[..., Any] = export
        ) -> SnapshotMetadata:
            await may_export.wait()
            return await export(group, path)

        monkeypatch.setattr(node.files, "export", wait_and_export)
        await cluster.restart(node)
    lost.host.groups[1].campaign()

    assert await cluster.leader() is not lost
    may_export.set()
    await cluster.agree(*WRITES)


async def test_a_sender_that_dies_is_not_waited_for(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is behind its log was never offered anything by others, once one had made an offer."""
    await cluster.start(**MARGIN)
    leader = await cluster.leader()
    await write_all(cluster, leader)
    await cluster.agree(*WRITES)
    lost = cluster.followers(leader)[0]
    await cluster.wait(lambda: lost.log.storage(1).first_index() > 20)
    await lost.kill()
    del lost.databases[1]
    deliver = cluster.network.deliver
    offered: list[int] = []

    def cut_off(sender: int, to: int, channel: int, payload: bytes) -> None:
        if channel == 4 and to == lost.id:
            if not offered:
                offered.append(sender)
            elif sender == offered[0]:
                return
        deliver(sender, to, channel, payload)

    monkeypatch.setattr(cluster.network, "deliver", cut_off)
    await cluster.restart(lost)

    await cluster.agree(*WRITES)
    assert offered


async def test_transfer_resumes_where_the_connection_broke(cluster: "Cluster") -> None:
    leader, follower = await leave_behind(cluster, snapshot_idle_seconds=60)
    leader.files.padding = 6_000_000
    await cluster.restart(follower)
    await cluster.wait(lambda: len(messages(cluster, Piece)) > 10)
    cluster.network.cut.append(follower.id)
    leader.host.on_peer(follower.id, up=False)
    pulled = len(messages(cluster, Pull))
    cluster.network.cut.clear()

    await cluster.agree(*WRITES)

    assert messages(cluster, Pull)[pulled].offset > 0
    assert leader.files.exports == 1
    assert len(messages(cluster, Offer)) >= 2


async def test_lost_pieces_and_offers_come_again(cluster: "Cluster") -> None:
    _, follower = await leave_behind(cluster)
    cluster.network.losses += [4, 4, 4]
    await cluster.restart(follower)

    await cluster.agree(*WRITES)


async def test_damaged_file_is_refused_and_offered_again(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, follower = await leave_behind(cluster)
    check, refusals = follower.files.check, [CorruptData("state hash")]

    async def fail_once(group: int, path: Path) -> SnapshotMetadata:
        if refusals:
            raise refusals.pop()
        return await check(group, path)

    monkeypatch.setattr(follower.files, "check", fail_once)
    await cluster.restart(follower)

    await cluster.agree(*WRITES)
    assert "no good" in caplog.text
    assert follower.files.installs == 1


async def test_a_file_that_was_damaged_where_it_lies_is_exported_anew(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was offered again and again, and refused each time."""
    leader, follower = await leave_behind(cluster)
    await cluster.restart(follower)
    damaged: list[Path] = []
    deliver = cluster.network.deliver

    def damage(sender: int, to: int, channel: int, payload: bytes) -> None:
        if channel == 4 and not damaged and isinstance(decode_message(payload), Pull):
            [file] = leader.folder.glob("*.outgoing")
            content = file.read_bytes()
            file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            damaged.append(file)
        deliver(sender, to, channel, payload)

    monkeypatch.setattr(cluster.network, "deliver", damage)

    await cluster.agree(*WRITES)
    assert damaged
    assert leader.files.exports == 2


async def test_an_export_that_failed_leaves_no_file(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk was filled by the tries to come: the file that couldn't be read stayed beside the next."""
    from mas.multiraft import snapshot_sender

    read_digest, failures = snapshot_sender.read_digest, [OSError(5, "Input/output error")] * 3
    left: list[int] = []

    def failing(path: Path) -> bytes:
        left.append(len(list(path.parent.glob("*.outgoing"))))
        if failures:
            raise failures.pop()
        return read_digest(path)

    monkeypatch.setattr(snapshot_sender, "read_digest", failing)
    _, follower = await leave_behind(cluster)
    await cluster.restart(follower)
    await cluster.agree(*WRITES)
    assert left == [1, 1, 1, 1]


async def test_a_start_deletes_what_was_being_exported(cluster: "Cluster") -> None:
    await cluster.start()
    node = cluster.nodes[1]
    await node.kill()
    for name in ("bucket-1.1.outgoing", "bucket-1.2.outgoing.partial"):
        (node.folder / name).write_bytes(b"x")
    await cluster.restart(node)
    assert list(node.folder.iterdir()) == []


async def test_other_bytes_than_offered_are_refused(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, follower = await leave_behind(cluster)
    await cluster.restart(follower)
    garbled: list[bytes] = []
    deliver = cluster.network.deliver

    def garble(sender: int, to: int, channel: int, payload: bytes) -> None:
        if channel == 4 and not garbled and isinstance(decode_message(payload), Piece):
            garbled.append(payload)
            payload = payload[:-1] + bytes([payload[-1] ^ 1])
        deliver(sender, to, channel, payload)

    monkeypatch.setattr(cluster.network, "deliver", garble)

    await cluster.agree(*WRITES)
    assert garbled
    assert "isn't the file" in caplog.text


async def test_database_that_is_down_is_waited_for(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(snapshot_receiver, "_RETRY_SECONDS", 0.001)
    _, follower = await leave_behind(cluster)
    install, refusals = follower.files.install, [DatabaseUnavailable("down")] * 3

    async def fail(group: int, path: Path) -> None:
        if refusals:
            raise refusals.pop()
        await install(group, path)

    monkeypatch.setattr(follower.files, "install", fail)
    await cluster.restart(follower)

    await cluster.agree(*WRITES)
    assert caplog.text.count("waits for the database: down") == 3


async def test_nothing_is_installed_before_the_old_state_is_flushed(cluster: "Cluster") -> None:
    """Else a flush of the old state would meet the new rows, and take them for a database gone wrong (rule 25)."""
    await cluster.start(**MARGIN)
    leader = await cluster.leader()
    follower = cluster.followers(leader)[0]
    machine = follower.machines[1]
    machine.flushes = False
    await cluster.propose(leader, b"early")
    await cluster.agree(b"early")
    cluster.network.cut.append(follower.id)
    await write_all(cluster, leader)
    await cluster.wait(lambda: leader.log.storage(1).first_index() > 20)
    cluster.network.cut.clear()
    await cluster.wait(lambda: machine.group.apply_queue.paused)

    turns = follower.host.statistics().turns
    await cluster.wait(lambda: follower.host.statistics().turns > turns + 10)
    assert follower.files.installs == 0
    assert follower.log.note(1) is None

    machine.flushes = True
    machine.flush()
    await cluster.agree(b"early", *WRITES)
    assert follower.files.installs == 1


async def test_settled_note_brings_the_log_to_the_database(
    make_node: "type[Node]", cluster: "Cluster", tmp_path: Path
) -> None:
    node = make_node(1, cluster.network, tmp_path)
    batch = node.log.batch()
    conf_state = ConfState(voters=(1, 2, 3))
    batch.create(1, conf_state)
    batch.append(1, [Entry(1, 1), Entry(2, 1), Entry(3, 2), Entry(4, 2)])
    batch.set_hard_state(1, HardState(3, 2, 1))
    batch.set_note(1, encode_note(Note(SnapshotMetadata(3, 2, conf_state))))
    batch.commit(sync=True)

    snapshot_receiver.settle_note(node.log, 1, applied=3)

    storage = node.log.storage(1)
    assert (storage.first_index(), storage.last_index()) == (4, 4)
    assert storage.initial_state()[0] == HardState(3, 2, 1)
    assert node.log.note(1) is None
