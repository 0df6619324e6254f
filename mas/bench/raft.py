"""`mas bench raft`: what consensus alone carries, costs and takes to recover, beside etcd, in one run.

    throughput   one group of three, and 64; entries of 256 bytes; etcd's puts; what a bare gRPC echo could be asked at most
    failover     from SIGKILL of a leader to the next entry committed, with the defaults of time
    idle         CPU and memory of a thousand groups in which nothing happens, and how long they take to elect

Real processes, real fsync, plaintext on loopback on all sides; what is loaded is loaded by one separate process, the same for all.
At the end of every part, all nodes hold what was answered as committed, and nothing else.
"""

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Literal

import click
import msgspec

from mas.bench.etcd import EtcdCluster, find_etcd
from mas.bench.processes import echo_server, run_load
from mas.bench.raft_client import RaftClient, Unary
from mas.bench.raft_cluster import RaftCluster
from mas.bench.raft_load import RaftJob, RaftResult
from mas.bench.raft_report import (
    Failover,
    Idle,
    Line,
    Report,
    judge,
    print_failover,
    print_idle,
    print_line,
    print_targets,
    print_throughput_header,
)
from mas.bench.raft_wire import Applied, make_payload
from mas.bench.usage import cpu_seconds, memory_bytes
from mas.runtime import SystemClock

_MANY_GROUPS = 64
_BATCH = 100
_WRITES_BEFORE_KILL = 20
_KEEP_EVERYTHING = 1 << 40
"""A margin of the log: who starts again applies it from its beginning."""


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How much of it."""

    seconds: float = 8.0
    """Of each kind of load."""
    warm_up_seconds: float = 1.0
    """Of it before that, which don't count."""
    kills: int = 20
    idle_groups: int = 1_000
    quiet_seconds: float = 10.0
    """Before idle groups are measured."""
    idle_seconds: float = 10.0
    """That they are measured."""


QUICK = Scale(seconds=2.5, kills=3, quiet_seconds=5.0, idle_seconds=4.0)


def run(*, quick: bool = False, json_file: Path | None = None) -> None:
    """Measure, print what comes of it as it comes, and write the figures as JSON where asked to.

    Raises:
        BenchFailed: an entry that was answered isn't there, or a process failed.
    """
    report = asyncio.run(measure(QUICK if quick else Scale()))
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


async def measure(scale: Scale) -> Report:
    """All parts, one after the other. Raises `BenchFailed`."""
    load_average = os.getloadavg()[0]
    click.echo(
        f"{os.cpu_count()} cores, load average {load_average:.2f} before; plaintext on all sides, fsync on\n"
    )
    throughput = _Throughput(scale)
    memory = await throughput.measure()
    failover = await _measure_failover(scale.kills)
    print_failover(failover)
    idle = await _measure_idle(scale, memory)
    print_idle(idle)
    targets = judge(throughput.lines, failover, idle)
    print_targets(targets)
    return Report(
        load_average=load_average,
        throughput=throughput.lines,
        etcd=throughput.etcd,
        failover=failover,
        idle=idle,
        targets=targets,
        lost=0,
    )


# -- throughput ------------------------------------------------------------------------------------


class _Throughput:
    """Loads one server after the other, each alone on the machine."""

    def __init__(self, scale: Scale) -> None:
        self._scale = scale
        self._clients = 0
        self._per_s: dict[str, float] = {}
        self.lines: dict[str, Line] = {}
        self.etcd = ""
        """Why it isn't among the lines, where it isn't."""

    async def measure(self) -> int:
        """Fill `lines`; returns the memory of a node with a single group, before it had any load."""
        print_throughput_header()
        async with echo_server(None) as address:
            await self._line("echo", "bare gRPC echo in Python, 64 callers", _job("echo", address))
        await self._measure_etcd()
        async with RaftCluster(1) as cluster:
            await cluster.wait_leaders()
            memory = _memory(cluster)
            await self._measure_raft(cluster, "one", "one group", batched=8)
        async with RaftCluster(_MANY_GROUPS) as cluster:
            await cluster.wait_leaders()
            await self._measure_raft(cluster, "many", f"{_MANY_GROUPS} groups", batched=64)
        return memory

    async def _measure_etcd(self) -> None:
        program = find_etcd()
        if program is None:
            self.etcd = (
                "skipped: no program `etcd` is on the PATH (Debian's package is etcd-server)"
            )
            click.echo(f"etcd {self.etcd}")
            return
        with tempfile.TemporaryDirectory(prefix="mas-etcd-") as directory:
            async with EtcdCluster(program, Path(directory)) as cluster:
                job = _job("etcd", await cluster.leader())
                [puts] = (await self._line("etcd", "etcd put, 64 writers", job)).values()
                await cluster.check(puts.count)

    async def _measure_raft(
        self, cluster: RaftCluster, key: str, title: str, *, batched: int
    ) -> None:
        unary = RaftJob(kind="unary", addresses=cluster.addresses, groups=cluster.groups)
        stream = msgspec.structs.replace(unary, kind="stream")
        batches = msgspec.structs.replace(stream, callers=batched, batch=_BATCH)
        committed: dict[int, Applied] = {}
        for name, how, job in (
            ("unary", "unary, 64 callers", unary),
            ("stream", "stream, 64 callers", stream),
            ("batched", f"stream, {batched} x {_BATCH}", batches),
        ):
            _merge(committed, await self._line(f"{key}_{name}", f"{title}, {how}", job))
        await cluster.check(committed)

    async def _line(self, key: str, title: str, job: RaftJob) -> dict[int, Applied]:
        """Measure one line of the table; returns all that was committed for it, by group."""
        warm_up = await self._load(job, self._scale.warm_up_seconds)
        result = await self._load(job, self._scale.seconds)
        self._per_s[key] = result.per_s
        etcd = self._per_s.get("etcd")
        line = self.lines[key] = Line(
            per_s=result.per_s,
            p50_ms=result.p50_ms,
            p99_ms=result.p99_ms,
            x_echo=result.per_s / self._per_s["echo"],
            x_etcd=result.per_s / etcd if etcd else None,
        )
        print_line(title, line)
        _merge(warm_up.committed, result.committed)
        return warm_up.committed

    async def _load(self, job: RaftJob, seconds: float) -> RaftResult:
        first, self._clients = self._clients, self._clients + job.callers
        job = msgspec.structs.replace(job, first_client=first, seconds=seconds)
        return await run_load("mas.bench.raft_load", job, RaftResult)


def _job(kind: Literal["echo", "etcd"], address: str) -> RaftJob:
    return RaftJob(kind=kind, addresses={0: address})


def _merge(into: dict[int, Applied], more: dict[int, Applied]) -> None:
    for group, applied in more.items():
        into.setdefault(group, Applied()).merge(applied)


# -- failover --------------------------------------------------------------------------------------


async def _measure_failover(kills: int) -> Failover:
    """Kill the leader of one group again and again; every node is back, and has everything, before the next."""
    clock = SystemClock()
    writer = _Writer()
    seconds: list[float] = []
    async with RaftCluster(1, log_margin_entries=_KEEP_EVERYTHING) as cluster:
        await cluster.wait_leaders()
        client = RaftClient({node: Unary(cluster.channel(node)) for node in cluster.nodes})
        for _ in range(kills):
            for _ in range(_WRITES_BEFORE_KILL):
                await writer.write(client)
            victim = client.leader(1)
            killed = clock.monotonic()
            cluster.nodes[victim].kill()
            # Nothing was under way: what is committed next, the next leader has committed.
            await writer.write(client)
            seconds.append(clock.monotonic() - killed)
            cluster.nodes[victim].start()
            await cluster.wait_ready(victim)
            await cluster.check({1: writer.committed})
    return Failover.of(seconds)


class _Writer:
    """One caller, of group 1."""

    def __init__(self) -> None:
        self._sequence = 0
        self.committed = Applied()

    async def write(self, client: RaftClient) -> None:
        """Have the next entry committed. Raises `BenchFailed`."""
        self._sequence += 1
        payload = make_payload(1, self._sequence)
        await client.propose(1, [payload])
        self.committed.add([payload])


# -- idle groups -----------------------------------------------------------------------------------


async def _measure_idle(scale: Scale, memory_of_one: int) -> Idle:
    clock = SystemClock()
    started = clock.monotonic()
    async with RaftCluster(scale.idle_groups) as cluster:
        ready = clock.monotonic()
        await cluster.wait_leaders()
        elected = clock.monotonic()
        await clock.sleep(scale.quiet_seconds)
        before, since = _cpu(cluster), clock.monotonic()
        await clock.sleep(scale.idle_seconds)
        after, elapsed = _cpu(cluster), clock.monotonic() - since
        return Idle(
            groups=scale.idle_groups,
            ready_s=ready - started,
            leaders_s=elected - started,
            leads=await cluster.wait_leaders(),
            cpu={node: (after[node] - before[node]) / elapsed for node in cluster.nodes},
            memory_bytes_per_group=(_memory(cluster) - memory_of_one) / (scale.idle_groups - 1),
        )


def _cpu(cluster: RaftCluster) -> dict[int, float]:
    return {node: cpu_seconds(program.pid) for node, program in cluster.nodes.items()}


def _memory(cluster: RaftCluster) -> int:
    """Of the node that takes most."""
    return max(memory_bytes(program.pid) for program in cluster.nodes.values())
