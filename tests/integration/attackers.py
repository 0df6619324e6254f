"""Attackers of a running cluster, each at its limit for one thing that a caller can hold; a program of its own.

It is another process than those who pay, as an attacker is, so that what it costs itself isn't taken for what it costs them.
It reads its target from its standard input, says "ready" once it is at its limit, and goes on until it is ended.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import msgspec
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mas.daemon.open_files import raise_file_limit
from mas.wire.gen.mas.v1 import account_pb2 as pb
from mas.wire.gen.mas.v1.account_pb2_grpc import AccountServiceStub

SHARE_MAX = 256
"""Calls that an account may have under way; of the rest it may have fewer."""

Attack = Callable[["Attacker"], Awaitable[None]]


class Target(msgspec.Struct, frozen=True):
    """Whom to attack, and by what name."""

    address: str
    ca: str
    token: str
    ports: tuple[int, ...]
    """Where anybody can knock: the peer ports, and the API."""


class Attacker:
    """Connections of one owner, or of nobody, and what it holds on to."""

    def __init__(self, target: Target, stack: AsyncExitStack) -> None:
        self._target = target
        self._stack = stack
        self.token = (("authorization", target.token),)
        self.ports = target.ports
        self.held: list[Any] = []

    async def connect(self) -> grpc.aio.Channel:
        channel = grpc.aio.secure_channel(
            self._target.address,
            grpc.ssl_channel_credentials(Path(self._target.ca).read_bytes()),
            options=[("grpc.use_local_subchannel_pool", 1)],
        )
        return await self._stack.enter_async_context(channel)

    def keep(self, work: Awaitable[Any]) -> None:
        self.held.append(asyncio.ensure_future(work))

    async def settled(self) -> None:
        """Once what is above the share has been refused."""
        while sum(not call.done() for call in self.held) > SHARE_MAX:
            await asyncio.sleep(0.05)


async def watches(attacker: Attacker) -> None:
    """B4: four thousand watches of the health, without a token."""
    for _ in range(4):
        stub = health_pb2_grpc.HealthStub(await attacker.connect())
        attacker.held += [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(1_024)]
    await attacker.settled()


async def silent_calls(attacker: Attacker) -> None:
    """B4: four thousand calls whose request never comes."""
    for _ in range(4):
        call = (await attacker.connect()).stream_unary("/mas.v1.AccountService/GetAccount")
        attacker.held += [call(metadata=attacker.token) for _ in range(1_024)]
    await attacker.settled()


async def streams(attacker: Attacker) -> None:
    """B5: four thousand streams of one owner."""
    for _ in range(4):
        stub = AccountServiceStub(await attacker.connect())
        attacker.held += [stub.CreatePayments(metadata=attacker.token) for _ in range(1_024)]
    await attacker.settled()


async def giants(attacker: Attacker) -> None:
    """B6: batches of two million empty payments, and as many as are allowed, whose results are never read."""
    channel = await attacker.connect()
    call = channel.stream_stream("/mas.v1.AccountService/CreatePayments")
    allowed = pb.PaymentBatch(linked=True).SerializeToString() + b"\x12\x00" * 8_192

    async def flood(message: bytes) -> None:
        while True:
            stream = call(metadata=attacker.token)
            try:
                while True:
                    await stream.write(message)
                    await asyncio.sleep(0.01)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await asyncio.sleep(0.1)

    attacker.keep(flood(b"\x12\x00" * 2_000_000))
    attacker.keep(flood(allowed))


async def statements(attacker: Attacker) -> None:
    """B8: statements of one's own account, two hundred at a time."""
    stub = AccountServiceStub(await attacker.connect())
    request = pb.ListPostingsRequest(account_number="mallory", limit=1_000)

    async def read() -> None:
        while True:
            try:
                await stub.ListPostings(request, metadata=attacker.token, timeout=10)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)

    for _ in range(200):
        attacker.keep(read())


async def idle_sockets(attacker: Attacker) -> None:
    """B7: at each peer port and at the API a thousand sockets over which nothing is said; whoever is hung up on knocks again."""
    raise_file_limit()

    async def knock(port: int) -> None:
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    await reader.read()
                finally:
                    writer.close()
            await asyncio.sleep(1.0)

    for port in attacker.ports:
        for _ in range(1_000):
            attacker.keep(knock(port))


ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (watches, silent_calls, streams, giants, statements, idle_sockets)
}


async def main(attack: Attack, target: Target) -> None:
    async with AsyncExitStack() as stack:
        attacker = Attacker(target, stack)
        await attack(attacker)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(ATTACKS[sys.argv[1]], msgspec.json.decode(sys.stdin.read(), type=Target)))
