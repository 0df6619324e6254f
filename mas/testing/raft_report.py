"""The figures of the Raft benchmark: for a program as JSON, for a person as a table, each wanted one beside its target."""

from collections.abc import Sequence

import click
import msgspec

from mas.testing.tally import share

ELECTION_SECONDS = 1.0
"""A follower's election timeout with the defaults, 10 ticks of 100 ms: no leader's lease ends before it."""
ETCD_WANTED = 1.0
IDLE_CPU_WANTED = 0.05
FAILOVER_MEDIAN_WANTED = 1.0
FAILOVER_MOST_WANTED = 2.5
_MOST_PERCENT = 95


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of load."""

    per_s: float
    p50_ms: float
    p99_ms: float
    x_echo: float
    x_etcd: float | None
    """None where etcd wasn't there."""


class Failover(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds from SIGKILL of a group's leader to the next entry committed, ascending."""

    seconds: tuple[float, ...]

    def after_lease(self, percent: int) -> float:
        """What so many of them did not exceed, less the time that the leader's lease may have had to run."""
        return share(self.seconds, percent) - ELECTION_SECONDS


class Idle(msgspec.Struct, frozen=True, kw_only=True):
    """Groups in which nothing happens; of each node."""

    groups: int
    start_s: float
    """From the start of the processes until all groups had leaders; new groups, which are written first."""
    leads: dict[int, int]
    """Groups that each node leads."""
    cpu: dict[int, float]
    """Of one core, user and system."""
    memory_bytes_per_group: float
    """Proportional set size beyond that of a node with a single group, by the group; of the largest node."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What was wanted, and what came of it."""

    what: str
    wanted: str
    measured: str
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
    for kind in ("unary", "stream"):
        ratio = throughput[f"one_{kind}"].x_etcd
        if ratio is not None:
            targets.append(
                Target(
                    what=f"one at a time, 64 callers, {kind}, beside etcd",
                    wanted=f">= {ETCD_WANTED:.1f} x",
                    measured=f"{ratio:.2f} x",
                    met=ratio >= ETCD_WANTED,
                )
            )
    cpu = max(idle.cpu.values())
    median, most = failover.after_lease(50), failover.after_lease(_MOST_PERCENT)
    return (
        *targets,
        Target(
            what=f"{idle.groups} idle groups, the busiest node",
            wanted=f"< {IDLE_CPU_WANTED:.0%} of a core",
            measured=f"{cpu:.1%}",
            met=cpu < IDLE_CPU_WANTED,
        ),
        _below("failover after the lease, median", FAILOVER_MEDIAN_WANTED, median),
        _below("failover after the lease, 19 of 20", FAILOVER_MOST_WANTED, most),
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
    kills = failover.seconds
    most = share(kills, _MOST_PERCENT)
    click.echo(
        f"\nSIGKILL of the leader to the next entry committed, {len(kills)} kills: "
        f"median {share(kills, 50):.2f} s, 19 of 20 {most:.2f} s, worst {kills[-1]:.2f} s"
    )
    click.echo(
        f"after the lease ({ELECTION_SECONDS:.0f} s less): "
        f"median {failover.after_lease(50):.2f} s, "
        f"19 of 20 {failover.after_lease(_MOST_PERCENT):.2f} s, worst {failover.after_lease(100):.2f} s"
    )


def print_idle(idle: Idle) -> None:
    """What groups cost in which nothing happens."""
    click.echo(
        f"\n{idle.groups} groups: all had leaders {idle.start_s:.1f} s after the start of the nodes"
    )
    for node, cpu in idle.cpu.items():
        click.echo(f"  node {node} leads {idle.leads[node]:>4}, idle at {cpu:.1%} of a core")
    click.echo(f"  memory {idle.memory_bytes_per_group / 1024:.1f} KiB per idle group and node")


def print_targets(targets: Sequence[Target]) -> None:
    """Each beside what was wanted."""
    click.echo()
    for target in targets:
        click.echo(
            f"{'met' if target.met else 'NOT MET':8}{target.what}: {target.measured}, wanted {target.wanted}"
        )


def _below(what: str, wanted: float, measured: float) -> Target:
    return Target(
        what=what, wanted=f"< {wanted:.1f} s", measured=f"{measured:.2f} s", met=measured < wanted
    )
