"""Replies of a peer with a fault, well formed and without sense: its connection ends at most, never the node."""

import asyncio
from collections.abc import Callable
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mas.errors import MasError, NetworkError
from mas.ledger.instructions import Answer, Batch, Code, Commit, RejectReason
from mas.locks import LockClient, join
from mas.locks.remote import Reply as LockReply
from mas.membership import Membership, Roster
from mas.rpc import messages
from mas.rpc.client import BucketClient
from mas.rpc.messages import (
    AccountViews,
    Answers,
    Nodes,
    ReadAccounts,
    ReadLevel,
    ReadNodes,
    Rejected,
)
from mas.rpc.settings import BucketClientSettings
from mas.runtime import SystemClock
from tests.strange import values_of


class Peers:
    """Everybody is there, and silent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, peer: int, channel: int, payload: bytes) -> bool:
        self.sent.append(payload)
        return True

    def is_connected(self, peer: int) -> bool:
        return True

    def add_peer(self, node: int, address: str = "") -> None: ...

    def remove_peer(self, node: int) -> None: ...


class Asking:
    """A router with a payment of three instructions and two reads under way at node 1."""

    def __init__(self) -> None:
        self.peers = Peers()
        settings = BucketClientSettings(timeout=60.0, query_timeout=60.0)
        self.router = BucketClient(
            self.peers, {1: [1]}, clock=SystemClock(), dice=Random(1), settings=settings
        )
        self.answered: list[tuple[int, object]] = []
        batch = Batch(b"", 0, tuple(Commit(bytes((i,)), i) for i in range(3)))
        self.router.submit(1, batch, lambda i, answer: self.answered.append((i, answer)))
        questions = [ReadAccounts(0, 1, ReadLevel.LINEARIZABLE, ("alice",)), ReadNodes(0, 1)]
        self.reads = [asyncio.ensure_future(self.router.query(1, each, 60.0)) for each in questions]

    async def numbers(self) -> list[int]:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return sorted(call.number for call in self.router._calls)

    async def end(self) -> None:
        for read in self.reads:
            read.cancel()
        await asyncio.wait(self.reads)
        self.router.close()


def run(scenario: Callable[[Asking, list[int]], None]) -> None:
    async def within() -> None:
        asking = Asking()
        try:
            scenario(asking, await asking.numbers())
            await asyncio.sleep(0)
            for read in (each for each in asking.reads if each.done()):
                if read.exception() is None:
                    assert isinstance(read.result(), AccountViews | Nodes)
                else:
                    assert isinstance(read.exception(), MasError)
        finally:
            await asking.end()
        positions = [position for position, _ in asking.answered]
        assert sorted(positions) == [0, 1, 2]  # each once, however it was answered

    asyncio.run(within())


@given(st.lists(values_of(messages.Reply), max_size=3), st.data())
@settings(max_examples=15)
def test_kind_4_strange_replies_end_no_node(
    replies: list[list[object]], data: st.DataObject
) -> None:
    def scenario(asking: Asking, numbers: list[int]) -> None:
        assert len(numbers) == 3
        for reply in replies:
            reply[1] = data.draw(st.sampled_from(numbers))
            try:
                asking.router.on_reply(1, msgspec.msgpack.encode([reply]))
            except NetworkError:
                continue

    run(scenario)


@pytest.mark.parametrize("position", [-1, 3, 2**40])
@pytest.mark.parametrize("away", [True, False])
def test_kind_4_an_answer_for_what_was_not_asked_ends_its_connection(
    position: int, away: bool
) -> None:
    def scenario(asking: Asking, numbers: list[int]) -> None:
        reply: messages.Reply = Answers(numbers[0], ((position, Answer(Code.DONE)),))
        if away:
            reply = Rejected(numbers[0], RejectReason.UNKNOWN, positions=(position,))
        with pytest.raises(NetworkError, match="of 3"):
            asking.router.on_reply(1, messages.encode((reply,)))
        with pytest.raises(NetworkError, match="answers a ReadAccounts with Answers"):
            asking.router.on_reply(1, messages.encode((Answers(numbers[1], ()),)))

    run(scenario)


@given(st.lists(values_of(LockReply), max_size=8))
def test_kind_4_strange_lock_replies_end_no_node(replies: list[list[object]]) -> None:
    async def within() -> None:
        remote = LockClient(Peers(), lambda: 2, clock=SystemClock(), dice=Random(1))
        take = join(None, remote)
        asked = [
            asyncio.ensure_future(remote.acquire_locks(b"me", ["alice"], 1, 60.0)),  # type: ignore[arg-type]
            asyncio.ensure_future(remote.release_lock("alice", b"me", None)),  # type: ignore[arg-type]
        ]
        await asyncio.sleep(0)
        for number, reply in enumerate(replies):
            numbers = [call.number for call in remote._calls]
            if len(numbers) == 2:
                reply[1] = numbers[number % 2]
            try:
                take(2, msgspec.msgpack.encode(reply))
            except NetworkError:
                continue
            await asyncio.sleep(0)
        for each in asked:
            each.cancel()
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert not any(isinstance(each, AssertionError) for each in results), results

    asyncio.run(within())


@given(values_of(Roster))
def test_kind_4_strange_rosters_end_no_node(roster: object) -> None:
    class RosterFile:
        def write(self, roster: Roster) -> None: ...

    membership = Membership(1, Roster(), Peers(), RosterFile())  # type: ignore[arg-type]
    membership.start()
    try:
        membership.on_frame(2, msgspec.msgpack.encode(roster))
    except NetworkError:
        return
