"""The benchmark's load generator: one process, one kind of load, for some seconds.

    python -m mas.bench.load < JOB

reads a `Job` as JSON and prints a `Result`. It speaks the wire as a client in another language would, but for the kind "client",
which is `mas.client`.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Literal

import grpc
import msgspec
import uvloop

from mas.bench.echo import METHOD
from mas.bench.tally import Tally
from mas.client import Client
from mas.client.channel import channel_options
from mas.runtime import Promise, Supervisor, SystemDice
from mas.transaction.outcome import Status
from mas.wire.gen.mas.v1 import account_pb2 as pb
from mas.wire.gen.mas.v1 import account_pb2_grpc as pb_grpc

_PAIRS = 4_096


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to load, how, and for how long."""

    kind: Literal["echo", "unary", "client", "stream"]
    address: str
    ca: str
    token: str = ""
    name: str = ""
    """Makes the idempotency keys of this run unlike those of any other."""
    seconds: float = 5.0
    callers: int = 64
    """Callers that each wait for their answer; of a stream: batches in flight."""
    batch: int = 1
    accounts: tuple[str, ...] = ()
    hot: str = ""
    """Set: half of all payments touch this account."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    per_s: float
    committed: int
    other: dict[str, int]
    """Answers that were none, by outcome."""
    p50_ms: float
    p99_ms: float
    cpu_s: float
    """What this process itself used."""


class Load(Tally):
    """Pays by the job, and counts what comes of it."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.seconds)
        self.job = job
        self.other: dict[str, int] = {}
        self._keys = count()
        self._pairs = _pairs(job)

    async def measure(self, one_caller: Callable[[], Awaitable[None]]) -> Result:
        """Have the job's callers call until its time is over."""
        await self.run([one_caller] * self.job.callers)
        return Result(
            per_s=self.per_s,
            committed=self.answered,
            other=self.other,
            p50_ms=self.latency_ms(50),
            p99_ms=self.latency_ms(99),
            cpu_s=self.cpu_s(),
        )

    def payment(self) -> pb.Payment:
        """The next payment: of one cent, under a key of its own."""
        payer, payee = next(self._pairs)
        return pb.Payment(
            from_account=payer,
            to_account=payee,
            amount=1,
            currency="USD",
            idempotency_key=self.key(),
        )

    def pair(self) -> tuple[str, str]:
        """Payer and payee of the next payment."""
        return next(self._pairs)

    def key(self) -> str:
        """A key that was never used."""
        return f"{self.job.name}-{next(self._keys)}"

    def ended(self, outcome: str, *, committed: bool, since: float) -> None:
        """Count one payment's end."""
        self.heard(since, count=1 if committed else 0)
        if not committed:
            self.other[outcome] = self.other.get(outcome, 0) + 1


def _pairs(job: Job) -> Iterator[tuple[str, str]]:
    """Payer and payee, by chance and then round and round."""
    dice = SystemDice()
    accounts = [number for number in job.accounts if number != job.hot]
    pairs: list[tuple[str, str]] = []
    while len(pairs) < _PAIRS and len(accounts) > 1:
        payer = dice.randrange(len(accounts))
        payee = (payer + 1 + dice.randrange(len(accounts) - 1)) % len(accounts)
        pair = (accounts[payer], accounts[payee])
        if job.hot and len(pairs) % 2:
            pair = (job.hot, pair[1]) if len(pairs) % 4 == 1 else (pair[0], job.hot)
        pairs.append(pair)
    while True:
        yield from pairs


async def _echo(load: Load, channel: grpc.aio.Channel) -> Result:
    call = channel.unary_unary(METHOD, request_serializer=bytes, response_deserializer=bytes)
    request = b"a payment would be about this long, its accounts and its key included"

    async def caller() -> None:
        while load.goes_on():
            since = load.clock.monotonic()
            await call(request)
            load.heard(since)

    return await load.measure(caller)


async def _unary(load: Load, channel: grpc.aio.Channel) -> Result:
    stub = pb_grpc.AccountServiceStub(channel)
    metadata = (("authorization", load.job.token),)

    async def caller() -> None:
        while load.goes_on():
            since = load.clock.monotonic()
            result = await stub.CreatePayment(load.payment(), metadata=metadata)
            _count(load, result, since)

    return await load.measure(caller)


async def _stream(load: Load, channel: grpc.aio.Channel) -> Result:
    stub = pb_grpc.AccountServiceStub(channel)
    metadata = (("authorization", load.job.token),)
    # Its requests are written, not iterated over.
    call = stub.CreatePayments(metadata=metadata)  # type: ignore[call-arg]
    waiting: dict[int, tuple[float, Promise[None]]] = {}
    left: dict[int, int] = {}
    numbers = count(1)
    writing = asyncio.Lock()  # gRPC takes one write at a time

    async def hear() -> None:
        async for results in call:
            for result in results.results:
                since, done = waiting[result.batch]
                _count(load, result, since)
                left[result.batch] -= 1
                if not left[result.batch]:
                    done.set(None)

    async def caller() -> None:
        while load.goes_on():
            number = next(numbers)
            done: Promise[None] = Promise()
            waiting[number] = (load.clock.monotonic(), done)
            left[number] = load.job.batch
            payments = [load.payment() for _ in range(load.job.batch)]
            async with writing:
                await call.write(pb.PaymentBatch(batch=number, payments=payments))
            await done
            del waiting[number], left[number]

    async with Supervisor() as supervisor:
        hearing = supervisor.spawn("hear", hear())
        result = await load.measure(caller)
        await call.done_writing()
        await hearing
        return result


async def _client(load: Load) -> Result:
    job = load.job
    async with Client(job.address, token=job.token, ca=Path(job.ca)) as client:

        async def caller() -> None:
            while load.goes_on():
                payer, payee = load.pair()
                since = load.clock.monotonic()
                result = await client.pay(payer, payee, 1, key=load.key())
                committed = result.status is Status.COMMITTED
                load.ended(result.status.name, committed=committed, since=since)

        return await load.measure(caller)


def _count(load: Load, result: pb.PaymentResult, since: float) -> None:
    committed = result.outcome == pb.OUTCOME_COMMITTED
    name = "" if committed else f"{pb.Outcome.Name(result.outcome)} {pb.Reason.Name(result.reason)}"
    load.ended(name, committed=committed, since=since)


async def run(job: Job) -> Result:
    """Do the job."""
    load = Load(job)
    if job.kind == "client":
        return await _client(load)
    ca = await asyncio.to_thread(Path(job.ca).read_bytes)
    credentials = grpc.ssl_channel_credentials(ca)
    async with grpc.aio.secure_channel(
        job.address, credentials, options=channel_options(job.address)
    ) as channel:
        by_kind = {"echo": _echo, "unary": _unary, "stream": _stream}
        return await by_kind[job.kind](load, channel)


def main() -> None:
    """Read the job, do it, print the result."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    result = uvloop.run(run(job))
    sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")


if __name__ == "__main__":
    main()
