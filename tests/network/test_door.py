"""Strangers at the peer port: how many, for how long, with how much; and that no crowd of them keeps a peer out."""

import asyncio
import errno
import inspect
import logging
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from ssl import SSLContext
from typing import Any, cast

import pytest
import uvloop

from mas.network.door import Door, DoorSettings, _network
from mas.network.tls import ensure_certificate, make_ca, server_context
from mas.runtime import SystemClock

CLOCK = SystemClock()


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Python's loop, and the product's, whose transports are its own."""

    def run(loop: Callable[[], asyncio.AbstractEventLoop], **fixtures: object) -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(test(**fixtures))

    parameters = list(inspect.signature(run).parameters.values())[:1]
    parameters += inspect.signature(test).parameters.values()
    run.__name__, run.__doc__ = test.__name__, test.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    loops = [asyncio.new_event_loop, uvloop.new_event_loop]
    return pytest.mark.parametrize("loop", loops, ids=["asyncio", "uvloop"])(run)


class Echo(asyncio.Protocol):
    """Whoever serves at the door: says everything twice."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.lost = False
        Echo.last = self
        Echo.made += 1

    def data_received(self, data: bytes) -> None:
        self.transport.write(data + data)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True

    last: "Echo"
    made = 0


class Caller:
    """A socket of a stranger."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def call(cls, door: Door, source: str = "127.0.0.1") -> "Caller":
        return cls(*await asyncio.open_connection("127.0.0.1", door.port, local_addr=(source, 0)))

    async def is_hung_up(self) -> bool:
        """Waits for it."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionError:
            return True

    def is_there(self) -> bool:
        return not self.reader.at_eof()

    def close(self) -> None:
        self.writer.close()


@asynccontextmanager
async def a_door(settings: DoorSettings, tls: SSLContext | None = None) -> AsyncIterator[Door]:
    Echo.made = 0
    door = Door(Echo, tls=tls, clock=CLOCK, settings=settings)
    await door.open("127.0.0.1", 0)
    try:
        yield door
    finally:
        await door.close()


async def until(condition: object) -> None:
    while not condition():  # type: ignore[operator]
        await asyncio.sleep(0.005)


@on_both_loops
async def test_who_says_nothing_is_hung_up_on() -> None:
    async with a_door(DoorSettings(seconds=1.0)) as door:
        callers = await asyncio.gather(*(Caller.call(door) for _ in range(20)))
        await until(lambda: door.strangers() == 20)
        for caller in callers:
            assert await caller.is_hung_up()
            caller.close()
        assert door.strangers() == 0


@on_both_loops
async def test_the_deadline_is_not_renewed_by_a_byte_now_and_then() -> None:
    async with a_door(DoorSettings(seconds=0.2)) as door:
        caller = await Caller.call(door)
        said = 0
        while caller.is_there():
            caller.writer.write(b"x")
            said += 1
            await asyncio.sleep(0.01)
            await asyncio.wait([asyncio.ensure_future(caller.reader.read(9))], timeout=0.01)
        assert said > 3
        caller.close()


@on_both_loops
async def test_silence_before_tls_is_hung_up_on_too(tmp_path: Path) -> None:
    make_ca(tmp_path, CLOCK)
    tls = server_context(ensure_certificate(tmp_path, 1, (), CLOCK))
    async with a_door(DoorSettings(seconds=1.0), tls) as door:
        silent, garbage = await Caller.call(door), await Caller.call(door)
        await until(lambda: door.strangers() == 2)
        garbage.writer.write(b"no TLS at all, and much of it")
        assert await garbage.is_hung_up()
        assert await silent.is_hung_up()
        assert door.strangers() == 0
        silent.close()
        garbage.close()


@on_both_loops
async def test_security_b12_a_stranger_may_send_little() -> None:
    async with a_door(DoorSettings(bytes=100)) as door:
        small, large = await Caller.call(door), await Caller.call(door)
        small.writer.write(bytes(100))
        assert len(await small.reader.readexactly(200)) == 200
        large.writer.write(bytes(101))
        assert await large.is_hung_up()
        small.writer.write(b"x")
        assert await small.is_hung_up()
        small.close()
        large.close()


@on_both_loops
async def test_who_has_proved_itself_is_counted_no_more() -> None:
    async with a_door(DoorSettings(bytes=100, seconds=0.5)) as door:
        caller = await Caller.call(door)
        await until(lambda: Echo.made)
        assert door.welcome(Echo.last)
        assert not door.welcome(Echo.last)
        assert door.strangers() == 0
        await asyncio.sleep(0.6)
        caller.writer.write(bytes(5_000))
        assert len(await caller.reader.readexactly(10_000)) == 10_000
        caller.close()
        await until(lambda: Echo.last.lost)


@on_both_loops
async def test_of_a_crowd_from_one_address_the_oldest_go() -> None:
    async with a_door(DoorSettings(per_address=4)) as door:
        crowd = [await Caller.call(door) for _ in range(10)]
        other = await Caller.call(door, "127.0.0.2")
        for caller in crowd[:6]:
            assert await caller.is_hung_up()
        assert all(caller.is_there() for caller in (*crowd[6:], other))
        await until(lambda: door.strangers() == 5)
        for caller in (*crowd, other):
            caller.close()


@on_both_loops
async def test_strangers_from_everywhere_leave_a_peers_address_its_room() -> None:
    async with a_door(DoorSettings(strangers=6, per_address=4)) as door:
        peer = await Caller.call(door)
        await until(lambda: Echo.made)
        assert door.welcome(Echo.last)
        again = await Caller.call(door)
        crowd = [await Caller.call(door, f"127.0.0.{host}") for host in range(2, 12)]
        late = await Caller.call(door)
        for caller in crowd[:4]:
            assert await caller.is_hung_up()
        assert all(caller.is_there() for caller in (peer, again, late, *crowd[4:]))
        await until(lambda: door.strangers() == 8)
        for caller in (peer, again, late, *crowd):
            caller.close()


@on_both_loops
async def test_without_files_the_door_waits_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    accept, failures = socket.socket.accept, 0

    def without_files(listening: socket.socket) -> tuple[socket.socket, object]:
        nonlocal failures
        if failures < 3:
            failures += 1
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(listening)

    monkeypatch.setattr(socket.socket, "accept", without_files)
    monkeypatch.setattr("mas.network.door._NO_ROOM_SECONDS", 0.001)
    async with a_door(DoorSettings()) as door:
        caller = await Caller.call(door)
        caller.writer.write(b"x")
        assert await caller.reader.readexactly(2) == b"xx"
        caller.close()
    assert failures == 3
    assert len([r for r in caplog.records if "Too many open files" in r.getMessage()]) == 1


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_what_one_caller_can_come_from(address: str, network: str) -> None:
    assert _network(address) == network
