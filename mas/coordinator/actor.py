"""The Transaction Coordinator: one actor that runs all payments of its process.

    submit ──► mailbox ──┐
    answers of buckets ──┼──► machines ──► effects ──► one batch a bucket and turn
    places, locks, time ─┘                        └──► results, notes, pauses

What a payment does is decided in `mas.transaction.payment`. Here its effects are carried out, those of all payments
of a turn together: whatever queued up since the last turn is the next batch (rules 37, 38). Answers are handed to
the machines as they arrive, on the loop; what follows from them waits for the turn. What is more than a turn's waits, in
turns between callers, so that nobody stands behind another's thousands.

A payment costs no task, no future and no log line. It has one entry in the deadlines, and is forgotten with its answer
as soon as its legs are settled.
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import msgspec

from mas.coordinator.deadlines import Deadlines, Pauses
from mas.coordinator.directory import Directory
from mas.coordinator.fair_queue import FairQueue
from mas.coordinator.locator import Locator
from mas.coordinator.outbox import Outbox, Outgoing
from mas.coordinator.payment import OnResult, Payment
from mas.coordinator.pending import PendingWriter
from mas.coordinator.placement_ids import PlacementIds
from mas.coordinator.ports import Locks, TransactionStore
from mas.coordinator.queries import Queries
from mas.coordinator.reads import Reads
from mas.coordinator.recovery import Recovery
from mas.coordinator.waiting import last_word
from mas.errors import Overloaded, Unavailable
from mas.ids import make_incarnation
from mas.ledger.instructions import Answer, Batch, Body, CloseIncarnation, Kind, Reason
from mas.limits import (
    MAILBOX_ITEMS_MAX,
    REQUESTS_IN_FLIGHT_MAX,
    TURN_INSTRUCTIONS_MAX,
)
from mas.rpc.messages import Rejected
from mas.rpc.ports import Buckets
from mas.runtime import Actor, Clock, Dice, Mailbox, MailboxStatistics, Supervisor, failpoint
from mas.transaction.attempt import Alarm, NotePending, Settled
from mas.transaction.effects import (
    SENDS,
    AcquireLocks,
    Effect,
    Locate,
    ReleaseLocks,
    Reply,
    Retry,
    Send,
)
from mas.transaction.outcome import PaymentRequest, PaymentResult, Status, hash_body, payment_id_of
from mas.transaction.payment import PaymentRun
from mas.transaction.placement import Placement
from mas.transaction.stored import PendingEntry
from mas.transaction.xid_source import XidSource

RETRIES_MAX = 65_536
"""Instructions that wait to be sent again; more, of payments already answered, are left to the buckets' resolvers."""
_TICK_SECONDS = 0.025
_PAUSE_SHORTEST_SECONDS = 0.02
_PAUSE_LONGEST_SECONDS = 5.0
_FINISH_STEP_SECONDS = 0.02

_NO_BODY = Body(Kind.PAYMENT, "", ())
"""Of an attempt taken over: what it would have paid is in its anchor's hands."""

_log = logging.getLogger(__name__)


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
        self._locks = ports.locks
        self._settings = settings
        self._clock = clock
        self._exclusive = settings.locking == "exclusive"
        self._mailbox: Mailbox[_Batch | None] = Mailbox(self.name, MAILBOX_ITEMS_MAX)
        self._supervisor: Supervisor | None = None

        self._xids = XidSource(lambda: make_incarnation(clock.now_us(), dice.randbytes(4)))
        self._waiting: FairQueue[_Batch] = FairQueue()
        # Whose effects are to be carried out, in the order of their events.
        self._ready: dict[Payment, None] = {}
        self._outboxes: dict[int, Outbox] = {}
        self._deadlines: Deadlines[Payment] = Deadlines()
        self._retries: Pauses[tuple[Payment, Send | Locate]] = Pauses(
            _PAUSE_SHORTEST_SECONDS, _PAUSE_LONGEST_SECONDS
        )
        self._pending = PendingWriter(ports.store, clock)
        self._placement_ids = PlacementIds(ports.store, clock, dice)
        self._directory = Directory(
            ports.buckets, ports.store, self._pending, clock, settings.buckets
        )
        self._locator = Locator(
            self._directory, self._placement_ids, ports.buckets, self._on_located
        )
        self._recovery = Recovery(
            ports.store, clock, settings.recovery_pause, self._xids.made, self._take_over
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
            waiting_later=len(self._retries),
            results={status.name: count for status, count in self._results.items()},
            batches=self._batches,
            instructions=self._instructions,
            abandoned=self._abandoned,
            alarms=self._alarms,
            notes_dropped=self._pending.dropped,
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
                supervisor.spawn("coordinator.notes", self._pending.run())
                supervisor.spawn("coordinator.places", self._placement_ids.run())
                supervisor.spawn("coordinator.directory", self._directory.run())
                supervisor.spawn("coordinator.recovery", self._recovery.run())
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
            payment.run.on_deadline()
            self._ready[payment] = None
        self._let_wait(self._mailbox.drain_nowait())
        for batch, positions in self._waiting.take(len(self._waiting)):
            for position in positions:
                self._turn_away(batch, position)
        self._carry_out()

    def _close_incarnation(self) -> None:
        """This life is over, and holds nothing: the buckets need not remember it (rule 10)."""
        incarnation = self._xids.incarnation
        batch = Batch(incarnation, self._xids.low_water(), (CloseIncarnation(incarnation),))
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
            for payment, paused in self._retries.over(now):
                if isinstance(paused, Locate):
                    self._locator.locate_anew(payment)
                else:
                    payment.run.on_retry_due(paused)
                    self._ready[payment] = None
            if self._ready:
                self._wake()

    def _on_deadline(self, payment: Payment, now: float) -> None:
        """End what can be ended at the first deadline; at the second answer UNKNOWN where nothing better is known."""
        if payment.run.late or now >= payment.ends:
            payment.run.on_deadline()
        else:
            self._deadlines.add(payment, payment.ends)
            payment.run.on_soft_deadline()
        self._ready[payment] = None

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
        run = PaymentRun(
            payment_id_of(request),
            body,
            hash_body(body),
            self._xids,
            request.repeat,
            self._exclusive,
        )
        payment = Payment(
            run, batch.caller, batch.on_result, position, ends - last_word(request.timeout), ends
        )
        self._deadlines.add(payment, payment.late_at)
        placement = self._locator.locate(payment)
        if placement is not None:
            run.on_located(placement)
            self._ready[payment] = None

    def _on_located(self, payment: Payment, placement: Placement) -> None:
        payment.run.on_located(placement)
        self._ready[payment] = None
        self._wake()

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

    # -- effects -----------------------------------------------------------------------------------------

    def _carry_out(self) -> None:
        """Do what the runs want, each one's in its order."""
        ready, self._ready = self._ready, {}
        outboxes = self._outboxes
        for payment in ready:
            # `Any`, since its type says which effect it is.
            effects: list[Any] = payment.run.effects
            for effect in effects:
                kind = type(effect)
                if kind in SENDS:
                    outbox = outboxes.get(effect.bucket)
                    if outbox is None:
                        outbox = outboxes[effect.bucket] = Outbox()
                    outbox.add(payment, effect)
                elif kind is Reply:
                    self._reply(payment, effect.result)
                elif kind is NotePending:
                    self._unsettled += 1
                    self._pending.note(effect.attempt)
                elif kind is Settled:
                    self._unsettled -= 1
                    self._pending.settled(effect.xid)
                else:
                    self._carry_out_other(payment, effect)
            effects.clear()

    def _carry_out_other(self, payment: Payment, effect: Effect) -> None:
        match effect:
            case Retry(send):
                self._send_later(payment, send)
            case Locate(0):
                self._locator.locate_anew(payment)
            case Locate(tries):
                self._retries.add((payment, effect), tries - 1, self._clock.monotonic())
            case AcquireLocks():
                assert self._supervisor is not None
                self._supervisor.spawn("coordinator.lock", self._acquire(payment, effect))
            case ReleaseLocks(owner):
                self._locks.release(owner)
            case Alarm(bucket, answer):
                self._alarms += 1
                _log.error("bucket %d answers %s, which can't be", bucket, answer)
            case _:
                raise AssertionError("carried out before")

    def _reply(self, payment: Payment, result: PaymentResult) -> None:
        self._deadlines.remove(payment)
        self._in_flight -= 1
        self._results[result.status] += 1
        if result.account_bucket:
            number = payment.run.body.legs[0][0]
            self._directory.learn(number, result.account_bucket)
            self._pending.placed(number, result.account_bucket)
        failpoint("coordinator.before_reply")
        payment.on_result(payment.position, result)

    def _send_later(self, payment: Payment, send: Send) -> None:
        """Send again after a pause. Of too many, those that nobody waits for are left to the buckets' resolvers (rule 11,
        the resolver).
        """
        if len(self._retries) >= RETRIES_MAX and payment.run.replied:
            self._abandoned += 1
        else:
            self._retries.add((payment, send), send.tries, self._clock.monotonic())

    async def _acquire(self, payment: Payment, wanted: AcquireLocks) -> None:
        left = payment.late_at - self._clock.monotonic()
        try:
            tokens = await self._locks.acquire(
                wanted.owner, wanted.numbers, wanted.mode, max(left, _TICK_SECONDS)
            )
        except Unavailable as error:
            _log.info("locks of %s were not granted: %s", wanted.numbers, error)
            payment.run.on_locks_denied(wanted.owner)
        else:
            payment.run.on_locks_granted(wanted.owner, tokens)
        self._ready[payment] = None
        self._wake()

    # -- the buckets -------------------------------------------------------------------------------------

    def _send_batches(self) -> None:
        """One batch a bucket and turn; what is above a turn's bounds is the next turn (rule 38), in turns between callers."""
        xids = self._xids
        incarnation, low_water = xids.incarnation, xids.low_water()
        for bucket, outbox in self._outboxes.items():
            if not outbox:
                continue
            outgoing = outbox.take()
            if outbox:
                self._wake()
            instructions = tuple([send.instruction for _, send in outgoing])
            self._batches += 1
            self._instructions += len(instructions)
            failpoint(f"coordinator.before_{type(instructions[0]).__name__.lower()}")
            batch = Batch(incarnation, low_water, instructions)
            self._buckets.submit(bucket, batch, partial(self._on_answer, outgoing))

    def _on_answer(
        self, outgoing: list[Outgoing], position: int, answer: Answer | Rejected
    ) -> None:
        payment, send = outgoing[position]
        if type(answer) is Answer:
            payment.run.on_answer(send, answer)
        elif type(answer) is Rejected:
            payment.run.on_rejected(send, answer.why)
        self._ready[payment] = None
        if not self._is_awake:
            self._wake()

    # -- recovery ----------------------------------------------------------------------------------------

    def _take_over(self, entries: Sequence[PendingEntry]) -> None:
        existing = self._buckets.replicas().keys()
        for entry in entries:
            participants = entry.participants
            if not participants or not {entry.anchor, *participants} <= existing:
                self._pending.settled(entry.xid)  # of another cluster: nothing here can be meant
                continue
            self._unsettled += 1
            run = PaymentRun(entry.payment_id, _NO_BODY, entry.body_hash, self._xids)
            placement = Placement(entry.anchor, participants=participants)
            run.take_over(entry.xid, entry.attempt, placement)
            self._ready[Payment(run, "", _hear_nothing, 0, 0.0, 0.0)] = None
        self._wake()


def _ignore(_: int, __: Answer | Rejected) -> None:
    """Whether or not it was done is all the same."""


def _hear_nothing(_: int, __: PaymentResult) -> None:
    """Nobody waits for what is recovered."""
