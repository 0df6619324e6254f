"""The Transaction Coordinator: one actor that runs all payments of its process.

    submit ──► mailbox ──┐
    answers of buckets ──┼──► machines ──► effects ──► one batch a bucket and turn
    places, locks, time ─┘                        └──► results, notes, pauses

What a payment does is decided in `mas.transaction.machine`. Here its effects are carried out, those of all payments
of a turn together: whatever queued up since the last turn is the next batch (rules 37, 38). Answers are handed to
the machines as they arrive, on the loop; what follows from them waits for the turn. What is more than a turn's waits, in
turns between callers, so that nobody stands behind another's thousands.

A payment costs no task, no future and no log line. It has one entry in the deadlines, and is forgotten with its answer
as soon as its legs are settled.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import msgspec

from mas.coordinator.deadlines import Deadlines, Pauses
from mas.coordinator.directory import Directory
from mas.coordinator.fair_queue import FairQueue
from mas.coordinator.outbox import Outbox
from mas.coordinator.pending import PendingWriter
from mas.coordinator.placement_ids import PlacementIds
from mas.coordinator.ports import Locks, TransactionStore
from mas.coordinator.queries import Queries
from mas.coordinator.reads import Reads
from mas.coordinator.waiting import last_word
from mas.errors import DatabaseUnavailable, Overloaded, Unavailable
from mas.ids import home_bucket, make_incarnation
from mas.ledger.instructions import (
    EXTERNAL,
    Answer,
    Batch,
    Body,
    CloseIncarnation,
    Instruction,
    Kind,
    Reason,
)
from mas.limits import (
    MAILBOX_ITEMS_MAX,
    REQUESTS_IN_FLIGHT_MAX,
    TURN_INSTRUCTIONS_MAX,
)
from mas.rpc.messages import Rejected
from mas.rpc.ports import Buckets
from mas.runtime import Actor, Clock, Dice, Mailbox, MailboxStatistics, Supervisor, failpoint
from mas.transaction.machine import (
    Alarm,
    Effect,
    GlobalTransaction,
    Later,
    Locate,
    NeedLocks,
    NotePending,
    ReleaseLocks,
    Reply,
    Send,
    Settled,
)
from mas.transaction.outcome import PaymentRequest, PaymentResult, Status, hash_body, payment_id_of
from mas.transaction.placement import place, place_creation
from mas.transaction.stored import PendingEntry
from mas.transaction.xid_source import XidSource

LATER_MAX = 65_536
"""Instructions that wait to be sent again; more, of payments already answered, are left to the buckets' resolvers."""
_TICK_SECONDS = 0.025
_PAUSE_SHORTEST_SECONDS = 0.02
_PAUSE_LONGEST_SECONDS = 5.0
_RECOVERED_PER_STEP = 200
_RECOVERY_STEP_SECONDS = 0.1
_FINISH_STEP_SECONDS = 0.02

_NO_BODY = Body(Kind.PAYMENT, "", ())
"""Of an attempt taken over: what it would have paid is in its anchor's hands."""

_log = logging.getLogger(__name__)

OnResult = Callable[[int, PaymentResult], None]


class CoordinatorSettings(msgspec.Struct, frozen=True):
    """How payments are carried out."""

    buckets: int
    """The bucket count at the cluster's creation: it says where claims are (rule 20)."""
    locking: Literal["escrow", "exclusive"] = "escrow"
    in_flight: int = REQUESTS_IN_FLIGHT_MAX
    """Payments that aren't answered yet, above which new ones are turned away."""
    recovery_pause: float = 0.0
    """Seconds that an entry found at the start must outlive: where coordinators share a store, a payment's longest life."""


class Ports(msgspec.Struct, frozen=True):
    """The world of a coordinator."""

    buckets: Buckets
    store: TransactionStore
    locks: Locks


class CoordinatorStatistics(msgspec.Struct, frozen=True):
    """What a coordinator has seen since its start."""

    in_flight: int
    """Payments that aren't answered yet."""
    waiting_later: int
    """Instructions that wait to be sent again, and payments whose accounts are to be looked for again."""
    results: dict[str, int]
    """Payments answered, by status."""
    batches: int
    """Batches sent to buckets."""
    instructions: int
    """Instructions in them."""
    abandoned: int
    """Legs left to their bucket's resolver."""
    alarms: int
    """Answers that can't be (rule 10)."""
    notes_dropped: int
    """Hints for recovery that were not written."""
    mailbox: MailboxStatistics


def _nobody(_: int, __: PaymentResult) -> None:
    """Nobody waits for what is recovered."""


class Payment(GlobalTransaction, gc=False, eq=False):
    """A run, and whom its result is for."""

    on_result: OnResult = _nobody
    position: int = 0
    slot: int = 0
    """Where it is in the deadlines."""
    late_at: float = 0.0
    """When to end what can be ended, so that the caller still hears it: monotonic seconds."""
    ends: float = 0.0
    """When its caller waits no longer."""


class _Batch(msgspec.Struct, frozen=True, gc=False):
    """What one caller has submitted at once."""

    caller: str
    requests: Sequence[PaymentRequest]
    on_result: OnResult
    came: float
    """When its callers' time began: monotonic seconds."""


class TransactionCoordinator(Actor):
    """Carries out payments. Give it to a supervisor; `finish` before stopping it."""

    def __init__(
        self, ports: Ports, settings: CoordinatorSettings, clock: Clock, dice: Dice
    ) -> None:
        self.name = "coordinator"
        self._buckets = ports.buckets
        self._store = ports.store
        self._locks = ports.locks
        self._settings = settings
        self._clock = clock
        self._exclusive = settings.locking == "exclusive"
        self._mailbox: Mailbox[_Batch | None] = Mailbox(self.name, MAILBOX_ITEMS_MAX)
        self._supervisor: Supervisor | None = None

        self._attempts = XidSource(lambda: make_incarnation(clock.now_us(), dice.randbytes(4)))
        self._waiting: FairQueue[_Batch] = FairQueue()
        self._effects: list[Effect] = []
        self._outboxes: dict[int, Outbox] = {}
        self._deadlines: Deadlines[Payment] = Deadlines()
        self._later: Pauses[Send | Locate] = Pauses(_PAUSE_SHORTEST_SECONDS, _PAUSE_LONGEST_SECONDS)
        self._notes = PendingWriter(ports.store, clock)
        self._places = PlacementIds(ports.store, clock, dice)
        self._directory = Directory(
            ports.buckets, ports.store, self._notes, clock, settings.buckets
        )
        self.queries = Queries(self._directory, ports.buckets, ports.locks, clock, dice)
        self.reads = Reads(self._directory, ports.buckets, clock, dice)

        self._in_flight = 0
        self._is_awake = False
        self._is_finishing = False
        self._results = dict.fromkeys(Status, 0)
        self._batches = 0
        self._instructions = 0
        self._unsettled = 0
        self._abandoned = 0
        self._alarms = 0

    # -- what callers want -------------------------------------------------------------------------------

    def submit(self, caller: str, requests: Sequence[PaymentRequest], on_result: OnResult) -> None:
        """Carry out payments and creations; calls back once for each position, on a later turn of the loop.

        `caller` is whose they are: they begin in turns with what others have submitted, behind the same caller's alone.

        Raises:
            Overloaded: too many payments are under way; none of these was begun.
        """
        limit = self._settings.in_flight
        if self._in_flight + len(requests) > limit:
            raise Overloaded(
                f"{self._in_flight} payments are under way, and {len(requests)} more would be above "
                f"{limit}: try again later"
            )
        if requests:
            self._mailbox.put(_Batch(caller, requests, on_result, self._clock.monotonic()))
            self._in_flight += len(requests)

    def statistics(self) -> CoordinatorStatistics:
        """What it has seen so far."""
        return CoordinatorStatistics(
            in_flight=self._in_flight,
            waiting_later=len(self._later),
            results={status.name: count for status, count in self._results.items()},
            batches=self._batches,
            instructions=self._instructions,
            abandoned=self._abandoned,
            alarms=self._alarms,
            notes_dropped=self._notes.dropped,
            mailbox=self._mailbox.statistics(),
        )

    # -- its life ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled; whoever still waits then hears UNKNOWN."""
        try:
            async with Supervisor() as supervisor:
                self._supervisor = supervisor
                supervisor.spawn("coordinator.turns", self._turn_forever())
                supervisor.spawn("coordinator.ticks", self._tick_forever())
                supervisor.spawn("coordinator.notes", self._notes.run())
                supervisor.spawn("coordinator.places", self._places.run())
                supervisor.spawn("coordinator.directory", self._directory.run())
                supervisor.spawn("coordinator.recovery", self._recover())
                await supervisor.wait()
        finally:
            self._expire_all()

    async def finish(self, timeout: float) -> None:
        """Begin nothing more, and let what is under way end; after `timeout` seconds the rest hears UNKNOWN."""
        self._is_finishing = True
        deadline = self._clock.monotonic() + timeout
        while (self._in_flight or self._unsettled > 0) and self._clock.monotonic() < deadline:
            await self._clock.sleep(_FINISH_STEP_SECONDS)
        self._expire_all()
        if not self._unsettled:
            self._close_incarnation()

    def _expire_all(self) -> None:
        for payment in self._deadlines.all():
            payment.expired(self._effects)
        self._let_wait(self._mailbox.drain_nowait())
        for batch, positions in self._waiting.take(len(self._waiting)):
            for position in positions:
                self._turn_away(batch, position)
        self._carry_out()

    def _close_incarnation(self) -> None:
        """This life is over, and holds nothing: the buckets need not remember it (rule 10)."""
        incarnation = self._attempts.incarnation
        batch = Batch(incarnation, self._attempts.low_water(), (CloseIncarnation(incarnation),))
        for bucket in self._buckets.all():
            self._buckets.submit(bucket, batch, _ignore)

    async def _turn_forever(self) -> None:
        while True:
            batches = await self._mailbox.drain()
            self._is_awake = False
            self._let_wait(batches)
            self._begin_some()
            self._carry_out()
            self._send_batches()

    def _wake(self) -> None:
        """Make sure that a turn follows: there are effects to carry out."""
        if not self._is_awake:
            self._is_awake = True
            self._mailbox.offer(None)

    async def _tick_forever(self) -> None:
        while True:
            await self._clock.sleep(_TICK_SECONDS)
            now = self._clock.monotonic()
            for payment in self._deadlines.due(now):
                self._on_deadline(payment, now)
            for item in self._later.over(now):
                if isinstance(item, Send):
                    item.transaction.again(item, self._effects)
                else:
                    self._locate_anew(item.transaction)
            if self._effects:
                self._wake()

    def _on_deadline(self, payment: Payment, now: float) -> None:
        """The first one is for ending what can be ended, the second for saying what can't be said better."""
        if payment.late or now >= payment.ends:
            payment.expired(self._effects)
        else:
            self._deadlines.add(payment, payment.ends)
            payment.late_now(self._effects)

    # -- beginning ---------------------------------------------------------------------------------------

    def _let_wait(self, batches: Sequence[_Batch | None]) -> None:
        for batch in batches:
            if batch is not None:
                self._waiting.put(batch.caller, batch, len(batch.requests))

    def _begin_some(self) -> None:
        """Begin a turn's worth of payments; what is left is the next turn (rule 38)."""
        for batch, positions in self._waiting.take(TURN_INSTRUCTIONS_MAX):
            for position in positions:
                self._begin(batch, position)
        if self._waiting:
            self._wake()

    def _begin(self, batch: _Batch, position: int) -> None:
        if self._is_finishing:
            self._turn_away(batch, position)
            return
        request = batch.requests[position]
        body, ends = request.body, batch.came + request.timeout
        payment = Payment(
            payment_id_of(request),
            body,
            hash_body(body),
            self._attempts,
            request.repeat,
            self._exclusive,
            caller=batch.caller,
            on_result=batch.on_result,
            position=position,
            late_at=ends - last_word(request.timeout),
            ends=ends,
        )
        self._deadlines.add(payment, payment.late_at)
        if body.kind is Kind.CREATION:
            self._places.take(partial(self._on_id, payment))
        else:
            self._locate(payment)

    def _turn_away(self, batch: _Batch, position: int) -> None:
        self._in_flight -= 1
        self._results[Status.REJECTED] += 1
        result = PaymentResult(
            Status.REJECTED,
            payment_id_of(batch.requests[position]),
            Reason.UNAVAILABLE,
            "the coordinator is stopping",
        )
        batch.on_result(position, result)

    def _on_id(self, payment: Payment, max_id: int) -> None:
        """A new account is placed by a number that only chooses a place (rule 19)."""
        buckets = self._buckets.all()
        home = home_bucket(payment.body.legs[0][0], self._settings.buckets)
        payment.located(place_creation(home, buckets[max_id % len(buckets)]), self._effects)
        self._wake()

    def _locate(self, payment: Payment) -> None:
        """Nearly always memory knows; otherwise whoever knows calls back."""
        body = payment.body
        buckets = self._directory.known(body.legs)
        if (0 in buckets and body.kind is Kind.PAYMENT) or not any(buckets):
            self._find(payment, fresh=False)
        else:
            payment.located(place(body, buckets), self._effects)

    def _find(self, payment: GlobalTransaction, *, fresh: bool) -> None:
        numbers = [number for number, _ in payment.body.legs if number != EXTERNAL]
        self._directory.find(
            numbers, partial(self._on_found, payment), lambda: not payment.replied, fresh=fresh
        )

    def _on_found(self, payment: GlobalTransaction, found: dict[str, int]) -> None:
        buckets = [found.get(number, 0) for number, _ in payment.body.legs]
        payment.located(place(payment.body, buckets), self._effects)
        self._wake()

    # -- effects -----------------------------------------------------------------------------------------

    def _carry_out(self) -> None:
        """Do what the machines want, in their order."""
        effects, self._effects = self._effects, []
        outboxes = self._outboxes
        for effect in effects:
            if isinstance(effect, Send):
                outbox = outboxes.get(effect.bucket)
                if outbox is None:
                    outbox = outboxes[effect.bucket] = Outbox()
                outbox.add(effect)
            elif isinstance(effect, Reply):
                self._reply(effect)
            else:
                self._carry_out_other(effect)

    def _carry_out_other(self, effect: Effect) -> None:
        match effect:
            case NotePending():
                self._unsettled += 1
                self._notes.note(effect)
            case Settled():
                self._unsettled -= 1
                self._notes.settled(effect.xid)
            case Later():
                self._send_later(effect.send)
            case Locate(transaction, 0):
                self._locate_anew(transaction)
            case Locate():
                self._later.add(effect, effect.tries - 1, self._clock.monotonic())
            case NeedLocks():
                assert self._supervisor is not None
                self._supervisor.spawn("coordinator.lock", self._acquire(effect))
            case ReleaseLocks():
                self._locks.release(effect.owner)
            case Alarm():
                self._alarms += 1
                _log.error(
                    "bucket %d answers %s, which can't be", effect.send.bucket, effect.answer
                )
            case Send() | Reply():
                raise AssertionError("carried out before")

    def _reply(self, effect: Reply) -> None:
        payment, result = effect.transaction, effect.result
        assert isinstance(payment, Payment)
        self._deadlines.remove(payment)
        self._in_flight -= 1
        self._results[result.status] += 1
        if result.account_bucket:
            number = payment.body.legs[0][0]
            self._directory.learn(number, result.account_bucket)
            self._notes.placed(number, result.account_bucket)
        failpoint("coordinator.before_reply")
        payment.on_result(payment.position, result)

    def _send_later(self, send: Send) -> None:
        """Again after a pause; too many, and what nobody waits for is left to the buckets' resolvers (rule 11)."""
        if len(self._later) >= LATER_MAX and send.transaction.replied:
            self._abandoned += 1
        else:
            self._later.add(send, send.tries, self._clock.monotonic())

    def _locate_anew(self, payment: GlobalTransaction) -> None:
        if payment.body.kind is Kind.CREATION:
            assert isinstance(payment, Payment)
            self._places.take(partial(self._on_id, payment))
        else:
            self._find(payment, fresh=True)

    async def _acquire(self, need: NeedLocks) -> None:
        payment = need.transaction
        assert isinstance(payment, Payment)
        left = payment.late_at - self._clock.monotonic()
        try:
            tokens = await self._locks.acquire(
                need.owner, need.numbers, need.mode, max(left, _TICK_SECONDS)
            )
        except Unavailable as error:
            _log.info("locks of %s were not granted: %s", need.numbers, error)
            payment.denied(need.owner, self._effects)
        else:
            payment.granted(need.owner, tokens, self._effects)
        self._wake()

    # -- the buckets -------------------------------------------------------------------------------------

    def _send_batches(self) -> None:
        """One batch a bucket and turn; what is above a turn's bounds is the next turn (rule 38), in turns between callers."""
        attempts = self._attempts
        incarnation, low_water = attempts.incarnation, attempts.low_water()
        for bucket, outbox in self._outboxes.items():
            if not outbox:
                continue
            sends = outbox.take()
            if outbox:
                self._wake()
            self._submit(bucket, Batch(incarnation, low_water, _instructions(sends)), sends)

    def _submit(self, bucket: int, batch: Batch, sends: list[Send]) -> None:
        self._batches += 1
        self._instructions += len(sends)
        failpoint(f"coordinator.before_{type(sends[0].instruction).__name__.lower()}")
        self._buckets.submit(bucket, batch, partial(self._on_answer, sends))

    def _on_answer(self, sends: list[Send], position: int, answer: Answer | Rejected) -> None:
        send = sends[position]
        if type(answer) is Answer:
            send.transaction.answered(send, answer, self._effects)
        elif type(answer) is Rejected:
            send.transaction.turned_away(send, answer.why, self._effects)
        if not self._is_awake:
            self._wake()

    # -- recovery ----------------------------------------------------------------------------------------

    async def _recover(self) -> None:
        """Finish what coordinators that are gone have left: redo or undo, as the anchors say (rule 11), at a bounded rate."""
        entries = await self._pending_entries()
        if entries and self._settings.recovery_pause:
            found = {entry.xid for entry in entries}
            await self._clock.sleep(self._settings.recovery_pause)
            entries = [entry for entry in await self._pending_entries() if entry.xid in found]
        if entries:
            _log.info("%d transactions were under way at the last stop", len(entries))
        for start in range(0, len(entries), _RECOVERED_PER_STEP):
            for entry in entries[start : start + _RECOVERED_PER_STEP]:
                self._take_over(entry)
            self._wake()
            await self._clock.sleep(_RECOVERY_STEP_SECONDS)

    async def _pending_entries(self) -> list[PendingEntry]:
        """What this life has noted meanwhile is its own, and under way."""
        try:
            entries = await self._store.pending_entries()
        except DatabaseUnavailable as error:
            _log.warning("no hints for recovery, the buckets resolve by themselves: %s", error)
            return []
        return [each for each in entries if not self._attempts.made(each.xid)]

    def _take_over(self, entry: PendingEntry) -> None:
        existing = self._buckets.replicas()
        if not {entry.anchor, *entry.participants} <= existing.keys() or not entry.participants:
            self._notes.settled(entry.xid)  # of another cluster: nothing here can be meant
            return
        self._unsettled += 1
        transaction = GlobalTransaction(entry.payment_id, _NO_BODY, entry.body_hash, self._attempts)
        transaction.take_over(
            entry.xid, entry.attempt, entry.anchor, entry.participants, self._effects
        )


def _ignore(_: int, __: Answer | Rejected) -> None:
    """Whether or not it was done is all the same."""


def _instructions(sends: list[Send]) -> tuple[Instruction, ...]:
    return tuple([send.instruction for send in sends])
