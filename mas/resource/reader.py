"""Answers a bucket's reads: those that memory can answer at once, the others when their rows are loaded or flushed.

    taken ─► read index ─► applied ─► rows in memory ─► legs decided ─► answered      LINEARIZABLE
    taken ──────────────────────────► rows in memory ─────────────────► answered      the other levels
    taken ─► read index ─► applied ─► legs settled ───► flushed ──────► answered      statements
    taken ────────────────────────────────────────────► flushed ──────► answered      a bucket's totals

How an account looks, and to whom, is in `reads`.
"""

import logging
from collections.abc import Sequence
from typing import TypeVar

from mas.errors import DatabaseUnavailable, Overloaded
from mas.ledger import Kind, Missing
from mas.ledger.instructions import RejectReason
from mas.limits import QUESTION_SECONDS_MAX, shorten
from mas.multiraft.events import ReadReady, Refused
from mas.resource.admission import deadline_after
from mas.resource.anchors import Anchors
from mas.resource.ports import AccountDB, Group
from mas.resource.proposals import Proposals
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
from mas.resource.replica import Replica
from mas.resource.reply_to import SendReply, reject_reason
from mas.rpc.messages import (
    BucketView,
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
)
from mas.runtime import Clock, Mailbox

_log = logging.getLogger(__name__)

Asked = TypeVar("Asked", Read, Stored)

_WAITING_MAX = 65_536
_OPEN_MAX = 16_384
_SWEEP_SECONDS = 0.1


class Reader:
    """Owns the reads that a bucket hasn't answered yet."""

    def __init__(
        self,
        replica: Replica,
        group: Group,
        database: AccountDB,
        proposals: Proposals,
        anchors: Anchors,
        reply: SendReply,
        clock: Clock,
    ) -> None:
        self._replica = replica
        self._group = group
        self._database = database
        self._proposals = proposals
        self._anchors = anchors
        self._send_reply = reply
        self._clock = clock
        self._heard_leader = clock.monotonic()
        # When each read that isn't answered yet is given up by its asker, by peer and request.
        self._open: dict[tuple[int, int], float] = {}
        self._swept = 0.0
        self._taken: list[Read] = []
        self._indexing: dict[int, list[Read]] = {}
        self._indexed: list[tuple[int, list[Read]]] = []
        self._to_load: Mailbox[Read] = Mailbox(f"reads-{replica.bucket}", _WAITING_MAX)
        self._to_flush: Mailbox[Stored] = Mailbox(f"statements-{replica.bucket}", _WAITING_MAX)
        # Linearizable reads of one account at one index wait for the same legs.
        self._noted: dict[str, Noted] = {}
        self._noted_at = 0

    # -- what is asked -----------------------------------------------------------------------------------

    def take(self, peer: int, request: ReadRequest) -> None:
        """Have this read answered, from the next `begin` on."""
        gives_up = self._admit(peer, request)
        if gives_up is None:
            return
        if isinstance(request, ReadBucket):
            self._read_later(Stored(peer, request, gives_up), self._to_flush)
        else:
            self._taken.append(Read(peer, request, gives_up))

    def _admit(self, peer: int, request: ReadRequest) -> float | None:
        """Give a read a place until its asker gives it up or it is answered, and return when that is; None if no place is left."""
        now = self._clock.monotonic()
        if len(self._open) >= _OPEN_MAX and now - self._swept > _SWEEP_SECONDS:
            self._swept = now
            self._open = {read: gives_up for read, gives_up in self._open.items() if gives_up > now}
        if len(self._open) >= _OPEN_MAX:
            detail = f"bucket {self._replica.bucket} has {_OPEN_MAX} reads under way"
            self._reject(peer, request, RejectReason.OVERLOADED, detail)
            return None
        gives_up = min(deadline_after(now, request.left_ms), now + QUESTION_SECONDS_MAX)
        self._open[peer, request.request] = gives_up
        return gives_up

    def begin(self) -> None:
        """Begin what was taken in this turn; all its linearizable reads share one read index."""
        taken, self._taken = self._taken, []
        linearizable: list[Read] = []
        for read in taken:
            request = read.request
            level = request.level if isinstance(request, ReadAccounts) else ReadLevel.LINEARIZABLE
            if level is not ReadLevel.STALE and not self._replica.leading:
                self._reply(read.peer, self._replica.not_leading(request.request))
            elif level is ReadLevel.LINEARIZABLE:
                linearizable.append(read)
            else:
                self._answer_all([read])
        if not linearizable:
            return
        number = self._proposals.next_number()
        try:
            self._group.read_index(number)
        except Overloaded as error:
            for read in linearizable:
                self._reject(read.peer, read.request, RejectReason.OVERLOADED, str(error))
        else:
            self._indexing[number] = linearizable

    # -- what the group says -----------------------------------------------------------------------------

    def on_ready(self, ready: ReadReady) -> None:
        """These reads may be answered by the state at this index, or any later one."""
        for number in ready.numbers:
            reads = self._indexing.pop(number, [])
            if ready.index <= self._replica.rows.bucket.applied:
                self._answer_all(reads)
            else:
                self._indexed.append((ready.index, reads))

    def on_refused(self, refused: Refused) -> None:
        """The group gives no index for these reads."""
        why, leader = reject_reason(refused.error)
        for read in self._indexing.pop(refused.number, []):
            self._reply(read.peer, Rejected(read.request.request, why, leader=leader))

    def on_applied(self) -> None:
        """Entries have been applied: answer the reads that waited for them."""
        if self._replica.leadership.leader:  # what is replayed at the start comes from nobody
            self._heard_leader = self._clock.monotonic()
        applied = self._replica.rows.bucket.applied
        while self._indexed and self._indexed[0][0] <= applied:
            self._answer_all(self._indexed.pop(0)[1])

    def give_up(self) -> None:
        """A snapshot takes the place of the log: the indices that these reads wait for never come."""
        abandoned, self._indexing = self._indexing, {}
        for read in (read for reads in abandoned.values() for read in reads):
            self._reply(read.peer, self._replica.not_leading(read.request.request))

    def restart(self) -> None:
        """The ledger is another one."""
        self._noted.clear()

    # -- from memory -------------------------------------------------------------------------------------

    def _answer_all(self, reads: list[Read]) -> None:
        """Answer what memory can; what must be loaded waits for its rows, and for nobody else's."""
        for read in reads:
            if self._clock.monotonic() > read.gives_up:
                continue
            try:
                if missing_numbers(self._replica.rows, read.request):
                    self._read_later(read, self._to_load)
                else:
                    self._answer(read)
            except Exception as error:  # noqa: BLE001 - it ends this read alone
                self._fail(read, error)

    async def load(self) -> None:
        """Wait for reads whose rows aren't in memory, load these and answer."""
        for read in await self._to_load.drain():
            try:
                await self._answer_loaded(read)
            except Exception as error:  # noqa: BLE001 - it ends this read alone
                self._fail(read, error)

    async def _answer_loaded(self, read: Read) -> None:
        while numbers := missing_numbers(self._replica.rows, read.request):
            if self._clock.monotonic() > read.gives_up:
                return
            is_claim = isinstance(read.request, ReadClaims)
            await self._replica.load(
                Missing([], [], numbers) if is_claim else Missing(numbers, [], [])
            )
        self._answer(read)

    def _answer(self, read: Read) -> None:
        rows = self._replica.rows
        match read.request:
            case ReadClaims() as request:
                self._reply(read.peer, view_claims(rows, request))
            case ReadNodes() as request:
                self._reply(read.peer, view_nodes(rows, request))
            case ReadPostings() as request:
                self._answer_statement(read, request)
            case ReadAccounts() as request if request.level is ReadLevel.LINEARIZABLE:
                noted = [self._note(number) for number in request.numbers]
                done = LinearizableRead(request, noted, lambda reply: self._reply(read.peer, reply))
                done.answer()
            case ReadAccounts() as request:
                if request.level is not ReadLevel.STALE:
                    self._have_opened(request.numbers)
                age_ms = round(1000 * (self._clock.monotonic() - self._heard_leader))
                views = view_accounts(rows, request, self._replica.bucket, age_ms)
                self._reply(read.peer, views)

    def _note(self, number: str) -> Noted:
        """Reads that note an account at the same index wait for the same legs."""
        rows = self._replica.rows
        if self._noted_at != rows.bucket.applied:
            self._noted_at = rows.bucket.applied
            self._noted.clear()
        noted = self._noted.get(number)
        if noted is None:
            noted = Noted(rows, self._replica.bucket, number, self._anchors)
            if not noted.is_decided:
                self._noted[number] = noted
        return noted

    def _have_opened(self, numbers: Sequence[str]) -> None:
        """Whoever reads an account that isn't here yet may have been told of its creation, and asks again."""
        if self._replica.leading:
            for legs in self._replica.rows.prepared_on(numbers):
                if legs.kind is Kind.CREATION:
                    self._anchors.ask_to_settle(legs)

    def _answer_statement(self, read: Read, request: ReadPostings) -> None:
        """Once the payments that it has to show are posted."""

        def on_posted(in_time: bool) -> None:  # noqa: FBT001 - a result, not an option
            if in_time:
                self._read_later(Stored(read.peer, request, read.gives_up), self._to_flush)
            else:
                detail = f"{shorten(request.number)} has a payment under way whose payer's bucket doesn't answer"
                self._reject(read.peer, request, RejectReason.UNAVAILABLE, detail)

        if legs := shown(self._replica.rows, request):
            Posted(legs, self._anchors, on_posted)
        else:
            on_posted(True)  # noqa: FBT003 - its one argument

    # -- from the database -------------------------------------------------------------------------------

    async def read_flushed(self) -> None:
        """Wait for reads of the database; answer once it holds all that is applied now (rule 29, database reads): one flush for a turn.

        What has waited for too long is asked anew by then, and would be read for nobody.
        """
        reads = await self._to_flush.drain()
        lag_ms = round(1000 * self._replica.flusher.lag_seconds())
        await self._replica.flusher.wait_flushed()
        for read in reads:
            if self._clock.monotonic() > read.gives_up:
                continue
            try:
                await self._answer_stored(read, lag_ms)
            except Exception as error:  # noqa: BLE001 - it ends this read alone
                self._fail(read, error)

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
        bucket = self._replica.bucket
        found = await self._database.load(bucket, (request.number,), (), ())
        _, postings = await self._database.postings(
            bucket, request.number, request.before, request.limit
        )
        exists = request.number in found.accounts
        return Postings(request.request, exists, view_postings(postings))

    async def _bucket_view(self, request: ReadBucket, lag_ms: int) -> BucketView:
        replica = self._replica
        row = await self._database.bucket_row(replica.bucket)
        totals = await self._database.totals(replica.bucket)
        return BucketView(
            request=request.request,
            bucket=replica.bucket,
            leader=replica.leadership.leader,
            term=replica.rows.bucket.term,
            commit=replica.rows.bucket.applied,
            applied=totals.applied,
            flushed=replica.flusher.flushed,
            accounts=totals.accounts,
            balances=totals.balances,
            external=totals.external,
            prepared=len(replica.rows.legs),
            records=totals.records,
            postings=totals.postings,
            state_hash=f"{row.state_hash if row else 0:032x}",
            lag_ms=lag_ms,
        )

    # -- replies -----------------------------------------------------------------------------------------

    def _read_later(self, read: Asked, queue: Mailbox[Asked]) -> None:
        if not queue.offer(read):
            detail = f"bucket {self._replica.bucket} has too many reads waiting"
            self._reject(read.peer, read.request, RejectReason.OVERLOADED, detail)

    def _fail(self, read: Read | Stored, error: Exception) -> None:
        """A read changes nothing: whatever raises in one ends that one, and nothing else."""
        bucket = self._replica.bucket
        _log.error("bucket %d: a read of node %d failed", bucket, read.peer, exc_info=error)
        detail = f"the read failed by a fault of the server ({type(error).__name__})"
        self._reject(read.peer, read.request, RejectReason.FAILED, detail)

    def _reject(self, peer: int, request: ReadRequest, why: RejectReason, detail: str) -> None:
        self._reply(peer, Rejected(request.request, why, detail=detail))

    def _reply(self, peer: int, reply: Reply) -> None:
        self._open.pop((peer, reply.request), None)
        self._send_reply(peer, reply)
