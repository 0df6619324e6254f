"""The replicas of a node: what the roster says is opened or erased, whatever comes late, twice, or in the middle of it."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from mas.daemon import replicas as module
from mas.daemon.replicas import ReplicaParts, Replicas
from mas.errors import CorruptData, DatabaseUnavailable, StorageError, Unavailable
from mas.ledger import LEDGER_VERSION, Proposal, encode
from mas.ledger.rows import NodeRow
from mas.membership import BucketMembers, Membership, Roster
from mas.membership.roster import founding_roster
from mas.multiraft import HostConfig, RaftHost, WorkerThread
from mas.multiraft.frames import encode_frame
from mas.raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    ConfState,
    Entry,
    EntryType,
    Message,
    MessageType,
)
from mas.resource import ReplicaAdmin, ResourceSettings
from mas.resource.applier import Applier
from mas.rpc.messages import ReadReplica, ReplicaState, ReplicaView
from mas.rpc.server import BucketServer
from mas.runtime import Supervisor, SystemClock
from mas.storage.account_db.rocksdb import RocksAccountDB
from mas.storage.raft_log.memory import MemoryRaftLog

pytestmark = pytest.mark.asyncio

NODE = 3
SETTINGS = ResourceSettings(cluster="mas", buckets=2, flush_pause=0.01)
FOUNDED = founding_roster((NodeRow(NODE, "me:1", ("rm",)),), {1: (NODE,), 2: (NODE,)})
ELSEWHERE = founding_roster((NodeRow(NODE, "me:1", ("rm",)),), {1: (8,), 2: (8,)})


class Crash(Exception):
    """The process dies here."""


class Peers:
    """Nobody else is there."""

    def send(self, peer: int, channel: int, payload: bytes) -> bool:
        return False

    def is_connected(self, peer: int) -> bool:
        return False

    def add_peer(self, node: int, address: str = "") -> None: ...

    def remove_peer(self, node: int) -> None: ...


class RosterFile:
    def __init__(self, roster: Roster) -> None:
        self.roster = roster

    def write(self, roster: Roster) -> None:
        self.roster = roster


class Others:
    """The other nodes: what they say of a bucket, as whoever is asked about it."""

    def __init__(self) -> None:
        self.know: set[int] | None = None
        """Those who have applied everything; None: all."""
        self.asked: list[tuple[int, int]] = []

    async def query(
        self, bucket: int, request: object, timeout: float, *, replica: int = 0
    ) -> ReplicaView:
        self.asked.append((bucket, replica))
        await asyncio.sleep(0)
        if self.know is not None and replica not in self.know:
            raise Unavailable(f"node {replica} doesn't answer")
        return ReplicaView(
            0, bucket, replica, ReplicaState.RUNNING, applied=1_000, voters=(replica,)
        )


class World:
    """What survives a crash (log, database, roster file), and the process that doesn't."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = MemoryRaftLog()
        self.roster_file = RosterFile(FOUNDED)
        self.others = Others()
        self.calls: list[str] = []
        self.before: dict[str, Callable[[], Awaitable[None] | None]] = {}
        self.after: dict[str, Callable[[], Awaitable[None] | None]] = {}
        self.is_running = False

    async def start(self) -> None:
        self.calls.clear()
        clock = SystemClock()
        self.database = RocksAccountDB.connect(self.folder / "db", "mas", NODE)
        self.threads = [WorkerThread("log"), WorkerThread("files")]
        self.membership = Membership(NODE, self.roster_file.roster, Peers(), self.roster_file)
        self.host = RaftHost(
            HostConfig(node=NODE, snapshot_folder=self.folder / "snapshots", tick_ms=5),
            log=self.log,
            log_thread=self.threads[0],
            peers=Peers(),
            snapshots=self.database,
            file_thread=self.threads[1],
            clock=clock,
            dice=Random(NODE),
        )
        await self.host.finish_snapshots()
        self.door = ReplicaAdmin(NODE, self.host)
        server = BucketServer(Peers(), self.door.answer)
        for owner, name, step in [
            (self.database, "open", "open"),
            (self.database, "erase", "erase"),
            (self.host.logs, "create", "create_log"),
            (self.host.logs, "erase", "erase_log"),
        ]:
            setattr(owner, name, self._noting(step, getattr(owner, name)))
        parts = ReplicaParts(
            self.membership,
            self.host,
            self.database,
            server,
            self.door,
            self.others,
            proposer=77,
        )
        self.supervisor = Supervisor()
        self.replicas = Replicas(NODE, parts, clock, SETTINGS, self.supervisor)
        self.is_running = True
        await self.replicas.open_all()
        self.supervisor.spawn("host", self.host.run())
        self.supervisor.spawn("replicas", self.replicas.run())

    def _noting(self, name: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        async def noting(*arguments: object, **options: object) -> object:
            self.calls.append(name)
            await _run(self.before.get(name))
            result = await method(*arguments, **options)
            await _run(self.after.get(name))
            return result

        return noting

    async def crash(self) -> None:
        if not self.is_running:
            return
        self.is_running = False
        await self.supervisor.stop()
        for thread in self.threads:
            thread.close()
        await self.database.close()
        self.log.crash()
        self.before, self.after = {}, {}

    async def restart(self) -> None:
        await self.crash()
        await self.start()

    def learn(self, bucket: int, index: int, voters: tuple[int, ...], *learners: int) -> None:
        founders = self.roster_file.roster.holders()[bucket].founders
        held = BucketMembers(bucket, founders, index, voters, learners)
        self.membership.learn(Roster(buckets=(held,)))

    def view(self, bucket: int = 1) -> ReplicaView:
        view = self.door.answer(ReadReplica(0, bucket))
        assert isinstance(view, ReplicaView)
        return view

    async def wait(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                assert self.supervisor._failure is None, self.supervisor._failure
                await asyncio.sleep(0.001)

    async def wait_state(self, state: ReplicaState, bucket: int = 1) -> None:
        await self.wait(lambda: self.view(bucket).state is state)

    async def wait_led(self, bucket: int = 1) -> None:
        await self.wait(lambda: self.view(bucket).leading and self.view(bucket).flushed)

    async def wait_anew(self) -> None:
        """Open again with an empty log: it may not lead before a leader's log has made it a member."""
        await self.wait_state(ReplicaState.RUNNING)
        turns = self.host.statistics().turns
        await self.wait(lambda: self.host.statistics().turns > turns + 40)
        assert (self.view().leading, self.view().last_index) == (False, 0)

    async def wait_dead(self) -> None:
        async with asyncio.timeout(10):
            with pytest.raises(Crash):
                await self.supervisor.wait()

    def is_erased(self, bucket: int = 1) -> bool:
        storage = self.log.storage(bucket)
        return (storage.first_index(), storage.last_index()) == (1, 0)


async def _run(action: Callable[[], Awaitable[None] | None] | None) -> None:
    outcome = action() if action is not None else None
    if outcome is not None:
        await outcome


def die() -> None:
    raise Crash


@pytest_asyncio.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.01)
    made = World(tmp_path)
    yield made
    await made.crash()


# -- as the roster says --------------------------------------------------------------------------------


async def test_what_the_roster_says_is_held_from_the_start(world: World) -> None:
    await world.start()
    await world.wait_led(1)
    await world.wait_led(2)
    assert world.membership.roster.holders()[1].index == 0


async def test_a_replica_that_is_held_no_more_is_erased_but_for_term_and_vote(world: World) -> None:
    await world.start()
    await world.wait_led()
    before = world.log.hard_state(1)
    rows = await world.database.bucket_row(1)
    assert rows is not None
    assert rows.applied > 0
    world.learn(1, 9, (8,))
    await world.wait_state(ReplicaState.ABSENT)
    assert world.is_erased()
    after = world.log.hard_state(1)
    assert (after.term, after.vote) == (before.term, before.vote) == (before.term, NODE)
    assert await world.database.bucket_row(1) is None
    assert "account-service-1" not in [task.get_name() for task in asyncio.all_tasks()]
    assert list(world.replicas._server._offers) == [2]
    await world.wait_led(2)


@pytest.mark.parametrize("restarted", [False, True])
async def test_consensus_b1_a_removed_replica_stays_until_a_majority_of_those_who_stay_knows(
    world: World, *, restarted: bool
) -> None:
    """It left by its own knowledge: when the few who knew died, the majority that stayed waited for its vote for ever."""
    await world.start()
    await world.wait_led()
    world.others.know = {6}
    world.learn(1, 9, (6, 7, 8))
    for lives in range(1, 3 if restarted else 2):
        world.others.asked.clear()
        await world.wait(lambda: world.others.asked.count((1, 7)) > 2)
        assert world.calls.count("erase") == 0
        group = world.host.groups[1]
        term = group.hard_state.term + 1
        asks = Message(
            MessageType.VOTE, NODE, 8, term, log_term=term - 1, index=99, context=b"transfer"
        )
        world.host.on_frame(8, encode_frame(1, [(1, asks)]))
        await world.wait(lambda term=term: world.log.hard_state(1).term == term)
        assert world.log.hard_state(1).vote == 8, "it votes for those who stay"
        if lives == 1 and restarted:
            world.roster_file.roster = world.membership.roster
            await world.restart()
    world.others.know = {6, 8}
    await world.wait_state(ReplicaState.ABSENT)
    assert world.is_erased()


async def test_consensus_b1_who_was_asked_about_one_removal_is_asked_again_about_the_next(
    world: World,
) -> None:
    await world.start()
    await world.wait_led()
    world.learn(1, 9, (8,))
    await world.wait_state(ReplicaState.ABSENT)
    world.learn(1, 12, (8,), NODE)
    await world.wait_state(ReplicaState.RUNNING)
    world.others.know = set()
    world.learn(1, 15, (8,))
    world.others.asked.clear()
    await world.wait(lambda: world.others.asked.count((1, 8)) > 2)
    assert world.view().state is ReplicaState.RUNNING
    world.learn(1, 18, (8, NODE))
    await world.wait_state(ReplicaState.RUNNING)
    world.others.know = None
    for _ in range(20):
        await asyncio.sleep(0.002)
    assert world.calls.count("erase") == 1


async def test_a_replica_that_is_added_again_begins_anew(world: World) -> None:
    await world.start()
    await world.wait_led()
    term = world.view().term
    world.learn(1, 9, (8,))
    await world.wait_state(ReplicaState.ABSENT)
    world.learn(1, 12, (NODE,))
    await world.wait_anew()
    assert world.view().term == term


async def test_a_new_replica_is_opened_while_the_host_runs(world: World) -> None:
    world.roster_file.roster = ELSEWHERE
    await world.start()
    assert world.view().state is ReplicaState.ABSENT
    world.learn(2, 5, (8,), NODE)
    await world.wait_state(ReplicaState.RUNNING, 2)
    assert world.view(1).state is ReplicaState.ABSENT
    assert world.view(2).voters == (8,), "its log begins with those that the bucket began with"


async def test_old_news_open_and_erase_nothing(world: World) -> None:
    await world.start()
    await world.wait_led()
    world.learn(1, 12, (NODE,))
    world.learn(1, 9, (8,))
    await world.restart()
    await world.wait_led()
    assert "erase" not in world.calls


async def test_what_a_group_applies_is_news(world: World) -> None:
    await world.start()
    await world.wait_led()
    change = ConfChange((ConfChangeSingle(ConfChangeType.ADD_LEARNER, 4),))
    world.host.groups[1].change_members(change)
    await world.wait(lambda: world.membership.roster.holders()[1].learners == (4,))
    assert world.membership.roster.holders()[1].index > 0
    assert world.membership.roster.holders()[1].founders == (NODE,)


# -- what one replica can't do -------------------------------------------------------------------------


async def test_consensus_c4_an_entry_of_a_newer_program_stops_its_bucket_alone(
    world: World,
) -> None:
    """It ended the process, and again at every start, and with it all other buckets (rule 16)."""
    await world.start()
    await world.wait_led(1)
    await world.wait_led(2)
    newer = Proposal(proposer=1, number=1, time_us=1, batches=(), version=LEDGER_VERSION + 1)
    world.host.groups[1].propose(1, encode(newer))
    for _ in range(2):
        await world.wait_state(ReplicaState.STOPPED)
        assert "run the newer program on this node" in world.view().trouble
        assert list(world.replicas._server._offers) == [2]
        await world.restart()
        await world.wait_led(2)


def fail_in_bucket_1(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    apply = Applier.apply

    async def fail(applier: Applier, entries: tuple[Entry, ...]) -> None:
        if applier._replica.bucket == 1:
            raise error
        await apply(applier, entries)

    monkeypatch.setattr(Applier, "apply", fail)


@pytest.mark.parametrize("error", [RecursionError("deep"), CorruptData("a row is damaged")])
async def test_consensus_c4_what_a_bucket_raises_stops_its_bucket_alone(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    await world.start()
    await world.wait_led(1)
    await world.wait_led(2)

    fail_in_bucket_1(monkeypatch, error)
    world.host.groups[1].propose(1, b"anything")
    await world.wait_state(ReplicaState.STOPPED)
    assert str(error) in world.view().trouble
    await world.wait_led(2)
    world.learn(1, 9, (8,))
    await world.wait_state(ReplicaState.ABSENT)


async def test_a_database_that_failed_ends_the_process(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All its buckets share it."""
    await world.start()
    await world.wait_led(1)

    fail_in_bucket_1(monkeypatch, StorageError("the disk is gone"))
    world.host.groups[1].propose(1, b"anything")
    with pytest.raises(StorageError):
        async with asyncio.timeout(10):
            await world.supervisor.wait()


# -- what the erasure rests on -------------------------------------------------------------------------


async def test_consensus_a1_a_roster_file_that_was_edited_erases_nothing(world: World) -> None:
    """Erased by an edited file, and opened again by a mended one, the replica had an empty log and
    voted with it.
    """
    await world.start()
    await world.wait_led()
    await world.crash()
    last = world.log.storage(1).last_index()
    assert last > 0
    world.roster_file.roster = ELSEWHERE
    await world.start()
    await world.wait(lambda: "nothing is erased" in world.view().trouble)
    assert world.view().state is ReplicaState.STOPPED
    assert world.calls.count("erase") == 0
    world.roster_file.roster = FOUNDED
    await world.restart()
    await world.wait_led()
    assert world.log.storage(1).last_index() >= last


async def test_consensus_a1_rows_and_logs_of_another_cluster_are_not_served(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What all must agree on is compared with what was kept: the bucket count, and the voters that a log began with."""
    await world.start()
    await world.wait_led(1)
    await world.wait_led(2)
    await world.crash()
    more = msgspec.structs.replace(SETTINGS, buckets=3)
    monkeypatch.setitem(globals(), "SETTINGS", more)
    await world.start()
    await world.wait_state(ReplicaState.STOPPED)
    assert re.search("with 2 buckets, and this node is of 'mas' with 3", world.view().trouble)
    await world.crash()
    monkeypatch.undo()
    founded = Roster(
        buckets=(
            BucketMembers(1, (NODE, 8), 9, (NODE,)),
            BucketMembers(2, (NODE,), voters=(NODE,)),
        )
    )
    world.roster_file.roster = founded.merge(FOUNDED)[0]
    await world.start()
    await world.wait_led(2)
    assert world.view().state is ReplicaState.STOPPED
    assert "began with the voters [3], and the cluster was founded with [3, 8]" in (
        world.view().trouble
    )


async def test_consensus_a1_no_log_is_erased_but_behind_an_entry(world: World) -> None:
    await world.start()
    await world.wait_led()
    world.host.leave_group(1)
    with pytest.raises(AssertionError, match="the entry that removed"):
        await world.host.logs.erase(1, (NODE,), removed_at=0)
    assert not world.is_erased()


async def test_the_removal_is_on_disk_before_anything_is_erased(world: World) -> None:
    """A start with the old roster would have opened an erased log as that of a voter."""
    await world.start()
    await world.wait_led()
    kept: list[int] = []
    world.membership._unsaved.set = lambda: None  # type: ignore[method-assign]  # the file isn't written by itself
    world.before["erase"] = lambda: kept.append(world.roster_file.roster.holders()[1].index)
    world.learn(1, 9, (8,))
    await world.wait_state(ReplicaState.ABSENT)
    assert kept == [9]


def added_again(world: World) -> None:
    """The log of a node that was removed at 2 and added again at 3, of which it has applied nothing."""
    changes = [
        ConfChange((ConfChangeSingle(ConfChangeType.REMOVE_NODE, NODE),)),
        ConfChange((ConfChangeSingle(ConfChangeType.ADD_LEARNER, NODE),)),
    ]
    batch = world.log.batch()
    batch.create(1, ConfState(voters=(NODE, 8)))
    entries = [Entry(1, 1, EntryType.NORMAL, b"")]
    entries += [Entry(i, 1, EntryType.CONF_CHANGE, c.encode()) for i, c in enumerate(changes, 2)]
    batch.append(1, entries)
    batch.commit(sync=True)
    world.roster_file.roster = founding_roster((NodeRow(NODE, "me:1"),), {1: (NODE, 8), 2: (8,)})


@pytest.mark.parametrize("restarted", [False, True])
async def test_late_news_of_a_removal_do_not_erase_what_was_added_again(
    world: World, restarted: bool
) -> None:
    """It may have acknowledged what counts, and would have forgotten it."""
    added_again(world)
    await world.start()
    world.learn(1, 2, (8,))
    if restarted:
        world.roster_file.roster = world.membership.roster
        await world.restart()
    for _ in range(20):
        await asyncio.sleep(0.002)
    assert world.calls.count("erase") == 0
    assert world.log.storage(1).last_index() == 3
    world.learn(1, 3, (8,), NODE)
    await world.wait_state(ReplicaState.RUNNING)
    assert world.log.storage(1).last_index() == 3
    world.learn(1, 7, (8,))
    await world.wait_state(ReplicaState.ABSENT)
    assert world.is_erased()


async def test_a_bucket_that_changes_while_another_is_left_is_judged_as_it_is_then(
    world: World,
) -> None:
    """It was judged by the roster of when the round had begun."""
    await world.start()
    await world.wait_led(1)
    await world.wait_led(2)
    gate, begun = asyncio.Event(), asyncio.Event()

    async def held() -> None:
        begun.set()
        await gate.wait()

    world.before["erase"] = held
    world.membership.learn(
        Roster(buckets=(BucketMembers(1, (NODE,), 9, (8,)), BucketMembers(2, (NODE,), 9, (8,))))
    )
    await begun.wait()
    world.learn(2, 12, (NODE,))
    gate.set()
    await world.wait_state(ReplicaState.ABSENT, 1)
    await world.wait(lambda: not world.replicas._changed.is_set())
    assert world.calls.count("erase") == 1
    assert world.view(2).leading


# -- in the middle of it -------------------------------------------------------------------------------

STEPS = [(when, step) for step in ("erase", "erase_log") for when in ("before", "after")]
OPENING = [(when, step) for step in ("open", "create_log") for when in ("before", "after")]


@pytest.mark.parametrize(("when", "step"), STEPS)
async def test_a_crash_in_the_middle_of_an_erasure_heals(
    world: World, when: str, step: str
) -> None:
    await world.start()
    await world.wait_led()
    term = world.view().term
    getattr(world, when)[step] = die
    world.learn(1, 9, (8,))
    await world.wait_dead()
    await world.restart()
    await world.wait_state(ReplicaState.ABSENT)
    assert world.is_erased()
    assert world.log.hard_state(1).term == term
    assert await world.database.bucket_row(1) is None
    world.learn(1, 12, (NODE,))
    await world.wait_anew()


@pytest.mark.parametrize(("when", "step"), STEPS)
async def test_a_node_that_is_added_again_while_it_is_down_in_an_erasure_serves(
    world: World, when: str, step: str
) -> None:
    """It was told that its replica was being erased, for ever."""
    await world.start()
    await world.wait_led()
    getattr(world, when)[step] = die
    world.learn(1, 9, (8,))
    await world.wait_dead()
    await world.crash()
    world.before["erase"] = die
    await world.start()
    await world.wait_dead()
    again = BucketMembers(1, (NODE,), 12, (NODE,))
    world.roster_file.roster = world.roster_file.roster.merge(Roster(buckets=(again,)))[0]
    await world.restart()
    await world.wait_state(ReplicaState.RUNNING)


async def test_a_node_that_hears_of_both_before_it_has_looked_serves(world: World) -> None:
    await world.start()
    await world.wait_led()
    world.before["erase"] = die
    world.learn(1, 9, (8,))
    await world.wait_dead()
    await world.crash()
    await world.start()
    world.learn(1, 12, (NODE,))  # before its first turn
    await world.wait_led()


@pytest.mark.parametrize(("when", "step"), OPENING)
async def test_a_crash_in_the_middle_of_an_opening_heals(
    world: World, when: str, step: str
) -> None:
    world.roster_file.roster = ELSEWHERE
    await world.start()
    getattr(world, when)[step] = die
    world.learn(1, 5, (8,), NODE)
    world.membership.save()
    await world.wait_dead()
    await world.restart()
    await world.wait_state(ReplicaState.RUNNING)


async def test_a_replica_is_not_absent_before_it_is_erased_and_opens_only_then(
    world: World,
) -> None:
    """`mas admin replica rebuild` adds it again as soon as it is ABSENT."""
    await world.start()
    await world.wait_led()
    gate = asyncio.Event()

    async def held() -> None:
        await gate.wait()

    world.before["erase_log"] = held
    world.learn(1, 9, (8,))
    await world.wait(lambda: "erase_log" in world.calls)
    assert world.view().state is ReplicaState.STOPPED
    assert "being erased" in world.view().trouble
    world.learn(1, 12, (NODE,))
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert world.calls[-1] == "erase_log"
    gate.set()
    await world.wait_anew()


async def test_a_database_that_is_away_is_asked_again(world: World) -> None:
    """The erasure was forgotten, and the rows stayed until the next start."""
    await world.start()
    await world.wait_led()
    failures = [DatabaseUnavailable("away"), DatabaseUnavailable("away")]

    def fail() -> None:
        if failures:
            raise failures.pop()

    world.before["erase"] = fail
    world.learn(1, 9, (8,))
    await world.wait_state(ReplicaState.ABSENT)
    assert world.calls.count("erase") == 3
    assert await world.database.bucket_row(1) is None
    failures += [DatabaseUnavailable("away")]
    world.before["open"] = fail
    world.learn(1, 12, (NODE,))
    await world.wait_anew()
    assert not failures


async def test_a_snapshot_that_is_installed_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.start()
    await world.wait_led()
    leave, busy = world.host.leave_group, [True, True]

    def leave_group(group: int) -> None:
        if busy:
            busy.pop()
            raise Unavailable("a snapshot is being installed, try again")
        leave(group)

    monkeypatch.setattr(world.host, "leave_group", leave_group)
    world.learn(1, 9, (8,))
    await world.wait_state(ReplicaState.ABSENT)
    assert not busy


# -- damage --------------------------------------------------------------------------------------------


async def test_a_damaged_replica_is_stopped_and_built_anew_once_it_was_removed(
    world: World,
) -> None:
    await world.start()
    await world.wait_led()
    promised = world.log.hard_state(1)
    await world.crash()
    world.log.damage(1)
    await world.start()
    assert world.view().state is ReplicaState.STOPPED
    assert "damaged" in world.view().trouble
    await world.wait_led(2)
    world.learn(1, 9, (8,))
    await world.wait_state(ReplicaState.ABSENT)
    assert world.log.hard_state(1).term == promised.term
    world.learn(1, 12, (NODE,))
    await world.wait_anew()


async def test_an_erasure_that_has_begun_is_ended_though_the_node_is_a_member_again(
    world: World,
) -> None:
    await world.start()
    await world.wait_led()
    await world.crash()
    world.log.damage(1)
    await world.start()

    def fail_and_hear() -> None:
        if world.calls.count("erase") == 1:
            world.learn(1, 12, (NODE,))
            raise DatabaseUnavailable("away")

    world.before["erase"] = fail_and_hear
    world.learn(1, 9, (8,))
    await world.wait_anew()
    assert world.calls.count("erase") == 2


async def test_a_replica_that_lost_its_promises_is_never_opened_again(world: World) -> None:
    await world.start()
    await world.wait_led()
    await world.crash()
    world.log.damage(1, hard_state=True)
    await world.start()
    world.learn(1, 9, (8,))
    await world.wait(lambda: "term and vote are lost" in world.view().trouble)
    world.learn(1, 12, (NODE,))
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert world.view().state is ReplicaState.STOPPED
    assert "retire this node" in world.view().trouble
    await world.restart()
    assert world.view().state is ReplicaState.STOPPED
