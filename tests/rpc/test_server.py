"""Replies of a turn travel together, within the bounds of a frame; none is lost for its size or its neighbours'."""

import asyncio

import pytest

from mas import limits
from mas.errors import NetworkError
from mas.ledger import Answer, Code, RejectReason
from mas.rpc.messages import (
    AccountView,
    AccountViews,
    Answers,
    ChangeMembers,
    ReadReplica,
    Rejected,
    Reply,
    decode_replies,
)
from mas.rpc.server import BucketServer


class Peers:
    """Takes frames as the transport does."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def send(self, peer: int, channel: int, payload: bytes) -> bool:
        assert len(payload) <= limits.FRAME_BYTES_MAX, "the transport sends no such frame"
        self.frames.append(payload)
        return True

    def replies(self) -> list[Reply]:
        return [reply for frame in self.frames for reply in decode_replies(frame)]


def no_replica(request: ReadReplica | ChangeMembers) -> Reply:
    raise AssertionError(f"{request} isn't asked here")


def a_server(peers: Peers) -> BucketServer:
    return BucketServer(peers, no_replica)


def views(request: int, count: int) -> AccountViews:
    view = AccountView(*[_sample(hint) for hint in AccountView.__annotations__.values()])
    return AccountViews(request, (view,) * count)


def _sample(hint: object) -> object:
    return {str: "x" * 64, int: 1 << 60, bool: True}.get(hint)  # type: ignore[call-overload]


@pytest.mark.asyncio
async def test_a_turns_replies_of_many_megabytes_all_arrive() -> None:
    peers = Peers()
    server = a_server(peers)
    replies = [views(request, 1_000) for request in range(120)]
    payment = Answers(999, ((0, Answer(Code.DONE)),))
    for reply in (*replies[:60], payment, *replies[60:]):
        server.reply(7, reply)
    await asyncio.sleep(0)
    assert sum(map(len, peers.frames)) > limits.FRAME_BYTES_MAX
    assert [each.request for each in peers.replies()] == [*range(60), 999, *range(60, 120)]


@pytest.mark.asyncio
async def test_an_answer_that_no_frame_holds_is_an_error_to_its_asker() -> None:
    peers = Peers()
    server = a_server(peers)
    server.reply(7, views(1, 60_000))
    server.reply(7, views(2, 1))
    huge = Answers(3, tuple((i, Answer(Code.DONE)) for i in range(4_000_000)))
    server.reply(7, huge)
    await asyncio.sleep(0)
    large, small, answers = peers.replies()
    assert isinstance(large, Rejected)
    assert (large.request, large.why) == (1, RejectReason.FAILED)
    assert "bytes" in large.detail
    assert small.request == 2
    assert isinstance(answers, Rejected)
    assert (answers.request, answers.why) == (
        3,
        RejectReason.UNKNOWN,
    )  # it is done, and can't be told


@pytest.mark.asyncio
async def test_many_small_replies_are_cut_by_number() -> None:
    peers = Peers()
    server = a_server(peers)
    for request in range(limits.TURN_INSTRUCTIONS_MAX + 1):
        server.reply(7, Rejected(request, RejectReason.INVALID))
    await asyncio.sleep(0)
    assert len(peers.frames) == 2


def test_what_cannot_be_read_is_the_peers_fault() -> None:
    with pytest.raises(NetworkError):
        a_server(Peers()).on_frame(7, b"\x91\xc1")
