"""The Raft benchmark: what it says is measured, what it counts is there, and nothing of it stays behind."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from mas.bench.raft import Scale, measure
from mas.bench.raft_client import RaftClient, Way
from mas.bench.raft_cluster import differences
from mas.bench.raft_node import Machine
from mas.bench.raft_report import Failover, Idle, Line, Report, judge
from mas.bench.raft_wire import (
    PAYLOAD_BYTES,
    Answer,
    Applied,
    Batch,
    GroupState,
    make_payload,
    name_of,
)
from mas.errors import NotLeading, Overloaded
from mas.multiraft import Committed, Leadership, RaftGroup, Refused
from mas.raft import Entry, EntryType
from mas.runtime import Mailbox, Supervisor

LEADING = Leadership(1, 1, leading=True)


def payloads(client: int, *sequences: int) -> tuple[bytes, ...]:
    return tuple(make_payload(client, sequence) for sequence in sequences)


# -- what is counted -------------------------------------------------------------------------------


def test_a_payload_has_its_size_and_its_name() -> None:
    payload = make_payload(70_000, 3)
    assert len(payload) == PAYLOAD_BYTES
    assert name_of(payload) == (70_000, 3)


def test_applied_is_the_same_in_any_order_and_no_other_set_is() -> None:
    some = payloads(1, 1, 2, 3)
    one, other, fewer, apart = Applied(), Applied(), Applied(), Applied()
    one.add(some)
    other.add(reversed(some))
    assert one == other
    fewer.add(some[:2])
    assert fewer != one
    apart.add(some[2:])
    fewer.merge(apart)
    assert fewer == one
    instead = Applied()
    instead.add(payloads(1, 1, 2, 4))
    assert (instead.count, instead.digest != one.digest) == (3, True)


def test_a_lost_entry_and_one_too_many_are_found_on_each_node() -> None:
    answered = Applied()
    answered.add(payloads(1, 1, 2))
    lost = Applied()
    lost.add(payloads(1, 1))

    def state(applied: Applied) -> tuple[GroupState, ...]:
        return (GroupState(1, 1, True, 9, applied.count, applied.digest),)

    assert differences({1: answered}, {1: state(answered), 2: state(answered)}) == []
    [found] = differences({1: answered}, {1: state(answered), 2: state(lost)})
    assert found.startswith("node 2 has applied 1 entries in group 1")
    assert differences({1: lost}, {1: state(answered)})
    assert differences({}, {1: state(lost)})


# -- the state machine -----------------------------------------------------------------------------


class Group:
    """A `RaftGroup` that commits when it is told to."""

    id = 1

    def __init__(self) -> None:
        self.commit_c: Mailbox[Any] = Mailbox("commit_c", 100)
        self.error_c: Mailbox[Refused] = Mailbox("error_c", 100)
        self.proposed: list[tuple[int, bytes]] = []
        self.room = 100
        self.applied = 0

    def propose(self, number: int, data: bytes) -> None:
        if len(self.proposed) == self.room:
            raise Overloaded("full")
        self.proposed.append((number, data))

    def set_applied(self, applied: int, flushed: int) -> None:
        self.applied = applied

    async def commit(self, *data: bytes) -> None:
        first = self.applied + 1
        entries = [Entry(first + i, 1, EntryType.NORMAL, each) for i, each in enumerate(data)]
        self.commit_c.put(Committed(tuple(entries)))
        await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Playing:
    """A machine at work, and what it has answered."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.group = Group()
        self.machine = Machine(1, cast(RaftGroup, self.group))
        self.answers: list[Answer] = []
        supervisor.spawn("apply", self.machine.apply())
        supervisor.spawn("refusals", self.machine.hear_refusals())

    async def lead(self, leadership: Leadership = LEADING) -> None:
        self.group.commit_c.put(leadership)
        await settle()

    def propose(self, *entries: bytes, number: int = 7) -> None:
        self.machine.propose(Batch(number, 1, entries), self.answers.append)


@pytest.mark.asyncio
async def test_a_batch_is_answered_once_all_of_it_is_applied() -> None:
    async with Supervisor() as supervisor:
        playing = Playing(supervisor)
        await playing.lead()
        entries = payloads(5, 1, 2)
        playing.propose(*entries)
        await playing.group.commit(b"", entries[0])
        assert playing.answers == []
        await playing.group.commit(entries[1])
        assert playing.answers == [Answer(7, 3)]
        assert playing.group.applied == 3
        state = playing.machine.state()
        wanted = Applied()
        wanted.add(entries)
        assert (state.count, state.digest, state.leading) == (2, wanted.digest, True)


@pytest.mark.asyncio
async def test_who_does_not_lead_names_the_leader_and_forgets_what_it_proposed() -> None:
    async with Supervisor() as supervisor:
        playing = Playing(supervisor)
        playing.propose(*payloads(5, 1))
        assert playing.answers == [Answer(7, 0, 0)]
        await playing.lead()
        playing.propose(*payloads(5, 1), number=8)
        await playing.lead(Leadership(2, 3, leading=False))
        playing.propose(*payloads(5, 1), number=9)
        assert playing.answers[1:] == [Answer(8, 0, 3), Answer(9, 0, 3)]
        # What it had proposed is committed all the same: it is applied, and answered to nobody.
        await playing.group.commit(*payloads(5, 1))
        assert len(playing.answers) == 3
        assert playing.machine.state().count == 1


@pytest.mark.asyncio
async def test_a_repeat_is_applied_once_and_answered_and_a_gap_is_not_applied() -> None:
    async with Supervisor() as supervisor:
        playing = Playing(supervisor)
        await playing.lead()
        await playing.group.commit(*payloads(5, 1))
        playing.propose(*payloads(5, 1), number=8)
        await playing.group.commit(*payloads(5, 1))
        assert playing.answers == [Answer(8, 2)]
        assert playing.machine.state().count == 1
        playing.propose(*payloads(5, 3), number=9)
        await playing.group.commit(*payloads(5, 3))
        assert playing.answers[1:] == [Answer(9, 0, 1)]
        assert playing.machine.state().count == 1


@pytest.mark.asyncio
async def test_what_the_group_does_not_take_is_answered_at_once_and_only_once() -> None:
    async with Supervisor() as supervisor:
        playing = Playing(supervisor)
        await playing.lead()
        playing.propose(*payloads(5, 1, 2))
        for number, _ in playing.group.proposed:
            playing.group.error_c.put(Refused(number, NotLeading("gone", 3)))
        await settle()
        assert playing.answers == [Answer(7, 0, 3)]
        playing.group.room = 3
        playing.propose(*payloads(5, 1, 2), number=8)
        assert playing.answers[1:] == [Answer(8, 0, 1)]


# -- the client ------------------------------------------------------------------------------------


class Scripted:
    """A node that gives these answers, the last for ever."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[bytes, ...]] = []

    async def send(self, group: int, entries: tuple[bytes, ...]) -> Answer:
        self.asked.append(entries)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.mark.asyncio
async def test_the_client_follows_the_leader_and_asks_the_next_where_none_is_known() -> None:
    nodes = {
        1: Scripted(Answer(0, 0)),
        2: Scripted(Answer(0, 0, 3), Answer(0, 9)),
        3: Scripted(Answer(0, 0, 2)),
    }
    client = RaftClient(cast(dict[int, Way], nodes))
    await client.propose(1, payloads(1, 1))
    assert client.leader(1) == 2
    assert [len(node.asked) for node in nodes.values()] == [1, 2, 1]
    # Asked again, it is the same entry, under the same name.
    assert {entries for node in nodes.values() for entries in node.asked} == {payloads(1, 1)}


# -- the figures -----------------------------------------------------------------------------------


def line(x_etcd: float | None) -> Line:
    return Line(per_s=1, p50_ms=1, p99_ms=1, x_echo=1, x_etcd=x_etcd)


def idle(cpu: float) -> Idle:
    return Idle(
        groups=1000,
        ready_s=4,
        leaders_s=5,
        leads={1: 500, 2: 500},
        cpu={1: 0.01, 2: cpu},
        memory_bytes_per_group=10_000,
    )


def test_failover_is_told_by_its_median_its_19_of_20_and_its_worst() -> None:
    kills = Failover.of([3.0, *(1.0 + n / 10 for n in range(1, 20))])
    assert kills.kills[0] == pytest.approx(1.1)
    assert (kills.median, kills.most, kills.worst) == pytest.approx((2.0, 2.9, 3.0))


def test_every_target_is_judged() -> None:
    good = Failover.of([1.5, 1.9, 2.5])
    lines = {"one_stream": line(1.0), "one_unary": line(0.99)}
    assert [target.met for target in judge(lines, good, idle(0.049))] == [
        True,
        False,
        True,
        True,
        True,
    ]
    bad = Failover.of([1.5, 2.0, 3.6])
    no_etcd = {"one_unary": line(None), "one_stream": line(None)}
    assert [target.met for target in judge(no_etcd, bad, idle(0.05))] == [False, False, False]


# -- all of it, over real processes ----------------------------------------------------------------

TINY = Scale(
    seconds=0.3, warm_up_seconds=0.2, kills=1, idle_groups=20, quiet_seconds=0.1, idle_seconds=0.3
)


@contextmanager
def nothing_left_behind(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    yield
    assert list(directory.iterdir()) == []
    running = subprocess.run(
        ["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True
    )
    assert str(directory) not in running.stdout


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.asyncio
@pytest.mark.timeout(180)
async def test_a_run_measures_everything_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with nothing_left_behind(tmp_path, monkeypatch):
        report = await measure(TINY)
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report
    kinds = {
        f"{groups}_{kind}" for groups in ("one", "many") for kind in ("unary", "stream", "batched")
    }
    with_etcd = set() if report.etcd else {"etcd"}
    assert set(report.throughput) == {"echo", *with_etcd, *kinds}
    for figures in report.throughput.values():
        assert figures.per_s > 0
        assert 0 < figures.p50_ms <= figures.p99_ms
        assert (figures.x_etcd is None) == (not with_etcd or figures is report.throughput["echo"])
    assert len(report.failover.kills) == TINY.kills
    assert 0.5 < report.failover.kills[0] < 20
    assert sum(report.idle.leads.values()) == TINY.idle_groups
    assert set(report.idle.cpu) == {1, 2, 3}
    assert len(report.targets) == 3 + 2 * len(with_etcd)
    assert report.lost == 0


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(60)
def test_ctrl_c_ends_every_process_and_removes_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with nothing_left_behind(tmp_path, monkeypatch):
        bench = subprocess.Popen(
            [sys.executable, "-m", "mas", "bench", "raft", "--quick"],
            env=os.environ | {"TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert bench.stdout is not None
            assert any(printed.startswith("one group, unary") for printed in bench.stdout)
            bench.send_signal(signal.SIGINT)
            assert bench.wait(30) != 0
        finally:
            bench.kill()
            bench.communicate()
