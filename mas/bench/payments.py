"""`mas bench`: what a cluster of four processes carries, beside what bare gRPC carries, in one run.

Every kind of load runs in a process of its own. Absolute numbers are this machine's and this minute's; the ratios to the echo are
what to compare. Nothing counts that isn't there at the end: the sum of all balances, the count of payments, and replicas
that agree, are checked.
"""

import asyncio
from pathlib import Path

import click
import msgspec

from mas.api.tokens import Role
from mas.bench.load import Job, Result
from mas.bench.processes import BenchFailed, echo_server, run_load
from mas.bench.usage import cpu_seconds
from mas.client import Client
from mas.runtime import SystemClock, SystemDice
from mas.testing.audit import Audit, audit
from mas.testing.local_cluster import LocalCluster

_ACCOUNTS = 1_000
_OPENING = 100_000_000
_SECONDS = 8.0
_SECONDS_QUICK = 2.5
_WARM_UP_SECONDS = 1.0


class Figure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the table."""

    per_s: float
    p50_ms: float
    p99_ms: float
    ratio_to_echo: float
    flusher_lag_s: float
    """Age of the oldest change that a database lacked when the load ended."""
    catch_up_s: float
    """Time from then until every replica's database held everything."""
    cpu_s_per_1000: dict[str, float]
    ratio_to_uniform: float = 0.0
    other: dict[str, int] = {}


def run(*, quick: bool = False, json_file: Path | None = None) -> None:
    """Measure, print the table, and write the figures as JSON where asked to.

    Raises:
        BenchFailed: a payment that was answered isn't there, or a load failed.
    """
    report = asyncio.run(_bench(_SECONDS_QUICK if quick else _SECONDS))
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


async def _bench(seconds: float) -> dict[str, object]:
    async with LocalCluster() as cluster:
        bench = _Bench(cluster, seconds)
        async with cluster.client() as operator:
            bench.accounts = await _open_accounts(operator)
            return await bench.measure(operator)


class _Bench:
    def __init__(self, cluster: LocalCluster, seconds: float) -> None:
        self._cluster = cluster
        self._seconds = seconds
        self._ca = str(cluster.directory / "tls" / "ca.crt")
        self._token = cluster.token("operator:bench", Role.GATEWAY)
        self._run = SystemDice().randbytes(6).hex()
        self._committed = 0
        self._echo_per_s = 0.0
        self._cpu: dict[str, float] = {}
        self._payments = 0
        self.accounts: tuple[str, ...] = ()

    async def measure(self, operator: Client) -> dict[str, object]:
        opened = await audit(operator)
        _print_header()
        await self._load(self._job("unary", "warm", seconds=_WARM_UP_SECONDS))
        echo = await self._measure_echo()
        self._echo_per_s = echo.per_s
        _print_line("echo (bare gRPC)", echo.per_s, echo.p50_ms, echo.p99_ms, 1.0)
        figures = {
            "unary": await self._figure(operator, "unary, 64 callers", self._job("unary", "unary")),
            "client": await self._figure(
                operator, "mas.client, 64 callers", self._job("client", "client")
            ),
            "stream100": await self._figure(
                operator, "stream, 8 x 100", self._job("stream", "s100", callers=8, batch=100)
            ),
            "stream": await self._figure(
                operator, "stream, 8 x 1000", self._job("stream", "s1000", callers=8, batch=1000)
            ),
            "hot": await self._figure(
                operator,
                "stream, 8 x 1000, hot",
                self._job("stream", "hot", callers=8, batch=1000, hot=self.accounts[0]),
            ),
        }
        uniform = figures["stream"].per_s
        figures["hot"] = msgspec.structs.replace(
            figures["hot"], ratio_to_uniform=figures["hot"].per_s / uniform if uniform else 0.0
        )
        lost = self._check(opened, await audit(operator))
        cpu = {name: 1000 * used / max(1, self._payments) for name, used in self._cpu.items()}
        click.echo(
            f"\nhot / uniform: {figures['hot'].ratio_to_uniform:.2f}    "
            f"CPU seconds per 1,000 payments: "
            + ", ".join(f"{name} {used:.3f}" for name, used in cpu.items())
        )
        click.echo(
            f"{self._committed} payments answered, {lost} lost; balances sum to what was put in"
        )
        return {
            "echo": {"per_s": echo.per_s},
            **figures,
            "lost": lost,
            "cpu_s_per_1000": cpu,
        }

    def _job(self, kind: str, name: str, **more: object) -> Job:
        fields: dict[str, object] = {
            "kind": kind,
            "address": self._cluster.address,
            "ca": self._ca,
            "token": self._token,
            "name": f"{self._run}-{name}",
            "seconds": self._seconds,
            "accounts": self.accounts,
        }
        return msgspec.convert(fields | more, Job)

    async def _measure_echo(self) -> Result:
        async with echo_server(self._cluster.directory / "tls") as address:
            return await self._load(
                msgspec.structs.replace(self._job("echo", "echo"), address=address)
            )

    async def _load(self, job: Job) -> Result:
        result = await run_load("mas.bench.load", job, Result)
        if job.kind != "echo":
            self._committed += result.committed
        return result

    async def _figure(self, operator: Client, title: str, job: Job) -> Figure:
        before = self._cpu_seconds()
        result = await self._load(job)
        used = {name: now - before[name] for name, now in self._cpu_seconds().items()}
        used["load"] = result.cpu_s
        for name, seconds in used.items():
            self._cpu[name] = self._cpu.get(name, 0.0) + seconds
        self._payments += result.committed
        clock = SystemClock()
        ended = clock.monotonic()
        state = await audit(operator)
        catch_up = clock.monotonic() - ended
        ratio = result.per_s / self._echo_per_s
        _print_line(title, result.per_s, result.p50_ms, result.p99_ms, ratio, state.lag_s, catch_up)
        for outcome, number in result.other.items():
            click.echo(f"  {number} x {outcome}")
        return Figure(
            per_s=result.per_s,
            p50_ms=result.p50_ms,
            p99_ms=result.p99_ms,
            ratio_to_echo=ratio,
            flusher_lag_s=state.lag_s,
            catch_up_s=catch_up,
            cpu_s_per_1000={
                name: 1000 * seconds / max(1, result.committed) for name, seconds in used.items()
            },
            other=result.other,
        )

    def _cpu_seconds(self) -> dict[str, float]:
        """User and system time of each node's process so far."""
        return {
            f"{node.role}{node.id}": cpu_seconds(node.pid) for node in self._cluster.nodes.values()
        }

    def _check(self, opened: Audit, now: Audit) -> int:
        """Count the answered payments that aren't there."""
        if now.total != opened.total:
            raise BenchFailed(f"balances sum to {now.total}, and {opened.total} was put in")
        lost = self._committed - (now.payments - opened.payments)
        if lost > 0:
            raise BenchFailed(f"{lost} of {self._committed} answered payments aren't there")
        return max(0, lost)


async def _open_accounts(operator: Client) -> tuple[str, ...]:
    numbers = tuple(f"bench-{i:04}" for i in range(_ACCOUNTS))
    for start in range(0, len(numbers), 100):
        await asyncio.gather(
            *(operator.create_account(n, _OPENING) for n in numbers[start : start + 100])
        )
    return numbers


def _print_header() -> None:
    click.echo(
        f"{'':24}{'payments/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'x echo':>8}{'lag s':>8}{'catch-up s':>12}"
    )


def _print_line(
    title: str,
    per_s: float,
    p50: float,
    p99: float,
    ratio: float,
    lag: float = 0.0,
    catch_up: float = 0.0,
) -> None:
    click.echo(
        f"{title:24}{per_s:>11.0f}{p50:>9.1f}{p99:>9.1f}{ratio:>8.2f}{lag:>8.2f}{catch_up:>12.2f}"
    )
