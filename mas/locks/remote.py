"""The lock service of another node: one at a time is at work in a cluster, and the others' coordinators call it.

    LockClient, where a coordinator is   ── Acquire, Release ──►   LockServer, where the service is
                                         ◄── Granted, Denied ──

A frame that is lost is a lock not had, or a lease that ends by itself.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import partial
from typing import Annotated

import msgspec

from mas.channels import Channel
from mas.decoding import Buffer, msgpack_decoder
from mas.errors import MasError, NetworkError, NotFound, Overloaded, Unavailable
from mas.ledger.instructions import LockMode, Token
from mas.limits import PAGE_ITEMS_MAX
from mas.locks.actor import GlobalLockService
from mas.locks.commands import LockRequest
from mas.locks.leases import Leases
from mas.locks.table import Grant
from mas.rpc.calls import Call, Calls
from mas.rpc.ports import Peers
from mas.runtime import Clock, Dice, Promise

_log = logging.getLogger(__name__)
_SECONDS_MAX = 86_400.0

_GRACE_SECONDS = 0.5
"""Beyond the caller's own, before a frame is taken for lost."""


_Seconds = Annotated[float, msgspec.Meta(ge=-_SECONDS_MAX, le=_SECONDS_MAX)]
"""No number that isn't one gets through either: a deadline made of it would never pass."""


class Denial(IntEnum):
    """Which error it is."""

    UNAVAILABLE = 1
    OVERLOADED = 2
    NOT_FOUND = 3


class Acquire(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Ask for a lease; see `Leases.acquire_locks`. `wait` and `lease` are seconds."""

    request: int
    owner: bytes
    lock_ids: Annotated[tuple[str, ...], msgspec.Meta(max_length=PAGE_ITEMS_MAX)]
    mode: LockMode
    wait: _Seconds
    marked: bool
    durable: bool
    lease: _Seconds


class Withdraw(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Whoever asked is gone."""

    request: int


class Release(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """See `Leases.release` and `release_owner`."""

    owner: bytes
    request: int = 0
    """0: nobody waits for a reply."""


class ReleaseLock(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """See `Leases.release_lock`."""

    request: int
    lock_id: str
    owner: bytes
    token: Token


class Granted(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The lease. `left`: seconds until it ends."""

    request: int
    locks: tuple[str, ...]
    token: Token
    left: _Seconds


class Denied(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Not had."""

    request: int
    why: Denial
    detail: str


class Released(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Whether it was held."""

    request: int
    was_held: bool


Question = Acquire | Withdraw | Release | ReleaseLock
Reply = Granted | Denied | Released

_encode = msgspec.msgpack.Encoder().encode
_decode: Callable[[Buffer], Question | Reply] = msgpack_decoder(
    Question | Reply, "a frame about locks", NetworkError
)


class LockServer:
    """Lets other nodes in. Have the transport call `on_frame` for `Channel.LOCKS`; see `join`."""

    def __init__(self, service: GlobalLockService, peers: Peers, clock: Clock) -> None:
        self._service = service
        self._peers = peers
        self._clock = clock
        self._waiting: dict[tuple[int, int], LockRequest] = {}

    def on_question(self, peer: int, question: Question) -> None:
        """Pass it on; the reply goes back when there is one."""
        match question:
            case Acquire():
                self._acquire(peer, question)
            case Withdraw(number):
                if (request := self._waiting.pop((peer, number), None)) is not None:
                    self._service.withdraw(request)
            case Release(owner, 0):
                self._service.release(owner)
            case Release(owner, request):
                self._service.ask_release_owner(owner, partial(self._on_released, peer, request))
            case ReleaseLock(request, lock_id, owner, token):
                on_released = partial(self._on_released, peer, request)
                self._service.ask_release(lock_id, owner, token, on_released)

    def _acquire(self, peer: int, question: Acquire) -> None:
        key = (peer, question.request)

        def on_result(result: Grant | MasError) -> None:
            self._waiting.pop(key, None)
            self._reply(peer, self._to_reply(question.request, result))

        request = LockRequest(
            question.owner,
            question.lock_ids,
            question.mode,
            until=self._clock.monotonic() + question.wait,
            lease=question.lease or self._service.lease,
            on_result=on_result,
            marked=question.marked,
            durable=question.durable,
        )
        try:
            self._service.ask(request)
        except Unavailable as error:
            on_result(error)
        else:
            self._waiting[key] = request

    def _on_released(self, peer: int, request: int, result: bool | MasError) -> None:  # noqa: FBT001 - a result, not an option
        if isinstance(result, MasError):
            self._reply(peer, _denied(request, result))
        else:
            self._reply(peer, Released(request, result))

    def _to_reply(self, request: int, result: Grant | MasError) -> Reply:
        if isinstance(result, MasError):
            return _denied(request, result)
        left = result.deadline - self._clock.monotonic()
        return Granted(request, result.locks, result.token, left)

    def _reply(self, peer: int, reply: Reply) -> None:
        if not self._peers.send(peer, Channel.LOCKS, _encode(reply)):
            _log.warning("a reply about locks to node %d is lost: not connected, or too slow", peer)


class _Asked(Call[Reply]):
    """A question under way at the lock service's node."""

    __slots__ = ("kind", "reply")

    def __init__(self, node: int, kind: type[Question]) -> None:
        super().__init__(node)
        self.kind = kind
        self.reply: Promise[Reply] = Promise()

    def accepts(self, reply: Reply) -> bool:
        """See `Call`."""
        answer = Granted if self.kind is Acquire else Released
        return isinstance(reply, answer | Denied)

    def on_reply(self, reply: Reply) -> None:
        """See `Call`."""
        self.reply.set(reply)

    def on_lost(self, detail: str) -> None:
        """See `Call`."""
        detail = f"{detail}, and the lock service is there: try again"
        self.reply.set(Denied(self.number, Denial.UNAVAILABLE, detail))


class LockClient(Leases):
    """The way to the lock service, wherever it is at work."""

    def __init__(self, peers: Peers, where: Callable[[], int], *, clock: Clock, dice: Dice) -> None:
        self._peers = peers
        self._where = where
        self._clock = clock
        self._calls: Calls[_Asked, Reply] = Calls(dice)

    async def acquire_locks(
        self,
        owner: bytes,
        lock_ids: Sequence[str],
        mode: LockMode,
        timeout: float,
        *,
        marked: bool = False,
        durable: bool = False,
        lease: float = 0.0,
    ) -> Grant:
        """See `Leases`."""
        question = Acquire(0, owner, tuple(lock_ids), mode, timeout, marked, durable, lease)
        reply = await self._ask(question, timeout + _GRACE_SECONDS)
        assert isinstance(reply, Granted)
        deadline = self._clock.monotonic() + reply.left
        return Grant(reply.request, owner, reply.locks, reply.token, deadline)

    def release(self, owner: bytes) -> None:
        """See `Leases`."""
        self._peers.send(self._where(), Channel.LOCKS, _encode(Release(owner)))

    async def release_owner(self, owner: bytes) -> bool:
        """See `Leases`."""
        reply = await self._ask(Release(owner), 1.0 + _GRACE_SECONDS)
        assert isinstance(reply, Released)
        return reply.was_held

    async def release_lock(self, lock_id: str, owner: bytes, token: Token) -> bool:
        """See `Leases`."""
        reply = await self._ask(ReleaseLock(0, lock_id, owner, token), 1.0 + _GRACE_SECONDS)
        assert isinstance(reply, Released)
        return reply.was_held

    def on_reply(self, peer: int, reply: Reply) -> None:
        """Give it to whoever asked, if it still waits.

        Raises:
            NetworkError: it isn't an answer to what was asked.
        """
        self._calls.on_reply(peer, reply.request, reply)

    def on_peer(self, peer: int, up: bool) -> None:  # noqa: FBT001 - the transport calls it so
        """Note that a peer came or went: what was asked of one that went isn't had."""
        if not up:
            self._calls.lose(peer)

    async def _ask(
        self, question: Acquire | Release | ReleaseLock, timeout: float
    ) -> Granted | Released:
        node = self._where()
        asked = _Asked(node, type(question))
        question = msgspec.structs.replace(question, request=self._calls.add(asked))
        try:
            if not self._peers.send(node, Channel.LOCKS, _encode(question)):
                raise Unavailable(
                    f"node {node}, where the lock service is, can't be reached: try again"
                )
            reply = await asked.reply.wait(timeout)
        except TimeoutError:
            self._withdraw(asked)
            raise Unavailable(
                f"the lock service on node {node} doesn't answer: try again"
            ) from None
        except asyncio.CancelledError:
            self._withdraw(asked)
            raise
        finally:
            self._calls.remove(asked)
        if isinstance(reply, Denied):
            raise _to_error(reply)
        return reply

    def _withdraw(self, asked: _Asked) -> None:
        self._peers.send(asked.node, Channel.LOCKS, _encode(Withdraw(asked.number)))


def join(door: LockServer | None, remote: LockClient | None) -> Callable[[int, bytes], None]:
    """What to call for frames on `Channel.LOCKS`, on a node that has either or both.

    A frame that can't be read raises `NetworkError`; one that nobody here is for is dropped.
    """

    def on_frame(peer: int, payload: bytes) -> None:
        message = _decode(payload)
        if isinstance(message, Granted | Denied | Released):
            if remote is not None:
                remote.on_reply(peer, message)
        elif door is not None:
            door.on_question(peer, message)

    return on_frame


_ERRORS: dict[Denial, type[MasError]] = {
    Denial.UNAVAILABLE: Unavailable,
    Denial.OVERLOADED: Overloaded,
    Denial.NOT_FOUND: NotFound,
}


def _denied(request: int, error: MasError) -> Denied:
    match error:
        case NotFound():
            why = Denial.NOT_FOUND
        case Overloaded():
            why = Denial.OVERLOADED
        case _:
            why = Denial.UNAVAILABLE
    return Denied(request, why, str(error))


def _to_error(denied: Denied) -> MasError:
    return _ERRORS[denied.why](denied.detail)
