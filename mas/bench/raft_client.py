"""A client of the Raft benchmark's nodes: it follows leaders, and asks again until it has a true answer.

Two ways to carry proposals: a unary call for each batch, or one stream to each node that all callers share, as in `mas.client`.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import grpc

from mas.bench import raft_wire as wire
from mas.bench.processes import BenchFailed
from mas.bench.raft_wire import Answer, Batch
from mas.client.channel import channel_options
from mas.runtime import Mailbox, Promise, Supervisor, SystemClock

_PATIENCE_SECONDS = 30.0
_PAUSE_SECONDS = 0.005
_CALL_SECONDS = 5.0
_BATCHES = 4_096
_BATCHES_PER_MESSAGE = 64


class Way(Protocol):
    """How a batch gets to one node."""

    async def send(self, group: int, payloads: tuple[bytes, ...]) -> Answer:
        """The node's answer; index 0 where it has none."""


class Unary:
    """One call for each batch."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._call = channel.unary_unary(
            wire.PROPOSE, request_serializer=wire.encode, response_deserializer=wire.decode_answer
        )

    async def send(self, group: int, payloads: tuple[bytes, ...]) -> Answer:
        """See `Way`."""
        try:
            answer: Answer = await self._call(Batch(0, group, payloads), timeout=_CALL_SECONDS)
        except grpc.aio.AioRpcError:
            return Answer(0, 0)
        return answer


class Stream:
    """What waits while a message is being written is the next message. Somebody has to `run` it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._open = channel.stream_stream(
            wire.STREAM, request_serializer=wire.encode, response_deserializer=wire.decode_answers
        )
        self._batches: Mailbox[Batch] = Mailbox("batches", _BATCHES)
        self._waiting: dict[int, Promise[Answer]] = {}
        self._number = 0

    async def send(self, group: int, payloads: tuple[bytes, ...]) -> Answer:
        """See `Way`."""
        self._number += 1
        answered: Promise[Answer] = Promise()
        self._waiting[self._number] = answered
        self._batches.put(Batch(self._number, group, payloads))
        return await answered

    async def run(self) -> None:
        """Keep a stream open until cancelled."""
        while True:
            async with Supervisor() as supervisor:
                # Its requests are written, not iterated over.
                call = self._open()  # type: ignore[call-arg]
                try:
                    await call.wait_for_connection()
                    supervisor.spawn("batches", self._write(call))
                    async for answers in call:
                        for answer in answers:
                            self._waiting.pop(answer.number).set(answer)
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(_PAUSE_SECONDS)
                finally:
                    call.cancel()
                    self._lose_sight()

    async def _write(
        self, call: "grpc.aio.StreamStreamCall[list[Batch], tuple[Answer, ...]]"
    ) -> None:
        while True:
            batches = await self._batches.drain(_BATCHES_PER_MESSAGE)
            try:
                await call.write(batches)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return  # the stream is over: the reader hears why

    def _lose_sight(self) -> None:
        """The stream is gone, and the answers with it."""
        self._batches.drain_nowait()
        lost, self._waiting = self._waiting, {}
        for answered in lost.values():
            answered.set(Answer(0, 0))


class RaftClient:
    """Proposes to whoever leads."""

    def __init__(self, ways: dict[int, Way]) -> None:
        self._ways = ways
        self._clock = SystemClock()
        self._leaders: dict[int, int] = {}

    def leader(self, group: int) -> int:
        """The node that has answered last, or that is asked next."""
        return self._leaders.setdefault(group, min(self._ways))

    async def propose(self, group: int, payloads: Sequence[bytes]) -> None:
        """Return once they are all committed, and applied by the leader.

        Raises:
            BenchFailed: that took too long.
        """
        entries = tuple(payloads)
        deadline = self._clock.monotonic() + _PATIENCE_SECONDS
        while True:
            node = self.leader(group)
            answer = await self._ways[node].send(group, entries)
            if answer.index:
                return
            self._leaders[group] = self._next(node, answer.leader)
            if self._clock.monotonic() > deadline:
                raise BenchFailed(f"group {group} took no proposal for {_PATIENCE_SECONDS:.0f} s")
            await self._clock.sleep(_PAUSE_SECONDS)

    def _next(self, asked: int, leader: int) -> int:
        if leader:
            return leader
        return min((node for node in self._ways if node > asked), default=min(self._ways))


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel to a server on loopback, in plaintext."""
    return grpc.aio.insecure_channel(address, options=channel_options(address))
