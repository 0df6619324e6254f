"""Whose it is: every method, by every caller, with the objects of another account by every name that they have.

A real cluster with one bucket, where everybody's rows are neighbours. Each row of the table says who may; everybody
else is refused, hears nothing, and changes nothing.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from mas import errors
from mas.api.auth import CLUSTER_SECRET_KEY
from mas.api.tokens import CLUSTER_KEY_SPACE, Role, TokenIssuer
from mas.files import read_secret
from mas.ids import make_xid, payment_id
from mas.ledger.instructions import (
    Abort,
    Batch,
    Commit,
    Kind,
    Prepare,
    QueryRecord,
    Resolve,
    encode,
)
from mas.testing import LocalCluster
from mas.wire.gen.mas.v1 import (
    account_pb2,
    account_pb2_grpc,
    lock_pb2,
    lock_pb2_grpc,
    node_pb2,
    node_pb2_grpc,
    transaction_pb2,
    transaction_pb2_grpc,
)
from mas.wire.status import error_from_rpc

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

NUMBER, KEY, SECRET_REFERENCE = "alice", "order 4711", "clinic"
HERS = "account:alice"
ID = payment_id(Kind.PAYMENT, HERS, NUMBER, KEY)
"""Of a payment that she will make: anybody can compute it."""
CREATION = payment_id(Kind.CREATION, CLUSTER_KEY_SPACE, NUMBER, "opening")
XID = make_xid(b"coordinate", 7)

ALICE, MALLORY, AUDITOR, OPERATOR, GATEWAY = "alice", "mallory", "auditor", "operator", "gateway"
READERS = {ALICE, AUDITOR, OPERATOR, GATEWAY}
OPERATORS = {OPERATOR, GATEWAY}
INSIDER = "insider"
CALLERS = ["anonymous", "forged", "expired", MALLORY, AUDITOR, OPERATOR, GATEWAY, INSIDER]

a, k, n, t = account_pb2, lock_pb2, node_pb2, transaction_pb2


def _batch(instruction: Any) -> transaction_pb2.Phase:
    return t.Phase(bucket=1, batch=encode(Batch(b"", 0, (instruction,))))


_LEG = Prepare(XID, ID, 1, b"h" * 16, 1, (1,), Kind.PAYMENT, "USD", ((NUMBER, -1),))
_REPLICA = n.ReplicaRequest(bucket=1, node=9)

TABLE: list[tuple[str, Any, set[str]]] = [
    # (method, request, who may; of others nobody)
    ("CreateAccount", a.CreateAccountRequest(account_number=NUMBER), OPERATORS),
    ("GetAccount", a.GetAccountRequest(account_numbers=[NUMBER]), READERS),
    ("GetAccount", a.GetAccountRequest(account_numbers=["mallory", NUMBER]), READERS - {ALICE}),
    ("GetAccount", a.GetAccountRequest(account_numbers=[NUMBER], level=4), READERS),
    (
        "CreatePayment",
        a.Payment(from_account=NUMBER, to_account="mallory", amount=1),
        {ALICE, GATEWAY},
    ),
    ("CreatePayment", a.Payment(from_account=NUMBER, to_account="@external", amount=1), OPERATORS),
    (
        "CreatePayment",
        a.Payment(from_account="@external", to_account="mallory", amount=1),
        OPERATORS,
    ),
    ("CancelPayment", a.PaymentName(payer=NUMBER, idempotency_key="another"), {ALICE, *OPERATORS}),
    ("CancelPayment", a.PaymentName(payer=NUMBER, payment_id=ID), set()),
    ("CancelPayment", a.PaymentName(payer="mallory", payment_id=ID), set()),
    ("CancelPayment", a.PaymentName(payer="mallory", payment_id=ID, kind=Kind.CREATION), set()),
    ("CancelPayment", a.PaymentName(payer="mallory", payment_id=ID, kind=Kind.DEPOSIT), set()),
    ("GetPayment", a.PaymentName(payer=NUMBER, idempotency_key=KEY), set()),  # not made yet
    ("GetPayment", a.PaymentName(payer=NUMBER, payment_id=CREATION, kind=Kind.CREATION), READERS),
    ("GetPayment", a.PaymentName(payer="mallory", payment_id=CREATION, kind=Kind.CREATION), set()),
    ("GetPayment", a.PaymentName(payer="mallory", payment_id=CREATION), set()),
    ("ListPostings", a.ListPostingsRequest(account_number=NUMBER), READERS),
    ("ListPostings", a.ListPostingsRequest(account_number=NUMBER, before=2, limit=1), READERS),
    ("SetAccount", a.SetAccountRequest(account_number=NUMBER, overdraft_limit=0), OPERATORS),
    ("CheckBucket", a.CheckBucketRequest(bucket=1, replica=1), READERS - {ALICE}),
    ("ListBuckets", a.ListBucketsRequest(), READERS - {ALICE}),
    (
        "AcquireLock",
        k.AcquireLockRequest(lock_ids=[NUMBER], owner="mine", mode=3),
        {ALICE, *OPERATORS},
    ),
    (
        "AcquireLock",
        k.AcquireLockRequest(lock_ids=["mallory", NUMBER], owner="mine", mode=3),
        OPERATORS,
    ),
    ("GetStatus", n.GetStatusRequest(), {INSIDER}),
    ("GetCluster", n.GetClusterRequest(), {INSIDER}),
    ("AddNode", n.AddNodeRequest(cluster="another"), set()),
    ("RetireNode", n.RetireNodeRequest(node=9), set()),
    ("GetReplicas", n.GetReplicasRequest(bucket=1), {INSIDER}),
    ("GetReplica", n.ReplicaRequest(bucket=1, node=1), {INSIDER}),
    ("AddReplica", _REPLICA, set()),
    ("RemoveReplica", _REPLICA, set()),
    ("TransferLeader", _REPLICA, set()),
    ("ProcessPhase1", _batch(_LEG), {INSIDER}),
    ("Resolve", _batch(QueryRecord(CREATION)), {INSIDER}),
    ("Resolve", _batch(Resolve(XID, 1, XID, b"h" * 16)), {INSIDER}),
    ("ProcessPhase2Commit", _batch(Commit(make_xid(b"coordinate", 8), 1)), {INSIDER}),
    ("ProcessPhase2Rollback", _batch(Abort(XID)), {INSIDER}),
]

_STUBS: dict[str, Any] = {
    "AccountService": account_pb2_grpc.AccountServiceStub,
    "LockService": lock_pb2_grpc.LockServiceStub,
    "NodeService": node_pb2_grpc.NodeServiceStub,
    "TransactionService": transaction_pb2_grpc.TransactionServiceStub,
}


def test_every_method_is_in_the_table() -> None:
    methods = {
        method.name
        for module in (a, k, n, t)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert len(methods) == 25
    elsewhere = {"CreatePayments", "ReleaseLock"}  # below: they answer each alike
    assert {method for method, _, _ in TABLE} | elsewhere == methods


class Doors:
    """Every method of a cluster, for every caller."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.methods: dict[str, Any] = {}
        expired = TokenIssuer(cluster._jwt_secret).issue("account:alice", lifetime_seconds=-5)
        forged = TokenIssuer(b"another secret of thirty-two bytes").issue("account:alice")
        secret = read_secret(cluster.directory / "cluster.secret").decode()
        self.metadata: dict[str, tuple[tuple[str, str], ...]] = {
            "anonymous": (),
            "forged": (("authorization", forged),),
            "expired": (("authorization", expired),),
            ALICE: (("authorization", cluster.token(HERS)),),
            MALLORY: (("authorization", cluster.token("account:mallory")),),
            AUDITOR: (("authorization", cluster.token("operator:aud", Role.AUDITOR)),),
            OPERATOR: (("authorization", cluster.token("operator:ann")),),
            GATEWAY: (("authorization", cluster.token("operator:shop", Role.GATEWAY)),),
            INSIDER: ((CLUSTER_SECRET_KEY, secret),),
        }

    async def open(self, stack: AsyncExitStack) -> None:
        listen = self.cluster.transaction_manager.listen
        ports = {
            "AccountService": listen.api,
            "LockService": listen.gls,
            "NodeService": listen.node_service,
            "TransactionService": self.cluster.resource_managers[0].listen.rm,
        }
        authority = Path(self.cluster.directory / "tls" / "ca.crt").read_bytes()
        for service, port in ports.items():
            channel = grpc.aio.secure_channel(
                f"127.0.0.1:{port}", grpc.ssl_channel_credentials(authority)
            )
            stub = _STUBS[service](await stack.enter_async_context(channel))
            self.methods |= vars(stub)

    async def call(self, caller: str, method: str, request: Any, timeout: float = 10.0) -> Any:
        """The reply, or our error."""
        try:
            return await self.methods[method](
                request, metadata=self.metadata[caller], timeout=timeout
            )
        except grpc.aio.AioRpcError as error:
            return error_from_rpc(error)


@pytest_asyncio.fixture
async def doors() -> AsyncIterator[Doors]:
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(LocalCluster(resource_managers=1, buckets=1))
        doors = Doors(cluster)
        await doors.open(stack)
        for number, key in ((NUMBER, "opening"), ("mallory", "hers")):
            created = await doors.call(
                OPERATOR,
                "CreateAccount",
                a.CreateAccountRequest(
                    account_number=number, opening_balance=1_000, idempotency_key=key
                ),
            )
            assert created.result.outcome == a.OUTCOME_COMMITTED
        yield doors


_REFUSALS = (errors.Unauthenticated, errors.PermissionDenied, errors.InvalidRequest)


@pytest.mark.asyncio
async def test_what_is_anothers_is_anothers_by_every_name(doors: Doors) -> None:
    for method, request, allowed in TABLE:
        for caller in CALLERS:
            reply = await doors.call(caller, method, request)
            place = f"{caller}: {method} {request}".replace("\n", " ")
            if caller in allowed:
                assert not isinstance(reply, errors.MasError), f"{place} {reply!r}"
                continue
            # `NotFound`, an `InvalidRequest` too, is for what there isn't under that name.
            assert isinstance(reply, _REFUSALS), f"{place} was told {reply!r}"
            assert SECRET_REFERENCE not in str(reply)
            if caller not in READERS | {INSIDER, MALLORY}:
                assert isinstance(reply, errors.Unauthenticated), place
    await streams_refuse_what_calls_refuse(doors)
    await a_lock_is_released_by_its_holder_alone(doors)
    # After all that, she pays under the key that everybody has guessed.
    payment = a.Payment(
        from_account=NUMBER,
        to_account="mallory",
        amount=1,
        idempotency_key=KEY,
        reference=SECRET_REFERENCE,
    )
    paid = await doors.call(ALICE, "CreatePayment", payment)
    assert (paid.outcome, paid.payment_id) == (a.OUTCOME_COMMITTED, ID)
    # Her payment has an outcome now: it is found by its id, by those who may read it, and by nobody else.
    by_id = a.PaymentName(payer=NUMBER, payment_id=ID)
    for caller in (ALICE, AUDITOR, OPERATOR, GATEWAY):
        assert (await doors.call(caller, "GetPayment", by_id)).outcome == a.OUTCOME_COMMITTED
    assert (await doors.call(ALICE, "CancelPayment", by_id)).outcome == a.OUTCOME_COMMITTED
    assert isinstance(await doors.call(MALLORY, "GetPayment", by_id), errors.PermissionDenied)
    for kind in (Kind.PAYMENT, Kind.CREATION):
        hers = a.PaymentName(payer="mallory", payment_id=ID, kind=kind)
        for method in ("GetPayment", "CancelPayment"):
            reply = await doors.call(MALLORY, method, hers)
            assert isinstance(reply, errors.InvalidRequest), f"{method}: {reply}"


async def streams_refuse_what_calls_refuse(doors: Doors) -> None:
    payments = [
        a.Payment(from_account=payer, to_account=MALLORY, amount=1, idempotency_key="s")
        for payer in (NUMBER, "@external")
    ]
    may = {GATEWAY: [True, True], OPERATOR: [False, True]}
    for caller in CALLERS:
        stream = doors.methods["CreatePayments"](metadata=doors.metadata[caller])
        if caller not in (MALLORY, AUDITOR, OPERATOR, GATEWAY):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.read()
            assert isinstance(error_from_rpc(caught.value), errors.Unauthenticated)
            continue
        await stream.write(a.PaymentBatch(payments=payments))
        results: dict[int, Any] = {}
        while len(results) < 2:
            results |= {each.position: each for each in (await stream.read()).results}
        stream.cancel()
        committed = [results[position].outcome == a.OUTCOME_COMMITTED for position in range(2)]
        assert committed == may.get(caller, [False, False])
        refused = [each for each in results.values() if each.outcome != a.OUTCOME_COMMITTED]
        assert {each.error.name for each in refused} <= {"PermissionDenied"}


async def a_lock_is_released_by_its_holder_alone(doors: Doors) -> None:
    """The name of a holder is its caller's own: the same name in another mouth is another holder."""
    held = k.AcquireLockRequest(lock_ids=[NUMBER], owner="job", mode=k.LOCK_MODE_EXCLUSIVE)
    assert (await doors.call(ALICE, "AcquireLock", held)).tokens
    for caller in CALLERS:
        reply = await doors.call(caller, "ReleaseLock", k.ReleaseLockRequest(owner="job"))
        if caller in ("anonymous", "forged", "expired", INSIDER):
            assert isinstance(reply, errors.Unauthenticated)
    taken = await doors.call(OPERATOR, "AcquireLock", held, timeout=0.5)
    assert isinstance(taken, errors.MasError), "the lock was alice's still"
    await doors.call(ALICE, "ReleaseLock", k.ReleaseLockRequest(owner="job"))
