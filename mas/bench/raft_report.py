"""The figures of the Raft benchmark: for a program as JSON, for a person as a table, each wanted one beside its target."""

from collections.abc import Sequence
from typing import Self

import click
import msgspec

from mas.bench.tally import share

ELECTION_SECONDS = 1.0
"""A follower's election timeout with the defaults, 10 ticks of 100 ms: no leader's lease ends before it."""
ETCD_WANTED = 1.0
IDLE_CPU_WANTED = 5.0
FAILOVER_MEDIAN_WANTED = 1.0
FAILOVER_MOST_WANTED = 2.5


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of load."""

    per_s: float
    p50_ms: float
    p99_ms: float
    x_echo: float
    x_etcd: float | None
    """None where etcd wasn't there."""


class Failover(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds from SIGKILL of a group's leader to the next entry committed."""

    kills: tuple[float, ...]
    """Each of them, ascending."""
    median: float
    most: float
    """What 19 of 20 did not take longer than."""
    worst: float
    lease: float = ELECTION_SECONDS
    """Part of each, at most: the time that the dead leader's lease may have had to run."""

    @classmethod
    def of(cls, kills: Sequence[float]) -> Self:
        """The figures of these kills."""
        ordered = tuple(sorted(kills))
        return cls(
            kills=ordered, median=share(ordered, 50), most=share(ordered, 95), worst=ordered[-1]
        )


class Idle(msgspec.Struct, frozen=True, kw_only=True):
    """Groups in which nothing happens; of each node."""

    groups: int
    ready_s: float
    """From the start of the processes until all of them serve; the groups are new, and written first."""
    leaders_s: float
    """Until all groups have leaders."""
    leads: dict[int, int]
    """Groups that each node leads, after some quiet."""
    cpu: dict[int, float]
    """Of one core, user and system."""
    memory_bytes_per_group: float
    """Proportional set size beyond that of a node with a single group, by the group; of the largest node."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What was wanted, and what came of it."""

    what: str
    wanted: float
    measured: float
    unit: str
    met: bool


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All figures of a run."""

    load_average: float
    """Of the machine, before the run."""
    throughput: dict[str, Line]
    etcd: str
    """Empty, or why it isn't part of the comparison."""
    failover: Failover
    idle: Idle
    targets: tuple[Target, ...]
    lost: int
    """Entries answered as committed that some node doesn't have: a run with any ends as failed."""


def judge(throughput: dict[str, Line], failover: Failover, idle: Idle) -> tuple[Target, ...]:
    """Every figure that has a target."""
    targets: list[Target] = []
    for kind, what in (
        ("stream", "one at a time, 64 callers on a stream, to etcd's writes"),
        ("unary", "the same by unary calls, which no Python server answers faster than the echo"),
    ):
        ratio = throughput[f"one_{kind}"].x_etcd
        if ratio is not None:
            met = ratio >= ETCD_WANTED
            targets.append(Target(what=what, wanted=ETCD_WANTED, measured=ratio, unit="x", met=met))
    cpu = 100 * max(idle.cpu.values())
    median, most = failover.median - failover.lease, failover.most - failover.lease
    return (
        *targets,
        _below(f"{idle.groups} idle groups, the busiest node", IDLE_CPU_WANTED, cpu, "% of a core"),
        _below("failover after the lease, median", FAILOVER_MEDIAN_WANTED, median, "s"),
        _below("failover after the lease, 19 of 20", FAILOVER_MOST_WANTED, most, "s"),
    )


def print_throughput_header() -> None:
    """Of the table that `print_line` fills."""
    click.echo(f"{'':40}{'per s':>9}{'p50 ms':>9}{'p99 ms':>9}{'x echo':>8}{'x etcd':>8}")


def print_line(title: str, line: Line) -> None:
    """One kind of load."""
    etcd = "" if line.x_etcd is None else f"{line.x_etcd:.2f}"
    click.echo(
        f"{title:40}{line.per_s:>9.0f}{line.p50_ms:>9.1f}{line.p99_ms:>9.1f}{line.x_echo:>8.2f}{etcd:>8}"
    )


def print_failover(failover: Failover) -> None:
    """The figures that count of all kills."""
    figures = (("median", failover.median), ("19 of 20", failover.most), ("worst", failover.worst))
    whole = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in figures)
    less = ", ".join(f"{name} {seconds - failover.lease:.2f} s" for name, seconds in figures)
    click.echo(
        f"\nSIGKILL of the leader to the next entry committed, {len(failover.kills)} kills: {whole}"
    )
    click.echo(f"after the lease, {failover.lease:.0f} s: {less}")


def print_idle(idle: Idle) -> None:
    """Print what groups cost in which nothing happens."""
    click.echo(
        f"\n{idle.groups} new groups: nodes serve after {idle.ready_s:.1f} s, "
        f"all groups have leaders after {idle.leaders_s:.1f} s"
    )
    for node, cpu in idle.cpu.items():
        click.echo(f"  node {node} leads {idle.leads[node]:>4}, idle at {cpu:.1%} of a core")
    click.echo(f"  memory {idle.memory_bytes_per_group / 1024:.1f} KiB per idle group and node")


def print_targets(targets: Sequence[Target]) -> None:
    """Each beside what was wanted."""
    click.echo()
    for target in targets:
        met = "met" if target.met else "NOT MET"
        than = ">=" if target.unit == "x" else "<"
        click.echo(
            f"{met:8}{target.what}: {target.measured:.2f} {target.unit}, wanted {than} {target.wanted:g}"
        )


def _below(what: str, wanted: float, measured: float, unit: str) -> Target:
    return Target(what=what, wanted=wanted, measured=measured, unit=unit, met=measured < wanted)
