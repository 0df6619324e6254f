"""Disks that are full, fail or are slow, around a snapshot: who is at fault hears it, nobody else pays, and it ends."""

import asyncio
import errno
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mas.errors import CorruptData, DatabaseUnavailable, StorageError
from mas.multiraft import snapshot_receiver, snapshot_sender
from mas.multiraft.snapshots import (
    Done,
    Note,
    Offer,
    Pull,
    Request,
    Verdict,
    decode_message,
    encode_message,
    encode_note,
    incoming_path,
)
from mas.raft import ConfState, SnapshotMetadata
from tests.multiraft.test_snapshots import MARGIN, WRITES, leave_behind, messages

if TYPE_CHECKING:
    from tests.multiraft.conftest import Cluster, Node

pytestmark = pytest.mark.asyncio

IDLE = MARGIN["snapshot_idle_seconds"]
MARGINS = 10 * int(MARGIN["log_margin_entries"])


def log_length(node: "Node", group: int = 1) -> int:
    storage = node.log.storage(group)
    return storage.last_index() - storage.first_index() + 1


def files_of(node: "Node") -> list[Path]:
    return list(node.folder.glob("*.outgoing"))


def raising(error: Exception) -> Any:
    async def fail(*_: object) -> None:
        raise error

    return fail


async def write_on(cluster: "Cluster", leader: "Node", first: int, count: int) -> None:
    for start in range(first, first + count, 50):
        await cluster.propose(leader, *(b"w%d" % number for number in range(start, start + 50)))


async def test_a_follower_without_room_costs_its_leader_one_export(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ENOSPC said "the file is no good": the leader threw a good file away, 129 times in three seconds."""
    leader, follower = await leave_behind(cluster)
    write, tries = snapshot_receiver._write, []

    def full(path: Path, offset: int, data: bytes) -> None:
        if offset >= 256 << 10:
            tries.append(offset)
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, offset, data)

    with monkeypatch.context() as patch:
        patch.setattr(snapshot_receiver, "_write", full)
        await cluster.restart(follower)
        await asyncio.sleep(0.9 * IDLE)  # in which nobody has to delete a file that isn't asked for
        assert 1 <= len(tries) <= 5
        assert leader.files.exports == 1
        await asyncio.sleep(6.0)
        assert 3 <= len(tries) <= 9, "tried again, and less and less often"
        assert {done.verdict for done in messages(cluster, Done)} == {Verdict.NO_ROOM}
        assert list(follower.folder.glob("*.incoming")) == []
    await cluster.wait(lambda: follower.machines[1].data == WRITES, seconds=60)


async def test_nothing_is_received_that_finds_no_room(cluster: "Cluster") -> None:
    leader, follower = await leave_behind(cluster)
    follower.files.room = follower.files.padding
    await cluster.restart(follower)
    await cluster.wait(lambda: messages(cluster, Done))
    assert log_length(leader) < len(WRITES)
    await asyncio.sleep(5.0)
    assert not messages(cluster, Pull)
    [offer, *_] = messages(cluster, Offer)
    assert len(messages(cluster, Offer)) < 10
    assert {done.verdict for done in messages(cluster, Done)} == {Verdict.NO_ROOM}

    follower.files.room = 2 * offer.file.size
    await cluster.agree(*WRITES)  # the follower asks, as soon as it can
    assert messages(cluster, Request)


async def test_room_that_is_lost_on_the_way_ends_the_transfer(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch
) -> None:
    _, follower = await leave_behind(cluster)
    write = snapshot_receiver._write

    def shrink(path: Path, offset: int, data: bytes) -> None:
        write(path, offset, data)
        follower.files.room = -1

    with monkeypatch.context() as patch:
        patch.setattr(snapshot_receiver, "_write", shrink)
        await cluster.restart(follower)
        await cluster.wait(lambda: messages(cluster, Done))
    [done] = messages(cluster, Done)
    assert (done.verdict, done.why) == (
        Verdict.NO_ROOM,
        "what is left of the disk is the Raft log's",
    )
    assert list(follower.folder.glob("*.incoming")) == []
    follower.files.room = 1 << 30
    await cluster.agree(*WRITES)


async def test_an_export_that_fails_is_tried_after_pauses_that_grow(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The next heartbeat's answer asked for it again, and the leader's disk was full again."""
    leader, follower = await leave_behind(cluster)
    tries: list[float] = []

    async def full(group: int, path: Path) -> SnapshotMetadata:
        path.write_bytes(b"a part")
        tries.append(leader.clock.monotonic())
        raise DatabaseUnavailable("make room")

    with monkeypatch.context() as patch:
        patch.setattr(leader.files, "export", full)
        await cluster.restart(follower)
        await asyncio.sleep(4.0)
    gaps = [after - before for before, after in pairwise(tries)]
    assert 4 <= len(tries) <= 8
    assert all(after > 1.5 * before for before, after in pairwise(gaps))
    assert files_of(leader) == []
    assert "no snapshot could be exported" in caplog.text
    await cluster.wait(lambda: follower.machines[1].data == WRITES, seconds=60)


async def test_a_leader_whose_rows_are_damaged_hears_it_and_hands_over(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its exports never pass the check: it made them one after the other, and never heard why."""
    leader, follower = await leave_behind(cluster)
    third = next(node for node in cluster.followers(leader) if node is not follower)
    for node in (leader, follower):
        check = node.files.check

        async def refuse(group: int, path: Path, check: Any = check) -> SnapshotMetadata:
            metadata = await check(group, path)
            if path.suffix == ".outgoing" or metadata.index in bad:
                raise CorruptData("its rows have another state hash")
            return metadata

        monkeypatch.setattr(node.files, "check", refuse)
    export, bad = leader.files.export, set()

    async def damaged(group: int, path: Path) -> SnapshotMetadata:
        metadata = await export(group, path)
        bad.add(metadata.index)
        return metadata

    monkeypatch.setattr(leader.files, "export", damaged)
    await cluster.restart(follower)
    await cluster.wait(lambda: third.machines[1].is_leading, seconds=30)
    await cluster.propose(third, b"more")  # its own snapshot is of another index
    await cluster.agree(*WRITES, b"more")
    assert leader.files.exports <= 2
    assert "is no good at node" in caplog.text
    assert "what this node's database holds of it is damaged" in caplog.text


async def test_a_follower_whose_database_refuses_doesnt_hold_its_leaders_log(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each renewed offer held the log where it was, for ever: all 3,000 entries were kept."""
    leader, follower = await leave_behind(cluster)
    tries: list[str] = []

    async def refuse(*_: object) -> None:
        tries.append("install")
        raise DatabaseUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(follower.files, "install", refuse)
        await cluster.restart(follower)
        await cluster.wait(lambda: tries)
        for first in range(0, 3_000, 500):
            await write_on(cluster, leader, first, 500)
            await cluster.wait(lambda: log_length(leader) <= MARGINS + 20)
        assert leader.log.storage(1).first_index() > 2_900
        assert len(tries) > 1
        assert Verdict.WAITS in {done.verdict for done in messages(cluster, Done)}
    await cluster.wait(
        lambda: follower.machines[1].applied == leader.machines[1].applied, seconds=90
    )


async def test_nor_does_one_that_hardly_gets_on(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A piece every nine tenths of the leader's patience is a sign of life, and no way to an end."""
    leader, follower = await leave_behind(cluster)
    deliver, loop = cluster.network.deliver, asyncio.get_running_loop()

    def slowly(sender: int, to: int, channel: int, payload: bytes) -> None:
        if channel == 4 and sender == follower.id:
            loop.call_later(0.9 * IDLE, deliver, sender, to, channel, payload)
        else:
            deliver(sender, to, channel, payload)

    leader.files.padding = 8 << 20
    with monkeypatch.context() as patch:
        patch.setattr(snapshot_receiver, "_WINDOW_BYTES", 256 << 10)
        patch.setattr(cluster.network, "deliver", slowly)
        patch.setattr(snapshot_sender, "_BYTES_PER_SECOND_LEAST", 4 << 20)
        await cluster.restart(follower)
        await cluster.wait(lambda: messages(cluster, Pull))
        for first in range(0, 500, 50):
            await write_on(cluster, leader, first, 50)
            await asyncio.sleep(0.4)
        assert len(messages(cluster, Pull)) > 5, "it is at work all the time"
        assert log_length(leader) <= MARGINS + 20
    await cluster.wait(
        lambda: follower.machines[1].applied == leader.machines[1].applied, seconds=90
    )


async def test_a_transfer_that_gets_on_has_its_log_spared(cluster: "Cluster") -> None:
    """Else a busy group's follower would need another snapshot behind each."""
    leader, follower = await leave_behind(cluster)
    leader.files.padding = 8 << 20
    await cluster.restart(follower)
    await cluster.wait(lambda: messages(cluster, Pull))
    written = 0
    while not follower.files.installs:
        await write_on(cluster, leader, written, 50)
        written += 50
    assert written > 2 * MARGINS
    await cluster.settle()
    assert (leader.files.exports, follower.files.installs) == (1, 1)


async def test_a_file_that_nobody_asks_for_any_more_is_deleted(
    cluster: "Cluster",
) -> None:
    """It waited for the log to be cut beyond it, which a quiet bucket's never is."""
    leader, follower = await leave_behind(cluster)
    await cluster.restart(follower)
    await cluster.agree(*WRITES)
    assert len(files_of(leader)) == 1
    await asyncio.sleep(2.5 * IDLE)
    assert files_of(leader) == []
    [offer] = messages(cluster, Offer)
    assert leader.log.storage(1).first_index() <= offer.metadata.index + 1, (
        "the log goes on from it"
    )


async def test_a_node_that_lacks_many_buckets_fills_nobodys_disk(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch
) -> None:
    """All exports ran and lay there at once, a second copy of everything; and all came in at once."""
    groups = 20
    await cluster.start(groups=groups, **MARGIN)
    for group in cluster.groups:
        await cluster.leader(group)
    lost = cluster.nodes[3]
    cluster.network.cut.append(3)
    for group in cluster.groups:
        leader = await cluster.leader(group)
        for number in range(60):
            leader.machines[group].group.propose(number, b"%d" % number)
            if number % 20 == 19:
                await cluster.wait(
                    lambda leader=leader, group=group, last=b"%d" % number: (
                        last in leader.machines[group].data
                    )
                )
    others = [cluster.nodes[1], cluster.nodes[2]]
    await cluster.wait(
        lambda: all(
            node.log.storage(group).first_index() > 20
            for node in others
            for group in cluster.groups
        )
    )
    deliver, late = cluster.network.deliver, asyncio.get_running_loop().time() + 0.5 * IDLE

    def slowly(sender: int, to: int, channel: int, payload: bytes) -> None:
        """Nobody gets anything at first, so that all that may come in at once does."""
        is_pull = channel == 4 and isinstance(decode_message(payload), Pull)
        if not is_pull or asyncio.get_running_loop().time() > late:
            deliver(sender, to, channel, payload)

    monkeypatch.setattr(cluster.network, "deliver", slowly)
    cluster.network.cut.clear()
    most_out = most_in = 0

    def is_done() -> bool:
        nonlocal most_out, most_in
        most_out = max(most_out, *(len(files_of(node)) for node in others))
        most_in = max(
            most_in, sum(lost.host.receiving(group) is not None for group in cluster.groups)
        )
        return all(len(lost.machines[group].data) == 60 for group in cluster.groups)

    await cluster.wait(is_done, seconds=120)
    assert lost.files.installs == groups
    assert most_in == 4
    assert 4 < most_out <= 8
    assert Verdict.BUSY in {done.verdict for done in messages(cluster, Done)}


@pytest.mark.parametrize("step", ["_sync_and_digest", "check"])
async def test_a_file_that_cant_be_read_back_is_fetched_again(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """EIO at the file's fsync, and whatever else a disk says of it, ended the process."""
    _, follower = await leave_behind(cluster)
    failures: list[str] = []
    check, digest = follower.files.check, snapshot_receiver._sync_and_digest

    def fail_digest(path: Path) -> bytes:
        if len(failures) < 2:
            failures.append(step)
            raise OSError(errno.EIO, "Input/output error")
        return digest(path)

    async def fail_check(group: int, path: Path) -> SnapshotMetadata:
        if len(failures) < 2:
            failures.append(step)
            raise StorageError("the file can't be read")
        return await check(group, path)

    if step == "check":
        monkeypatch.setattr(follower.files, "check", fail_check)
    else:
        monkeypatch.setattr(snapshot_receiver, "_sync_and_digest", fail_digest)
    await cluster.restart(follower)
    await cluster.wait(lambda: follower.machines[1].data == WRITES, seconds=30)
    assert failures == [step] * 2
    assert [done.verdict for done in messages(cluster, Done)].count(Verdict.FAILED) == 2


@pytest.mark.parametrize(
    "error", [CorruptData("database disk image is malformed"), StorageError("EIO")]
)
async def test_an_installation_that_fails_for_good_stops_its_replica_alone(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch, error: StorageError
) -> None:
    """Behind the note. It ended the process, and with it the node's other buckets."""
    await cluster.start(groups=2, **MARGIN)
    leader = await cluster.leader()
    follower = next(node for node in cluster.followers(leader))
    await cluster.settle()
    cluster.network.cut.append(follower.id)
    await write_on(cluster, leader, 0, 100)
    await cluster.wait(lambda: leader.log.storage(1).first_index() > 20)
    monkeypatch.setattr(follower.files, "install", raising(error))
    cluster.network.cut.clear()

    group = follower.machines[1].group
    await cluster.wait(lambda: group.error is not None)
    assert group.error is error
    assert follower.log.note(1) is not None
    other = await cluster.leader(2)
    await cluster.propose(other, b"goes on", group=2)
    await cluster.wait(lambda: follower.machines[2].data == [b"goes on"])
    assert not follower.task.done()


async def test_a_start_that_cant_finish_an_installation_does_without(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bucket's note kept the whole node from starting, and on a full disk each start filled it again."""
    _, follower = await leave_behind(cluster)
    install = follower.files.install
    hangs = asyncio.Event()

    async def hang(group: int, path: Path) -> None:
        hangs.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(follower.files, "install", hang)
    await cluster.restart(follower)
    await cluster.wait(hangs.is_set)
    await follower.kill()
    assert follower.log.note(1) is not None

    monkeypatch.setattr(follower.files, "install", raising(DatabaseUnavailable("make room")))
    await cluster.restart(follower)
    assert follower.log.note(1) is None
    assert list(follower.folder.glob("*.incoming")) == []
    monkeypatch.setattr(follower.files, "install", install)
    await cluster.wait(lambda: follower.machines[1].data == WRITES, seconds=60)


async def test_a_file_that_isnt_the_notes_is_not_installed(
    cluster: "Cluster", make_node: "type[Node]", tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = make_node(1, cluster.network, tmp_path)
    batch = node.log.batch()
    batch.create(1, ConfState(voters=(1,)))
    batch.set_note(1, encode_note(Note(SnapshotMetadata(9, 2, ConfState(voters=(1,))))))
    batch.commit(sync=True)
    node.folder.mkdir(parents=True)
    node.databases[1] = type(node.databases.get(1))() if node.databases.get(1) else _rows(7, 2)
    await node.files.export(1, incoming_path(node.folder, 1))
    node.databases.clear()
    await node.start({1: (1,)})
    assert node.databases[1].applied == 0
    assert node.log.note(1) is None
    assert "the note in the log is of 9 of term 2" in caplog.text


def _rows(applied: int, term: int) -> Any:
    from tests.multiraft.conftest import Rows

    return Rows(applied, term, [])


async def test_an_export_that_ends_behind_an_installation_is_dropped(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked its membership up in a log that began later by then: an assertion, and the process ended."""
    await cluster.start(**MARGIN)
    leader = await cluster.leader()
    await cluster.settle()
    follower, third = cluster.followers(leader)
    gate, export = asyncio.Event(), follower.files.export

    async def slow(group: int, path: Path) -> SnapshotMetadata:
        metadata = await export(group, path)
        await gate.wait()
        return metadata

    monkeypatch.setattr(follower.files, "export", slow)
    follower.host.on_snapshot_frame(third.id, encode_message(Request(1, 0)))
    await cluster.wait(lambda: follower.files.exports)
    cluster.network.cut.append(follower.id)
    await write_on(cluster, leader, 0, 100)
    await cluster.wait(lambda: leader.log.storage(1).first_index() > 60)
    cluster.network.cut.clear()
    await cluster.wait(lambda: follower.files.installs)
    gate.set()
    await cluster.settle()
    await asyncio.sleep(0.1)
    assert not follower.task.done()
    assert files_of(follower) == []
