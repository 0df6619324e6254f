"""Every schedule of one small payment, breadth first, over the real machine and the real ledgers (rules 4 to 11).

One payment goes from an account at its anchor to one in another bucket. A few coordinators carry it out under one key;
each may give up, lose sight of what it sent, be turned away, be taken for dead, and do nothing any more at any point, which is
to die. A message, once sent, may arrive at any time, any number of times, or never. Both ledgers and the machine are the program's own. They are pure, so what one of
them does in a state is found out once, and the search is over the numbers of states.

Each of the eleven ways to break a rule that the protocol's own model knows is made here in our code, and found.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from mas.ids import INCARNATION_BYTES, XID_BYTES, xid_counter, xid_incarnation
from mas.ledger import (
    Abort,
    Account,
    Answer,
    Batch,
    Body,
    BucketRow,
    CloseIncarnation,
    Code,
    Commit,
    Decide,
    Incarnation,
    Instruction,
    Kind,
    Ledger,
    Loaded,
    Missing,
    Prepare,
    PreparedLegs,
    Proposal,
    QueryRecord,
    Record,
    RejectReason,
    ResidentState,
    Resolve,
    SetAccount,
)
from mas.transaction import attempt as attempt_module
from mas.transaction import participant, payment
from mas.transaction.attempt import Alarm, Attempt
from mas.transaction.effects import Reply, Retry, Send
from mas.transaction.outcome import PaymentResult, Status, hash_body
from mas.transaction.payment import PaymentRun, Phase
from mas.transaction.placement import place
from mas.transaction.xid_source import XidSource

ANCHOR, OTHER = 1, 2
BODY = Body(Kind.PAYMENT, "USD", (("payer", -5), ("payee", 5)))
PAYMENT_ID = bytes(16)
FATAL = (Code.ALARM, Code.FAILED)
STRANGER = b"somebody-else" + bytes(3)
HOLD = Prepare(STRANGER, STRANGER, 1, b"", 2, (), Kind.PAYMENT, "USD", (("payer", -10),))


# -- One bucket, as numbers -----------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Everything of a bucket that its rules look at."""

    account: Account
    record: Record | None = None
    legs: tuple[PreparedLegs, ...] = ()
    incarnations: tuple[tuple[bytes, int, tuple[int, ...], bool], ...] = ()

    def key(self) -> tuple[object, ...]:
        account = self.account
        return (
            account.balance,
            account.debits_pending,
            account.credits_pending,
            account.sequence,
            *self[1:],
        )


def apply(
    bucket: int,
    rows: Rows,
    incarnation: bytes,
    low_water: int,
    *instructions: Instruction,
    left_out: tuple[bytes, ...] = (),
) -> tuple[Rows, list[Answer]]:
    """What the ledger makes of it."""
    incarnations = {
        row[0]: Incarnation(row[0], row[1], dict.fromkeys(row[2]), row[3])
        for row in rows.incarnations
    }
    kept = ResidentState(
        BucketRow(bucket, cluster="c", buckets=2),
        {legs.xid: legs for legs in rows.legs},
        incarnations,
    )
    ledger = Ledger(kept)
    number = rows.account.number
    records = {PAYMENT_ID: rows.record} if rows.record else {}
    ledger.rows.load(
        Missing([number], [PAYMENT_ID], []),
        Loaded(0, {number: rows.account.__copy__()}, records, {}),
    )
    (answers,) = ledger.apply(
        1, 1, Proposal(1, 0, 1, 1, (Batch(incarnation, low_water, instructions, left_out),))
    )
    ledger.rows.state_hash()  # forgets posted xids below the mark
    account = ledger.rows.account(number).__copy__()
    account.version = 0
    remembered = sorted(
        (row.incarnation, row.low_water, tuple(sorted(row.posted)), row.closed)
        for row in ledger.rows._incarnations.values()
    )
    return Rows(
        account, ledger.rows.record(PAYMENT_ID), tuple(ledger.rows.legs.values()), tuple(remembered)
    ), answers


# What a bucket's judgement may depend on, brought about before an instruction and taken back behind it.
CIRCUMSTANCES: dict[str, tuple[tuple[Instruction, ...], tuple[Instruction, ...]]] = {
    "as it is": ((), ()),
    "payer frozen": ((SetAccount("payer", frozen=True),), (SetAccount("payer", frozen=False),)),
    "payee frozen": ((SetAccount("payee", frozen=True),), (SetAccount("payee", frozen=False),)),
    "contended": ((HOLD,), (Abort(STRANGER),)),
}


# -- One coordinator, as numbers ------------------------------------------------------------------------------------


class Names:
    """A coordinator's lives."""

    def __init__(self, coordinator: int) -> None:
        self.coordinator = coordinator
        self.lives = 0

    def __call__(self) -> bytes:
        self.lives += 1
        return f"tc-{self.coordinator}-{self.lives}".encode().ljust(INCARNATION_BYTES, b"-")


class Message(NamedTuple):
    """Something sent, for all time; `sender` -1 is a bucket's leader, who needs no answer."""

    sender: int
    phase: int
    bucket: int
    incarnation: bytes
    low_water: int
    instruction: Instruction


class Coordinator:
    """One machine with what it has sent and not been called back about."""

    def __init__(self, place_: int) -> None:
        xids = XidSource(Names(place_))
        self.place = place_
        self.run = PaymentRun(PAYMENT_ID, BODY, hash_body(BODY), xids)
        self.awaited: dict[Message, Send] = {}
        self.result: PaymentResult | None = None
        self.xids: tuple[bytes, ...] = ()
        self.has_begun = False
        self.was_committed = False
        """Before this call began."""
        self.wrong = ""

    def carry_out(self) -> list[Message]:
        sent, effects = [], self.run.effects
        while effects:
            match effects.pop(0):
                case Retry(send):
                    self.run.on_retry_due(send)
                case Reply(result):
                    self.wrong = "two replies" if self.result else self.wrong
                    self.result = result
                case Alarm() as alarm:
                    self.wrong = f"{alarm.answer}"
                case effect if isinstance(effect, Send):
                    sent.append(self.send(effect))
                case _:
                    pass
        return sent

    def send(self, send: Send) -> Message:
        instruction, xids = send.instruction, self.run.xids
        if isinstance(instruction, Prepare) and instruction.xid not in self.xids:
            self.xids += (instruction.xid,)
        # A question is answered from after it came: an answer to an earlier one isn't an answer to this one (rule 11).
        phase = int(self.run.phase) if isinstance(instruction, QueryRecord) else 0
        low_water = xids.low_water()
        message = Message(
            self.place,
            phase,
            send.bucket,
            xids.incarnation,
            low_water,
            instruction,
        )
        # Answers that legs are settled change nothing that could be wrong, and are many: nobody waits for them here.
        if not isinstance(instruction, Commit | Abort):
            self.awaited[message] = send
        return message

    def key(self) -> tuple[object, ...]:
        """Everything that says how it will go on."""
        t = self.run
        attempts = {
            id(a): a
            for a in [
                t.attempt,
                *(getattr(send, "attempt", None) for send in self.awaited.values()),
            ]
            if a
        }
        shown = []
        for a in attempts.values():
            parts = tuple((part.vote, part.unknown, part.away) for part in a.parts)
            shown.append(
                (a.xid, a.number, a.awaited, a.unsettled, a.unknown, a.away, a is t.attempt, parts)
            )
        names = t.xids
        return (
            (t.phase, t.number, t.begun, t.reason, t.late, t.replied, t.unsettled, t.misplaced),
            tuple(sorted(shown)),
            tuple(
                repr(getattr(names, slot))
                for slot in names.__slots__
                if slot != "_make_incarnation"
            ),
            frozenset((message, send.tries > 0) for message, send in self.awaited.items()),
            (self.result and self.result.status, self.has_begun, self.was_committed),
            self.wrong,
        )


Event = tuple[Any, ...]
Patch = Callable[[object, str, object], None]


def happen(before: Coordinator, event: Event) -> tuple[Coordinator, list[Message]]:
    """What the machine makes of it."""
    after = copy.deepcopy(before)
    run = after.run
    match event:
        case ("begins", was_committed):
            after.has_begun, after.was_committed = True, was_committed
            run.on_located(place(BODY, (ANCHOR, OTHER)))
        case ("hears", message, answer):
            run.on_answer(after.awaited.pop(message), answer)
        case ("is turned away", message, why):
            run.on_rejected(after.awaited.pop(message), why)
        case ("is late",):
            run.on_soft_deadline()
        case ("expires",):
            run.on_deadline()
    return after, after.carry_out()


# -- The search -----------------------------------------------------------------------------------------------------


class State(NamedTuple):
    """Numbers of states; `soup` has a bit for each message or answer that there has ever been."""

    anchor: int
    other: int
    coordinators: tuple[int, ...]
    soup: int = 0
    wrong: str = ""


class Table:
    """Numbers for things, by their keys."""

    def __init__(self) -> None:
        self.things: list[Any] = []
        self.numbers: dict[object, int] = {}

    def number(self, thing: Any, key: object = None) -> int:
        key = thing if key is None else key
        number = self.numbers.get(key)
        if number is None:
            number = self.numbers[key] = len(self.things)
            self.things.append(thing)
        return number


class Search:
    """All schedules of one payment with so many coordinators."""

    def __init__(self, coordinators: int) -> None:
        self.buckets, self.machines, self.said = Table(), Table(), Table()
        self.applied: dict[tuple[int, int, int, str], tuple[int, int]] = {}
        self.happened: dict[tuple[int, Event], tuple[int, int]] = {}
        self.settled: dict[tuple[int, int], list[tuple[Event, int, int]]] = {}
        anchor = self.bucket(Rows(Account("payer", "1-1-1", "USD", 10)))
        other = self.bucket(Rows(Account("payee", "2-1-1", "USD")))
        machines = tuple(self.machine(Coordinator(k)) for k in range(coordinators))
        self.start = State(anchor, other, machines)

    def bucket(self, rows: Rows) -> int:
        return self.buckets.number(rows, rows.key())

    def machine(self, coordinator: Coordinator) -> int:
        return self.machines.number(coordinator, (coordinator.place, *coordinator.key()))

    # -- what may happen next ----------------------------------------------------------------------------

    def moves(self, s: State) -> Iterator[tuple[Event, State]]:
        for number in bits(s.soup):
            message = self.said.things[number]
            if isinstance(message, Message):
                for circumstance in self.circumstances(message.instruction):
                    yield (
                        (circumstance, "and arrives:", message),
                        self.arrive(s, number, circumstance),
                    )
        yield from self.resolve(s)
        yield from self.close(s)
        for k, number in enumerate(s.coordinators):
            for event in self.events(s, self.machines.things[number]):
                yield (f"TC{k}", *event), self.happen(s, k, event)

    def circumstances(self, instruction: Instruction) -> tuple[str, ...]:
        match instruction:
            case Decide():
                return ("as it is", "payer frozen", "contended")
            case Prepare():
                return ("as it is", "payee frozen")
            case _:
                return ("as it is",)

    def arrive(self, s: State, number: int, circumstance: str) -> State:
        message = self.said.things[number]
        at = s.anchor if message.bucket == ANCHOR else s.other
        key = (at, number, message.bucket, circumstance)
        if key not in self.applied:
            self.applied[key] = self.judge(at, number, message, circumstance)
        after, answer = self.applied[key]
        if message.bucket == ANCHOR:
            s = s._replace(anchor=after)
        else:
            s = s._replace(other=after)
        return self.say(s, answer)

    def judge(self, at: int, number: int, message: Message, circumstance: str) -> tuple[int, int]:
        before, behind = CIRCUMSTANCES[circumstance]
        instruction = message.instruction
        rows, answers = apply(
            message.bucket,
            self.buckets.things[at],
            message.incarnation,
            message.low_water,
            *before,
            instruction,
            *behind,
            left_out=(STRANGER,) if circumstance == "contended" else (),
        )
        answer = answers[len(before)]
        is_heard = message.sender >= 0 and not isinstance(instruction, Commit | Abort)
        if is_heard or answer.code in FATAL:
            return self.bucket(rows), self.said.number((number, answer))
        return self.bucket(rows), -1

    def say(self, s: State, number: int) -> State:
        if number < 0:
            return s
        said = self.said.things[number]
        if not isinstance(said, Message) and said[1].code in FATAL:
            return s._replace(wrong=f"{show_word(self.said.things[said[0]])}: {said[1].detail}")
        return s._replace(soup=s.soup | 1 << number)

    def resolve(self, s: State) -> Iterator[tuple[Event, State]]:
        """The other bucket's leader asks about what is prepared, and proposes what follows, at any time (rule 11)."""
        key = (s.anchor, s.other)
        if key not in self.settled:
            self.settled[key] = [
                self.ask(s.anchor, legs) for legs in self.buckets.things[s.other].legs
            ]
        for what, anchor, number in self.settled[key]:
            yield what, self.say(s._replace(anchor=anchor), number)

    def ask(self, at: int, legs: PreparedLegs) -> tuple[Event, int, int]:
        question = Resolve(legs.payment_id, legs.attempt, legs.xid, legs.body_hash)
        rows, (answer,) = apply(ANCHOR, self.buckets.things[at], b"", 0, question)
        decided = participant.settle(legs, answer)
        assert decided is not None
        message = Message(-1, 0, OTHER, b"", 0, decided)
        return (
            ("the resolver asks about", legs.xid),
            self.bucket(rows),
            self.said.number(message),
        )

    def close(self, s: State) -> Iterator[tuple[Event, State]]:
        """An incarnation is closed whether its coordinator is dead or only paused (rule 10)."""
        for number in s.coordinators:
            name = self.machines.things[number].run.xids.incarnation
            message = self.said.number(Message(-1, 0, OTHER, b"", 0, CloseIncarnation(name)))
            yield ("is closed:", name), self.arrive(s, message, "as it is")

    def events(self, s: State, coordinator: Coordinator) -> Iterator[Event]:
        if not coordinator.has_begun:
            record = self.buckets.things[s.anchor].record
            yield ("begins", record is not None and record.outcome is Code.COMMITTED)
            return
        if not coordinator.run.is_over and not coordinator.run.late:
            yield ("is late",)
        for message, send in coordinator.awaited.items():
            number = self.said.number(message)
            for other in bits(s.soup):
                said = self.said.things[other]
                if not isinstance(said, Message) and said[0] == number:
                    yield ("hears", message, said[1])
            if isinstance(message.instruction, Decide | Prepare) and not send.tries:
                yield ("is turned away", message, RejectReason.UNKNOWN)
                yield ("is turned away", message, RejectReason.OVERLOADED)

    def happen(self, s: State, k: int, event: Event) -> State:
        key = (s.coordinators[k], event)
        if key not in self.happened:
            after, sent = happen(self.machines.things[key[0]], event)
            new = sum(1 << self.said.number(message) for message in dict.fromkeys(sent))
            self.happened[key] = self.machine(after), new
        number, new = self.happened[key]
        machines = (*s.coordinators[:k], number, *s.coordinators[k + 1 :])
        return s._replace(coordinators=machines, soup=s.soup | new)

    # -- what must hold ----------------------------------------------------------------------------------

    def wrong(self, before: State, s: State) -> str:
        if s.wrong:
            return s.wrong
        anchor, other = self.buckets.things[s.anchor], self.buckets.things[s.other]
        earlier, record = self.buckets.things[before.anchor].record, anchor.record
        if earlier and earlier.outcome is not Code.ABORTED and earlier != record:
            return "the outcome has changed"
        committed = record.xid if record and record.outcome is Code.COMMITTED else b""
        paid, received = anchor.account.sequence, other.account.sequence
        if max(paid, received) > 1:
            return "posted twice"
        if bool(paid) != bool(committed) or received > paid:
            return f"posted {paid} and {received}, the record is {record and record.outcome.name}"
        if committed and not received and not any(legs.xid == committed for legs in other.legs):
            return "committed, and the credit is lost"
        for number in s.coordinators:
            if why := self.lie(self.machines.things[number], record):
                return why
        return ""

    def lie(self, coordinator: Coordinator, record: Record | None) -> str:
        """What this coordinator's client was told, and isn't so."""
        if coordinator.wrong:
            return coordinator.wrong
        outcome = record.outcome if record else Code.NONE
        match coordinator.result:
            case PaymentResult(status=Status.COMMITTED) if outcome is not Code.COMMITTED:
                return "told COMMITTED, and it isn't"
            case PaymentResult(status=Status.REFUSED) if outcome is not Code.REFUSED:
                return "told REFUSED, and it isn't"
            case PaymentResult(status=Status.ABORTED | Status.REJECTED):
                if outcome is Code.COMMITTED and record.xid in coordinator.xids:
                    return "told that this try did nothing, and it has paid"
                if coordinator.was_committed:
                    return "told that nothing happened, of a payment that was committed before"
        return ""

    def run(self, limit: int) -> tuple[int, list[str]]:
        """States seen, and the shortest schedule that breaks a promise, empty if there is none within the limit."""
        parents: dict[State, tuple[State, Event] | None] = {self.start: None}
        todo = deque([self.start])
        while todo and len(parents) < limit:
            s = todo.popleft()
            for what, t in self.moves(s):
                if t in parents:
                    continue
                parents[t] = (s, what)
                if why := self.wrong(s, t):
                    return len(parents), [*story(parents, t), why]
                todo.append(t)
        return len(parents), []


def story(parents: dict[State, tuple[State, Event] | None], state: State) -> list[str]:
    steps = []
    while parent := parents[state]:
        state, what = parent
        steps.append(show(what))
    return steps[::-1]


def bits(soup: int) -> Iterator[int]:
    while soup:
        lowest = soup & -soup
        yield lowest.bit_length() - 1
        soup ^= lowest


def change(instruction: Instruction, **fields: object) -> Instruction:
    names = instruction.__struct_fields__
    return type(instruction)(**{**{n: getattr(instruction, n) for n in names}, **fields})


def xid(value: bytes) -> str:
    return f"{xid_incarnation(value).decode().rstrip('-')}/{xid_counter(value)}"


def show(said: Event) -> str:
    return " ".join(map(show_word, said))


def show_word(word: object) -> str:
    match word:
        case Message(instruction=instruction):
            name = type(instruction).__name__.upper()
            return f"{name} {xid(instruction.xid)}" if hasattr(instruction, "xid") else name
        case bytes():
            return xid(word) if len(word) == XID_BYTES else word.decode()
        case Answer(code=code):
            return code.name
        case _:
            return str(word)


# -- The rules as they are ------------------------------------------------------------------------------------------


def hunt(
    monkeypatch: pytest.MonkeyPatch, coordinators: int, attempts: int, limit: int
) -> tuple[int, list[str]]:
    monkeypatch.setattr(payment, "ATTEMPTS_MAX", attempts)
    return Search(coordinators).run(limit)


def test_no_schedule_of_one_attempt_breaks_a_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them."""
    seen, schedule = hunt(monkeypatch, 1, 1, 1_000_000)
    assert not schedule, "\n".join(schedule)
    assert 5_000 < seen < 1_000_000


def test_no_schedule_of_two_coordinators_breaks_a_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shorter ones."""
    _, schedule = hunt(monkeypatch, 2, 1, 100_000)
    assert not schedule, "\n".join(schedule)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("coordinators", "attempts"), [(1, 2), (2, 1), (2, 2)])
def test_no_long_schedule_breaks_a_promise(
    monkeypatch: pytest.MonkeyPatch, coordinators: int, attempts: int
) -> None:
    """All of two attempts; very many of two coordinators."""
    _, schedule = hunt(monkeypatch, coordinators, attempts, 800_000)
    assert not schedule, "\n".join(schedule)


# -- The rules broken, one by one ----------------------------------------------------------------------------------------


def forget_record(ledger: Ledger, i: Decide, outcome: Callable[[Record], bool]) -> None:
    record = ledger.rows.record(i.payment_id)
    if record is not None and outcome(record):
        ledger.rows._records.clear()
        ledger.rows._absent_records.add(i.payment_id)


def free_before_asking(patch: Patch) -> None:
    def resolve(self: PaymentRun, attempt: Attempt) -> None:
        self._roll_back(attempt)
        self._reply(Status.ABORTED)

    patch(PaymentRun, "_resolve", resolve)


def any_xid_committed(patch: Patch) -> None:
    whole = participant.instruct

    def instruct(xid: bytes, attempt: int, answer: Answer) -> Commit | Abort | None:
        if answer.code is Code.COMMITTED:
            return Commit(xid, answer.time_us)
        return whole(xid, attempt, answer)

    patch(participant, "instruct", instruct)
    patch(attempt_module, "instruct", instruct)


def dead_attempt_decides(patch: Patch) -> None:
    whole = Ledger._decide

    def decide(self: Ledger, i: Decide) -> Answer:
        forget_record(self, i, lambda record: record.outcome is Code.ABORTED)
        return whole(self, i)

    patch(Ledger, "_decide", decide)


def answer_without_record(patch: Patch) -> None:
    def ask(self: Ledger, i: Resolve) -> Answer:
        record = self.rows.record(i.payment_id)
        if record is None or record.outcome is Code.ABORTED:
            return Answer(Code.ABORTED, attempt=i.attempt)
        return self._query_record(QueryRecord(i.payment_id))

    patch(Ledger, "_resolve", ask)


def forget_posted(patch: Patch) -> None:
    whole = Ledger._commit

    def commit(self: Ledger, i: Commit) -> Answer:
        answer = whole(self, i)
        for row in self.rows._incarnations.values():
            row.posted.clear()
        return Answer(Code.POSTED) if answer.code is Code.ALARM else answer

    patch(Ledger, "_commit", commit)


def mark_goes_back(patch: Patch) -> None:
    def raise_low_water(self: Ledger, name: bytes, low_water: int) -> None:
        row = self.rows.change_incarnation(name)
        if not row.closed:
            row.low_water = low_water

    patch(Ledger, "_raise_low_water", raise_low_water)


def close_with_prepared(patch: Patch) -> None:
    whole = Ledger._close_incarnation

    def close(self: Ledger, i: CloseIncarnation) -> Answer:
        for prepared in list(self.rows.legs):
            if xid_incarnation(prepared) == i.incarnation:
                self._abort(Abort(prepared))
        return whole(self, i)

    patch(Ledger, "_close_incarnation", close)


def repeat_runs(patch: Patch) -> None:
    whole = Ledger._decide

    def decide(self: Ledger, i: Decide) -> Answer:
        forget_record(self, i, lambda record: record.outcome is not Code.ABORTED)
        return whole(self, i)

    patch(Ledger, "_decide", decide)


def no_ask_before_error(patch: Patch) -> None:
    def check(self: PaymentRun) -> None:
        self._enter(Phase.CHECKING)
        self._reply(Status.ABORTED)

    patch(PaymentRun, "_check", check)


def turned_away_ends(patch: Patch) -> None:
    patch(Attempt, "has_done_nothing", lambda attempt: attempt.away)


def refused_unwritten(patch: Patch) -> None:
    def refuse(self: PaymentRun, *_: object) -> None:
        self._enter(Phase.REFUSING)
        self._reply(Status.REFUSED)

    patch(PaymentRun, "_refuse", refuse)


NOTHING_DONE = "told that this try did nothing, and it has paid"
CREDIT_LOST = "committed, and the credit is lost"
BROKEN: list[tuple[Callable[[Patch], None], str]] = [
    (free_before_asking, NOTHING_DONE),
    (any_xid_committed, "posted twice"),
    (dead_attempt_decides, CREDIT_LOST),
    (answer_without_record, CREDIT_LOST),
    (forget_posted, "posted twice"),
    (mark_goes_back, "posted twice"),
    (close_with_prepared, CREDIT_LOST),
    (repeat_runs, "posted twice"),
    (
        no_ask_before_error,
        "told that nothing happened, of a payment that was committed before",
    ),
    (turned_away_ends, NOTHING_DONE),
    (refused_unwritten, "told REFUSED, and it isn't"),
]


@pytest.mark.parametrize(("break_it", "expected"), BROKEN, ids=[b.__name__ for b, _ in BROKEN])
def test_a_broken_rule_is_found(
    break_it: Callable[[Patch], None],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    break_it(monkeypatch.setattr)
    for coordinators, attempts in ((1, 1), (2, 1), (1, 2)):
        _, schedule = hunt(monkeypatch, coordinators, attempts, 60_000)
        if schedule:
            assert schedule[-1] == expected, "\n".join(schedule)
            return
    pytest.fail("no schedule shows what this rule is for")
