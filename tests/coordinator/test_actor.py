"""The coordinator against real ledgers: what callers hear, and what is left behind."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
import pytest_asyncio

from mas.coordinator import CoordinatorSettings, Ports, TransactionCoordinator
from mas.errors import OutcomeUnknown, Overloaded, Unavailable
from mas.ids import xid_counter, xid_incarnation
from mas.ledger import (
    EXTERNAL,
    Abort,
    Body,
    CloseIncarnation,
    Code,
    Commit,
    Decide,
    Instruction,
    Kind,
    LockMode,
    Mark,
    Prepare,
    QueryRecord,
    Reason,
    Record,
    RecordRefusal,
    RejectReason,
    Resolve,
    SetAccount,
    Token,
)
from mas.limits import TURN_INSTRUCTIONS_MAX
from mas.rpc.messages import AccountView, ReadLevel
from mas.runtime import Supervisor, SystemClock, SystemDice
from mas.transaction.outcome import PaymentRequest, PaymentResult, Status, hash_body, payment_id_of
from mas.transaction.stored import PendingEntry
from tests.coordinator.cluster import Buckets, Locks, Store, no_fault, number_at

BUCKETS = 3
PAYER, PAYEE, NEIGHBOUR = "alice", "bob", "carol"
SOMEWHERE, ELSEWHERE = 1, 2
LIFE = b"gone-gone-"


class World:
    """A coordinator and its surroundings: alice and carol live in bucket 1, bob in bucket 2."""

    def __init__(self) -> None:
        self.buckets = Buckets(BUCKETS)
        self.store = Store()
        self.locks = Locks()
        self.clock = SystemClock()
        self.supervisor = Supervisor()
        self.buckets.open_account(PAYER, SOMEWHERE, 1_000)
        self.buckets.open_account(NEIGHBOUR, SOMEWHERE, 1_000)
        self.buckets.open_account(PAYEE, ELSEWHERE, 1_000)
        self.coordinator = self.make()

    def make(self, **settings: object) -> TransactionCoordinator:
        return TransactionCoordinator(
            Ports(self.buckets, self.store, self.locks),
            CoordinatorSettings(BUCKETS, **settings),  # type: ignore[arg-type]
            self.clock,
            SystemDice(),
        )

    def start(self, **settings: object) -> None:
        if settings:
            self.coordinator = self.make(**settings)
        self.supervisor.spawn("coordinator", self.coordinator.run())

    async def pay(self, *requests: PaymentRequest) -> list[PaymentResult]:
        """Submit them at once; all results, by position."""
        return await asyncio.gather(*self.submit(requests))

    def submit(
        self, requests: Sequence[PaymentRequest], caller: str = "caller"
    ) -> list[asyncio.Future[PaymentResult]]:
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in requests]

        def on_result(position: int, result: PaymentResult) -> None:
            futures[position].set_result(result)  # raises if told twice

        self.coordinator.submit(caller, requests, on_result)
        return futures

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.001)

    async def settled(self) -> None:
        await self.until(lambda: not self.buckets.all_prepared() and not self.store.entries)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.supervisor:
        yield world


def pay(
    amount: int = 10,
    key: str = "key",
    *,
    payer: str = PAYER,
    payee: str = PAYEE,
    repeat: bool = False,
    timeout: float = 5.0,
) -> PaymentRequest:
    body = Body(Kind.PAYMENT, "USD", ((payer, -amount), (payee, amount)))
    return PaymentRequest("caller", key, body, repeat, timeout)


def create(number: str, balance: int = 0, key: str = "key") -> PaymentRequest:
    return PaymentRequest("operator", key, Body(Kind.CREATION, "USD", ((number, balance),)))


def once(
    kind: type[Instruction], fault: RejectReason | str
) -> Callable[[int, Instruction], object]:
    """The first instruction of this kind meets this fault."""
    left = [fault]

    def choose(_: int, instruction: Instruction) -> object:
        return left.pop() if left and isinstance(instruction, kind) else None

    return choose


# -- payments --------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_payment_between_two_buckets_moves_the_money_once(world: World) -> None:
    world.start()

    (result,) = await world.pay(pay(30))

    assert result.status is Status.COMMITTED
    assert result.time_us
    await world.settled()
    assert (world.buckets.balance(PAYER), world.buckets.balance(PAYEE)) == (970, 1_030)


@pytest.mark.asyncio
async def test_a_payment_within_a_bucket_is_one_instruction(world: World) -> None:
    world.start()

    (result,) = await world.pay(pay(30, payee=NEIGHBOUR))

    assert result.status is Status.COMMITTED
    assert [len(batch.instructions) for _, batch in world.buckets.batches] == [1]
    assert world.buckets.balance(NEIGHBOUR) == 1_030


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", [Kind.DEPOSIT, Kind.WITHDRAWAL])
async def test_rule_17_deposits_and_withdrawals_stay_in_one_bucket(
    world: World, kind: Kind
) -> None:
    world.start()
    amount = 5 if kind is Kind.DEPOSIT else -5
    legs = ((EXTERNAL, -amount), (PAYEE, amount))
    if kind is Kind.WITHDRAWAL:
        legs = legs[::-1]

    (result,) = await world.pay(PaymentRequest("teller", "k", Body(kind, "USD", legs)))

    assert result.status is Status.COMMITTED
    assert [bucket for bucket, _ in world.buckets.batches] == [ELSEWHERE]
    assert world.buckets.balance(PAYEE) == 1_000 + amount


@pytest.mark.asyncio
async def test_a_payment_of_many_legs_is_all_or_nothing(world: World) -> None:
    world.start()
    legs = ((PAYER, -30), (PAYEE, 10), (NEIGHBOUR, 20))

    (good, bad) = await world.pay(
        PaymentRequest("caller", "good", Body(Kind.PAYMENT, "USD", legs)),
        PaymentRequest(
            "caller", "bad", Body(Kind.PAYMENT, "USD", ((PAYER, -9_000), (PAYEE, 9_000)))
        ),
    )

    assert (good.status, bad.status) == (Status.COMMITTED, Status.REFUSED)
    assert bad.reason is Reason.INSUFFICIENT_FUNDS
    await world.settled()
    balances = [world.buckets.balance(number) for number in (PAYER, PAYEE, NEIGHBOUR)]
    assert balances == [970, 1_010, 1_020]


@pytest.mark.asyncio
async def test_rule_38_payments_of_one_turn_are_one_batch_a_bucket(world: World) -> None:
    world.start()
    await world.pay(pay(1, "first"))
    await world.settled()
    world.buckets.batches.clear()

    results = await world.pay(*[pay(1, f"k{i}") for i in range(400)])

    assert {result.status for result in results} == {Status.COMMITTED}
    await world.settled()
    kinds = [{type(each) for each in batch.instructions} for _, batch in world.buckets.batches]
    assert kinds == [{Prepare}, {Decide}, {Commit}]


@pytest.mark.asyncio
async def test_rule_38_a_batch_is_bounded(world: World) -> None:
    world.start()

    results = await world.pay(*[pay(1, f"k{i}") for i in range(2_500)])

    assert {result.status for result in results} == {Status.COMMITTED, Status.REFUSED}
    assert world.buckets.balance(PAYER) == 0
    sizes = [len(batch.instructions) for _, batch in world.buckets.batches]
    assert max(sizes) == TURN_INSTRUCTIONS_MAX
    await world.settled()


@pytest.mark.asyncio
async def test_kind_6_a_single_payment_begins_in_the_very_next_turn_beside_another_callers_thousands(
    world: World,
) -> None:
    """Callers' payments begin in turns, so one that has brought thousands isn't in front of one that has brought one."""
    world.start()
    await world.pay(pay(1, "a"), pay(1, "b", payer=NEIGHBOUR))  # where they live is known now
    await world.settled()
    world.buckets.batches.clear()
    single = pay(1, "one")
    world.buckets.fault = lambda _, each: (
        "silent" if isinstance(each, Prepare) and each.payment_id != payment_id_of(single) else None
    )
    crowd = world.submit([pay(1, f"k{i}", payer=NEIGHBOUR) for i in range(8_192)], "a crowd")
    await world.until(lambda: bool(world.buckets.sent(Prepare)))
    begun = len(crowd) - len(world.coordinator._waiting)
    assert begun < len(crowd) - TURN_INSTRUCTIONS_MAX, "more than a turn's worth has to wait"

    (one,) = world.submit([single], "one")

    assert (await one).status is Status.COMMITTED
    sent = [each.payment_id for _, each in world.buckets.sent(Prepare)]  # type: ignore[attr-defined]
    assert sent.index(payment_id_of(single)) < begun + TURN_INSTRUCTIONS_MAX


@pytest.mark.asyncio
async def test_kind_6_what_one_batch_cannot_hold_is_sent_in_turns_between_callers(
    world: World,
) -> None:
    """What has begun waits for room in its bucket's batches: nobody stands behind another's wide payments there either."""
    wide = [(f"payee {i}", 1) for i in range(63)]
    for number, _ in wide:
        world.buckets.open_account(number, ELSEWHERE, 0)
    body = Body(Kind.PAYMENT, "USD", ((NEIGHBOUR, -63), *wide))
    world.start()
    await world.pay(pay(1, "a"), PaymentRequest("crowd", "b", body))  # where they live is known now
    await world.settled()
    world.buckets.batches.clear()
    singles = [pay(1, "one"), pay(1, "two")]
    names = {payment_id_of(each) for each in singles}
    world.buckets.fault = lambda _, each: (
        "silent" if isinstance(each, Prepare) and each.payment_id not in names else None
    )
    world.submit([PaymentRequest("crowd", f"k{i}", body) for i in range(1_000)], "a crowd")
    await world.until(lambda: bool(world.buckets.sent(Prepare)))
    assert len(world.coordinator._outboxes[ELSEWHERE]) > 500, (
        "more than a batch's worth has to wait"
    )
    batches = len(world.buckets.batches)

    results = await asyncio.gather(*world.submit(singles, "one"))

    assert {result.status for result in results} == {Status.COMMITTED}
    (following, *_) = [c for bucket, c in world.buckets.batches[batches:] if bucket == ELSEWHERE]
    ids = [each.payment_id for each in following.instructions if isinstance(each, Prepare)]
    assert names <= set(ids)
    assert len(ids) > 50, "the crowd's turn comes beside it"


@pytest.mark.asyncio
async def test_a_caller_has_its_time_from_when_it_asks_not_from_when_its_turn_comes(
    world: World,
) -> None:
    world.buckets.fault = lambda *_: "silent"
    (waiting,) = world.submit([pay(30, timeout=0.2)])
    await asyncio.sleep(0.2)
    world.start()

    asked = world.clock.monotonic()
    assert (await waiting).status is not Status.COMMITTED
    assert world.clock.monotonic() - asked < 0.2


@pytest.mark.asyncio
async def test_rule_10_every_batch_carries_the_low_water_mark(world: World) -> None:
    world.start()

    await world.pay(*[pay(1, f"k{i}") for i in range(5)])
    await world.pay(pay(1, "last"))

    prepares = [
        batch for _, batch in world.buckets.batches if type(batch.instructions[0]) is Prepare
    ]
    first = [xid_counter(each.xid) for each in prepares[0].instructions]
    assert prepares[0].low_water == min(first)
    assert prepares[1].low_water == xid_counter(prepares[1].instructions[0].xid) > max(first)
    decide = next(
        batch for _, batch in world.buckets.batches if type(batch.instructions[0]) is Decide
    )
    assert decide.low_water > max(first)


# -- keys (rules 6 to 9) ---------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_k1_a_repeat_hears_the_first_answer(world: World) -> None:
    world.start()
    (first,) = await world.pay(pay(30))

    again = await world.pay(pay(30), pay(30, repeat=True))

    assert [(each.status, each.time_us) for each in again] == [(first.status, first.time_us)] * 2
    await world.settled()
    assert world.buckets.balance(PAYER) == 970


@pytest.mark.asyncio
async def test_k2_the_key_of_another_body_is_refused_naming_what_differs(world: World) -> None:
    world.start()
    await world.pay(pay(30))

    results = await world.pay(pay(31), pay(31, repeat=True))

    assert [(each.status, each.detail) for each in results] == [(Status.KEY_REUSED, "amount")] * 2
    await world.settled()
    assert world.buckets.balance(PAYER) == 970


@pytest.mark.asyncio
async def test_k3_two_identical_requests_at_once_are_one_payment(world: World) -> None:
    world.start()

    first, second = await world.pay(pay(30), pay(30))

    assert first == second
    await world.settled()
    assert world.buckets.balance(PAYEE) == 1_030


@pytest.mark.asyncio
async def test_t20_a_cancelled_key_stays_cancelled(world: World) -> None:
    world.start()
    request = pay(30)

    cancelled = await world.coordinator.queries.cancel(
        payment_id_of(request), Kind.PAYMENT, PAYER, 5.0
    )
    (result,) = await world.pay(request)

    assert cancelled.status is result.status is Status.REFUSED
    assert cancelled.reason is result.reason is Reason.CANCELLED
    await world.settled()
    assert world.buckets.balance(PAYER) == 1_000


@pytest.mark.asyncio
async def test_t20_a_cancellation_after_the_payment_hears_its_outcome(world: World) -> None:
    world.start()
    request = pay(30)
    (result,) = await world.pay(request)

    cancelled = await world.coordinator.queries.cancel(
        payment_id_of(request), Kind.PAYMENT, PAYER, 5.0
    )

    assert cancelled == result


@pytest.mark.asyncio
async def test_t3_a_key_whose_attempt_died_runs_again(world: World) -> None:
    request = pay(30)
    ask = Resolve(payment_id_of(request), 4, b"x" * 16, b"")
    assert world.buckets.apply(SOMEWHERE, ask).code is Code.ABORTED
    world.start()

    (result,) = await world.pay(request)

    assert result.status is Status.COMMITTED
    record = world.buckets.record(payment_id_of(request))
    assert record is not None
    assert record.attempt == 5
    await world.settled()


# -- refusals, and errors --------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_rule_8_a_no_of_the_payees_bucket_is_on_record(world: World) -> None:
    world.buckets.apply(ELSEWHERE, SetAccount(PAYEE, frozen=True))
    world.start()

    (result,) = await world.pay(pay(30))

    assert (result.status, result.reason) == (Status.REFUSED, Reason.ACCOUNT_FROZEN)
    record = world.buckets.record(result.payment_id)
    assert record is not None
    assert record.outcome is Code.REFUSED


@pytest.mark.asyncio
async def test_rule_3_a_payer_that_does_not_exist_is_turned_away_and_its_key_stays_free(
    world: World,
) -> None:
    world.start()

    (result,) = await world.pay(pay(30, payer="nobody"))

    assert (result.status, result.reason) == (Status.REJECTED, Reason.ACCOUNT_NOT_FOUND)
    assert world.buckets.record(result.payment_id) is None


@pytest.mark.asyncio
async def test_rule_3_a_payee_that_does_not_exist_is_a_no_on_record(world: World) -> None:
    world.start()

    (result,) = await world.pay(pay(30, payee="nobody"))

    assert (result.status, result.reason) == (Status.REFUSED, Reason.ACCOUNT_NOT_FOUND)
    assert result.detail == "nobody"
    assert world.buckets.sent(Prepare) == []
    assert world.buckets.record(result.payment_id) is not None


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", [Prepare, Decide, Commit])
@pytest.mark.parametrize(
    "fault", ["lost", "unheard", RejectReason.NOT_LEADING, RejectReason.UNAVAILABLE]
)
async def test_c7_what_is_lost_sight_of_is_sent_again(
    world: World, kind: type[Instruction], fault: RejectReason | str
) -> None:
    world.buckets.fault = once(kind, fault)
    world.start()

    (result,) = await world.pay(pay(30))

    assert result.status is Status.COMMITTED
    await world.settled()
    assert (world.buckets.balance(PAYER), world.buckets.balance(PAYEE)) == (970, 1_030)


@pytest.mark.asyncio
async def test_c18_an_overloaded_bucket_turns_away_and_leaves_nothing(world: World) -> None:
    world.buckets.fault = lambda bucket, _: RejectReason.OVERLOADED if bucket == ELSEWHERE else None
    world.start()

    (result,) = await world.pay(pay(30))

    assert (result.status, result.reason) == (Status.ABORTED, Reason.OVERLOADED)
    await world.settled()


@pytest.mark.asyncio
async def test_rule_9_no_answer_in_time_in_phase_1_is_certain_to_have_done_nothing(
    world: World,
) -> None:
    world.buckets.fault = lambda _, each: "silent" if isinstance(each, Prepare) else None
    world.start()

    (result,) = await world.pay(pay(30, timeout=0.4))

    assert (result.status, result.reason) == (Status.ABORTED, Reason.TIMED_OUT)


@pytest.mark.asyncio
async def test_rule_9_without_a_word_of_the_anchor_the_answer_is_unknown(world: World) -> None:
    world.buckets.fault = lambda bucket, _: "silent" if bucket == SOMEWHERE else None
    world.start()

    (result,) = await world.pay(pay(30, timeout=0.2))

    assert (result.status, result.reason) == (Status.UNKNOWN, Reason.TIMED_OUT)
    assert world.buckets.prepared(ELSEWHERE) == 1  # freed by nobody but the anchor's word


@pytest.mark.asyncio
async def test_rule_8_a_decided_payment_is_finished_behind_a_client_that_has_gone(
    world: World,
) -> None:
    world.buckets.fault = lambda _, each: "lost" if isinstance(each, Decide | Resolve) else None
    world.start()
    (result,) = await world.pay(pay(30, timeout=0.2))
    assert result.status is Status.UNKNOWN
    assert world.buckets.prepared(ELSEWHERE) == 1

    world.buckets.fault = lambda *_: None

    await world.settled()
    assert world.buckets.balance(PAYEE) == 1_000
    assert world.buckets.sent(Abort)


@pytest.mark.asyncio
async def test_t22_a_silent_bucket_holds_up_nobody_else(world: World) -> None:
    world.buckets.fault = lambda bucket, _: "silent" if bucket == ELSEWHERE else None
    world.start()

    slow, fast = world.submit([pay(30, "slow"), pay(30, "fast", payee=NEIGHBOUR)])

    assert (await fast).status is Status.COMMITTED
    assert not slow.done()


# -- admission, and the end ------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_c18_too_many_payments_are_refused_before_anything_begins(world: World) -> None:
    world.buckets.fault = lambda *_: "silent"
    world.start(in_flight=3)
    world.submit([pay(1, f"k{i}") for i in range(3)])

    with pytest.raises(Overloaded, match="3 payments are under way"):
        world.submit([pay(1, "one more")])

    await world.until(lambda: len(world.buckets.sent(Prepare)) == 3)


@pytest.mark.asyncio
async def test_an_answered_payment_makes_room(world: World) -> None:
    world.start(in_flight=2)

    for turn in range(3):
        results = await world.pay(pay(1, f"a{turn}"), pay(1, f"b{turn}"))
        assert {result.status for result in results} == {Status.COMMITTED}

    assert world.coordinator.statistics().in_flight == 0
    assert world.coordinator.statistics().results["COMMITTED"] == 6


@pytest.mark.asyncio
async def test_whoever_waits_at_the_end_hears_unknown_and_whoever_comes_later_is_turned_away(
    world: World,
) -> None:
    world.buckets.fault = lambda *_: "silent"
    world.start()
    (waiting,) = world.submit([pay(30, timeout=60.0)])
    await world.until(lambda: bool(world.buckets.batches))

    await world.coordinator.finish(0.05)
    (late,) = await world.pay(pay(30, "late"))

    assert (await waiting).status is Status.UNKNOWN
    assert late.status is Status.REJECTED
    assert world.buckets.sent(CloseIncarnation) == []


@pytest.mark.asyncio
async def test_rule_10_an_incarnation_that_ends_with_nothing_open_is_closed(world: World) -> None:
    world.start()
    await world.pay(pay(30))

    await world.coordinator.finish(5.0)

    closed = world.buckets.sent(CloseIncarnation)
    assert [bucket for bucket, _ in closed] == [1, 2, 3]
    assert world.buckets.all_prepared() == 0


@pytest.mark.asyncio
async def test_cancelled_without_an_end_everybody_still_hears(world: World) -> None:
    world.buckets.fault = lambda *_: "silent"
    world.start()
    (waiting,) = world.submit([pay(30)])
    await world.until(lambda: bool(world.buckets.batches))

    await world.supervisor.stop()

    assert (await waiting).status is Status.UNKNOWN


# -- creating accounts (rules 18, 19) --------------------------------------------------------------------


@pytest.mark.asyncio
async def test_rule_18_accounts_are_created_evenly_and_claimed_at_their_homes(world: World) -> None:
    world.start()
    numbers = [number_at(home, BUCKETS, i) for home in world.buckets.all() for i in range(3)]

    results = await world.pay(*[create(number, 5, number) for number in numbers])

    assert {result.status for result in results} == {Status.COMMITTED}
    await world.settled()
    places = [result.account_bucket for result in results]
    assert sorted(places) == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    for number, place in zip(numbers, places, strict=True):
        account = world.buckets.account(place, number)
        assert account is not None
        assert account.balance == 5


@pytest.mark.asyncio
async def test_rule_18_a_number_is_claimed_once_and_a_repeat_hears_the_place(world: World) -> None:
    world.start()
    (first,) = await world.pay(create("dave", key="a"))

    repeat, other = await world.pay(create("dave", key="a"), create("dave", key="b"))

    assert (repeat.status, repeat.account_bucket) == (Status.COMMITTED, first.account_bucket)
    assert (other.status, other.reason) == (Status.REFUSED, Reason.ACCOUNT_EXISTS)
    await world.settled()


@pytest.mark.asyncio
async def test_a_new_account_can_pay_at_once(world: World) -> None:
    world.start()
    await world.pay(create("dave", 50))

    (result,) = await world.pay(pay(50, payer="dave"))

    assert result.status is Status.COMMITTED
    await world.settled()
    assert world.buckets.balance("dave") == 0


@pytest.mark.asyncio
async def test_rule_19_without_the_store_chance_places_and_payments_go_on(world: World) -> None:
    world.store.is_away = True
    world.start()

    created, paid = await world.pay(create("dave", 50), pay(5))

    assert created.status is paid.status is Status.COMMITTED
    await world.until(lambda: not world.buckets.all_prepared())


# -- the directory (rule 3) ------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("payer_said", "payee_said"), [(3, ELSEWHERE), (SOMEWHERE, 3), (3, 3), (ELSEWHERE, SOMEWHERE)]
)
@pytest.mark.parametrize("repeat", [False, True])
async def test_t19_a_wrong_directory_is_found_out_and_nothing_stays_in_doubt(
    world: World, payer_said: int, payee_said: int, repeat: bool
) -> None:
    world.store.directory = {PAYER: payer_said, PAYEE: payee_said}
    world.start()

    (result,) = await world.pay(pay(30, repeat=repeat))

    assert result.status is Status.COMMITTED
    await world.settled()
    assert (world.buckets.balance(PAYER), world.buckets.balance(PAYEE)) == (970, 1_030)
    await world.until(lambda: world.store.directory == {PAYER: SOMEWHERE, PAYEE: ELSEWHERE})


@pytest.mark.asyncio
async def test_a_directory_that_names_no_bucket_of_ours_is_not_believed(world: World) -> None:
    world.store.directory = {PAYER: 99, PAYEE: 77}
    world.start()

    (result,) = await world.pay(pay(30))

    assert result.status is Status.COMMITTED


@pytest.mark.asyncio
async def test_unknown_accounts_are_looked_up_once_and_in_batches(world: World) -> None:
    world.start()

    await world.pay(*[pay(1, f"a{i}") for i in range(50)])
    await world.pay(*[pay(1, f"b{i}") for i in range(50)])

    assert world.store.calls.count("find_buckets") == 1
    assert sum(len(request.numbers) for _, request in world.buckets.queries) == 2


@pytest.mark.asyncio
async def test_rule_37_a_home_out_of_reach_holds_up_only_its_own(world: World) -> None:
    world.start()
    number = number_at(3, BUCKETS)
    world.buckets.open_account(number, SOMEWHERE, 100)
    world.buckets.unreachable = {3}
    slow, fast = world.submit([pay(1, "slow", payee=number), pay(1, "fast", payee=NEIGHBOUR)])
    assert (await fast).status is Status.COMMITTED

    world.buckets.unreachable = set()

    assert (await slow).status is Status.COMMITTED


# -- locks (rules 34, 35) --------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(("marked", "bucket"), [(PAYER, SOMEWHERE), (PAYEE, ELSEWHERE)])
async def test_rule_34_a_mark_is_passed_with_a_newer_token(
    world: World, marked: str, bucket: int
) -> None:
    world.buckets.apply(bucket, Mark(marked, Token(1, 1, LockMode.EXCLUSIVE)))
    world.start()

    (result,) = await world.pay(pay(30))

    assert result.status is Status.COMMITTED
    assert world.locks.acquired == [([PAYER, PAYEE], LockMode.ESCROW)]
    await world.until(lambda: not world.locks.held)
    account = world.buckets.account(bucket, marked)
    assert account is not None
    assert account.marks == ()


@pytest.mark.asyncio
async def test_l7_without_a_lock_service_a_mark_is_a_retryable_conflict(world: World) -> None:
    world.buckets.apply(ELSEWHERE, Mark(PAYEE, Token(1, 1, LockMode.EXCLUSIVE)))
    world.locks.is_away = True
    world.start()

    marked, free = await world.pay(pay(30), pay(30, "free", payee=NEIGHBOUR))

    assert (marked.status, marked.reason) == (Status.ABORTED, Reason.LOCK_CONFLICT)
    assert free.status is Status.COMMITTED


@pytest.mark.asyncio
async def test_rule_35_exclusive_payments_take_their_locks_first_and_give_them_back(
    world: World,
) -> None:
    world.start(locking="exclusive")

    (result,) = await world.pay(pay(30))

    assert result.status is Status.COMMITTED
    assert world.locks.acquired == [([PAYER, PAYEE], LockMode.EXCLUSIVE)]
    await world.until(lambda: not world.locks.held)
    await world.settled()


@pytest.mark.asyncio
async def test_nobody_waits_for_a_store_that_hangs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An id only chooses a place: what waits for one is bounded by time, and while the store hangs nothing waits."""
    monkeypatch.setattr("mas.coordinator.placement_ids._PATIENCE_SECONDS", 0.05)
    go_on = asyncio.Event()

    async def hang(count: int = 1) -> int:
        await go_on.wait()
        return count

    world.store.incr_max_id = hang  # type: ignore[method-assign]
    world.start()
    results = await world.pay(create("new-1"), create("new-2", key="other"))
    assert [result.status for result in results] == [Status.COMMITTED] * 2
    places = world.coordinator._places
    assert places._hangs
    (result,) = await world.pay(create("new-3", key="third"))
    assert result.status is Status.COMMITTED
    assert places._waiting == []
    go_on.set()
    await world.until(lambda: not places._hangs)


# -- recovery (rules 10, 11) -----------------------------------------------------------------------------


def half_done(world: World, counter: int, *, decided: bool) -> PaymentRequest:
    """A payment of a coordinator that died after phase 1, or after its DECIDE was applied."""
    request = pay(10, f"half{counter}")
    body, payment_id = request.body, payment_id_of(request)
    xid = LIFE + counter.to_bytes(6, "big")
    digest = hash_body(body)
    world.buckets.apply(
        ELSEWHERE,
        Prepare(
            xid,
            payment_id,
            1,
            digest,
            SOMEWHERE,
            (ELSEWHERE,),
            Kind.PAYMENT,
            "USD",
            ((PAYEE, 10),),
        ),
    )
    if decided:
        world.buckets.apply(SOMEWHERE, Decide(xid, payment_id, 1, body, digest, (ELSEWHERE,), (0,)))
    world.store.entries[xid] = PendingEntry(xid, payment_id, 1, digest, SOMEWHERE, (ELSEWHERE,))
    return request


@pytest.mark.asyncio
async def test_c8_c6_a_restart_redoes_what_was_decided_and_undoes_the_rest(world: World) -> None:
    redone = [half_done(world, counter, decided=True) for counter in range(1, 4)]
    undone = [half_done(world, counter, decided=False) for counter in range(4, 6)]

    world.start()

    await world.settled()
    assert world.buckets.balance(PAYEE) == 1_030
    results = await world.pay(*redone, *undone)
    assert {result.status for result in results} == {Status.COMMITTED}
    await world.settled()
    assert world.buckets.balance(PAYEE) == 1_050


@pytest.mark.asyncio
async def test_c19_a_backlog_is_recovered_beside_new_payments(world: World) -> None:
    for counter in range(1, 501):
        half_done(world, counter, decided=False)
    world.start()

    (result,) = await world.pay(pay(1, "new"))

    assert result.status is Status.COMMITTED
    assert len(world.store.entries) > 100
    await world.settled()


@pytest.mark.asyncio
async def test_entries_of_a_coordinator_that_lives_are_left_alone(world: World) -> None:
    half_done(world, 1, decided=False)
    living = half_done(world, 2, decided=False)
    world.start(recovery_pause=0.05)
    await world.until(lambda: "pending_entries" in world.store.calls)
    del world.store.entries[LIFE + (2).to_bytes(6, "big")]

    await world.until(lambda: not world.store.entries)

    assert world.buckets.record(payment_id_of(living)) is None


@pytest.mark.asyncio
async def test_a_slow_store_makes_a_coordinator_take_over_nothing_of_its_own(
    world: World,
) -> None:
    """What it has noted beside the reading is under way: to ask about it with the abort would end it."""
    read, go_on = world.store.pending_entries, asyncio.Event()

    async def slowly() -> list[PendingEntry]:
        await go_on.wait()
        return await read()

    world.store.pending_entries = slowly  # type: ignore[method-assign]
    half_done(world, 1, decided=False)
    world.buckets.fault = lambda _, each: "silent" if isinstance(each, Prepare) else None
    world.start()
    waiting = world.submit([pay(1, "new", timeout=1.0)])
    await world.until(lambda: len(world.store.entries) == 2)

    go_on.set()

    await world.until(lambda: len(world.store.entries) == 1)
    asked = [each.xid for _, each in world.buckets.sent(Resolve) if isinstance(each, Resolve)]
    assert asked == [LIFE + (1).to_bytes(6, "big")]
    await asyncio.gather(*waiting)


@pytest.mark.asyncio
async def test_a_payment_from_an_account_to_be_waits_with_pauses(world: World) -> None:
    """Its creation was answered, and its bucket hasn't heard: thousands of questions a second would ask for it."""
    number = number_at(1, BUCKETS)
    world.buckets.fault = lambda _, each: "silent" if isinstance(each, Commit) else None
    world.start()
    (created,) = await world.pay(create(number, 5))
    prepared = world.buckets.sent(Prepare)[-1][1]
    assert isinstance(prepared, Prepare)
    assert created.account_bucket != SOMEWHERE
    before = len(world.buckets.batches)
    waiting = world.submit([pay(1, "k", payer=number, repeat=True)])
    asking = asyncio.create_task(
        world.coordinator.queries.read_payment(created.payment_id, Kind.PAYMENT, number, 5.0)
    )

    await asyncio.sleep(0.3)

    assert len(world.buckets.sent(QueryRecord)) >= 2, "it has been asked for"
    assert len(world.buckets.batches) - before < 30
    world.buckets.fault = no_fault
    world.buckets.apply(created.account_bucket, Commit(prepared.xid, 1))
    (result,) = await asyncio.gather(*waiting)
    assert result.status is Status.COMMITTED
    assert await asking is None


@pytest.mark.asyncio
async def test_entries_that_cannot_be_of_this_cluster_are_closed(world: World) -> None:
    world.store.entries[LIFE + bytes(6)] = PendingEntry(
        LIFE + bytes(6), bytes(16), 1, b"", 77, (78,)
    )

    world.start()

    await world.settled()
    assert world.buckets.batches == []


@pytest.mark.asyncio
async def test_c14_a_coordinator_taken_for_dead_goes_on_under_a_new_name(world: World) -> None:
    world.start()
    await world.pay(pay(1, "first"))
    await world.settled()
    name_before = xid_incarnation(world.buckets.sent(Prepare)[0][1].xid)
    closed = world.buckets.apply(ELSEWHERE, CloseIncarnation(name_before))
    assert closed.code is Code.DONE

    results = await world.pay(pay(1, "second"), pay(1, "third"))

    assert {result.status for result in results} == {Status.COMMITTED}
    names = {xid_incarnation(each.xid) for _, each in world.buckets.sent(Prepare)}
    assert len(names) == 2
    await world.settled()


# -- questions -------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_accounts_are_read_where_they_are(world: World) -> None:
    world.start()

    views = await world.coordinator.reads.accounts(
        [PAYEE, "nobody", PAYER, PAYEE], ReadLevel.LINEARIZABLE, 5.0
    )

    assert [view and view.number for view in views] == [PAYEE, None, PAYER, PAYEE]


@pytest.mark.asyncio
async def test_a_read_led_astray_by_the_directory_finds_the_account(world: World) -> None:
    world.store.directory = {PAYEE: 3}
    world.start()

    (view,) = await world.coordinator.reads.accounts([PAYEE], ReadLevel.STALE, 5.0)
    postings = await world.coordinator.reads.postings(PAYEE, 0, 10, 5.0)

    assert view is not None
    assert view.bucket == ELSEWHERE
    assert postings == []
    assert await world.coordinator.reads.postings("nobody", 0, 10, 5.0) is None


@pytest.mark.asyncio
@pytest.mark.parametrize("level", [ReadLevel.READ_COMMITTED, ReadLevel.STALE])
async def test_an_account_whose_creation_was_answered_is_not_said_to_be_missing(
    world: World, level: ReadLevel
) -> None:
    """Its bucket hears of it behind its client: whoever asks meanwhile waits, or is told to try again."""
    number = number_at(1, BUCKETS)
    world.buckets.fault = lambda _, each: "silent" if isinstance(each, Commit) else None
    world.start()
    (result,) = await world.pay(create(number, 5))
    assert result.status is Status.COMMITTED
    assert result.account_bucket != SOMEWHERE, "it lives elsewhere than its claim"
    assert world.buckets.account(result.account_bucket, number) is None

    (answer,) = await world.coordinator.reads.accounts([number], level, 1.0)
    assert isinstance(answer, Unavailable)
    with pytest.raises(Unavailable, match="has been created"):
        await world.coordinator.reads.postings(number, 0, 10, 1.0)
    statement = asyncio.create_task(world.coordinator.reads.postings(number, 0, 10, 5.0))
    reading = asyncio.create_task(world.coordinator.reads.accounts([number], level, 5.0))
    await asyncio.sleep(0.05)
    asked = len(world.buckets.queries)
    assert asked < 100, "with a pause"
    prepared = world.buckets.sent(Prepare)[-1][1]
    assert isinstance(prepared, Prepare)
    world.buckets.apply(result.account_bucket, Commit(prepared.xid, 1))

    assert await statement == []
    (view,) = await reading
    assert isinstance(view, AccountView)


@pytest.mark.asyncio
async def test_one_account_out_of_reach_fails_no_other(world: World) -> None:
    world.buckets.unreachable = {ELSEWHERE}
    world.store.directory = {PAYER: SOMEWHERE, PAYEE: ELSEWHERE}
    world.start()

    answers = await world.coordinator.reads.accounts(
        [PAYER, PAYEE, number_at(3, BUCKETS)], ReadLevel.LINEARIZABLE, 2.0
    )

    assert isinstance(answers[0], AccountView)
    assert isinstance(answers[1], Unavailable)
    assert answers[2] is None


@pytest.mark.asyncio
async def test_a_payments_record_is_read_at_its_anchor(world: World) -> None:
    world.start()
    request = pay(30)
    before = await world.coordinator.queries.read_payment(
        payment_id_of(request), Kind.PAYMENT, PAYER, 5.0
    )
    (result,) = await world.pay(request)

    after = await world.coordinator.queries.read_payment(
        payment_id_of(request), Kind.PAYMENT, PAYER, 5.0
    )

    assert before is None
    assert after == result


@pytest.mark.asyncio
async def test_a_payment_that_is_open_has_no_outcome(world: World) -> None:
    """An attempt was declared dead by a question, and the next one may commit: ABORTED is no outcome (rule 3)."""
    world.start()
    request = pay(30)
    world.buckets.apply(SOMEWHERE, Resolve(payment_id_of(request), 1, b"x" * 16, b"h"))

    found = await world.coordinator.queries.read_payment(
        payment_id_of(request), Kind.PAYMENT, PAYER, 5.0
    )

    assert found is None
    (result,) = await world.pay(request)
    assert result.status is Status.COMMITTED


@pytest.mark.asyncio
async def test_an_administrators_change_is_carried_out_at_the_accounts_bucket(world: World) -> None:
    world.buckets.fault = once(SetAccount, "lost")
    world.start()

    done = await world.coordinator.queries.set_account(SetAccount(PAYEE, frozen=True), 5.0)
    missing = await world.coordinator.queries.set_account(SetAccount("nobody", frozen=True), 5.0)

    assert done.code is Code.DONE
    assert (missing.code, missing.reason) == (Code.REFUSED, Reason.ACCOUNT_NOT_FOUND)


@pytest.mark.asyncio
async def test_a_change_whose_answer_was_lost_undoes_nothing_behind_it(
    world: World,
) -> None:
    """One freezes and isn't heard; another sees it and thaws; the first one's second copy does nothing (M2)."""
    world.buckets.fault = once(SetAccount, "unheard")
    world.start()
    freezing = asyncio.create_task(
        world.coordinator.queries.set_account(SetAccount(PAYEE, frozen=True), 5.0)
    )
    await world.until(lambda: len(world.buckets.sent(SetAccount)) == 1)
    account = world.buckets.account(ELSEWHERE, PAYEE)
    assert account is not None
    assert account.frozen, "it has been done"

    thawing = SetAccount(PAYEE, frozen=False)
    assert world.buckets.apply(ELSEWHERE, thawing).code is Code.DONE

    answer = await freezing
    assert answer.code is Code.DONE, "it was carried out"
    assert len(world.buckets.sent(SetAccount)) == 2, "and sent again"
    account = world.buckets.account(ELSEWHERE, PAYEE)
    assert account is not None
    assert not account.frozen


@pytest.mark.asyncio
async def test_a_lock_that_came_between_does_not_make_a_change_undone(
    world: World,
) -> None:
    world.buckets.fault = once(SetAccount, "unheard")
    world.start()
    freezing = asyncio.create_task(
        world.coordinator.queries.set_account(SetAccount(PAYEE, frozen=True), 5.0)
    )
    await world.until(lambda: len(world.buckets.sent(SetAccount)) == 1)
    world.buckets.apply(ELSEWHERE, Mark(PAYEE, Token(1, 1, LockMode.EXCLUSIVE)))

    assert (await freezing).code is Code.DONE


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", ["unheard", "silent"])
async def test_a_change_that_was_lost_sight_of_is_unknown(world: World, fault: str) -> None:
    """Every answer is lost: whoever is told that nothing has happened would be told wrong."""
    world.buckets.fault = lambda _, each: fault if isinstance(each, SetAccount) else None
    world.start()

    with pytest.raises(OutcomeUnknown):
        await world.coordinator.queries.set_account(SetAccount(PAYEE, frozen=True), 1.0)


@pytest.mark.asyncio
async def test_a_lock_speaks_for_its_copy_alone(world: World) -> None:
    """The copy that was lost sight of may yet find the lock gone: nobody may say that nothing will change."""
    world.buckets.fault = once(SetAccount, "lost")
    world.locks.is_away = True
    world.start()
    world.buckets.apply(ELSEWHERE, Mark(PAYEE, Token(1, 1, LockMode.EXCLUSIVE)))

    with pytest.raises(OutcomeUnknown):
        await world.coordinator.queries.set_account(SetAccount(PAYEE, frozen=True), 1.0)
    locked = await world.coordinator.queries.set_account(SetAccount(PAYEE, frozen=True), 10.0)
    assert locked.code is Code.LOCK_CONFLICT


@pytest.mark.asyncio
async def test_a_change_that_no_bucket_took_has_done_nothing(world: World) -> None:
    world.buckets.fault = lambda _, each: (
        RejectReason.UNAVAILABLE if isinstance(each, SetAccount) else None
    )
    world.start()

    with pytest.raises(Unavailable):
        await world.coordinator.queries.set_account(SetAccount(PAYEE, frozen=True), 0.2)


@pytest.mark.asyncio
async def test_a_bucket_is_read_at_the_named_replica(world: World) -> None:
    world.start()

    view = await world.coordinator.reads.bucket(2, 22, 5.0)

    assert (view.bucket, view.leader) == (2, 22)  # the fake says who was asked


# -- everything at once ----------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("seed", range(8))
async def test_whatever_is_lost_answers_are_true_and_money_is_conserved(
    world: World, seed: int
) -> None:
    chance = random.Random(seed)
    faults = [
        "lost",
        "unheard",
        RejectReason.NOT_LEADING,
        RejectReason.UNAVAILABLE,
        RejectReason.OVERLOADED,
    ]

    def fault(_: int, instruction: Instruction) -> RejectReason | str | None:
        if chance.random() > 0.25:
            return None
        why = chance.choice(faults)
        ends = isinstance(instruction, Commit | Abort | RecordRefusal | QueryRecord | Resolve)
        return RejectReason.UNAVAILABLE if ends and why is RejectReason.OVERLOADED else why

    world.buckets.fault = fault
    world.start()
    accounts = [PAYER, PAYEE, NEIGHBOUR]
    requests = []
    for key in range(120):
        payer, payee = chance.sample(accounts, 2)
        requests.append(
            pay(chance.randrange(1, 200), f"k{key % 90}", payer=payer, payee=payee, timeout=2.0)
        )

    results = await world.pay(*requests)

    world.buckets.fault = lambda *_: None
    await world.settled()
    assert sum(map(world.buckets.balance, accounts)) == 3_000
    assert world.coordinator.statistics().alarms == 0
    tries = Counter(map(payment_id_of, requests))
    for request, result in zip(requests, results, strict=True):
        record = world.buckets.record(payment_id_of(request))
        is_only_try = tries[payment_id_of(request)] == 1
        assert result.status in (
            Status.UNKNOWN,
            *_true_of(record, request, is_only_try=is_only_try),
        )


def _true_of(record: Record | None, request: PaymentRequest, *, is_only_try: bool) -> list[Status]:
    """What may be said of a payment for all time; of a try, that it did nothing, unless it is the one that did."""
    nothing = [Status.ABORTED, Status.REJECTED]
    if record is None or record.outcome is Code.ABORTED:
        return nothing
    if record.body_hash != hash_body(request.body):
        return [Status.KEY_REUSED, *nothing]
    if record.outcome is Code.REFUSED:
        return [Status.REFUSED, *nothing]
    return [Status.COMMITTED] if is_only_try else [Status.COMMITTED, *nothing]


@pytest.mark.asyncio
async def test_a_claim_that_names_no_bucket_ends_payments_to_it_and_nothing_else(
    world: World,
) -> None:
    """Any client that paid that number ended the process."""
    world.start()
    lost = number_at(1, 3, 99)
    world.buckets._ledgers[1].rows._claims[lost] = 99
    results = await world.pay(pay(payee=lost, key="lost", timeout=0.5), pay(30, key="found"))
    assert [result.status for result in results] == [Status.ABORTED, Status.COMMITTED]
    assert any(bucket == 99 for bucket, _ in world.buckets.batches), "it was tried"
    (view,) = await world.coordinator.reads.accounts([lost], ReadLevel.STALE, 0.2)
    assert isinstance(view, Unavailable)
    (after,) = await world.pay(pay(5, key="after"))
    assert after.status is Status.COMMITTED
