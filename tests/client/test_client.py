"""The library against a real server: what it sends, what it tells, and what it keeps trying."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from mas import errors
from mas.api import Role
from mas.api.tokens import CLUSTER_KEY_SPACE
from mas.client import Client, Payment, payment_stream
from mas.ids import payment_id
from mas.ledger.instructions import EXTERNAL, Answer, Code, Kind, Reason
from mas.rpc.messages import PostingView, ReadLevel
from mas.transaction.outcome import PaymentRequest, PaymentResult, Status, payment_id_of
from tests.api.edge import Edge, account, certificate, commit, serving


@pytest_asyncio.fixture
async def edge() -> AsyncIterator[Edge]:
    async with serving() as edge:
        yield edge


@pytest_asyncio.fixture
async def client(edge: Edge) -> AsyncIterator[Client]:
    token = edge.token("operator:shop", Role.GATEWAY)
    async with Client(edge.address, token=token, ca=certificate()[0], timeout=5.0) as client:
        yield client


class Script:
    """Decides tries of one key in order; the last decision stays."""

    def __init__(self, *results: tuple[Status, Reason]) -> None:
        self._left = list(results)
        self.repeats: list[bool] = []
        self.keys: list[str] = []

    def __call__(self, request: PaymentRequest) -> PaymentResult:
        self.repeats.append(request.repeat)
        self.keys.append(request.key)
        status, reason = self._left.pop(0) if len(self._left) > 1 else self._left[0]
        return PaymentResult(status, payment_id_of(request), reason, "the detail", time_us=1)


COMMITTED = (Status.COMMITTED, Reason.NONE)
ABORTED = (Status.ABORTED, Reason.CONTENDED)
UNKNOWN = (Status.UNKNOWN, Reason.TIMED_OUT)
AWAY = (Status.REJECTED, Reason.UNAVAILABLE)


@pytest.mark.asyncio
async def test_a_payment_and_its_receipt(edge: Edge, client: Client) -> None:
    receipt = await client.pay("alice", "bob", "12.50", key="k1", reference="rent")
    assert receipt.committed
    assert receipt.final
    assert receipt.key == "k1"
    assert receipt.payment_id == payment_id(Kind.PAYMENT, CLUSTER_KEY_SPACE, "alice", "k1")
    [request] = edge.coordinator.requests
    assert request.body.legs == (("alice", -1250), ("bob", 1250))
    assert request.body.reference == "rent"
    assert not request.repeat


@pytest.mark.asyncio
async def test_users_3_the_same_key_is_the_same_payment_for_all_who_share_a_key_space(
    edge: Edge,
) -> None:
    """Two operators, two machines with tokens of their own: one payment. An owner's keys are another matter."""

    async def paid(*token: Any) -> bytes:
        bearer = edge.issuer.issue(*token)
        async with Client(edge.address, token=bearer, ca=certificate()[0]) as client:
            return (await client.pay("alice", "bob", 1, key="rent")).payment_id

    first = await paid("operator:ann", Role.GATEWAY)
    assert await paid("operator:ben", Role.GATEWAY) == first
    owners = await paid("account:alice")
    shops = await paid("operator:ann", Role.GATEWAY, 60, "shop")
    assert len({first, owners, shops}) == 3


@pytest.mark.asyncio
async def test_deposit_and_withdrawal(edge: Edge, client: Client) -> None:
    await client.deposit("alice", "1", currency="JPY")
    await client.withdraw("alice", 1)
    deposit, withdrawal = (request.body for request in edge.coordinator.requests)
    assert (deposit.kind, deposit.currency) == (Kind.DEPOSIT, "JPY")
    assert deposit.legs == ((EXTERNAL, -1), ("alice", 1))
    assert withdrawal.legs == (("alice", -1), (EXTERNAL, 1))


@pytest.mark.asyncio
async def test_every_payment_has_a_key_of_its_own(edge: Edge, client: Client) -> None:
    receipts = await asyncio.gather(*(client.pay("a", "b", 1) for _ in range(20)))
    assert len({receipt.key for receipt in receipts}) == 20
    assert sorted(r.key for r in receipts) == sorted(r.key for r in edge.coordinator.requests)


@pytest.mark.asyncio
@pytest.mark.parametrize("amount", [1.5, True, None])
async def test_money_is_never_a_float(client: Client, amount: object) -> None:
    with pytest.raises(errors.InvalidRequest, match="expected minor units"):
        await client.pay("a", "b", amount)


@pytest.mark.asyncio
async def test_concurrent_callers_share_messages(edge: Edge, client: Client) -> None:
    edge.coordinator.decide = lambda request: None
    first = asyncio.ensure_future(client.pay("a", "b", 1))
    await edge.coordinator.arrived.wait()
    rest = [asyncio.ensure_future(client.pay("a", "b", 1)) for _ in range(2_500)]
    async with asyncio.timeout(5):
        while len(edge.coordinator.waiting) < 2_501:
            await asyncio.sleep(0)
    # One alone goes at once; what came together goes together, cut into turns.
    assert [len(batch) for batch in edge.coordinator.batches] == [1, 1_000, 1_000, 500]
    edge.coordinator.settle()
    assert all(receipt.committed for receipt in await asyncio.gather(first, *rest))


@pytest.mark.asyncio
async def test_what_is_in_flight_has_a_bound(
    edge: Edge, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payment_stream, "IN_FLIGHT_MAX", 2)
    edge.coordinator.decide = lambda request: None
    paying = asyncio.ensure_future(client.pay_many([Payment("a", "b", 1)] * 5))
    for answered in (2, 4, 5):
        async with asyncio.timeout(5):
            while len(edge.coordinator.requests) < answered:
                await asyncio.sleep(0)
        await client.buckets()  # a round trip, in which a greedy client's next message would come
        assert len(edge.coordinator.requests) == answered
        edge.coordinator.settle()
    assert len(await paying) == 5


@pytest.mark.asyncio
async def test_a_batch_keeps_its_order_and_shares_no_fate(edge: Edge, client: Client) -> None:
    def decide(request: PaymentRequest) -> PaymentResult:
        if request.key == "poor":
            return PaymentResult(Status.REFUSED, payment_id_of(request), Reason.INSUFFICIENT_FUNDS)
        return commit(request)

    edge.coordinator.decide = decide
    receipts = await client.pay_many(
        [
            Payment("a", "b", "1.00", key="rich"),
            Payment("a", "b", 1, key="poor"),
            Payment("a", "a", 1, key="self"),
            Payment("a", "b", 1),
        ]
    )
    assert [receipt.status for receipt in receipts] == [
        Status.COMMITTED,
        Status.REFUSED,
        Status.REJECTED,
        Status.COMMITTED,
    ]
    assert [receipt.key for receipt in receipts[:3]] == ["rich", "poor", "self"]
    assert "another account" in receipts[2].detail
    assert await client.pay_many([]) == []


@pytest.mark.asyncio
async def test_a_refusal_is_a_receipt_and_is_not_tried_again(edge: Edge, client: Client) -> None:
    for decision in [
        (Status.REFUSED, Reason.ACCOUNT_FROZEN),
        (Status.KEY_REUSED, Reason.NONE),
        (Status.REJECTED, Reason.ACCOUNT_NOT_FOUND),
    ]:
        edge.coordinator.decide = script = Script(decision)
        receipt = await client.pay("a", "b", 1)
        assert (receipt.status, receipt.reason) == decision
        assert receipt.detail == "the detail"
        assert len(script.keys) == 1


@pytest.mark.asyncio
async def test_what_ends_only_a_try_is_tried_again_as_a_repeat(edge: Edge, client: Client) -> None:
    edge.coordinator.decide = script = Script(AWAY, ABORTED, UNKNOWN, AWAY, COMMITTED)
    assert (await client.pay("a", "b", 1, key="k")).committed
    assert script.keys == ["k"] * 5
    # Turned away, nothing was begun: the next is still a first try; after that every one is a repeat.
    assert script.repeats == [False, False, True, True, True]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("tries", "told"),
    [
        ([ABORTED], ABORTED),
        ([AWAY], AWAY),
        ([UNKNOWN], UNKNOWN),
        ([UNKNOWN, ABORTED], (Status.UNKNOWN, Reason.UNAVAILABLE)),
        ([UNKNOWN, AWAY], (Status.UNKNOWN, Reason.UNAVAILABLE)),
        (
            [UNKNOWN, (Status.REJECTED, Reason.ACCOUNT_NOT_FOUND)],
            (Status.UNKNOWN, Reason.ACCOUNT_NOT_FOUND),
        ),
        ([UNKNOWN, (Status.REFUSED, Reason.CANCELLED)], (Status.REFUSED, Reason.CANCELLED)),
    ],
)
async def test_in_the_end_the_truth_about_all_tries(
    edge: Edge,
    client: Client,
    tries: list[tuple[Status, Reason]],
    told: tuple[Status, Reason],
) -> None:
    edge.coordinator.decide = Script(*tries)
    receipt = await client.pay("a", "b", 1, timeout=0.3)
    assert receipt.status is told[0]
    if told[0] is not Status.UNKNOWN:
        assert receipt.reason is told[1]


@pytest.mark.asyncio
async def test_no_answer_by_the_deadline_is_unknown(edge: Edge, client: Client) -> None:
    edge.coordinator.decide = lambda request: None
    receipt = await client.pay("a", "b", 1, timeout=0.1)
    assert (receipt.status, receipt.reason) == (Status.UNKNOWN, Reason.TIMED_OUT)
    edge.coordinator.settle()  # an answer to nobody
    edge.coordinator.decide = commit
    assert (await client.pay("a", "b", 1)).committed


@pytest.mark.asyncio
async def test_a_request_that_nobody_could_carry_out_is_raised(edge: Edge, client: Client) -> None:
    with pytest.raises(errors.InvalidRequest, match="from_account too"):
        await client.pay("a", "a", 1)
    with pytest.raises(errors.InvalidRequest, match="amount"):
        await client.pay("a", "b", 0)
    token = edge.token("account:alice")
    async with Client(edge.address, token=token, ca=certificate()[0]) as alice:
        with pytest.raises(errors.PermissionDenied, match="bob"):
            await alice.pay("bob", "alice", 1)
        assert (await alice.pay("alice", "bob", 1)).committed


@pytest.mark.asyncio
@pytest.mark.parametrize("token", ["", "wrong"])
async def test_without_a_good_token_at_once(edge: Edge, token: str) -> None:
    async with Client(edge.address, token=token, ca=certificate()[0]) as stranger:
        for call in (
            stranger.pay("a", "b", 1),
            stranger.pay("a", "b", 1),
            stranger.account("a"),
            stranger.create_account("a"),
        ):
            with pytest.raises(errors.Unauthenticated):
                await call


@pytest.mark.asyncio
async def test_a_caller_that_gives_up_harms_nobody(edge: Edge, client: Client) -> None:
    edge.coordinator.decide = lambda request: None
    gone = asyncio.ensure_future(client.pay("a", "b", 1))
    there = asyncio.ensure_future(client.pay("a", "b", 1))
    async with asyncio.timeout(5):
        while len(edge.coordinator.waiting) < 2:
            await asyncio.sleep(0)
    gone.cancel()
    edge.coordinator.settle()
    assert (await there).committed


@pytest.mark.asyncio
async def test_closing_tells_whoever_still_waits(edge: Edge) -> None:
    edge.coordinator.decide = lambda request: None
    token = edge.token("operator:shop", Role.GATEWAY)
    async with Client(edge.address, token=token, ca=certificate()[0]) as client:
        waiting = asyncio.ensure_future(client.pay("a", "b", 1))
        await edge.coordinator.arrived.wait()
    assert (await waiting).status is Status.UNKNOWN
    with pytest.raises(errors.Unavailable, match="closed"):
        await client.pay("a", "b", 1)


# -- servers that come and go ----------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_server_that_dies_leaves_the_payment_to_be_asked_for_again() -> None:
    async with serving() as first:
        port = first.server.port
        first.coordinator.decide = lambda request: None
        token = first.token("operator:shop", Role.GATEWAY)
        async with Client(first.address, token=token, ca=certificate()[0]) as client:
            paying = asyncio.ensure_future(client.pay("a", "b", 1, key="k", timeout=20))
            await first.coordinator.arrived.wait()
            await first.server.stop(0)
            async with serving(port=port) as second:
                assert (await paying).committed
                [request] = second.coordinator.requests
                assert (request.key, request.repeat) == ("k", True)


@pytest.mark.asyncio
async def test_a_server_that_is_not_there_yet() -> None:
    async with serving() as gone:
        port, token = gone.server.port, gone.token("operator:shop", Role.GATEWAY)
    async with Client(f"127.0.0.1:{port}", token=token, ca=certificate()[0]) as client:
        nothing = await client.pay("a", "b", 1, timeout=0.2)
        assert (nothing.status, nothing.reason) == (Status.REJECTED, Reason.UNAVAILABLE)
        with pytest.raises(errors.NetworkError):
            await client.account("a", timeout=0.2)
        with pytest.raises(errors.Unavailable, match="no connection"):
            await client.create_account("a", timeout=0.2)
        paying = asyncio.ensure_future(client.pay("a", "b", 1, timeout=20))
        reading = asyncio.ensure_future(client.buckets(timeout=20))
        async with serving(port=port) as there:
            assert (await paying).committed
            # It never reached a server before: it is no repeat.
            assert not there.coordinator.requests[0].repeat
            assert await reading == {1: [1, 2], 2: [1, 3]}


@pytest.mark.asyncio
async def test_a_server_with_another_certificate_is_no_server(edge: Edge) -> None:
    certificate.cache_clear()
    other = certificate()[0]
    async with Client(edge.address, token=edge.token(), ca=other) as client:
        receipt = await client.pay("a", "b", 1, timeout=0.3)
        assert receipt.status is Status.REJECTED
    assert edge.coordinator.requests == []


@pytest.mark.asyncio
async def test_a_token_that_expires_under_way_is_told(edge: Edge, client: Client) -> None:
    assert (await client.pay("a", "b", 1)).committed
    edge.clock.now += 10**15
    with pytest.raises(errors.Unauthenticated, match="expired"):
        await client.pay("a", "b", 1)


# -- everything else -------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_opening_an_account(edge: Edge, client: Client) -> None:
    made = await client.create_account("carol", "7.00", currency="EUR", overdraft_limit="1")
    assert made.receipt.committed
    assert made.receipt.bucket == 1
    body = edge.coordinator.requests[0].body
    assert (body.currency, body.legs, body.overdraft_limit) == ("EUR", (("carol", 700),), 100)
    async with Client(edge.address, token=made.token, ca=certificate()[0]) as carol:
        assert (await carol.pay("carol", "bob", 1)).committed


@pytest.mark.asyncio
async def test_opening_an_account_is_tried_again_under_one_key(edge: Edge, client: Client) -> None:
    edge.coordinator.decide = script = Script(AWAY, UNKNOWN, ABORTED, COMMITTED)
    assert (await client.create_account("carol")).token
    assert len(set(script.keys)) == 1
    assert script.repeats == [False, True, True, True]
    edge.coordinator.decide = Script(UNKNOWN, ABORTED)
    lost = await client.create_account("dave", timeout=0.3)
    assert (lost.receipt.status, lost.token) == (Status.UNKNOWN, "")
    edge.coordinator.decide = Script((Status.REFUSED, Reason.ACCOUNT_EXISTS))
    refused = await client.create_account("carol")
    assert (refused.receipt.reason, refused.token) == (Reason.ACCOUNT_EXISTS, "")


@pytest.mark.asyncio
async def test_overload_of_a_whole_server_passes(edge: Edge, client: Client) -> None:
    edge.coordinator.overloaded = errors.MailboxFull("full")
    told = await client.pay("a", "b", 1, timeout=0.2)
    assert (told.status, told.reason) == (Status.REJECTED, Reason.OVERLOADED)
    with pytest.raises(errors.Overloaded):
        await client.create_account("a", timeout=0.2)
    paying = asyncio.ensure_future(client.pay("a", "b", 1))
    opening = asyncio.ensure_future(client.create_account("a"))
    await asyncio.sleep(0)
    edge.coordinator.overloaded = None
    assert (await paying).committed
    assert (await opening).receipt.committed


@pytest.mark.asyncio
async def test_reading(edge: Edge, client: Client) -> None:
    edge.coordinator.accounts["alice"] = alice = account("alice", 5)
    edge.coordinator.postings["alice"] = [PostingView(1, b"p" * 16, 5, 5, 9)]
    assert await client.account("alice") == alice
    assert await client.accounts(["nobody", "alice"], level=ReadLevel.STALE) == [None, alice]
    assert edge.coordinator.levels == [ReadLevel.LINEARIZABLE, ReadLevel.STALE]
    assert await client.postings("alice", limit=5) == [PostingView(1, b"p" * 16, 5, 5, 9)]
    for call in (client.account("nobody"), client.postings("nobody"), client.payment("a", "k")):
        with pytest.raises(errors.NotFound):
            await call
    assert (await client.bucket(2, 3)).external == {"USD": -5}


@pytest.mark.asyncio
async def test_a_read_is_tried_again_until_it_is_answered(edge: Edge, client: Client) -> None:
    calls = 0

    async def read_accounts(*_: object) -> list[None]:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise errors.NotLeading("no leader")
        return [None]

    edge.coordinator.read_accounts = read_accounts  # type: ignore[method-assign]
    assert await client.accounts(["a"]) == [None]
    calls = -(10**9)
    with pytest.raises(errors.MasError) as caught:
        await client.accounts(["a"], timeout=0.2)
    assert caught.value.retryable


@pytest.mark.asyncio
async def test_cancelling_and_asking(client: Client) -> None:
    cancelled = await client.cancel("alice", "k")
    assert (cancelled.status, cancelled.reason) == (Status.REFUSED, Reason.CANCELLED)
    assert await client.payment("alice", "k") == cancelled
    by_id = await client.payment("alice", payment_id=cancelled.payment_id)
    assert by_id.reason is Reason.CANCELLED


@pytest.mark.asyncio
async def test_freezing(edge: Edge, client: Client) -> None:
    assert (await client.set_account("bob", frozen=True)).committed
    edge.coordinator.answer = Answer(Code.REFUSED, Reason.LEGS_PREPARED)
    assert (await client.set_account("bob", closed=True)).reason is Reason.LEGS_PREPARED
    edge.coordinator.answer = Answer(Code.LOCK_CONFLICT, Reason.LOCK_CONFLICT)
    conflict = await client.set_account("bob", overdraft_limit=0, timeout=1)
    while conflict.status is Status.UNKNOWN:  # its last try was under way at its deadline
        conflict = await client.set_account("bob", overdraft_limit=0, timeout=1)
    assert conflict.status is Status.ABORTED
    changes = edge.coordinator.changes
    assert [(c.frozen, c.closed) for c in changes[:2]] == [(True, None), (None, True)]
    assert changes[2].overdraft_limit == 0
    assert len(changes) > 3
