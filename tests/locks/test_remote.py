"""The way to another node's lock service: what it answers arrives, and what is lost is not had."""

import asyncio
from collections.abc import Callable
from random import Random

import pytest

from mas.channels import Channel
from mas.errors import (
    DatabaseUnavailable,
    MasError,
    NetworkError,
    NotFound,
    Overloaded,
    Unavailable,
)
from mas.ledger.instructions import LockMode, Token
from mas.locks import LockClient, LockRequest, LockServer, join
from mas.locks.table import Grant
from mas.runtime import SystemClock

X, E, S = LockMode.EXCLUSIVE, LockMode.ESCROW, LockMode.SHARED
TOKEN = Token(2, 7, S)
CLOCK = SystemClock()


class FakeService:
    """Keeps what it is asked."""

    lease = 9.0

    def __init__(self) -> None:
        self.asked: list[LockRequest] = []
        self.withdrawn: list[LockRequest] = []
        self.released: list[bytes] = []
        self.is_at_work = True

    def ask(self, request: LockRequest) -> None:
        if not self.is_at_work:
            raise Unavailable("not at work")
        self.asked.append(request)

    def withdraw(self, request: LockRequest) -> None:
        self.withdrawn.append(request)

    def release(self, owner: bytes) -> None:
        self.released.append(owner)

    def ask_release_owner(self, owner: bytes, on_result: Callable[[bool | MasError], None]) -> None:
        on_result(Unavailable("not at work") if not self.is_at_work else owner == b"me")

    def ask_release(
        self, lock_id: str, owner: bytes, token: Token, on_result: Callable[[bool | MasError], None]
    ) -> None:
        on_result((lock_id, owner, token) == ("printer", b"me", TOKEN))


class Wire:
    """Node 1 has a coordinator, node 2 the lock service; frames arrive on a later turn, while it is up."""

    def __init__(self) -> None:
        self.is_up = True
        self.loses = False
        self.service = FakeService()
        self.door = LockServer(self.service, _End(self, 2), CLOCK)  # type: ignore[arg-type]
        self.remote = LockClient(_End(self, 1), lambda: 2, clock=CLOCK, dice=Random(1))
        self.take = {1: join(None, self.remote), 2: join(self.door, None)}

    def carry(self, sender: int, receiver: int, payload: bytes) -> bool:
        if self.is_up and not self.loses:
            asyncio.get_running_loop().call_soon(self.take[receiver], sender, payload)
        return self.is_up

    async def asked(self) -> LockRequest:
        while not self.service.asked:
            await asyncio.sleep(0)
        return self.service.asked.pop()


class _End:
    def __init__(self, wire: Wire, node: int) -> None:
        self._wire = wire
        self._node = node

    def send(self, peer: int, channel: int, payload: bytes) -> bool:
        assert channel == Channel.LOCKS
        return self._wire.carry(self._node, peer, payload)


def grant(request: LockRequest, left: float = 5.0) -> Grant:
    return Grant(1, request.owner, request.lock_ids, TOKEN, CLOCK.monotonic() + left)


@pytest.mark.asyncio
async def test_a_lease_arrives_as_it_was_asked_for_and_given() -> None:
    wire = Wire()
    asking = asyncio.create_task(wire.remote.acquire(b"xid", ["bob", "alice"], S, 3.0))
    request = await wire.asked()
    assert (request.owner, request.lock_ids) == (b"xid", ("account:bob", "account:alice"))
    assert (request.mode, request.marked, request.durable, request.lease) == (S, True, False, 9.0)
    assert 2.5 < request.until - CLOCK.monotonic() <= 3.0
    request.on_result(grant(request))
    assert await asking == {"bob": TOKEN, "alice": TOKEN}


@pytest.mark.asyncio
async def test_the_lease_ends_here_when_it_ends_there() -> None:
    wire = Wire()
    asking = asyncio.create_task(
        wire.remote.acquire_locks(b"me", ["printer"], X, 3.0, durable=True, lease=4.0)
    )
    request = await wire.asked()
    assert (request.lease, request.durable, request.marked) == (4.0, True, False)
    request.on_result(grant(request, left=4.0))
    lease = await asking
    assert 3.5 < lease.deadline - CLOCK.monotonic() <= 4.0


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("error", "heard"),
    [
        (Unavailable("not free"), Unavailable),
        (Overloaded("too many"), Overloaded),
        (NotFound("no such account"), NotFound),
        (DatabaseUnavailable("the store is down"), Unavailable),
    ],
)
async def test_a_no_arrives_as_what_it_is(error: MasError, heard: type[MasError]) -> None:
    wire = Wire()
    asking = asyncio.create_task(wire.remote.acquire(b"xid", ["alice"], E, 3.0))
    (await wire.asked()).on_result(error)
    with pytest.raises(heard, match=str(error)) as caught:
        await asking
    assert type(caught.value) is heard


@pytest.mark.asyncio
async def test_l7_a_service_that_is_not_at_work_or_not_there() -> None:
    wire = Wire()
    wire.service.is_at_work = False
    with pytest.raises(Unavailable, match="not at work"):
        await wire.remote.acquire(b"xid", ["alice"], E, 3.0)
    wire.is_up = False
    with pytest.raises(Unavailable, match="can't be reached"):
        await wire.remote.acquire(b"xid", ["alice"], E, 3.0)


@pytest.mark.asyncio
async def test_a_broken_connection_is_a_lock_not_had() -> None:
    wire = Wire()
    asking = asyncio.create_task(wire.remote.acquire(b"xid", ["alice"], E, 60.0))
    request = await wire.asked()
    wire.remote.on_peer(3, False)
    wire.remote.on_peer(2, True)
    assert not asking.done()
    wire.remote.on_peer(2, False)
    with pytest.raises(Unavailable, match="broke"):
        await asking
    request.on_result(grant(request))
    await asyncio.sleep(0)
    assert not wire.remote._calls


@pytest.mark.asyncio
async def test_a_lost_frame_is_a_lock_not_had() -> None:
    wire = Wire()
    wire.loses = True
    with pytest.raises(Unavailable, match="doesn't answer"):
        await wire.remote.acquire(b"xid", ["alice"], E, -0.49)


@pytest.mark.asyncio
async def test_who_is_gone_is_withdrawn_there_too() -> None:
    wire = Wire()
    asking = asyncio.create_task(wire.remote.acquire(b"xid", ["alice"], E, 60.0))
    request = await wire.asked()
    asking.cancel()
    while not wire.service.withdrawn:
        await asyncio.sleep(0)
    assert wire.service.withdrawn == [request]
    assert not wire.door._waiting


@pytest.mark.asyncio
async def test_letting_go() -> None:
    wire = Wire()
    wire.remote.release(b"xid")
    assert await wire.remote.release_lock("printer", b"me", TOKEN)
    assert not await wire.remote.release_lock("printer", b"me", Token(2, 8))
    assert wire.service.released == [b"xid"]


@pytest.mark.asyncio
async def test_letting_go_is_confirmed() -> None:
    wire = Wire()
    assert await wire.remote.release_owner(b"me")
    assert not await wire.remote.release_owner(b"somebody")
    wire.service.is_at_work = False
    with pytest.raises(Unavailable):
        await wire.remote.release_owner(b"me")
    wire.is_up = False
    with pytest.raises(Unavailable):
        await wire.remote.release_owner(b"me")


@pytest.mark.asyncio
async def test_m6_what_cannot_be_read_is_the_peers_fault() -> None:
    wire = Wire()
    with pytest.raises(NetworkError):
        wire.take[2](1, b"\xc1")
