"""The load of the Raft benchmark: one process, one server's kind of proposals, from callers that each wait for their answer.

    python -m mas.bench.raft_load < JOB

reads a `RaftJob` as JSON and prints a `RaftResult`. Echo, etcd and MAS are driven by the same library, from the same loop.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Literal

import grpc
import msgspec
import uvloop

from mas.bench import etcd
from mas.bench.echo import METHOD
from mas.bench.raft_client import RaftClient, Stream, Unary, Way, open_channel
from mas.bench.raft_wire import Applied, make_payload
from mas.bench.tally import Tally
from mas.runtime import Supervisor

Propose = Callable[[int, list[bytes]], Awaitable[None]]


class RaftJob(msgspec.Struct, frozen=True, kw_only=True):
    """What to load, how, and for how long."""

    kind: Literal["echo", "etcd", "unary", "stream"]
    addresses: dict[int, str]
    """By node; of an echo or etcd, the one that is asked."""
    first_client: int = 0
    """Clients are numbered from here; no two jobs on one cluster share a number."""
    seconds: float = 5.0
    groups: int = 1
    """Callers take them in turn."""
    callers: int = 64
    batch: int = 1
    """Entries proposed together."""


class RaftResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    per_s: float
    answered: int
    p50_ms: float
    p99_ms: float
    cpu_s: float
    """What this process itself used."""
    committed: dict[int, Applied]
    """By group, what was answered as committed, before the time began too; there was nothing else."""


async def run(job: RaftJob) -> RaftResult:
    """Do the job.

    Raises:
        BenchFailed: a proposal found no leader in time.
    """
    tally = Tally(job.seconds)
    committed = {group: Applied() for group in range(1, job.groups + 1)}
    async with _connect(job) as propose:
        callers = [
            _Caller(job, job.first_client + number, propose, committed)
            for number in range(job.callers)
        ]
        # Connections are made, and leaders found, before the time begins.
        await asyncio.gather(*(caller.propose_next() for caller in callers))
        await tally.run([partial(caller.run, tally) for caller in callers])
    return RaftResult(
        per_s=tally.per_s,
        answered=tally.answered,
        p50_ms=tally.latency_ms(50),
        p99_ms=tally.latency_ms(99),
        cpu_s=tally.cpu_s(),
        committed=committed,
    )


class _Caller:
    """Proposes one batch after the other, each once the one before is committed."""

    def __init__(
        self, job: RaftJob, client: int, propose: Propose, committed: dict[int, Applied]
    ) -> None:
        self._client = client
        self._group = client % job.groups + 1
        self._batch = job.batch
        self._propose = propose
        self._committed = committed[self._group]
        self._next = 1

    async def run(self, tally: Tally) -> None:
        while tally.goes_on():
            since = tally.clock.monotonic()
            await self.propose_next()
            tally.heard(since, self._batch)

    async def propose_next(self) -> None:
        first, self._next = self._next, self._next + self._batch
        payloads = [make_payload(self._client, sequence) for sequence in range(first, self._next)]
        await self._propose(self._group, payloads)
        self._committed.add(payloads)


@asynccontextmanager
async def _connect(job: RaftJob) -> AsyncIterator[Propose]:
    async with AsyncExitStack() as stack:
        channels = {
            node: await stack.enter_async_context(open_channel(address))
            for node, address in job.addresses.items()
        }
        match job.kind:
            case "echo" | "etcd":
                [channel] = channels.values()
                yield _echo(channel) if job.kind == "echo" else _put(channel)
            case "unary":
                ways: dict[int, Way] = {node: Unary(channel) for node, channel in channels.items()}
                yield RaftClient(ways).propose
            case "stream":
                streams = {node: Stream(channel) for node, channel in channels.items()}
                supervisor = await stack.enter_async_context(Supervisor())
                for node, stream in streams.items():
                    supervisor.spawn(f"stream {node}", stream.run())
                yield RaftClient(dict(streams)).propose


def _echo(channel: grpc.aio.Channel) -> Propose:
    call = channel.unary_unary(METHOD, request_serializer=bytes, response_deserializer=bytes)

    async def propose(_: int, payloads: list[bytes]) -> None:
        await call(b"".join(payloads))

    return propose


def _put(channel: grpc.aio.Channel) -> Propose:
    call = channel.unary_unary(etcd.PUT, request_serializer=bytes, response_deserializer=bytes)

    async def propose(_: int, payloads: list[bytes]) -> None:
        for payload in payloads:
            await call(etcd.put_request(payload[:8], payload))

    return propose


def main() -> None:
    """Read the job, do it, print the result."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=RaftJob)
    result = uvloop.run(run(job))
    sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")


if __name__ == "__main__":
    main()
