"""Every number of every request has a greatest value, and one beyond is refused by name before anybody acts on it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from mas import errors
from mas.api import (
    AccountServicer,
    Authenticator,
    ClusterSecret,
    LockServicer,
    NodeServicer,
    Shares,
    TokenIssuer,
    TransactionServicer,
)
from mas.api.auth import CLUSTER_SECRET_KEY
from mas.api.tokens import Role
from mas.config import SharesConfig
from mas.ledger.instructions import Abort, Batch, encode
from mas.membership import Operations
from mas.runtime import SystemDice
from mas.wire.gen.mas.v1 import account_pb2, lock_pb2, node_pb2, transaction_pb2
from mas.wire.status import error_from_rpc
from tests.api.edge import SECRET, FakeCoordinator, HandClock
from tests.api.test_server import FakeBuckets, FakeLocks, FakeNode, on_a_port

_PAYMENT = {"from_account": "alice", "to_account": "bob", "amount": 1, "idempotency_key": "k"}
_REPLICA = {"bucket": 1, "node": 1}
_PHASE = {"bucket": 4, "batch": encode(Batch(b"", 0, (Abort(b"x" * 16),)))}

GOOD: dict[str, dict[str, Any]] = {
    "CreateAccountRequest": {"account_number": "alice", "idempotency_key": "k"},
    "GetAccountRequest": {"account_numbers": ["alice"]},
    "Payment": _PAYMENT,
    "PaymentName": {"payer": "alice", "idempotency_key": "k"},
    "ListPostingsRequest": {"account_number": "alice"},
    "SetAccountRequest": {"account_number": "alice"},
    "CheckBucketRequest": {"bucket": 1, "replica": 1},
    "ListBucketsRequest": {},
    "AcquireLockRequest": {"lock_ids": ["alice"], "owner": "job"},
    "ReleaseLockRequest": {"owner": "job"},
    "GetStatusRequest": {},
    "GetClusterRequest": {},
    "AddNodeRequest": {
        "cluster": "mas",
        "node": node_pb2.Node(node=1, address="a:1", roles=["rm"]),
        "store": b"s" * 16,
        "buckets": [1],
    },
    "RetireNodeRequest": {"node": 1},
    "GetReplicasRequest": {"bucket": 1},
    "ReplicaRequest": _REPLICA,
    "Phase": _PHASE,
}
"""A request of each type that nothing is wrong with."""

NODES = {
    "Node.node",
    "RetireNodeRequest.node",
    "ReplicaRequest.node",
    "CheckBucketRequest.replica",
}
"""A node's number may be anything of 32 bits but 0."""

_RANGES = {
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (2**63, 2**64 - 1),
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (2**32 - 1,),
    FieldDescriptor.CPPTYPE_ENUM: (99, -1, 2**31 - 1),
}


def _extremes(message: Message) -> Iterator[tuple[str, Message]]:
    """Copies of a message, each with one number at its extreme."""
    for field in message.DESCRIPTOR.fields:
        name = f"{message.DESCRIPTOR.name}.{field.name}"
        if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            inner = getattr(message, field.name)
            for at, changed in _extremes(inner):
                whole = type(message)()
                whole.CopyFrom(message)
                getattr(whole, field.name).CopyFrom(changed)
                yield at, whole
        for value in (0,) if name in NODES else _RANGES.get(field.cpp_type, ()):
            changed = type(message)()
            changed.CopyFrom(message)
            if field.is_repeated:
                getattr(changed, field.name).append(value)
            else:
                setattr(changed, field.name, value)
            yield name, changed


def _cases() -> Iterator[Any]:
    for module in (account_pb2, lock_pb2, node_pb2, transaction_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                if method.client_streaming:
                    continue  # its payments are checked where those of a call are; `batch` is told back as it came
                request = getattr(module, method.input_type.name)(**GOOD[method.input_type.name])
                for name, changed in _extremes(request):
                    yield pytest.param(
                        service.full_name, method.name, changed, id=f"{method.name}-{name}"
                    )


@asynccontextmanager
async def _server(name: str) -> AsyncIterator[grpc.aio.Channel]:
    clock = HandClock()
    authenticator = Authenticator(SECRET, clock)
    secret = ClusterSecret(SECRET)
    services: dict[str, Any] = {
        "mas.v1.AccountService": AccountServicer(
            _Nobody(),
            _NoBuckets(),
            authenticator,
            TokenIssuer(SECRET, clock=clock),
            Shares(SharesConfig(), clock),
            SystemDice(),
        ),
        "mas.v1.LockService": LockServicer(_NoLocks(), authenticator),
        "mas.v1.NodeService": NodeServicer(FakeNode(), cast(Operations, _NoOperations()), secret),
        "mas.v1.TransactionService": TransactionServicer(_NoBuckets(), secret),
    }
    async with on_a_port(services[name]) as channel:
        yield channel


class _Nobody(FakeCoordinator):
    """Fails the test when it is asked anything."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith(("submit", "queries", "read", "cancel", "set_", "replicas")):
            raise AssertionError(f"{name}: a number beyond its bound got through")
        return super().__getattribute__(name)


class _NoLocks(FakeLocks):
    async def acquire(self, *_: object) -> Any:  # type: ignore[override]
        raise AssertionError("a number beyond its bound got through")


class _NoOperations:
    def __getattr__(self, name: str) -> Any:
        def fail(*_: object) -> None:
            raise AssertionError(f"{name}: a number beyond its bound got through")

        return fail


class _NoBuckets(FakeBuckets):
    def submit(self, *_: object) -> None:
        raise AssertionError("a number beyond its bound got through")


@pytest.mark.asyncio
@pytest.mark.parametrize(("service", "method", "request_"), list(_cases()))
async def test_a_number_beyond_its_bound_is_refused(
    service: str, method: str, request_: Message
) -> None:
    token = TokenIssuer(SECRET, clock=HandClock()).issue("operator:root", Role.GATEWAY)
    metadata = (("authorization", token), (CLUSTER_SECRET_KEY, SECRET.decode()))
    async with _server(service) as channel:
        call = channel.unary_unary(f"/{service}/{method}")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(request_.SerializeToString(), metadata=metadata, timeout=10)
    error = error_from_rpc(caught.value)
    assert isinstance(error, errors.InvalidRequest), error
    assert not isinstance(error, errors.Unauthenticated | errors.PermissionDenied)
