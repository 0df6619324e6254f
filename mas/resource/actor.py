"""The AccountService: one actor per bucket, between the requests of coordinators and the bucket's ledger.

    requests ──► propose_c ──► Raft group ──► commit_c ──► ledger.apply ──► replies
                                                               └──► flusher ──► AccountDB

What waits when it wakes becomes one proposal; what is committed is applied in order; an answer is given only for what
this leader proposed itself and has seen applied, to whoever asked for it. The service decides nothing: the ledger
does, and every replica applies alike (rule 16).
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NoReturn, TypeVar

import msgspec

from mas.errors import (
    DatabaseUnavailable,
    InvalidRequest,
    MasError,
    NotLeading,
    Overloaded,
)
from mas.ledger import (
    Abort,
    Answer,
    Batch,
    CloseIncarnation,
    Code,
    Commit,
    Genesis,
    Instruction,
    Kind,
    Ledger,
    Missing,
    Proposal,
    Reason,
    Resolve,
    begins,
    decode_batch,
)
from mas.ledger.instructions import Decide, Prepare, RejectReason
from mas.ledger.rows import Loaded, ResidentState
from mas.limits import QUESTION_SECONDS_MAX, TURN_INSTRUCTIONS_MAX, TURN_SECONDS_MAX, shorten
from mas.multiraft.events import Committed, Leadership, ReadReady, Refused, Restored
from mas.raft import Entry, EntryType
from mas.resource.anchors import Anchors, Word
from mas.resource.flusher import Flusher
from mas.resource.ports import AccountDB, Group
from mas.resource.proposals import Item, Proposals
from mas.resource.reads import (
    LinearizableRead,
    Noted,
    Posted,
    Read,
    Stored,
    missing_numbers,
    shown,
    view_accounts,
    view_claims,
    view_nodes,
    view_postings,
)
from mas.resource.relay import Relay
from mas.resource.reply_to import OWN, Proposed, ReplyTo
from mas.resource.undecided import SetAside, Waiting, second_proposals
from mas.rpc.messages import (
    Answers,
    BucketRequest,
    BucketView,
    PassOn,
    Postings,
    ReadAccounts,
    ReadBucket,
    ReadClaims,
    ReadLevel,
    ReadNodes,
    ReadPostings,
    ReadRequest,
    Rejected,
    Reply,
    Submit,
)
from mas.rpc.ports import Buckets
from mas.runtime import Actor, Clock, Mailbox, Supervisor
from mas.telemetry import Seldom
from mas.transaction.participant import Resolver, instruct, questions

_log = logging.getLogger(__name__)

Asked = TypeVar("Asked", Read, Stored)

_RESOLVE_SECONDS = 0.25
# A node may hold a thousand buckets: one that has nothing to resolve looks seldom.
_IDLE_SECONDS = 1.0
_RELOAD_SECONDS = 0.5
_INCARNATION_SILENT_SECONDS = 24 * 3600.0
_CLOSE_AGAIN_SECONDS = 60.0
_REQUESTS_WAITING = 65_536
_FILTER_PAGE = 5_000
_READS_OPEN_MAX = 16_384
_SWEEP_SECONDS = 0.1
_SETTLED = (Code.POSTED, Code.FREED)


class ResourceSettings(msgspec.Struct, frozen=True):
    """How a bucket is served."""

    cluster: str
    buckets: int
    """The bucket count at the cluster's creation."""
    lock_timeout: float = 5.0
    """Seconds after which a prepared leg's anchor is asked (rule 11)."""
    read_patience: float = 0.25
    """Seconds that an undecided leg may keep a reader waiting before its attempt is declared dead (rule 30)."""
    flush_pause: float = 0.2
    """Seconds between two flushes: what changes meanwhile is written once."""
    cached_rows: int = 200_000
    """Accounts, and as many records, that may stay in memory when they are clean."""
    in_flight: int = 50_000
    """Instructions proposed and not yet applied, above which new work is turned away (rule 16)."""
    unflushed: int = 400_000
    """Instructions applied and not yet durable in the AccountDB, above which new work is turned away."""


class Ports(msgspec.Struct, frozen=True):
    """The world of one bucket's service."""

    group: Group
    database: AccountDB
    buckets: Buckets
    reply: Callable[[int, Reply], None]
    """Takes a node and the reply for it."""
    proposer: int
    """A number that this process drew at its start: it marks its proposals, and its writes (rule 25)."""


def writer_mark(proposer: int) -> bytes:
    """The `writer` that this process is to its databases (rule 25)."""
    return proposer.to_bytes(8, "big")


class AccountService(Actor):
    """Serves one bucket on this node, as its leader or as a follower."""

    def __init__(
        self,
        bucket: int,
        kept: ResidentState,
        ports: Ports,
        clock: Clock,
        settings: ResourceSettings,
    ) -> None:
        self.name = f"account-service-{bucket}"
        self.bucket = bucket
        self.requests: Mailbox[tuple[int, BucketRequest]] = Mailbox(
            f"{self.name}.requests", _REQUESTS_WAITING
        )
        self._group = ports.group
        self._database = ports.database
        self._buckets = ports.buckets
        self._send_reply = ports.reply
        self._seldom = Seldom(_log, clock.monotonic)
        # When each read that isn't answered yet is given up by its asker, by peer and request.
        self._reads_open: dict[tuple[int, int], float] = {}
        self._reads_swept = 0.0
        self._proposer = ports.proposer
        self._clock = clock
        self._settings = settings

        self._leadership = Leadership(0, 0, leading=False)
        self._heard_leader = clock.monotonic()
        self._proposals = Proposals(ports.group, ports.proposer, clock)
        self._reads: dict[int, list[Read]] = {}
        self._reads_waiting: list[tuple[int, list[Read]]] = []
        self._reads_to_load: Mailbox[Read] = Mailbox(f"{self.name}.reads", _REQUESTS_WAITING)
        self._statements: Mailbox[Stored] = Mailbox(f"{self.name}.statements", _REQUESTS_WAITING)
        self._resolver = Resolver(settings.lock_timeout)
        self._supervisor = Supervisor()
        self._relay = Relay(bucket, ports.buckets, ports.reply)
        self._anchors = Anchors(ports.buckets, settings.read_patience, self._settle)
        self._noted: dict[str, Noted] = {}
        self._noted_at = 0
        self._set_aside = SetAside(self._anchors, self._propose_again)
        self._settlements: list[Commit | Abort] = []
        self._to_settle: dict[tuple[bytes, ...], None] = {}
        self._second_proposals: list[tuple[list[Waiting], tuple[bytes, ...]]] = []
        self._filter_empty = asyncio.Event()
        self._heard: dict[bytes, float] = {}
        self._start_from(kept)

    def _start_from(self, kept: ResidentState) -> None:
        self._ledger = Ledger(kept)
        self._noted.clear()
        self._flusher = Flusher(
            self._ledger,
            self._database,
            writer_mark(self._proposer),
            self._clock,
            self._settings.flush_pause,
        )
        self._filter_empty.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        async with self._supervisor as supervisor:
            supervisor.spawn(f"{self.name}.propose", self._forever(self._propose_turn))
            supervisor.spawn(f"{self.name}.commit", self._forever(self._commit_turn))
            supervisor.spawn(f"{self.name}.error", self._forever(self._error_turn))
            supervisor.spawn(f"{self.name}.flush", self._forever(self._flush_turn))
            supervisor.spawn(f"{self.name}.load", self._forever(self._load_turn))
            supervisor.spawn(f"{self.name}.statement", self._forever(self._statement_turn))
            supervisor.spawn(f"{self.name}.resolve", self._forever(self._resolve_turn))
            supervisor.spawn(f"{self.name}.filter", self._forever(self._filter_turn))
            await supervisor.wait()

    async def _forever(self, turn: Callable[[], Awaitable[None]]) -> NoReturn:
        while True:
            await turn()

    # -- requests: what queued up since the last turn becomes one proposal -------------------------------

    async def _propose_turn(self) -> None:
        reads: list[Read] = []
        for peer, request in await self.requests.drain():
            if isinstance(request, PassOn):
                out_of_reach, request = request.leader, request.message
                # Where another one leads by now, whoever asks is told so like everybody, and may reach that one.
                if self._leadership.leader == out_of_reach and not self._leadership.leading:
                    self._relay.pass_on(peer, request, self._supervisor)
                    continue
            match request:
                case Submit():
                    self._admit(peer, request)
                case ReadAccounts() | ReadClaims() | ReadNodes() | ReadPostings():
                    if (gives_up := self._admit_read(peer, request)) is not None:
                        reads.append(Read(peer, request, gives_up))
                case ReadBucket():
                    if (gives_up := self._admit_read(peer, request)) is not None:
                        self._read_later(Stored(peer, request, gives_up), self._statements)
        self._propose()
        self._take_reads(reads)

    def _admit(self, peer: int, request: Submit) -> None:
        """Decide before proposing, and only about what begins something (rule 16)."""
        if not self._leadership.leading:
            self._reply(peer, self._not_leading(request.request))
            return
        try:
            batch = decode_batch(request.batch)
        except InvalidRequest as error:
            self._reply(peer, Rejected(request.request, RejectReason.INVALID, detail=str(error)))
            return
        if batch.incarnation:
            self._heard[batch.incarnation] = self._clock.monotonic()
        if self._set_aside:
            self._end_set_aside(batch)
        begun = tuple(i for i, each in enumerate(batch.instructions) if begins(each))
        deadline = _deadline(self._clock.monotonic(), request.left_ms) if begun else math.inf
        whole = Item(batch, request.batch, ReplyTo(peer, request.request), deadline)
        if not begun:
            self._proposals.add(whole)
            return
        refusal = self._overload()
        if refusal is not None:
            why, detail = refusal
            self._reply(peer, Rejected(request.request, why, positions=begun, detail=detail))
        elif len(begun) == len(batch.instructions):
            self._proposals.add(whole, begins=True)
            return
        else:
            self._proposals.add(whole.part(begun), begins=True)
        ended = [i for i, each in enumerate(batch.instructions) if not begins(each)]
        if ended:
            self._proposals.add(msgspec.structs.replace(whole.part(ended), deadline=math.inf))

    def _admit_read(self, peer: int, request: ReadRequest) -> float | None:
        """When its asker gives it up; until then, or until it is answered, it holds a place. None: there is none left."""
        now = self._clock.monotonic()
        if len(self._reads_open) >= _READS_OPEN_MAX and now - self._reads_swept > _SWEEP_SECONDS:
            self._reads_swept = now
            self._reads_open = {
                read: gives_up for read, gives_up in self._reads_open.items() if gives_up > now
            }
        if len(self._reads_open) >= _READS_OPEN_MAX:
            detail = f"bucket {self.bucket} has {_READS_OPEN_MAX} reads under way"
            self._reply(peer, Rejected(request.request, RejectReason.OVERLOADED, detail=detail))
            return None
        gives_up = min(_deadline(now, request.left_ms), now + QUESTION_SECONDS_MAX)
        self._reads_open[peer, request.request] = gives_up
        return gives_up

    def _reply(self, peer: int, reply: Reply) -> None:
        self._reads_open.pop((peer, reply.request), None)
        self._send_reply(peer, reply)

    def _add_part(
        self,
        peer: int,
        request: int,
        batch: Batch,
        positions: tuple[int, ...],
        deadline: float | None = None,
    ) -> None:
        """Some of a batch's instructions: those that begin something have a deadline, and go behind those that end something."""
        instructions = tuple([batch.instructions[position] for position in positions])
        part = Batch(batch.incarnation, batch.low_water, instructions, batch.left_out)
        route = ReplyTo(peer, request, positions)
        if deadline is None:
            self._proposals.add(Item.of(part, route))
        else:
            self._proposals.add(Item.of(part, route, deadline), begins=True)

    def _overload(self) -> tuple[RejectReason, str] | None:
        if self._flusher.failing_since is not None:
            return (
                RejectReason.UNAVAILABLE,
                f"bucket {self.bucket}: the account database can't be written",
            )
        if self._proposals.instructions >= self._settings.in_flight:
            return RejectReason.OVERLOADED, f"bucket {self.bucket} has too much in flight"
        if self._flusher.behind >= self._settings.unflushed:
            return (
                RejectReason.OVERLOADED,
                f"bucket {self.bucket}: the account database is too far behind",
            )
        return None

    def _not_leading(self, request: int) -> Rejected:
        return Rejected(request, RejectReason.NOT_LEADING, leader=self._leadership.leader)

    def _propose(self) -> None:
        for proposed, error in self._proposals.send():
            self._turn_away(proposed, _why_refused(error), str(error))

    def _submit_own(self, *instructions: Instruction) -> None:
        """This leader's own instructions; they end something and have room of their own (rule 16). Nobody is answered."""
        self._proposals.add(Item.of(Batch(b"", 0, instructions), OWN))
        self._propose()

    def _turn_away(
        self, proposed: Proposed, why: RejectReason, detail: str = "", leader: int = 0
    ) -> None:
        for batch, route in zip(proposed.batches, proposed.routes, strict=True):
            if route.peer:
                positions = tuple(
                    place for i in range(len(batch.instructions)) if (place := route.place(i)) >= 0
                )
                self._reply(route.peer, Rejected(route.request, why, positions, leader, detail))

    # -- commit_c: apply in order, answer what this leader proposed --------------------------------------

    async def _commit_turn(self) -> None:
        for event in await self._group.commit_c.drain():
            match event:
                case Committed():
                    await self._wait_for_room()
                    await self._apply_all(event.entries)
                case Leadership():
                    self._on_leadership(event)
                case ReadReady():
                    self._on_read_ready(event)
                case Restored():
                    await self._on_restored(event)

    async def _wait_for_room(self) -> None:
        """A leader turns new work away; a follower stops where memory holds too much that its database doesn't."""
        if not self._leadership.leading:
            await self._flusher.wait_until_below(self._settings.unflushed)

    async def _apply_all(self, entries: tuple[Entry, ...]) -> None:
        """Load what the entries need in one query, then apply them, giving way to others every 10 ms."""
        proposals = [self._decode(entry) for entry in entries]
        await self._load(proposals)
        started = self._clock.monotonic()
        waiting: list[Waiting] = []
        for entry, proposal in zip(entries, proposals, strict=True):
            if proposal is None:
                self._ledger.advance(entry.index, entry.term)
                continue
            waiting.extend(self._apply(entry, proposal))
            if self._clock.monotonic() - started > TURN_SECONDS_MAX:
                await self._clock.sleep(0)
                started = self._clock.monotonic()
        self._after_apply()
        self._have_all_settled()
        if self._leadership.leading:
            self._set_aside.add(waiting, self._ledger.legs)
        else:
            self._turn_back(waiting)

    def _decode(self, entry: Entry) -> Proposal | None:
        if entry.type is not EntryType.NORMAL or not entry.data:
            return None
        return self._proposals.decode(entry.data)

    async def _load(self, proposals: list[Proposal | None]) -> None:
        accounts: dict[str, None] = {}
        records: dict[bytes, None] = {}
        claims: dict[str, None] = {}
        for proposal in proposals:
            if proposal is not None and (missing := self._ledger.missing(proposal)):
                accounts.update(dict.fromkeys(missing.accounts))
                records.update(dict.fromkeys(missing.records))
                claims.update(dict.fromkeys(missing.claims))
        if accounts or records or claims:
            asked = Missing(list(accounts), list(records), list(claims))
            self._ledger.load(
                asked, await self._read_rows(asked.accounts, asked.records, asked.claims)
            )

    async def _read_rows(
        self, accounts: Sequence[str], records: Sequence[bytes], claims: Sequence[str]
    ) -> Loaded:
        """Rows no older than the last flush acknowledged by the time they are here (rule 23)."""
        while True:
            try:
                loaded = await self._database.load(self.bucket, accounts, records, claims)
            except DatabaseUnavailable as error:
                _log.error("bucket %d waits for rows: %s", self.bucket, error)
                await self._clock.sleep(_RELOAD_SECONDS)
                continue
            if loaded.applied >= self._flusher.flushed:
                return loaded

    def _apply(self, entry: Entry, proposal: Proposal) -> list[Waiting]:
        answers = self._ledger.apply(entry.index, entry.term, proposal)
        self._flusher.behind += sum(map(len, answers))
        if self._anchors.is_asked:
            self._tell_anchors(proposal, answers)
        proposed = self._proposals.applied(proposal)
        if proposed is None:
            return []
        waiting: list[Waiting] = []
        for batch, route, given in zip(proposed.batches, proposed.routes, answers, strict=True):
            if route.peer:
                self._answer(batch, route, given, waiting)
        return waiting

    def _tell_anchors(self, proposal: Proposal, answers: list[list[Answer]]) -> None:
        """Whoever waits for legs that this entry has settled waits no longer."""
        for batch, given in zip(proposal.batches, answers, strict=True):
            for instruction, answer in zip(batch.instructions, given, strict=True):
                if isinstance(instruction, Commit | Abort) and answer.code in _SETTLED:
                    self._anchors.on_settled(instruction)

    def _answer(
        self, batch: Batch, route: ReplyTo, given: list[Answer], waiting: list[Waiting]
    ) -> None:
        answers: list[tuple[int, Answer]] = []
        for position, answer in enumerate(given):
            place = route.place(position)
            if place < 0:
                continue
            if answer.code is Code.PENDING_ON:
                instruction = batch.instructions[position]
                if isinstance(instruction, Prepare | Decide):
                    waiting.append(Waiting(route, place, instruction, answer.xids))
                    continue
                # Whoever asked asks again: proposed here a second time, it could come behind its own end.
                self._to_settle[answer.xids] = None
                answer = Answer(Code.PENDING_ON)
            elif answer.code is Code.FAILED:
                self._seldom.warning(
                    "failed",
                    "bucket %d: a %s of node %d failed, alike on every replica (%s): a fault of that node's program, "
                    "or of this one's",
                    self.bucket,
                    type(batch.instructions[position]).__name__,
                    route.peer,
                    answer.detail,
                )
            answers.append((place, answer))
        if answers:
            self._reply(route.peer, Answers(route.request, tuple(answers)))

    def _have_all_settled(self) -> None:
        """What this turn's answers named, once, however many named it."""
        wanted, self._to_settle = self._to_settle, {}
        self._have_settled(dict.fromkeys(xid for xids in wanted for xid in xids))

    def _have_settled(self, xids: Iterable[bytes]) -> None:
        """Ask the anchors of these legs, for whoever comes to ask again."""
        if self._leadership.leading:
            for xid in xids:
                if (legs := self._ledger.legs.get(xid)) is not None:
                    self._anchors.ask(legs, _nobody)

    # -- rule 15: what waits for other payments' anchors -------------------------------------------------

    def _settle(self, outcome: Commit | Abort) -> None:
        """An anchor has told what became of legs that are prepared here."""
        self._go_on_soon()
        self._settlements.append(outcome)

    def _propose_again(self, items: list[Waiting], left_out: tuple[bytes, ...]) -> None:
        self._go_on_soon()
        self._second_proposals.append((items, left_out))

    def _go_on_soon(self) -> None:
        if not self._settlements and not self._second_proposals:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        """What the anchors have said in this turn, and behind it the second proposals."""
        settled, self._settlements = self._settlements, []
        second, self._second_proposals = self._second_proposals, []
        if not self._leadership.leading:
            self._turn_back([item for items, _ in second for item in items])
            return
        for start in range(0, len(settled), TURN_INSTRUCTIONS_MAX):
            batch = Batch(b"", 0, tuple(settled[start : start + TURN_INSTRUCTIONS_MAX]))
            self._proposals.add(Item.of(batch, OWN))
        for items, left_out in second:
            for batch, route in second_proposals(items, left_out):
                self._proposals.add(Item.of(batch, route))
        self._propose()

    def _end_set_aside(self, batch: Batch) -> None:
        """What waits for others' anchors ends with its attempt: prepared behind that, it would hold funds for nobody."""
        for instruction in batch.instructions:
            if isinstance(instruction, Abort) and (item := self._set_aside.end(instruction.xid)):
                answer = Answer(Code.CONTENDED, Reason.CONTENDED, detail="its attempt has ended")
                reply = Answers(item.route.request, ((item.position, answer),))
                self._reply(item.route.peer, reply)

    def _turn_back(self, waiting: list[Waiting]) -> None:
        """Naming the positions: what else the request brought may be done, and its answer lost on the way."""
        leader = self._leadership.leader
        for item in waiting:
            turned = Rejected(
                item.route.request,
                RejectReason.NOT_LEADING,
                positions=(item.position,),
                leader=leader,
            )
            self._reply(item.route.peer, turned)

    def _after_apply(self) -> None:
        self._propose()
        applied = self._ledger.bucket.applied
        if self._leadership.leader:  # what is replayed at the start comes from nobody
            self._heard_leader = self._clock.monotonic()
        self._group.set_applied(applied, self._flusher.flushed)
        self._flusher.wake()
        # Here and nowhere else: what an apply has loaded must not leave before it is applied.
        self._ledger.evict(self._settings.cached_rows)
        while self._reads_waiting and self._reads_waiting[0][0] <= applied:
            self._answer_reads(self._reads_waiting.pop(0)[1])

    def _on_leadership(self, leadership: Leadership) -> None:
        """What an earlier leadership proposed and lost sight of is unknown to whoever asked (rule 39)."""
        self._leadership = leadership
        lost, waited = self._proposals.give_up()
        for proposed in lost:
            self._turn_away(
                proposed, RejectReason.UNKNOWN, "leadership was lost", leadership.leader
            )
        for proposed in waited:
            self._turn_away(proposed, RejectReason.NOT_LEADING, "", leadership.leader)
        self._turn_back(self._set_aside.give_up())
        if leadership.leading:
            now = self._clock.monotonic()
            self._resolver.lead(now, self._ledger.legs)
            self._heard = dict.fromkeys(self._ledger.incarnations(), now)
            self._propose_genesis()

    def _propose_genesis(self) -> None:
        """The first entry of a new bucket (rule 20); a second one changes nothing."""
        if not self._ledger.bucket.buckets:
            self._submit_own(Genesis(self._settings.cluster, self.bucket, self._settings.buckets))

    async def _on_restored(self, restored: Restored) -> None:
        """A snapshot is in the database: memory starts from there, and events that waited for it never come."""
        self._on_leadership(Leadership(restored.term, 0, leading=False))
        abandoned, self._reads = self._reads, {}
        for read in (read for reads in abandoned.values() for read in reads):
            self._reply(read.peer, self._not_leading(read.request.request))
        kept = await self._open_database()
        before = self._flusher
        self._start_from(kept)
        before.retire()

    async def _open_database(self) -> ResidentState:
        """An installation has just taken of the disk what it could: the bucket waits here as everywhere else."""
        while True:
            try:
                return await self._database.open(self.bucket, writer_mark(self._proposer))
            except DatabaseUnavailable as error:
                _log.error(
                    "bucket %d waits for the database behind a snapshot: %s", self.bucket, error
                )
                await self._clock.sleep(_RELOAD_SECONDS)

    # -- error_c: what the group did not take -----------------------------------------------------------

    async def _error_turn(self) -> None:
        for refused in await self._group.error_c.drain():
            why, leader = _why(refused)
            if refused.read:
                for read in self._reads.pop(refused.number, []):
                    self._reply(read.peer, Rejected(read.request.request, why, leader=leader))
            elif proposed := self._proposals.refused(refused.number):
                self._turn_away(proposed, why, str(refused.error), leader)
        self._propose()

    # -- reads -------------------------------------------------------------------------------------------

    def _take_reads(self, reads: list[Read]) -> None:
        """All linearizable reads of a turn share one read index."""
        firm: list[Read] = []
        for read in reads:
            request = read.request
            level = request.level if isinstance(request, ReadAccounts) else ReadLevel.LINEARIZABLE
            if level is not ReadLevel.STALE and not self._leadership.leading:
                self._reply(read.peer, self._not_leading(request.request))
            elif level is ReadLevel.LINEARIZABLE:
                firm.append(read)
            else:
                self._answer_reads([read])
        if firm:
            number = self._proposals.next_number()
            try:
                self._group.read_index(number)
            except Overloaded as error:
                for read in firm:
                    reply = Rejected(
                        read.request.request, RejectReason.OVERLOADED, detail=str(error)
                    )
                    self._reply(read.peer, reply)
            else:
                self._reads[number] = firm

    def _on_read_ready(self, ready: ReadReady) -> None:
        for number in ready.numbers:
            reads = self._reads.pop(number, [])
            if ready.index <= self._ledger.bucket.applied:
                self._answer_reads(reads)
            else:
                self._reads_waiting.append((ready.index, reads))

    def _answer_reads(self, reads: list[Read]) -> None:
        """Answer what memory can; what must be loaded waits for its rows, and for nobody else's."""
        for read in reads:
            if self._clock.monotonic() > read.gives_up:
                continue
            try:
                if missing_numbers(self._ledger, read.request):
                    self._read_later(read, self._reads_to_load)
                else:
                    self._answer_read(read)
            except Exception as error:  # noqa: BLE001 - it ends this read alone
                self._fail_read(read, error)

    def _read_later(self, read: Asked, queue: Mailbox[Asked]) -> None:
        if not queue.offer(read):
            detail = f"bucket {self.bucket} has too many reads waiting"
            reply = Rejected(read.request.request, RejectReason.OVERLOADED, detail=detail)
            self._reply(read.peer, reply)

    def _answer_read(self, read: Read) -> None:
        request = read.request
        if isinstance(request, ReadClaims):
            self._reply(read.peer, view_claims(self._ledger, request))
            return
        if isinstance(request, ReadNodes):
            self._reply(read.peer, view_nodes(self._ledger, request))
            return
        if isinstance(request, ReadPostings):
            self._answer_statement(read, request)
            return
        if request.level is ReadLevel.LINEARIZABLE:
            noted = [self._note(number) for number in request.numbers]
            LinearizableRead(request, noted, lambda reply: self._reply(read.peer, reply)).answer()
            return
        if request.level is not ReadLevel.STALE:
            self._have_opened(request.numbers)
        age_ms = round(1000 * (self._clock.monotonic() - self._heard_leader))
        self._reply(read.peer, view_accounts(self._ledger, request, self.bucket, age_ms))

    def _note(self, number: str) -> Noted:
        """Reads that note an account at the same index wait for the same legs."""
        if self._noted_at != self._ledger.bucket.applied:
            self._noted_at = self._ledger.bucket.applied
            self._noted.clear()
        noted = self._noted.get(number)
        if noted is None:
            noted = Noted(self._ledger, self.bucket, number, self._anchors)
            if not noted.is_decided:
                self._noted[number] = noted
        return noted

    def _have_opened(self, numbers: Sequence[str]) -> None:
        """Whoever reads an account that isn't here yet may have been told of its creation, and asks again."""
        for legs in self._ledger.prepared_on(numbers):
            if legs.kind is Kind.CREATION:
                self._have_settled((legs.xid,))

    def _answer_statement(self, read: Read, request: ReadPostings) -> None:
        """Once the payments that it has to show are posted."""

        def on_posted(in_time: bool) -> None:  # noqa: FBT001 - a result, not an option
            if in_time:
                stored = Stored(read.peer, request, read.gives_up)
                self._read_later(stored, self._statements)
            else:
                detail = f"{shorten(request.number)} has a payment under way whose payer's bucket doesn't answer"
                self._reply(
                    read.peer, Rejected(request.request, RejectReason.UNAVAILABLE, detail=detail)
                )

        if legs := shown(self._ledger, request):
            Posted(legs, self._anchors, on_posted)
        else:
            on_posted(True)  # noqa: FBT003 - its one argument

    async def _load_turn(self) -> None:
        for read in await self._reads_to_load.drain():
            try:
                await self._answer_loaded(read)
            except Exception as error:  # noqa: BLE001 - it ends this read alone
                self._fail_read(read, error)

    async def _statement_turn(self) -> None:
        """From the database, once it holds all that is applied now (rule 29, database reads; the simple way): one flush for a turn.

        What has waited for too long is asked anew by then, and would be read for nobody.
        """
        statements = await self._statements.drain()
        lag_ms = round(1000 * self._flusher.lag_seconds())
        await self._flusher.wait_flushed()
        for read in statements:
            if self._clock.monotonic() > read.gives_up:
                continue
            try:
                await self._answer_stored(read, lag_ms)
            except Exception as error:  # noqa: BLE001 - it ends this read alone
                self._fail_read(read, error)

    def _fail_read(self, read: Read | Stored, error: Exception) -> None:
        """A read changes nothing: whatever raises in one ends that one, and nothing else."""
        _log.error("bucket %d: a read of node %d failed", self.bucket, read.peer, exc_info=error)
        detail = f"the read failed by a fault of the server ({type(error).__name__})"
        self._reply(read.peer, Rejected(read.request.request, RejectReason.FAILED, detail=detail))

    async def _answer_loaded(self, read: Read) -> None:
        while numbers := missing_numbers(self._ledger, read.request):
            if self._clock.monotonic() > read.gives_up:
                return
            is_claim = isinstance(read.request, ReadClaims)
            asked = Missing([], [], numbers) if is_claim else Missing(numbers, [], [])
            loaded = await self._read_rows(asked.accounts, asked.records, asked.claims)
            self._ledger.load(asked, loaded)
        self._answer_read(read)

    async def _answer_stored(self, read: Stored, lag_ms: int) -> None:
        request = read.request
        reply: Reply
        try:
            reply = (
                await self._postings(request)
                if isinstance(request, ReadPostings)
                else await self._bucket_view(request, lag_ms)
            )
        except DatabaseUnavailable as error:
            reply = Rejected(request.request, RejectReason.UNAVAILABLE, detail=str(error))
        self._reply(read.peer, reply)

    async def _postings(self, request: ReadPostings) -> Postings:
        found = await self._database.load(self.bucket, (request.number,), (), ())
        _, postings = await self._database.postings(
            self.bucket, request.number, request.before, request.limit
        )
        exists = request.number in found.accounts
        return Postings(request.request, exists, view_postings(postings))

    async def _bucket_view(self, request: ReadBucket, lag_ms: int) -> BucketView:
        row = await self._database.bucket_row(self.bucket)
        totals = await self._database.totals(self.bucket)
        bucket = self._ledger.bucket
        return BucketView(
            request=request.request,
            bucket=self.bucket,
            leader=self._leadership.leader,
            term=bucket.term,
            commit=bucket.applied,
            applied=totals.applied,
            flushed=self._flusher.flushed,
            accounts=totals.accounts,
            balances=totals.balances,
            external=totals.external,
            prepared=len(self._ledger.legs),
            records=totals.records,
            postings=totals.postings,
            state_hash=f"{row.state_hash if row else 0:032x}",
            lag_ms=lag_ms,
        )

    # -- the rest: flushes, the resolver, the filter -----------------------------------------------------

    async def _flush_turn(self) -> None:
        flusher = self._flusher
        await flusher.flush()
        if flusher is self._flusher:
            self._group.set_applied(self._ledger.bucket.applied, flusher.flushed)

    async def _resolve_turn(self) -> None:
        """The leader asks the anchors of legs older than the lock timeout, and closes incarnations long silent."""
        await self._clock.sleep(_RESOLVE_SECONDS if self._ledger.legs else _IDLE_SECONDS)
        if not self._leadership.leading:
            return
        self._propose_genesis()  # where the group had no room for the one at the start
        now = self._clock.monotonic()
        self._resolver.observe(now, self._ledger.legs)
        for anchor, asked in questions(self._resolver.due(now)).items():
            self._ask(anchor, asked)
        self._close_silent(now)

    def _ask(self, anchor: int, asked: list[Resolve]) -> None:
        def on_answer(position: int, answer: Answer | Rejected) -> None:
            ask = asked[position]
            decided = instruct(ask.xid, ask.attempt, answer) if isinstance(answer, Answer) else None
            if decided is not None and self._leadership.leading:
                self._submit_own(decided)

        self._buckets.submit(anchor, Batch(b"", 0, tuple(asked)), on_answer)

    def _close_silent(self, now: float) -> None:
        silent = [
            incarnation
            for incarnation, heard in self._heard.items()
            if now - heard > _INCARNATION_SILENT_SECONDS
        ]
        still_open = set(self._ledger.incarnations()) if silent else ()
        for incarnation in silent:
            if incarnation in still_open:
                # Again a little later: nothing is done while a leg of it is prepared, or where the group has no room.
                self._heard[incarnation] += _CLOSE_AGAIN_SECONDS
                self._submit_own(CloseIncarnation(incarnation))
            else:
                del self._heard[incarnation]

    async def _filter_turn(self) -> None:
        """Until the filter holds every record's id it answers "maybe" (rule 24)."""
        await self._filter_empty.wait()
        self._filter_empty.clear()
        ledger, after = self._ledger, b""
        while page := await self._payment_ids(after):
            ledger.filter.add_all(page)
            after = page[-1]
        ledger.filter.complete()

    async def _payment_ids(self, after: bytes) -> list[bytes]:
        while True:
            try:
                return await self._database.payment_ids(self.bucket, after, _FILTER_PAGE)
            except DatabaseUnavailable as error:
                _log.error("bucket %d's filter waits for records: %s", self.bucket, error)
                await self._clock.sleep(_RELOAD_SECONDS)


def _nobody(_: bytes, __: Word) -> None:
    """Whatever it is, it is settled here, and nobody waits for it."""


def _deadline(now: float, left_ms: int) -> float:
    """Counted from here: clocks needn't agree. A sender that doesn't say waits for ever."""
    return now + left_ms / 1000 if left_ms else math.inf


def _why_refused(error: MasError) -> RejectReason:
    if isinstance(error, InvalidRequest):
        return RejectReason.INVALID
    return RejectReason.OVERLOADED if isinstance(error, Overloaded) else RejectReason.UNAVAILABLE


def _why(refused: Refused) -> tuple[RejectReason, int]:
    if isinstance(refused.error, NotLeading):
        return RejectReason.NOT_LEADING, refused.error.leader
    return RejectReason.OVERLOADED, 0
