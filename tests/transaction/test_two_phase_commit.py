"""Two-phase commit whole: real coordinators' machines and real ledgers, between them a network that does what it likes.

Several coordinators carry payments over three buckets. What they send is lost, doubled, late and out of order; they die,
give up, are taken for dead; resolvers ask, directories are wrong, locks are in the way, keys are used twice and
cancelled. After every step the money is counted, and whatever a client has heard must be true.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from mas.ids import INCARNATION_BYTES, home_bucket
from mas.ledger import (
    EXTERNAL,
    NONE_LEFT_OUT,
    UNKNOWN,
    Account,
    Answer,
    Batch,
    Body,
    BucketRow,
    CloseIncarnation,
    Code,
    Commit,
    Decide,
    Genesis,
    Instruction,
    Kind,
    Ledger,
    Loaded,
    LockMode,
    Mark,
    Posting,
    Prepare,
    PreparedLegs,
    Proposal,
    QueryRecord,
    Reason,
    Record,
    RecordRefusal,
    RejectReason,
    ResidentState,
    Resolve,
    SetAccount,
    Token,
    Unmark,
)
from mas.ledger.instructions import payer
from mas.transaction.machine import (
    Alarm,
    Effect,
    GlobalTransaction,
    Later,
    Locate,
    NeedLocks,
    Reply,
    Send,
)
from mas.transaction.outcome import PaymentRequest, PaymentResult, Status, hash_body, payment_id_of
from mas.transaction.participant import settle
from mas.transaction.placement import Placement, place, place_creation
from mas.transaction.xid_source import XidSource

BUCKETS = 3
WHERE = {"a1": 1, "a2": 1, "b1": 2, "b2": 2, "c1": 3}
OPENING = {"a1": 100, "a2": 20, "b1": 50, "b2": 0, "c1": 10}
NEW = [f"new{i}" for i in range(4)]

BODIES = [
    Body(Kind.PAYMENT, "USD", (("a1", -30), ("b1", 30)), reference="rent"),
    Body(Kind.PAYMENT, "USD", (("a1", -70), ("b1", 70))),
    Body(Kind.PAYMENT, "USD", (("a1", -30), ("b2", 10), ("c1", 20))),
    Body(Kind.PAYMENT, "USD", (("b2", -40), ("a1", 40))),
    Body(Kind.PAYMENT, "USD", (("b1", -45), ("c1", -10), ("a2", 55))),
    Body(Kind.PAYMENT, "USD", (("c1", -15), ("b2", 15))),
    Body(Kind.PAYMENT, "USD", (("a1", -20), ("a2", 20))),
    Body(Kind.DEPOSIT, "USD", (("c1", 25), (EXTERNAL, -25))),
    Body(Kind.WITHDRAWAL, "USD", (("a2", -15), (EXTERNAL, 15))),
    Body(Kind.PAYMENT, "USD", (("a2", -5), (NEW[0], 5))),
    *(Body(Kind.CREATION, "USD", ((number, 12),)) for number in NEW),
]
FATAL = (Code.ALARM, Code.FAILED)


class Bucket:
    """One bucket: what is proposed is applied at once, since one bucket's order is one order."""

    def __init__(self, bucket: int) -> None:
        self.bucket = bucket
        self.ledger = Ledger(ResidentState(BucketRow(bucket), {}, {}))
        self.ledger.rows.filter.complete()
        self.postings: list[Posting] = []
        self.outcomes: dict[bytes, Record] = {}
        self.do(b"", 0, Genesis("cluster", bucket, BUCKETS))

    def do(
        self,
        incarnation: bytes,
        low_water: int,
        *instructions: Instruction,
        left_out: tuple[bytes, ...] = (),
    ) -> list[Answer]:
        batch = Batch(incarnation, low_water, instructions, left_out)
        proposal = Proposal(1, 0, 1, 1, (batch,))
        if missing := self.ledger.missing(proposal):
            self.ledger.rows.load(missing, Loaded(self.ledger.rows.bucket.applied, {}, {}, {}))
        before = len(self.ledger.rows.postings)
        (answers,) = self.ledger.apply(self.ledger.rows.bucket.applied + 1, 1, proposal)
        self.postings += self.ledger.rows.postings[before:]
        assert not any(answer.code in FATAL for answer in answers), (instructions, answers)
        for payment_id in [i.payment_id for i in instructions if hasattr(i, "payment_id")]:
            self.watch(payment_id)
        return answers

    def watch(self, payment_id: bytes) -> None:
        """An outcome never changes (rule 9)."""
        record = self.ledger.rows.record(payment_id)
        before = self.outcomes.get(payment_id)
        assert before is None or record == before, f"{before} became {record}"
        if record is not None and record.outcome is not Code.ABORTED:
            self.outcomes[payment_id] = record

    def accounts(self) -> list[Account]:
        return list(self.ledger.rows._accounts.values())


class Run:
    """One client's call."""

    def __init__(
        self,
        coordinator: "Coordinator",
        transaction: GlobalTransaction,
        key: int,
        *,
        was_committed: bool,
    ) -> None:
        self.key = key
        self.coordinator = coordinator
        self.transaction = transaction
        self.was_committed = was_committed
        """Somebody had been told of it, or could have been, before this call began."""
        self.xids: set[bytes] = set()
        self.result: PaymentResult | None = None


class Coordinator:
    """One life of a coordinator."""

    def __init__(self, attempts: XidSource) -> None:
        self.attempts = attempts
        self.is_alive = True
        self.runs: list[Run] = []


class Flight(msgspec.Struct, eq=False):
    """Something sent once: copies of it on their way, answers on theirs; called back at most once."""

    run: Run
    send: Send
    incarnation: bytes
    low_water: int
    copies: int = 1
    answers: list[Answer] = []
    is_over: bool = False

    def may_double(self) -> bool:
        """A one-bucket DECIDE isn't doubled: a frame has a count, and is taken once (rule 6)."""
        instruction = self.send.instruction
        return not isinstance(instruction, Decide) or bool(instruction.participants)


class Round(msgspec.Struct, eq=False):
    """What a leader was told to wait for (rule 15), and what anchors have said so far."""

    bucket: int
    flight: Flight
    instruction: Prepare | Decide
    waits_for: list[PreparedLegs]
    said: dict[bytes, Instruction] = {}


class World:
    """Everything there is. Every method is one step of somebody."""

    def __init__(self) -> None:
        self.buckets = {bucket: Bucket(bucket) for bucket in range(1, BUCKETS + 1)}
        self.lives = 0
        self.coordinators: list[Coordinator] = []
        self.runs: list[Run] = []
        self.flights: list[Flight] = []
        self.laters: list[tuple[Run, Later]] = []
        self.locates: list[Run] = []
        self.locks: list[tuple[Run, NeedLocks]] = []
        self.rounds: list[Round] = []
        self.settlements: list[tuple[int, Instruction]] = []
        self.tokens = 0
        self.marks: list[tuple[str, Token]] = []
        for number, opening in OPENING.items():
            self.open(number, opening)
        for _ in range(2):
            self.start_coordinator()

    def open(self, number: str, opening: int) -> None:
        """An account from before the story."""
        one = f"origin-{number}".ljust(16, "-").encode()[:16]
        create = Prepare(one, one, 1, b"", 1, (), Kind.CREATION, "USD", ((number, opening),))
        codes = [a.code for a in self.buckets[WHERE[number]].do(b"", 0, create, Commit(one, 0))]
        assert codes == [Code.PREPARED, Code.POSTED]

    # -- clients and coordinators ------------------------------------------------------------------------

    def start_coordinator(self) -> None:
        self.coordinators.append(Coordinator(XidSource(self.new_incarnation)))

    def new_incarnation(self) -> bytes:
        self.lives += 1
        return f"tc-{self.lives:03}".encode().ljust(INCARNATION_BYTES, b"-")

    def die(self, coordinator: Coordinator) -> None:
        coordinator.is_alive = False
        self.start_coordinator()

    def submit(
        self, coordinator: Coordinator, body: Body, key: int, *, repeat: bool, lost: str = ""
    ) -> Run:
        """`lost` names an account that this coordinator's directory has in the wrong bucket (T19)."""
        payment_id = payment_id_of(PaymentRequest("caller", str(key), body))
        transaction = GlobalTransaction(
            payment_id, body, hash_body(body), coordinator.attempts, repeat=repeat
        )
        before = self.outcome(payment_id)
        # An anchor of a wrong directory can only say that this try did nothing, which is true.
        was_committed = not lost and before is not None and before.outcome is Code.COMMITTED
        run = Run(coordinator, transaction, key, was_committed=was_committed)
        coordinator.runs.append(run)
        self.runs.append(run)
        effects: list[Effect] = []
        transaction.located(self.placement(body, key, lost), effects)
        self.carry_out(run, effects)
        return run

    def placement(self, body: Body, chance: int, lost: str = "") -> Placement:
        if body.kind is Kind.CREATION:
            number = body.legs[0][0]
            return place_creation(home_bucket(number, BUCKETS), chance % BUCKETS + 1)
        where = {number: self.bucket_of(number) for number, _ in body.legs}
        if lost in where:
            where[lost] = where[lost] % BUCKETS + 1
        return place(body, [where[number] for number, _ in body.legs])

    def bucket_of(self, number: str) -> int:
        """What its home says, linearizably; 0: nobody has claimed it."""
        if number in WHERE or number == EXTERNAL:
            return WHERE.get(number, 0)
        claim = self.buckets[home_bucket(number, BUCKETS)].ledger.rows.claim(number)
        return 0 if claim is UNKNOWN or claim is None else claim

    def carry_out(self, run: Run, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self.send(run, effect)
                case Later():
                    self.laters.append((run, effect))
                case Reply():
                    self.hear(run, effect.result)
                case Locate():
                    self.locates.append(run)
                case NeedLocks():
                    self.locks.append((run, effect))
                case Alarm():
                    raise AssertionError(effect)
                case _:
                    pass

    def send(self, run: Run, send: Send) -> None:
        attempts = run.coordinator.attempts
        if isinstance(send.instruction, Prepare | Decide):
            run.xids.add(send.instruction.xid)
        self.flights.append(Flight(run, send, attempts.incarnation, attempts.low_water()))

    # -- the network -------------------------------------------------------------------------------------

    def deliver(self, flight: Flight) -> None:
        """One copy reaches its bucket and is applied; what was applied has an answer, which may be late or lost."""
        flight.copies -= 1
        bucket, instruction = flight.send.bucket, flight.send.instruction
        (answer,) = self.buckets[bucket].do(flight.incarnation, flight.low_water, instruction)
        if answer.code is Code.PENDING_ON and isinstance(instruction, Prepare | Decide):
            legs = self.buckets[bucket].ledger.rows.legs
            waits_for = [legs[xid] for xid in answer.xids]
            self.rounds.append(Round(bucket, flight, instruction, waits_for))
        else:
            flight.answers.append(answer)

    def answer(self, flight: Flight, answer: Answer) -> None:
        self.call_back(
            flight, lambda run, effects: run.transaction.answered(flight.send, answer, effects)
        )

    def lose_sight(self, flight: Flight) -> None:
        """Its copies may still arrive."""
        self.turn_away(flight, RejectReason.UNKNOWN)

    def turn_away(self, flight: Flight, why: RejectReason) -> None:
        """This copy, which has done nothing and never will; but for UNKNOWN, which says nothing."""
        if why is not RejectReason.UNKNOWN:
            flight.copies -= 1
        self.call_back(
            flight, lambda run, effects: run.transaction.turned_away(flight.send, why, effects)
        )

    def call_back(self, flight: Flight, call: Callable[[Run, list[Effect]], None]) -> None:
        flight.is_over = True
        if flight.run.coordinator.is_alive:
            effects: list[Effect] = []
            call(flight.run, effects)
            self.carry_out(flight.run, effects)

    def tell(self, run: Run, event: str, *arguments: object) -> None:
        """Something else happens to a run: time, a place, a lock."""
        if run.coordinator.is_alive:
            effects: list[Effect] = []
            getattr(run.transaction, event)(*arguments, effects)
            self.carry_out(run, effects)

    # -- leaders of buckets ------------------------------------------------------------------------------

    def ask(self, bucket: int, legs: PreparedLegs) -> None:
        """The resolver's question reaches the anchor; what follows from the answer is proposed whenever (rule 11)."""
        question = Resolve(legs.payment_id, legs.attempt, legs.xid, legs.body_hash)
        if legs.anchor in self.buckets:
            (answer,) = self.buckets[legs.anchor].do(b"", 0, question)
            decided = settle(legs, answer)
            assert decided is not None, "a question with the abort is always answered"
            self.settlements.append((bucket, decided))

    def look(self, round_: Round, legs: PreparedLegs) -> None:
        """One of a round's questions, without the abort."""
        (answer,) = self.buckets[legs.anchor].do(b"", 0, QueryRecord(legs.payment_id))
        decided = settle(legs, answer)
        if decided is not None:
            round_.said[legs.xid] = decided

    def propose_again(self, round_: Round) -> None:
        """What was decided first, then the second proposal, which names what still isn't."""
        self.rounds.remove(round_)
        bucket = self.buckets[round_.bucket]
        if round_.said:
            bucket.do(b"", 0, *round_.said.values())
        left = tuple(legs.xid for legs in round_.waits_for if legs.xid not in round_.said)
        (answer,) = bucket.do(b"", 0, round_.instruction, left_out=left or NONE_LEFT_OUT)
        assert answer.code is not Code.PENDING_ON, "never asked twice (rule 15)"
        round_.flight.answers.append(answer)

    def mark(self, number: str) -> None:
        self.tokens += 1
        token = Token(1, self.tokens)
        self.marks.append((number, token))
        self.buckets[WHERE[number]].do(b"", 0, Mark(number, token))

    def unmark(self, number: str, token: Token) -> None:
        self.marks.remove((number, token))
        self.buckets[WHERE[number]].do(b"", 0, Unmark(number, token))

    def grant(self, run: Run, wanted: NeedLocks) -> None:
        self.tokens += 1
        token = Token(1, self.tokens, LockMode.ESCROW)
        self.locks.remove((run, wanted))
        self.tell(run, "granted", wanted.owner, dict.fromkeys(wanted.numbers, token))

    def cancel(self, body: Body, key: int) -> None:
        payment_id = payment_id_of(PaymentRequest("caller", str(key), body))
        number = payer(body)
        creates = body.kind is Kind.CREATION
        anchor = home_bucket(number, BUCKETS) if creates else self.bucket_of(number)
        if anchor:
            end = RecordRefusal(payment_id, body.kind, number, 0, Reason.CANCELLED)
            self.buckets[anchor].do(b"", 0, end)

    # -- what must hold ----------------------------------------------------------------------------------

    def outcome(self, payment_id: bytes) -> Record | None:
        """The payment's outcome, of which there is one in all buckets together."""
        found = [b.outcomes[payment_id] for b in self.buckets.values() if payment_id in b.outcomes]
        assert len(found) <= 1, found
        return found[0] if found else None

    def hear(self, run: Run, result: PaymentResult) -> None:
        """What a client hears is true, and stays so (rules 6 to 9)."""
        assert run.result is None, f"{run.result}, then {result}"
        run.result = result
        record = self.outcome(run.transaction.payment_id)
        match result.status:
            case Status.COMMITTED:
                assert record is not None
                assert record.outcome is Code.COMMITTED
                assert record.body_hash == run.transaction.body_hash
                assert record.time_us == result.time_us
            case Status.REFUSED:
                assert record is not None
                assert (record.outcome, record.reason) == (Code.REFUSED, result.reason)
            case Status.KEY_REUSED:
                assert record is not None
                assert record.body_hash != run.transaction.body_hash
            case Status.ABORTED:
                assert not run.was_committed, (
                    "told that nothing happened, of a payment long committed"
                )

    def check(self) -> None:
        self.check_clients()
        self.check_money()
        for bucket in self.buckets.values():
            self.check_bucket(bucket)

    def check_clients(self) -> None:
        """Who was told that this try did nothing is never contradicted."""
        for run in self.runs:
            if run.result and run.result.status in (
                Status.ABORTED,
                Status.REJECTED,
                Status.REFUSED,
            ):
                record = self.outcome(run.transaction.payment_id)
                committed = record is not None and record.outcome is Code.COMMITTED
                assert not (committed and record.xid in run.xids), f"{run.result}, and {record}"

    def check_money(self) -> None:
        """I6: balances, and the prepared legs whose payment is committed by their xid, sum to zero."""
        total = sum(a.balance for b in self.buckets.values() for a in b.accounts())
        for bucket in self.buckets.values():
            for legs in bucket.ledger.rows.legs.values():
                record = self.outcome(legs.payment_id)
                # A creation's opening balance is paid where the account is.
                is_committed = record is not None and record.outcome is Code.COMMITTED
                if is_committed and record.xid == legs.xid and legs.kind is not Kind.CREATION:
                    total += sum(amount for _, amount in legs.legs)
        assert total == 0

    def check_bucket(self, bucket: Bucket) -> None:
        posted: dict[str, list[Posting]] = defaultdict(list)
        by_payment: dict[bytes, Counter[tuple[str, int]]] = defaultdict(Counter)
        posted_by: dict[bytes, list[Posting]] = defaultdict(list)
        for posting in bucket.postings:
            posted_by[posting.payment_id].append(posting)
            posted[posting.account].append(posting)
            by_payment[posting.payment_id][posting.account, posting.amount] += 1
        for account in bucket.accounts():
            mine = posted[account.number]
            assert account.balance == sum(posting.amount for posting in mine)
            assert [posting.sequence for posting in mine] == list(range(1, account.sequence + 1))
            if not account.number.startswith(EXTERNAL):
                assert account.balance - account.debits_pending >= -account.overdraft_limit
        for payment_id, count in by_payment.items():
            if not payment_id.startswith(b"origin"):
                record = self.outcome(payment_id)
                assert record is not None
                assert record.outcome is Code.COMMITTED, f"posted, and {record}"
                wanted = self.postings_of(record.body)
                assert not count - wanted, f"{count} of {wanted} posted"
                self.check_told(posted_by[payment_id], record.body)

    def check_told(self, postings: list[Posting], body: Body) -> None:
        """Who was on the other side, and what the payer said, stand in every posting, whichever bucket made it."""
        others = {number for number, _ in body.legs} | {EXTERNAL}
        for posting in postings:
            assert posting.reference == body.reference
            assert posting.counterparty in others
            assert posting.counterparty != posting.account

    def postings_of(self, body: Body) -> Counter[tuple[str, int]]:
        legs = list(body.legs)
        if body.kind is Kind.CREATION:
            legs.append((EXTERNAL, -legs[0][1]))
        return Counter(
            (f"{EXTERNAL}/{body.currency}" if number == EXTERNAL else number, amount)
            for number, amount in legs
        )

    # -- the end -----------------------------------------------------------------------------------------

    def finish(self) -> None:
        """The faults stop: everything arrives, everybody who lives gets an answer, and nothing stays prepared."""
        for mark in list(self.marks):
            self.unmark(*mark)
        for turn in range(100):
            if not self.drain():
                break
            if turn == 50:
                for run in self.runs:
                    self.tell(run, "late_now")
            self.check()
        else:
            raise AssertionError("it never comes to rest")
        for bucket, ledger in ((b.bucket, b.ledger) for b in self.buckets.values()):
            for legs in list(ledger.rows.legs.values()):
                self.ask(bucket, legs)
        while self.settlements:
            bucket, decided = self.settlements.pop()
            self.buckets[bucket].do(b"", 0, decided)
        self.check()
        self.check_nothing_is_left()

    def drain(self) -> bool:
        """Everything that waits happens once. Whether anything did."""
        flights = [flight for flight in self.flights if flight.copies or not flight.is_over]
        laters, self.laters = self.laters, []
        locates, self.locates = self.locates, []
        locks = list(self.locks)
        for flight in flights:
            while flight.copies:
                self.deliver(flight)
        for round_ in list(self.rounds):
            for legs in round_.waits_for:
                self.look(round_, legs)
            self.propose_again(round_)
        for flight in flights:
            if not flight.is_over:
                if flight.answers:
                    self.answer(flight, flight.answers[-1])
                else:
                    self.lose_sight(flight)
        for run, later in laters:
            self.tell(run, "again", later.send)
        for run in locates:
            self.tell(run, "located", self.placement(run.transaction.body, 0))
        for run, wanted in locks:
            self.grant(run, wanted)
        return bool(flights or laters or locates or locks)

    def check_nothing_is_left(self) -> None:
        assert not any(bucket.ledger.rows.legs for bucket in self.buckets.values())
        assert sum(a.balance for b in self.buckets.values() for a in b.accounts()) == 0
        for bucket in self.buckets.values():
            assert not any(a.debits_pending or a.credits_pending for a in bucket.accounts())
            for payment_id, record in bucket.outcomes.items():
                if record.outcome is Code.COMMITTED:
                    assert self.posted_everywhere(payment_id) == self.postings_of(record.body)
        for run in self.runs:
            if run.coordinator.is_alive:
                assert run.result is not None
                assert run.transaction.is_over

    def posted_everywhere(self, payment_id: bytes) -> Counter[tuple[str, int]]:
        return Counter(
            (posting.account, posting.amount)
            for bucket in self.buckets.values()
            for posting in bucket.postings
            if posting.payment_id == payment_id and posting.amount
        )


class Hardship:
    """One step at a time, of the kind that is asked for; `pick` says which of those that can be taken.

    A step for which there is nothing to take does nothing.
    """

    def __init__(self) -> None:
        self.world = World()

    def take(self, step: str, pick: int) -> None:
        getattr(self, step)(pick)
        self.world.check()

    # -- what can be chosen from -------------------------------------------------------------------------

    def alive(self) -> list[Coordinator]:
        return [c for c in self.world.coordinators if c.is_alive]

    def arriving(self) -> list[Flight]:
        return [flight for flight in self.world.flights if flight.copies]

    def awaited(self) -> list[Flight]:
        return [f for f in self.world.flights if not f.is_over and f.run.coordinator.is_alive]

    def open_runs(self) -> list[Run]:
        return [r for r in self.world.runs if r.coordinator.is_alive and not r.transaction.is_over]

    def prepared(self) -> list[tuple[int, PreparedLegs]]:
        buckets = self.world.buckets.values()
        return [(b.bucket, legs) for b in buckets for legs in b.ledger.rows.legs.values()]

    # -- clients -----------------------------------------------------------------------------------------

    def submit(self, pick: int) -> None:
        """A payment, seldom by a wrong directory (T19), or by a client that says it is a repeat."""
        if len(self.open_runs()) < 4:
            coordinator, body = choose(self.alive(), pick), choose(BODIES, pick // 3)
            lost = choose(body.legs, pick // 5)[0] if pick % 13 == 0 else ""
            self.world.submit(coordinator, body, pick % 2, repeat=pick % 7 == 0, lost=lost)

    def submit_again(self, pick: int) -> None:
        """The key of an earlier call, at any coordinator, before or after an answer; at times for another body."""
        if self.world.runs and len(self.open_runs()) < 6:
            before = choose(self.world.runs[-6:], pick)
            body, coordinator = before.transaction.body, choose(self.alive(), pick // 6)
            if pick % 5 == 0 and body.kind is Kind.PAYMENT:
                body = msgspec.structs.replace(body, reference="another")
            self.world.submit(coordinator, body, before.key, repeat=pick // 12 % 2 == 0)

    def cancel(self, pick: int) -> None:
        if self.world.runs and pick % 4 == 0:
            run = choose(self.world.runs, pick // 4)
            self.world.cancel(run.transaction.body, run.key)

    # -- the network -------------------------------------------------------------------------------------

    def go_on(self, pick: int) -> None:
        """As it mostly goes: some of what is on its way arrives, the newest first, and its answer too."""
        for _ in range(pick % 8 + 1):
            flights = [flight for flight in self.awaited() if flight.copies]
            if flights:
                self.world.deliver(flights[-1])
                self.hear(-1)

    def deliver(self, pick: int) -> None:
        if arriving := self.arriving():
            self.world.deliver(choose(arriving, pick))

    def hear(self, pick: int) -> None:
        """One of the answers to what was sent comes home."""
        if answered := [flight for flight in self.awaited() if flight.answers]:
            flight = choose(answered, pick)
            self.world.answer(flight, choose(flight.answers, pick // 7))

    def turn_away(self, pick: int) -> None:
        if awaited := self.awaited():
            flight, why = choose(awaited, pick), choose(list(RejectReason), pick // 3)
            if flight.copies or why is RejectReason.UNKNOWN:
                self.world.turn_away(flight, why)

    def lose(self, pick: int) -> None:
        if arriving := self.arriving():
            choose(arriving, pick).copies -= 1

    def double(self, pick: int) -> None:
        if arriving := [flight for flight in self.arriving() if flight.may_double()]:
            choose(arriving, pick).copies += 1

    # -- coordinators ------------------------------------------------------------------------------------

    def send_again(self, pick: int) -> None:
        if self.world.laters:
            run, later = choose(self.world.laters, pick)
            self.world.laters.remove((run, later))
            self.world.tell(run, "again", later.send)

    def locate(self, pick: int) -> None:
        if self.world.locates:
            run = choose(self.world.locates, pick)
            self.world.locates.remove(run)
            self.world.tell(run, "located", self.world.placement(run.transaction.body, pick))

    def grant(self, pick: int) -> None:
        if self.world.locks:
            self.world.grant(*choose(self.world.locks, pick))

    def deny(self, pick: int) -> None:
        if self.world.locks:
            run, wanted = choose(self.world.locks, pick)
            self.world.locks.remove((run, wanted))
            self.world.tell(run, "denied", wanted.owner)

    def grow_late(self, pick: int) -> None:
        if runs := self.open_runs():
            self.world.tell(choose(runs, pick), "late_now")

    def expire(self, pick: int) -> None:
        if runs := self.open_runs():
            self.world.tell(choose(runs, pick), "expired")

    def die(self, pick: int) -> None:
        if (runs := self.open_runs()) and pick % 3 == 0:
            self.world.die(choose(runs, pick // 3).coordinator)

    # -- leaders of buckets, and others ------------------------------------------------------------------

    def ask(self, pick: int) -> None:
        if prepared := self.prepared():
            self.world.ask(*choose(prepared, pick))

    def settle(self, pick: int) -> None:
        """What followed from an anchor's answer is proposed, now and perhaps once more later."""
        if self.world.settlements:
            settlement = choose(self.world.settlements, pick)
            if pick % 2:
                self.world.settlements.remove(settlement)
            bucket, decided = settlement
            self.world.buckets[bucket].do(b"", 0, decided)

    def look(self, pick: int) -> None:
        if self.world.rounds:
            round_ = choose(self.world.rounds, pick)
            self.world.look(round_, choose(round_.waits_for, pick // 3))

    def propose_again(self, pick: int) -> None:
        if self.world.rounds:
            self.world.propose_again(choose(self.world.rounds, pick))

    def close_incarnation(self, pick: int) -> None:
        """Its coordinator is dead, or only paused (T25)."""
        if pick % 4 == 0:
            incarnation = choose(self.world.coordinators, pick // 4).attempts.incarnation
            self.world.buckets[pick % BUCKETS + 1].do(b"", 0, CloseIncarnation(incarnation))

    def mark_or_unmark(self, pick: int) -> None:
        """An outsider's lock; there is one at a time, and mostly none."""
        if self.world.marks:
            self.world.unmark(*self.world.marks[0])
        elif pick % 3 == 0:
            self.world.mark(choose(sorted(WHERE), pick // 3))

    def freeze_or_thaw(self, pick: int) -> None:
        number = choose(sorted(WHERE), pick)
        self.world.buckets[WHERE[number]].do(b"", 0, SetAccount(number, frozen=pick % 9 == 0))


def choose(items: Sequence[Any], pick: int) -> Any:
    return items[pick % len(items)]


STEPS = {
    "go_on": 8,
    "submit": 4,
    "submit_again": 3,
    "deliver": 6,
    "hear": 5,
    "turn_away": 2,
    "lose": 2,
    "double": 2,
    "send_again": 3,
    "locate": 2,
    "grant": 2,
    "deny": 1,
    "grow_late": 1,
    "expire": 1,
    "die": 1,
    "ask": 2,
    "settle": 2,
    "look": 2,
    "propose_again": 2,
    "close_incarnation": 1,
    "mark_or_unmark": 1,
    "freeze_or_thaw": 1,
    "cancel": 1,
}
"""Each kind of step, and how often it comes."""
WEIGHTED = [step for step, weight in STEPS.items() for _ in range(weight)]


class TwoPhaseCommit(RuleBasedStateMachine):
    """Hypothesis chooses the steps: what it finds, it shortens."""

    @initialize()
    def begin(self) -> None:
        self.hardship = Hardship()

    @rule(step=st.sampled_from(WEIGHTED), pick=st.integers(0, 1_000_000))
    def happens(self, step: str, pick: int) -> None:
        self.hardship.take(step, pick)

    def teardown(self) -> None:
        if hasattr(self, "hardship"):
            self.hardship.world.finish()


def walk(seed: int, steps: int) -> World:
    dice = random.Random(seed)
    hardship = Hardship()
    for _ in range(steps):
        hardship.take(dice.choice(WEIGHTED), dice.randrange(1_000_000))
    hardship.world.finish()
    return hardship.world


TestTwoPhaseCommit = TwoPhaseCommit.TestCase
TestTwoPhaseCommit.settings = settings(stateful_step_count=80)


def test_many_walks_come_to_a_true_end() -> None:
    """Longer and many more of them, since chance alone is cheap. `walk(seed, 120)` takes a failing one again."""
    seen: Counter[Code | Status] = Counter()
    for seed in range(250):
        world = walk(seed, 120)
        seen.update(r.outcome for b in world.buckets.values() for r in b.outcomes.values())
        seen.update(run.result.status for run in world.runs if run.result)
    # The walks lead somewhere: every kind of end is reached, and often.
    assert min(seen[status] for status in Status) > 10, seen
    assert min(seen[Code.COMMITTED], seen[Code.REFUSED]) > 250, seen


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(1_000, 11_000, 1_000))
def test_many_more_walks_come_to_a_true_end(first: int) -> None:
    for seed in range(first, first + 1_000):
        walk(seed, 150)
