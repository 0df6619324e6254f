"""The peer transport over real sockets of this machine: what arrives, what doesn't, and who is told."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random

import aiohttp
import msgspec
import pytest

from mas import limits
from mas.channels import Channel
from mas.network import handshake
from mas.network.connection import Connection
from mas.network.door import DoorSettings
from mas.network.frames import Packer
from mas.network.handshake import Identity, Refusal
from mas.network.peer import PeerStatistics
from mas.network.settings import TransportSettings
from mas.network.transport import PeerTransport
from mas.rpc.messages import decode_replies
from mas.runtime import SystemClock

QUICK = TransportSettings(
    connect=2.0, heartbeat=5.0, backoff_min=0.01, backoff_max=0.05, backoff_refused=0.05, close=0.2
)


class Node:
    """A transport, and what it has seen."""

    def __init__(
        self,
        node: int,
        *,
        cluster: str = "bank",
        secret: bytes = b"secret",
        settings: TransportSettings = QUICK,
    ) -> None:
        self.id = node
        self.frames: list[tuple[int, int, bytes]] = []
        self.peers: list[tuple[int, bool]] = []
        self.transport = PeerTransport(
            Identity(cluster, node, secret),
            host="127.0.0.1",
            port=0,
            clock=SystemClock(),
            dice=Random(node),
            settings=settings,
        )
        self.transport.on_frame(Channel.RAFT, self._taker(Channel.RAFT))
        self.transport.on_frame(Channel.REPLY, self._taker(Channel.REPLY))
        self.transport.on_peer(lambda peer, up: self.peers.append((peer, up)))

    def _taker(self, channel: Channel) -> Callable[[int, bytes], None]:
        return lambda peer, payload: self.frames.append((peer, channel, payload))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.transport.port}"

    def peer(self, node: int) -> PeerStatistics:
        return next(each for each in self.transport.statistics() if each.peer == node)


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    for node in nodes:
        await node.transport.start()
    runs = [asyncio.create_task(node.transport.run()) for node in nodes]
    try:
        yield
    finally:
        for run in runs:
            run.cancel()
        await asyncio.wait(runs)
        for node in nodes:  # a task that is cancelled before its first turn never ran
            await node.transport.stop()


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


@asynccontextmanager
async def a_pair() -> AsyncIterator[tuple[Node, Node]]:
    one, two = Node(1), Node(2)
    async with running(one, two):
        one.transport.add_peer(2, two.address)
        two.transport.add_peer(1, one.address)
        await until(lambda: one.peer(2).dialled and one.peer(2).accepted)
        await until(lambda: two.peer(1).dialled and two.peer(1).accepted)
        yield one, two


def connection(node: Node, peer: int) -> Connection:
    dialled = node.transport._peers[peer].dialled
    assert dialled is not None
    return dialled


@pytest.mark.asyncio
async def test_frames_go_both_ways_in_order() -> None:
    async with a_pair() as (one, two):
        for i in range(500):
            assert one.transport.send(2, Channel.RAFT, b"%d" % i)
            assert two.transport.send(1, Channel.REPLY, b"%d" % i)
        await until(lambda: len(one.frames) == len(two.frames) == 500)
        assert two.frames == [(1, Channel.RAFT, b"%d" % i) for i in range(500)]
        assert one.frames == [(2, Channel.REPLY, b"%d" % i) for i in range(500)]


@pytest.mark.asyncio
async def test_the_end_of_an_old_connection_is_no_end_of_the_new_one() -> None:
    """A peer that had moved was up, and then taken for down: it heard no news any more."""
    async with a_pair() as (one, two):
        old = one.transport._peers[2]
        one.transport.remove_peer(2)
        one.transport.add_peer(2, two.address)
        await until(lambda: one.peer(2).dialled)
        late = old.accepted or old.dialled or connection(one, 2)
        one.transport._detach(old, late, "as late as can be")
        assert one.transport.is_connected(2)
        assert one.peers[-1] == (2, True)


@pytest.mark.asyncio
async def test_each_direction_has_its_own_connection() -> None:
    async with a_pair() as (one, two):
        one.transport.send(2, Channel.RAFT, b"x")
        await until(lambda: two.frames)
        dialled, accepted = one.peer(2).dialled, one.peer(2).accepted
        assert dialled is not None
        assert accepted is not None
        assert (dialled.frames_sent, dialled.frames_waiting, dialled.bytes_waiting) == (1, 0, 0)
        assert accepted.frames_sent == 0


@pytest.mark.asyncio
async def test_a_frame_as_large_as_allowed_arrives_and_a_larger_one_is_not_sent() -> None:
    async with a_pair() as (one, two):
        assert not one.transport.send(2, Channel.RAFT, bytes(limits.FRAME_BYTES_MAX + 1))
        assert one.transport.send(2, Channel.RAFT, bytes(limits.FRAME_BYTES_MAX))
        await until(lambda: two.frames)
        assert len(two.frames[0][2]) == limits.FRAME_BYTES_MAX
        assert one.peers == [(2, True)]


@pytest.mark.asyncio
async def test_one_who_is_not_dialled_answers_over_the_connection_it_accepted() -> None:
    one, two = Node(1), Node(2)
    async with running(one, two):
        two.transport.add_peer(1)
        one.transport.add_peer(2, two.address)
        await until(lambda: two.transport.is_connected(1))
        assert two.transport.send(1, Channel.REPLY, b"answer")
        await until(lambda: one.frames)
        assert one.frames == [(2, Channel.REPLY, b"answer")]


@pytest.mark.asyncio
async def test_a_frame_to_oneself_arrives_on_a_later_turn() -> None:
    one = Node(1)
    async with running(one):
        assert one.transport.is_connected(1)
        assert one.transport.send(1, Channel.RAFT, b"a")
        assert one.transport.send(1, Channel.RAFT, b"b")
        assert one.frames == []
        await asyncio.sleep(0)
        assert one.frames == [(1, Channel.RAFT, b"a"), (1, Channel.RAFT, b"b")]


@pytest.mark.asyncio
async def test_nobody_to_send_to() -> None:
    one = Node(1)
    async with running(one):
        one.transport.add_peer(2)
        assert not one.transport.send(2, Channel.RAFT, b"x")
        assert not one.transport.send(3, Channel.RAFT, b"x")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("stranger", "reason"),
    [
        (Node(1, secret=b"another"), Refusal.SECRET),
        (Node(1, cluster="shop"), Refusal.CLUSTER),
        (Node(9), Refusal.UNKNOWN_ID),
        (Node(2), Refusal.OWN_ID),
    ],
)
async def test_m7_a_stranger_is_refused_and_told_once(
    stranger: Node, reason: Refusal, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "mas.network")
    two = Node(2)
    tries = 0

    def count() -> bool:
        nonlocal tries
        tries += 1
        return False

    async with running(stranger, two):
        two.transport.add_peer(1)
        peer = 3 if stranger.id == 2 else 2
        stranger.transport.add_peer(peer, two.address)
        dialler = stranger.transport._dialler
        dial = dialler._connect
        dialler._connect = lambda each: (count(), dial(each))[1]  # type: ignore[method-assign]
        await until(lambda: tries >= 3)
        assert stranger.peer(peer).trouble == reason
        assert not two.transport.is_connected(stranger.id) or stranger.id == 2
        assert two.peers == []
    said = [record for record in caplog.records if "refused: " in record.getMessage()]
    assert len([r for r in said if f"node {peer} at" in r.getMessage()]) == 1
    assert len(said) <= 2


@pytest.mark.asyncio
async def test_who_calls_the_wrong_node_is_refused() -> None:
    one, two = Node(1), Node(2)
    async with running(one, two):
        two.transport.add_peer(1)
        one.transport.add_peer(3, two.address)
        await until(lambda: one.peer(3).trouble)
        assert one.peer(3).trouble == Refusal.WRONG_NODE


@pytest.mark.asyncio
async def test_a_broken_connection_is_told_and_made_again() -> None:
    async with a_pair() as (one, two):
        connection(one, 2).socket._socket._conn.transport.abort()
        await until(lambda: one.peer(2).connections == 3)
        assert (2, False) in one.peers
        assert (1, False) in two.peers
        await until(lambda: one.transport.is_connected(2) and one.peers[-1] == (2, True))
        assert one.transport.send(2, Channel.RAFT, b"again")
        await until(lambda: two.frames)
        assert two.frames == [(1, Channel.RAFT, b"again")]


@pytest.mark.asyncio
async def test_a_node_that_comes_back_is_found() -> None:
    one, two = Node(1), Node(2)
    one.transport.add_peer(2, "127.0.0.1:1")
    async with running(one):
        await until(lambda: one.peer(2).trouble == "unreachable")
        one.transport.remove_peer(2)
        async with running(two):
            two.transport.add_peer(1)
            one.transport.add_peer(2, two.address)
            await until(lambda: one.transport.is_connected(2))
            port = two.transport.port
        await until(lambda: not one.transport.is_connected(2))
        third = Node(2)
        third.transport._port = port
        async with running(third):
            third.transport.add_peer(1)
            await until(lambda: one.transport.is_connected(2))


@pytest.mark.asyncio
async def test_a_removed_peer_is_hung_up_on_and_does_not_come_back() -> None:
    async with a_pair() as (one, two):
        two.transport.remove_peer(1)
        await until(lambda: one.peer(2).trouble == Refusal.UNKNOWN_ID)
        assert not two.transport.is_connected(1)


class DeafListener:
    """Shakes hands, and then reads nothing."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()

    async def __call__(self, request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        socket = aiohttp.web.WebSocketResponse()
        await socket.prepare(request)
        listener = handshake.Listener(Identity("bank", 2, b"secret"), lambda _: True, bytes(32))
        await socket.send_bytes(listener.on_hello((await socket.receive()).data))
        await socket.send_bytes(listener.on_proof((await socket.receive()).data))
        await self.waiting.wait()
        return socket


@pytest.mark.asyncio
async def test_a_slow_peer_costs_bounded_memory_and_is_noticed() -> None:
    deaf = DeafListener()
    server = aiohttp.web.Server(deaf)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    patient = msgspec.structs.replace(QUICK, heartbeat=0.5)
    one = Node(1, settings=patient)
    async with running(one):
        one.transport.add_peer(2, f"127.0.0.1:{listener.sockets[0].getsockname()[1]}")
        await until(lambda: one.transport.is_connected(2))
        frame = bytes(1 << 20)
        taken = 0
        while one.transport.send(2, Channel.RAFT, frame):
            taken += len(frame)
            await asyncio.sleep(0)
        dialled = one.peer(2).dialled
        assert dialled is not None
        assert dialled.bytes_waiting <= limits.PEER_QUEUE_BYTES_MAX
        assert limits.PEER_QUEUE_BYTES_MAX * 0.9 < taken < limits.PEER_QUEUE_BYTES_MAX * 1.6
        assert dialled.frames_refused == 1
        await until(lambda: (2, False) in one.peers)
    deaf.waiting.set()
    listener.close()
    await server.shutdown()


@asynccontextmanager
async def shaken(
    node: Node, peer: int
) -> AsyncIterator[tuple[aiohttp.ClientWebSocketResponse, Packer]]:
    """A connection to a node that has shaken hands as `peer`, and may then misbehave."""
    async with aiohttp.ClientSession() as session:
        socket = await session.ws_connect(f"http://{node.address}/peer", max_msg_size=0)
        dialler = handshake.Dialler(Identity("bank", peer, b"secret"), node.id, bytes(32))
        await socket.send_bytes(dialler.hello())
        await socket.send_bytes(dialler.on_challenge((await socket.receive()).data))
        keys = dialler.on_welcome((await socket.receive()).data)
        yield socket, Packer(keys[0])
        await socket.close()


async def announce_oversize(socket: aiohttp.ClientWebSocketResponse, _packer: Packer) -> None:
    """The head of a binary message of nine megabytes, which the other side needn't wait for."""
    head = b"\x82\xff" + (9 << 20).to_bytes(8, "big") + b"mask"
    socket._conn.transport.write(head)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("misbehave", "code"),
    [
        (announce_oversize, aiohttp.WSCloseCode.MESSAGE_TOO_BIG),
        (
            lambda socket, _: socket.send_bytes(b"neither seal nor frame"),
            aiohttp.WSCloseCode.PROTOCOL_ERROR,
        ),
        (
            lambda socket, packer: socket.send_bytes(packer.pack([(99, b"?")])),
            aiohttp.WSCloseCode.PROTOCOL_ERROR,
        ),
        (
            lambda socket, packer: socket.send_bytes(packer.pack([(1, b"\xc1")])),
            aiohttp.WSCloseCode.PROTOCOL_ERROR,
        ),
    ],
    ids=["oversize", "garbage", "unknown channel", "unreadable payload"],
)
async def test_m6_what_cannot_be_taken_closes_that_connection_only(
    misbehave: Callable[[aiohttp.ClientWebSocketResponse, Packer], Awaitable[None]], code: int
) -> None:
    one = Node(1)
    one.transport._frame_handlers[Channel.RAFT] = lambda _, payload: decode_replies(payload)
    async with running(one):
        one.transport.add_peer(2)
        one.transport.add_peer(3)
        async with shaken(one, 3) as (good, good_packer), shaken(one, 2) as (bad, bad_packer):
            await misbehave(bad, bad_packer)
            closed = await bad.receive()
            assert closed.type is aiohttp.WSMsgType.CLOSE
            assert closed.data == code
            await good.send_bytes(good_packer.pack([(Channel.REPLY, b"fine")]))
            await until(lambda: one.frames)
            assert one.frames == [(3, Channel.REPLY, b"fine")]


@pytest.mark.asyncio
async def test_m6_a_garbage_handshake_is_refused_and_the_node_stays_up() -> None:
    one = Node(1)
    async with running(one):
        one.transport.add_peer(2)
        async with aiohttp.ClientSession() as session:
            socket = await session.ws_connect(f"http://{one.address}/peer")
            await socket.send_bytes(b"open sesame")
            answer = msgspec.msgpack.decode((await socket.receive()).data)
            assert answer[1] == Refusal.MALFORMED
            assert (await socket.receive()).data == aiohttp.WSCloseCode.POLICY_VIOLATION
            plain = await session.get(f"http://{one.address}/")
            assert plain.status == 426
        async with shaken(one, 2):
            await until(lambda: one.transport.is_connected(2))


@pytest.mark.asyncio
async def test_a_frame_nobody_here_listens_for_is_dropped() -> None:
    async with a_pair() as (one, two):
        assert one.transport.send(2, Channel.LOCKS, b"no lock service here")
        assert one.transport.send(2, Channel.RAFT, b"next")
        await until(lambda: two.frames)
        assert two.frames == [(1, Channel.RAFT, b"next")]


@pytest.mark.asyncio
async def test_what_a_handler_raises_stops_the_node() -> None:
    one, two = Node(1), Node(2)

    def fail(_peer: int, _payload: bytes) -> None:
        raise AssertionError("a broken invariant")

    one.transport._frame_handlers[Channel.RAFT] = fail
    await one.transport.start()
    run = asyncio.create_task(one.transport.run())
    async with running(two):
        one.transport.add_peer(2)
        two.transport.add_peer(1, one.address)
        await until(lambda: two.transport.is_connected(1))
        two.transport.send(1, Channel.RAFT, b"x")
        with pytest.raises(AssertionError, match="a broken invariant"):
            await run


@pytest.mark.asyncio
async def test_a_later_connection_takes_an_earlier_ones_place() -> None:
    one = Node(1)
    async with running(one):
        one.transport.add_peer(2)
        async with shaken(one, 2) as (first, _):
            await until(lambda: one.peer(2).accepted)
            async with shaken(one, 2) as (second, packer):
                assert (await first.receive()).type is aiohttp.WSMsgType.CLOSE
                await second.send_bytes(packer.pack([(Channel.RAFT, b"x")]))
                await until(lambda: one.frames)
                assert one.transport.is_connected(2)
        assert one.peers[:3] == [(2, True), (2, False), (2, True)]


@pytest.mark.asyncio
async def test_silent_callers_keep_no_peer_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "mas.network")
    patient = msgspec.structs.replace(QUICK, door=DoorSettings(seconds=30.0))
    one, two = Node(1, settings=patient), Node(2)
    async with running(one, two), aiohttp.ClientSession() as session:
        crowd = [await session.ws_connect(f"http://{one.address}/peer") for _ in range(80)]
        door = one.transport._listener._door
        assert door is not None
        assert door.strangers() == DoorSettings().per_address
        one.transport.add_peer(2)
        two.transport.add_peer(1, one.address)
        async with asyncio.timeout(15.0):  # before any is hung up on for its silence
            await until(lambda: one.transport.is_connected(2))
        for caller in crowd:
            await caller.close()
    said = [each for each in caplog.records if each.name == "mas.network.door"]
    assert len(said) == 1


@pytest.mark.asyncio
async def test_security_b12_a_stranger_cannot_have_a_long_message_kept() -> None:
    one = Node(1)
    async with running(one), aiohttp.ClientSession() as session:
        one.transport.add_peer(2)
        stranger = await session.ws_connect(f"http://{one.address}/peer")
        unfinished = b"\x82\xff" + (8 << 20).to_bytes(8, "big") + b"mask" + bytes(1 << 20)
        transport = stranger._conn.transport
        transport.write(unfinished)
        assert (await stranger.receive()).type in (
            aiohttp.WSMsgType.CLOSED,
            aiohttp.WSMsgType.CLOSE,
            aiohttp.WSMsgType.ERROR,
        )
        async with shaken(one, 2) as (
            socket,
            packer,
        ):  # whoever has proved itself sends what it likes
            await socket.send_bytes(packer.pack([(Channel.RAFT, bytes(1 << 20))]))
            await until(lambda: one.frames)


@pytest.mark.asyncio
async def test_security_b11_what_strangers_say_is_logged_short_and_seldom(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    one = Node(1)
    async with running(one), aiohttp.ClientSession() as session:
        for _ in range(5):
            stranger = await session.ws_connect(f"http://{one.address}/peer")
            hello = handshake.Hello(1, "x" * 3_900, 2, 1, bytes(32))
            await stranger.send_bytes(handshake.encode(hello))
            answer = await stranger.receive()
            assert len(answer.data) < 300
            await stranger.close()
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", one.transport.port)
            writer.write(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
            await reader.read()
            writer.close()
        for _ in range(5):  # gone in the middle of the handshake
            stranger = await session.ws_connect(f"http://{one.address}/peer")
            stranger._conn.transport.abort()
            await asyncio.sleep(0.01)
    lines = [each for each in caplog.records if each.name.startswith(("mas", "aiohttp"))]
    assert len([each for each in lines if "belongs to cluster" in each.getMessage()]) == 1
    assert len([each for each in lines if "no HTTP" in each.getMessage()]) == 1
    assert len([each for each in lines if "went away" in each.getMessage()]) == 1
    assert all(len(each.getMessage()) < 400 and not each.exc_info for each in lines)


WHAT_LIBRARIES_RAISE = [
    aiohttp.ClientConnectionResetError("Cannot write to closing transport"),
    RuntimeError("WebSocket connection is closed."),
    TimeoutError(),
    ConnectionResetError(104, "Connection reset by peer"),
    ValueError("a length that isn't one"),
]


@pytest.mark.asyncio
@pytest.mark.parametrize("error", WHAT_LIBRARIES_RAISE, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("method", ["receive", "send_bytes", "close"])
async def test_bank_2_what_a_connection_raises_ends_that_connection_only(
    error: Exception, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = 0

    async def fail(*_arguments: object, **_options: object) -> None:
        nonlocal raised
        raised += 1
        raise error

    async with a_pair() as (one, two):
        for broken in (one.transport._peers[2].dialled, two.transport._peers[1].accepted):
            assert broken is not None
            monkeypatch.setattr(broken.socket._socket, method, fail)
        one.transport.send(2, Channel.RAFT, b"over the broken one")
        two.transport.send(1, Channel.RAFT, b"back")
        dialled = two.transport._peers[1].dialled
        assert dialled is not None
        if method != "send_bytes":  # a read goes on with the message that it is waiting for
            await dialled.socket.close("to be dialled anew")
            abort(connection(one, 2))
        await until(lambda: raised)
        if method == "send_bytes":
            abort(connection(one, 2))
        await until(lambda: one.peer(2).connections > 2)
        await until(lambda: one.transport.is_connected(2) and two.transport.is_connected(1))
        two.frames.clear()
        while not two.frames:
            one.transport.send(2, Channel.RAFT, b"again")
            await asyncio.sleep(0.01)


def abort(one: Connection) -> None:
    one.socket._socket._conn.transport.abort()  # type: ignore[union-attr]


@pytest.mark.asyncio
async def test_bank_2_a_ping_read_from_a_closing_connection_ends_that_connection_only() -> None:
    """So it is where a peer stood still: it is hung up on, and its last ping is still to be read."""
    one = Node(1)
    async with running(one):
        one.transport.add_peer(2)
        async with shaken(one, 2):
            await until(lambda: one.peer(2).accepted)
            accepted = one.transport._peers[2].accepted
            assert accepted is not None
            response = accepted.socket._socket
            assert isinstance(response, aiohttp.web.WebSocketResponse)
            assert response._req is not None
            assert response._req.transport is not None
            raised = asyncio.Event()
            pong = response.pong

            async def seen(message: bytes = b"") -> None:
                try:
                    await pong(message)
                except aiohttp.ClientConnectionResetError:
                    raised.set()
                    raise

            response.pong = seen  # type: ignore[method-assign]
            response._reader.feed_data(aiohttp.WSMessage(aiohttp.WSMsgType.PING, b"", None), 0)
            response._req.transport.close()
            await raised.wait()
            await until(lambda: one.peers[-1] == (2, False))
        async with shaken(one, 2) as (socket, packer):
            await socket.send_bytes(packer.pack([(Channel.RAFT, b"back")]))
            await until(lambda: one.frames)


@pytest.mark.asyncio
async def test_beats_go_before_snapshots() -> None:
    async with a_pair() as (one, two):
        order: list[int] = []
        for channel in (Channel.SNAPSHOT, Channel.RAFT):
            two.transport._frame_handlers[channel] = lambda _, payload: order.append(payload[0])
        piece = bytes([Channel.SNAPSHOT]) + bytes(limits.SNAPSHOT_CHUNK_BYTES)
        pieces = 0
        while one.transport.send(2, Channel.SNAPSHOT, piece):
            pieces += 1
        assert limits.PEER_BULK_BYTES_MAX * 0.9 < pieces * len(piece) <= limits.PEER_BULK_BYTES_MAX
        assert one.transport.send(2, Channel.RAFT, bytes([Channel.RAFT]))
        append = bytes([Channel.RAFT]) + bytes(4 << 20)
        assert one.transport.send(
            2, Channel.RAFT, append
        )  # there is room, however much waits there
        await until(lambda: len(order) == pieces + 2)
        assert order[:2] == [Channel.RAFT, Channel.RAFT]


@pytest.mark.asyncio
async def test_bank_7_a_node_that_everybody_refuses_knows_it() -> None:
    stranger, two, three = Node(1), Node(2), Node(3)
    async with running(stranger, two, three):
        assert stranger.transport.has_answers()
        stranger.transport.add_peer(2, two.address)
        assert not stranger.transport.has_answers()
        await until(stranger.transport.has_answers)
        assert "node 2: refused: node 1 isn't a member" in stranger.transport.refusal()
        three.transport.add_peer(1)
        stranger.transport.add_peer(3, three.address)
        await until(lambda: not stranger.transport.refusal())
        assert stranger.transport.is_connected(3)


@pytest.mark.asyncio
async def test_a_node_that_nobody_answers_is_refused_by_nobody() -> None:
    """The first of a cluster that starts."""
    one = Node(1)
    async with running(one):
        one.transport.add_peer(2, "127.0.0.1:1")
        await until(one.transport.has_answers)
        assert one.peer(2).trouble == "unreachable"
        assert one.transport.refusal() == ""


@pytest.mark.asyncio
async def test_what_waits_waits_where_beats_pass_it() -> None:
    async with a_pair() as (one, two):
        for each in (connection(one, 2), two.transport._peers[1].accepted):
            assert each is not None
            kernels = each.socket._socket.get_extra_info("socket")
            assert kernels.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 128 * 1024
