"""LockService: locks on accounts, for administrators and outsiders."""

# gRPC calls a method by its name in the .proto file.
# ruff: noqa: N802

from hashlib import blake2b

import grpc

from mas.api.auth import Authenticator, Metadata
from mas.api.authorise import check_may_operate
from mas.api.door import Context, metadata_of
from mas.api.ports import Locks
from mas.api.requests import to_lock_mode, to_timeout
from mas.api.shares import Caller, caller_of
from mas.api.tokens import Principal
from mas.errors import InvalidRequest
from mas.ids import XID_BYTES
from mas.limits import LEGS_PER_PAYMENT_MAX, check_account_number, check_idempotency_key
from mas.wire.gen.mas.v1 import lock_pb2 as pb
from mas.wire.gen.mas.v1 import lock_pb2_grpc as pb_grpc


class LockServicer(pb_grpc.LockServiceServicer):
    """The methods of `mas.v1.LockService`."""

    name = "mas.v1.LockService"
    public = True

    def __init__(self, locks: Locks, authenticator: Authenticator) -> None:
        self._locks = locks
        self._authenticator = authenticator

    def register(self, server: grpc.aio.Server) -> None:
        """Serve on this server."""
        pb_grpc.add_LockServiceServicer_to_server(self, server)

    def identify(self, metadata: Metadata) -> Caller:
        """Find the caller in whose share a call counts."""
        return caller_of(self._authenticator.authenticate(metadata))

    def drain(self) -> None:
        """Waiters keep their turn until the server's grace is over."""

    async def AcquireLock(
        self, request: pb.AcquireLockRequest, context: Context
    ) -> pb.AcquireLockReply:
        """All locks or none, in turn."""
        principal = self._authenticator.authenticate(metadata_of(context))
        owner = _owner(principal, request.owner)
        numbers = _numbers(request)
        if any(number != principal.account for number in numbers):
            check_may_operate(principal, "lock other accounts")
        mode = to_lock_mode(request.mode)
        timeout = to_timeout(context.time_remaining())
        tokens, left = await self._locks.acquire(owner, numbers, mode, timeout)
        return pb.AcquireLockReply(
            tokens=[
                pb.FencingToken(lock_id=number, epoch=token.epoch, counter=token.counter)
                for number, token in tokens.items()
            ],
            left_ms=int(1000 * left),
        )

    async def ReleaseLock(
        self, request: pb.ReleaseLockRequest, context: Context
    ) -> pb.ReleaseLockReply:
        """Let go of what this owner holds."""
        principal = self._authenticator.authenticate(metadata_of(context))
        await self._locks.release(_owner(principal, request.owner))
        return pb.ReleaseLockReply()


def _owner(principal: Principal, name: str) -> bytes:
    """The caller's name for a holder, as nobody else can say it."""
    check_idempotency_key(name, "owner")
    digest = blake2b(principal.subject.encode(), digest_size=XID_BYTES)
    digest.update(b"\0" + name.encode())
    return digest.digest()


def _numbers(request: pb.AcquireLockRequest) -> list[str]:
    numbers = sorted(set(request.lock_ids))
    if not 1 <= len(numbers) <= LEGS_PER_PAYMENT_MAX:
        raise InvalidRequest(
            f"lock_ids has {len(numbers)}: expected 1 to {LEGS_PER_PAYMENT_MAX} account numbers"
        )
    for number in numbers:
        check_account_number(number, "lock_ids")
    return numbers
