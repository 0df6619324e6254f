"""The judge: what clients were told, against what the ledgers hold at the end. Pure: a history in, faults out.

Every call has a beginning and an end on one clock, that of the world; one that was never answered ends never. What became of a
payment is settled by its record, whatever a client has or hasn't heard. Then (the "ledger method"):

- nobody was told what isn't so: an outcome is the record's, ABORTED and TURNED_AWAY are of a try that has done nothing, and what
  was answered is found by whoever asks later;
- a committed payment is posted once at each of its accounts, and nothing else is posted;
- a refusal for want of funds can be explained by what else was under way;
- reads of an account are linearizable. Each payment has an amount that nobody else's are likely to sum up to, so a read's balance
  tells which payments it has seen. Such a history is linearizable exactly if every read has seen all payments that ended before it
  began and none that began after it ended, of two reads one has seen all that the other has, the later one at least as much as
  the earlier, and no payment is seen without those that ended before it began: order the payments by the first read that has
  seen them, and among equals by time;
- a statement shows what was answered before it was asked for, and never less than an earlier one;
- what administrators set is a register, linearizable with the reads that show it.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import msgspec

from mas.ledger import EXTERNAL, Body, Code, Kind, Record
from mas.ledger.instructions import Reason
from mas.sim.system.books import Posted
from mas.transaction.outcome import Status

NEVER = float("inf")
_UNCERTAIN_MAX = 22
"""Payments beside one read, of which any may have been seen: 2**11 sums from each half of them."""
_STATES_MAX = 200_000


class Call(msgspec.Struct, kw_only=True, eq=False):
    """Something that a client has asked for."""

    began: float
    ended: float = NEVER
    client: int = 0

    @property
    def is_answered(self) -> bool:
        """Whether the client has heard what became of it."""
        return self.ended < NEVER


class Try(Call, kw_only=True, eq=False):
    """One try of a payment or creation."""

    payment_id: bytes
    body: Body
    status: Status = Status.UNKNOWN
    reason: Reason = Reason.NONE
    time: int = 0
    heard: float = NEVER
    """When anything was answered, if only UNKNOWN."""
    sources: tuple[str, ...] = ()
    """Other accounts, whose money this spends while it is on its way."""


class Cancel(Call, kw_only=True, eq=False):
    """A key is to be ended."""

    payment_id: bytes
    status: Status = Status.UNKNOWN
    reason: Reason = Reason.NONE


class Look(Call, kw_only=True, eq=False):
    """What has become of a payment? `status` None: no outcome is recorded."""

    payment_id: bytes
    status: Status | None = None
    reason: Reason = Reason.NONE
    is_known: bool = False
    """False where no answer was had."""


class Read(Call, kw_only=True, eq=False):
    """A read of one account; `balance` None: there is no such account."""

    number: str
    balance: int | None = None
    frozen: bool = False
    is_known: bool = False
    is_firm: bool = True
    """Linearizable; else any committed state of an account that exists."""


class Statement(Call, kw_only=True, eq=False):
    """An account's postings, oldest first; None: there is no such account."""

    number: str
    lines: tuple[tuple[int, bytes, int, int], ...] | None = None
    """(sequence, payment_id, amount, balance after it)."""
    is_known: bool = False


class Setting(Call, kw_only=True, eq=False):
    """An administrator freezes an account, or thaws it."""

    number: str
    frozen: bool
    is_done: bool = False
    """It is so, as its administrator was told."""
    is_refused: bool = False
    """It has changed nothing, as its administrator was told."""


class Hold(Call, kw_only=True, eq=False):
    """Somebody outside holds an account's EXCLUSIVE lock, from `ended`, which is when it was granted."""

    number: str
    until: float = NEVER
    """When it was to be released, or its lease could have run out."""


class History(msgspec.Struct):
    """All calls of a run."""

    tries: list[Try] = []
    cancels: list[Cancel] = []
    looks: list[Look] = []
    reads: list[Read] = []
    statements: list[Statement] = []
    settings: list[Setting] = []
    holds: list[Hold] = []


class Facts(msgspec.Struct):
    """What the ledgers hold when all is over."""

    records: dict[bytes, Record]
    postings: dict[str, list[Posted]]
    """By account, oldest first."""


class Payment(msgspec.Struct):
    """What is known of one key."""

    payment_id: bytes
    record: Record | None
    tries: list[Try] = []
    began: float = NEVER
    """Of the first try that may have done it."""
    ended: float = NEVER
    """When somebody was told its outcome first."""

    @property
    def is_committed(self) -> bool:
        """Whether it has happened."""
        return self.record is not None and self.record.outcome is Code.COMMITTED


def judge(history: History, facts: Facts) -> list[str]:
    """Everything that is wrong, in no order that matters; empty where all is well."""
    payments = _payments(history, facts)
    return [
        *_judge_answers(history, payments),
        *_judge_postings(payments, facts),
        *_judge_refusals(history, payments, facts),
        *_judge_reads(history, payments),
        *_judge_statements(history, payments, facts),
        *_judge_settings(history, payments),
        *_judge_holds(history, facts),
    ]


class Trouble(msgspec.Struct, frozen=True):
    """A bucket can't be expected to answer between two moments."""

    bucket: int
    began: float
    ended: float


def judge_bound(
    tries: Iterable[Try], bucket_of: Mapping[str, int], troubles: Sequence[Trouble], bound: float
) -> Iterator[str]:
    """Every payment is answered within so many seconds, unless one of its buckets was in trouble meanwhile.

    What spends money that is still on its way waits for the bucket that it comes from as well.
    """
    for one in tries:
        seconds = one.heard - one.began
        numbers = (*[number for number, _ in one.body.legs], *one.sources)
        buckets = [bucket_of.get(number, 0) for number in numbers]
        is_excused = any(
            trouble.bucket in buckets and trouble.began <= one.heard and one.began <= trouble.ended
            for trouble in troubles
        )
        if seconds > bound and not is_excused:
            yield (
                f"a payment of {one.body.legs} was begun at {one.began:.3f} and answered {one.status.name} after {seconds:.1f} s, "
                f"though its buckets {buckets} were well: at most {bound} are allowed"
            )


def _payments(history: History, facts: Facts) -> dict[bytes, Payment]:
    payments: dict[bytes, Payment] = {}
    for one in history.tries:
        record = facts.records.get(one.payment_id)
        payment = payments.setdefault(one.payment_id, Payment(one.payment_id, record))
        payment.tries.append(one)
        if record is not None and record.body == one.body and not _did_nothing(one):
            payment.began = min(payment.began, one.began)
        if one.status in (Status.COMMITTED, Status.REFUSED):
            payment.ended = min(payment.ended, one.ended)
    told: list[Cancel | Look] = [*history.cancels, *history.looks]
    for call in told:
        if call.status in (Status.COMMITTED, Status.REFUSED) and call.payment_id in payments:
            payment = payments[call.payment_id]
            payment.ended = min(payment.ended, call.ended)
    return payments


def _did_nothing(one: Try) -> bool:
    return one.is_answered and one.status in (Status.ABORTED, Status.REJECTED, Status.KEY_REUSED)


# -- outcomes ----------------------------------------------------------------------------------------


def _judge_answers(history: History, payments: dict[bytes, Payment]) -> Iterator[str]:
    created = _creations(payments)
    for one in history.tries:
        if one.is_answered:
            yield from _judge_try(one, payments[one.payment_id], created)
    for payment in payments.values():
        if payment.is_committed and payment.began == NEVER:
            yield f"{_name(payment)} is committed, and every try of it was told that it had done nothing"
    for cancel in history.cancels:
        if cancel.payment_id in payments and cancel.is_answered:
            yield from _judge_told(cancel, payments[cancel.payment_id], "cancelling it")
    for look in history.looks:
        if look.is_known and look.payment_id in payments:
            yield from _judge_look(look, payments[look.payment_id])


def _judge_try(one: Try, payment: Payment, created: dict[str, Payment]) -> Iterator[str]:
    record = payment.record
    match one.status:
        case Status.COMMITTED:
            if not payment.is_committed or record is None or record.body != one.body:
                yield f"{_name(payment)} was told to be COMMITTED, and its record is {record}"
            elif one.time and record.time_us != one.time:
                yield f"{_name(payment)} was told to be of {one.time}, and its record is of {record.time_us}"
        case Status.REFUSED:
            yield from _judge_told(one, payment, "trying it")
        case Status.KEY_REUSED:
            if record is None or record.outcome is Code.ABORTED or record.body == one.body:
                yield f"{_name(payment)} was told to have another body, and its record is {record}"
        case Status.REJECTED if one.reason is Reason.ACCOUNT_NOT_FOUND:
            yield from _judge_not_found(one.body, one.began, created)


def _judge_told(call: Try | Cancel | Look, payment: Payment, what: str) -> Iterator[str]:
    record = payment.record
    if call.status is Status.COMMITTED and not payment.is_committed:
        yield f"{_name(payment)} was told to be COMMITTED by {what}, and its record is {record}"
    if call.status is Status.REFUSED and (
        record is None or record.outcome is not Code.REFUSED or record.reason is not call.reason
    ):
        yield f"{_name(payment)} was told to be REFUSED ({call.reason.name}) by {what}, and its record is {record}"


def _judge_look(look: Look, payment: Payment) -> Iterator[str]:
    yield from _judge_told(look, payment, "asking for it")
    if look.status is None and payment.ended < look.began:
        yield (
            f"{_name(payment)} had an outcome that somebody was told at {payment.ended:.3f}, and whoever asked at "
            f"{look.began:.3f} heard of none"
        )
    if look.status is Status.ABORTED and payment.is_committed and payment.began < look.ended:
        yield (
            f"{_name(payment)} was told at {look.ended:.3f} to be ABORTED by asking for it, while a try that began at "
            f"{payment.began:.3f} was under way and has committed it"
        )


def _creations(payments: dict[bytes, Payment]) -> dict[str, Payment]:
    """By number: the one creation that was committed."""
    return {
        payment.record.body.legs[0][0]: payment
        for payment in payments.values()
        if payment.is_committed
        and payment.record is not None
        and payment.record.body is not None
        and payment.record.body.kind is Kind.CREATION
    }


def _judge_not_found(body: Body, began: float, created: dict[str, Payment]) -> Iterator[str]:
    numbers = [number for number, _ in body.legs if number != EXTERNAL]
    known = [number in created and created[number].ended < began for number in numbers]
    if all(known):
        yield f"{numbers} were created, as somebody was told, and whoever named them at {began:.3f} was told that they are not"


# -- postings ----------------------------------------------------------------------------------------


def _judge_postings(payments: dict[bytes, Payment], facts: Facts) -> Iterator[str]:
    posted: dict[bytes, list[tuple[str, int]]] = {}
    for number, lines in facts.postings.items():
        for line in lines:
            leg = number if not number.startswith("@") else EXTERNAL, line.posting.amount
            posted.setdefault(line.posting.payment_id, []).append(leg)
    for payment_id in dict.fromkeys([*posted, *payments]):
        record = facts.records.get(payment_id)
        wanted: list[tuple[str, int]] = []
        if record is not None and record.outcome is Code.COMMITTED and record.body is not None:
            wanted = _postings_of(record.body)
        if sorted(posted.get(payment_id, [])) != sorted(wanted):
            yield f"payment {payment_id.hex()} is posted as {posted.get(payment_id, [])}, and its record is {record}"


def _postings_of(body: Body) -> list[tuple[str, int]]:
    if body.kind is not Kind.CREATION:
        return list(body.legs)
    (number, opening), *_ = body.legs
    return [(number, opening), (EXTERNAL, -opening)] if opening else []


def _judge_refusals(
    history: History, payments: dict[bytes, Payment], facts: Facts
) -> Iterator[str]:
    """Nobody lacked funds that he had, whatever became of all that was under way beside."""
    moves = _Moves(payments)
    created = _creations(payments)
    for one in history.tries:
        if one.status is not Status.REFUSED or not one.is_answered:
            continue
        first = min(each.began for each in payments[one.payment_id].tries)
        if one.reason is Reason.ACCOUNT_NOT_FOUND:
            yield from _judge_not_found(one.body, first, created)
        if one.reason is not Reason.INSUFFICIENT_FUNDS:
            continue
        record = facts.records.get(one.payment_id)
        if record is None or record.body != one.body:
            continue
        for number, amount in one.body.legs:
            if amount < 0 and number in created:
                limit = _overdraft_limit(created[number])
                least = moves.least(number, first, one.ended, one.payment_id) + limit
                if least >= -amount:
                    break
        else:
            continue
        yield (
            f"a payment of {one.body.legs} was REFUSED for want of funds at {one.ended:.3f}, and {number} had {least} at the least"
        )


def _overdraft_limit(creation: Payment) -> int:
    assert creation.record is not None
    assert creation.record.body is not None
    return creation.record.body.overdraft_limit


class _Moves:
    """What moved, or may have, on each account."""

    def __init__(self, payments: dict[bytes, Payment]) -> None:
        self._by_number: dict[str, list[tuple[float, float, int, bytes]]] = {}
        """(began, ended, amount, payment_id): a debit from its first try on, a credit once it was answered."""
        for payment in payments.values():
            began = min(each.began for each in payment.tries)
            bodies = {each.body: None for each in payment.tries}
            for body in bodies:
                is_done = payment.is_committed and payment.record and payment.record.body == body
                for number, amount in body.legs:
                    ended = payment.ended if is_done else NEVER
                    self._by_number.setdefault(number, []).append(
                        (began, ended, amount, payment.payment_id)
                    )

    def least(self, number: str, began: float, ended: float, but: bytes) -> int:
        """The least that the account can have had between two moments, without this payment."""
        total = 0
        for first, last, amount, payment_id in self._by_number.get(number, ()):
            if payment_id == but:
                continue
            if (amount < 0 and first <= ended) or (amount > 0 and last < began):
                total += amount
        return total


# -- reads -------------------------------------------------------------------------------------------


class Add(msgspec.Struct, frozen=True):
    """A payment, as one account sees it."""

    payment_id: bytes
    amount: int
    began: float
    ended: float


class Seen(msgspec.Struct, frozen=True):
    """A read, and the payments that it has seen."""

    began: float
    ended: float
    payments: frozenset[bytes]


def _judge_reads(history: History, payments: dict[bytes, Payment]) -> Iterator[str]:
    created = _creations(payments)
    by_number: dict[str, list[Read]] = {}
    for read in history.reads:
        if read.is_known:
            by_number.setdefault(read.number, []).append(read)
    for number, reads in by_number.items():
        adds = adds_of(number, payments.values())
        seen: list[Seen] = []
        for read in reads:
            if read.balance is None:
                creation = created.get(number)
                if creation is not None and creation.ended < read.began:
                    yield f"{number} was created, as somebody was told at {creation.ended:.3f}, and a read at {read.began:.3f} found none"
                continue
            if not read.is_firm:
                continue
            which = which_were_seen(read.balance, read.began, read.ended, adds)
            if which is None:
                yield f"{number} was read from {read.began:.3f} to {read.ended:.3f} as {read.balance}, which no payments sum up to"
            elif which:
                seen.append(Seen(read.began, read.ended, which[0]))
        fault = check_seen(seen, adds)
        if fault is not None:
            yield f"the reads of {number} aren't linearizable: {fault}"


def adds_of(number: str, payments: Iterable[Payment]) -> list[Add]:
    """The committed payments of an account, in the order of their beginning."""
    adds = []
    for payment in payments:
        if not payment.is_committed or payment.record is None or payment.record.body is None:
            continue
        amount = sum(amount for other, amount in payment.record.body.legs if other == number)
        if amount:
            adds.append(Add(payment.payment_id, amount, payment.began, payment.ended))
    return sorted(adds, key=lambda add: (add.began, add.payment_id))


def which_were_seen(
    balance: int, began: float, ended: float, adds: Sequence[Add]
) -> list[frozenset[bytes]] | None:
    """Sets of payments whose amounts make up the balance; None: there is none. Empty: too many to try.

    What ended before the read began is in each of them, and nothing that began after it ended.
    """
    certain = [add for add in adds if add.ended < began]
    open_ones = [add for add in adds if add.ended >= began and add.began <= ended]
    missing = balance - sum(add.amount for add in certain)
    if len(open_ones) > _UNCERTAIN_MAX:
        return []
    half = len(open_ones) // 2
    sums = dict(_sums(open_ones[:half]))
    for amount, picked in _sums(open_ones[half:]):
        others = sums.get(missing - amount)
        if others is not None:
            return [frozenset([*(add.payment_id for add in certain), *others, *picked])]
    return None


def _sums(adds: Sequence[Add]) -> Iterator[tuple[int, tuple[bytes, ...]]]:
    sums: list[tuple[int, tuple[bytes, ...]]] = [(0, ())]
    for add in adds:
        sums += [(total + add.amount, (*picked, add.payment_id)) for total, picked in sums]
    return iter(sums)


def check_seen(seen: Sequence[Seen], adds: Sequence[Add]) -> str | None:
    """Find what keeps these reads from having one order with the payments, None where there is one."""
    ordered = sorted(seen, key=lambda read: (len(read.payments), read.began))
    for one, other in pairwise(ordered):
        if not one.payments <= other.payments:
            left, right = one.payments - other.payments, other.payments - one.payments
            return f"one read has seen {_hex(left)} and not {_hex(right)}, and another the other way round"
    latest = float("-inf")
    for read in reversed(ordered):
        # Whoever has seen more must not have ended before one who has seen less began.
        if latest > float("-inf") and read.began > latest:
            return f"a read that began at {read.began:.3f} has seen less than one that had ended at {latest:.3f}"
        latest = _least_end(read, latest)
    return _check_precedence(ordered, adds)


def _least_end(read: Seen, latest: float) -> float:
    return read.ended if latest == float("-inf") else min(latest, read.ended)


def _check_precedence(ordered: Sequence[Seen], adds: Sequence[Add]) -> str | None:
    """No payment is seen without those that had ended before it began."""
    by_end = sorted((add for add in adds if add.ended < NEVER), key=lambda add: add.ended)
    ends = [add.ended for add in by_end]
    began = {add.payment_id: add.began for add in adds}
    for read in ordered:
        newest = max((began[each] for each in read.payments), default=float("-inf"))
        for add in by_end[: bisect_left(ends, newest)]:
            if add.payment_id not in read.payments:
                return (
                    f"a read that ended at {read.ended:.3f} has seen a payment that began at {newest:.3f}, and not "
                    f"{_hex([add.payment_id])}, which had been answered at {add.ended:.3f}"
                )
    return None


# -- statements --------------------------------------------------------------------------------------


def _judge_statements(
    history: History, payments: dict[bytes, Payment], facts: Facts
) -> Iterator[str]:
    created = _creations(payments)
    longest: dict[str, list[tuple[float, int]]] = {}
    for statement in sorted(history.statements, key=lambda each: each.ended):
        if not statement.is_known:
            continue
        number, lines = statement.number, statement.lines
        if lines is None:
            creation = created.get(number)
            if creation is not None and creation.ended < statement.began:
                yield (
                    f"{number} was created, as somebody was told at {creation.ended:.3f}, and its statement of "
                    f"{statement.began:.3f} says that it doesn't exist"
                )
            continue
        yield from _judge_lines(statement, lines, payments, facts)
        for ended, length in longest.get(number, ()):
            if ended < statement.began and length > len(lines):
                yield f"the statement of {number} of {statement.began:.3f} is shorter than one before it"
        longest.setdefault(number, []).append((statement.ended, len(lines)))


def _judge_lines(
    statement: Statement,
    lines: tuple[tuple[int, bytes, int, int], ...],
    payments: dict[bytes, Payment],
    facts: Facts,
) -> Iterator[str]:
    number = statement.number
    known = [
        (line.posting.sequence, line.posting.payment_id, line.posting.amount, line.posting.balance)
        for line in facts.postings.get(number, ())
    ]
    if list(lines) != known[: len(lines)]:
        yield f"the statement of {number} of {statement.began:.3f} has lines that aren't its postings"
    shown = frozenset(line[1] for line in lines)
    for add in adds_of(number, payments.values()):
        if add.ended < statement.began and add.payment_id not in shown:
            yield (
                f"the statement of {number} of {statement.began:.3f} lacks {_hex([add.payment_id])}, which was answered "
                f"at {add.ended:.3f}"
            )
        if add.began > statement.ended and add.payment_id in shown:
            yield f"the statement of {number} of {statement.ended:.3f} shows what began at {add.began:.3f}"


# -- what administrators set ---------------------------------------------------------------------------


class Step(msgspec.Struct, frozen=True):
    """A write of a register, or a read of it."""

    began: float
    ended: float
    value: bool
    is_write: bool
    is_certain: bool = True
    """False: it may have happened or not."""


def _judge_settings(history: History, payments: dict[bytes, Payment]) -> Iterator[str]:
    del payments
    numbers = dict.fromkeys(setting.number for setting in history.settings)
    for number in numbers:
        steps = [
            Step(each.began, each.ended, each.frozen, is_write=True, is_certain=each.is_done)
            for each in history.settings
            if each.number == number and not each.is_refused
        ]
        steps += [
            Step(read.began, read.ended, read.frozen, is_write=False)
            for read in history.reads
            if read.number == number and read.is_known and read.is_firm and read.balance is not None
        ]
        if not is_register(steps):
            yield f"what administrators were told of {number}, and its reads, have no order: {_steps(steps)}"


def is_register(steps: Sequence[Step]) -> bool:
    """Tell whether the steps have an order that their times allow, in which each read tells the write before it; first False.

    Wing and Gong's search: what is done next is any step that no undone one has ended before. Gives up, and says yes,
    where there are too many ways.
    """
    ordered = sorted(steps, key=lambda step: step.began)
    tried: set[tuple[int, bool]] = set()
    waiting: list[tuple[int, bool]] = [(0, False)]
    while waiting:
        done, value = waiting.pop()
        if (done, value) in tried:
            continue
        tried.add((done, value))
        if len(tried) > _STATES_MAX:
            return True
        left = [i for i in range(len(ordered)) if not done >> i & 1]
        if all(not ordered[i].is_certain for i in left):
            return True
        first_end = min(ordered[i].ended for i in left if ordered[i].is_certain)
        for i in left:
            step = ordered[i]
            if step.began > first_end:
                break
            if step.is_write:
                waiting.append((done | 1 << i, step.value))
            elif step.value == value:
                waiting.append((done | 1 << i, value))
    return False


def _judge_holds(history: History, facts: Facts) -> Iterator[str]:
    """Nothing is posted on an account while somebody holds it."""
    for hold in history.holds:
        if not hold.is_answered:
            continue
        for line in facts.postings.get(hold.number, ()):
            if hold.ended < line.at < hold.until:
                yield (
                    f"{hold.number} was held from {hold.ended:.3f} to {hold.until:.3f}, and "
                    f"{_hex([line.posting.payment_id])} was posted at {line.at:.3f}"
                )


# -- words -------------------------------------------------------------------------------------------


def _name(payment: Payment) -> str:
    return f"payment {payment.payment_id.hex()[:8]} of {payment.tries[0].body.legs}"


def _hex(ids: Iterable[bytes]) -> str:
    return ", ".join(sorted(each.hex()[:8] for each in ids))


def _steps(steps: Iterable[Step]) -> str:
    return "; ".join(
        f"{'set' if step.is_write else 'read'} {step.value} {step.began:.3f}..{step.ended:.3f}"
        f"{'' if step.is_certain else ' ?'}"
        for step in sorted(steps, key=lambda step: step.began)
    )
