"""Applies what the group has committed, in order, and answers what this leader proposed itself.

The rows that entries need are loaded in one query before they are applied; nothing that an apply has loaded leaves memory
before it is applied.
"""

import logging
from collections.abc import Callable, Sequence

from mas.ledger import (
    Abort,
    Answer,
    Batch,
    Code,
    Commit,
    Decide,
    Missing,
    Prepare,
    Proposal,
)
from mas.limits import TURN_SECONDS_MAX
from mas.raft import Entry, EntryType
from mas.resource.anchors import Anchors
from mas.resource.contention import Contention, Waiting, turn_back
from mas.resource.proposals import Proposals
from mas.resource.replica import Replica
from mas.resource.reply_to import ReplyTo, SendReply
from mas.resource.settings import ResourceSettings
from mas.rpc.messages import Answers
from mas.runtime import Clock
from mas.telemetry import Seldom

_log = logging.getLogger(__name__)

_SETTLED = (Code.POSTED, Code.FREED)


class Applier:
    """Turns committed entries into state and answers."""

    def __init__(
        self,
        replica: Replica,
        proposals: Proposals,
        anchors: Anchors,
        contention: Contention,
        on_applied: Callable[[], None],
        reply: SendReply,
        clock: Clock,
        settings: ResourceSettings,
    ) -> None:
        """`on_applied` is called when committed entries are applied, before what they wait for is asked."""
        self._replica = replica
        self._proposals = proposals
        self._anchors = anchors
        self._contention = contention
        self._on_applied = on_applied
        self._reply = reply
        self._clock = clock
        self._unflushed = settings.unflushed
        self._cached_rows = settings.cached_rows
        self._seldom = Seldom(_log, clock.monotonic)
        # Legs that this turn's answers named to those who ask again, once, however many named them.
        self._to_settle: dict[tuple[bytes, ...], None] = {}

    async def apply(self, entries: Sequence[Entry]) -> None:
        """Load what the entries need in one query, then apply them, giving way to others every 10 ms."""
        await self._wait_for_room()
        proposals = [self._decode(entry) for entry in entries]
        await self._load(proposals)
        started = self._clock.monotonic()
        waiting: list[Waiting] = []
        for entry, proposal in zip(entries, proposals, strict=True):
            if proposal is None:
                self._replica.ledger.advance(entry.index, entry.term)
                continue
            waiting.extend(self._apply(entry, proposal))
            if self._clock.monotonic() - started > TURN_SECONDS_MAX:
                await self._clock.sleep(0)
                started = self._clock.monotonic()
        self._proposals.send()
        self._replica.report_applied()
        self._replica.flusher.wake()
        # Here and nowhere else: between load and apply, an evicted row would be missing.
        self._replica.rows.evict(self._cached_rows)
        self._on_applied()
        self._have_settled()
        if self._replica.leading:
            self._contention.add(waiting)
        else:
            turn_back(waiting, self._replica, self._reply)

    async def _wait_for_room(self) -> None:
        """A leader turns new work away; a follower stops where memory holds too much that its database doesn't."""
        if not self._replica.leading:
            await self._replica.flusher.wait_until_below(self._unflushed)

    def _decode(self, entry: Entry) -> Proposal | None:
        if entry.type is not EntryType.NORMAL or not entry.data:
            return None
        return self._proposals.decode(entry.data)

    async def _load(self, proposals: list[Proposal | None]) -> None:
        accounts: dict[str, None] = {}
        records: dict[bytes, None] = {}
        claims: dict[str, None] = {}
        for proposal in proposals:
            if proposal is not None and (missing := self._replica.ledger.missing(proposal)):
                accounts.update(dict.fromkeys(missing.accounts))
                records.update(dict.fromkeys(missing.records))
                claims.update(dict.fromkeys(missing.claims))
        if accounts or records or claims:
            await self._replica.load(Missing(list(accounts), list(records), list(claims)))

    def _apply(self, entry: Entry, proposal: Proposal) -> list[Waiting]:
        answers = self._replica.ledger.apply(entry.index, entry.term, proposal)
        self._replica.flusher.behind += sum(map(len, answers))
        if self._anchors.is_asked:
            self._tell_anchors(proposal, answers)
        proposed = self._proposals.on_applied(proposal)
        if proposed is None:
            return []
        waiting: list[Waiting] = []
        for batch, reply_to, given in zip(
            proposed.batches, proposed.reply_to, answers, strict=True
        ):
            if reply_to.peer:
                self._answer(batch, reply_to, given, waiting)
        return waiting

    def _tell_anchors(self, proposal: Proposal, answers: list[list[Answer]]) -> None:
        """Whoever waits for legs that this entry has settled waits no longer."""
        for batch, given in zip(proposal.batches, answers, strict=True):
            for instruction, answer in zip(batch.instructions, given, strict=True):
                if isinstance(instruction, Commit | Abort) and answer.code in _SETTLED:
                    self._anchors.on_settled(instruction)

    def _answer(
        self, batch: Batch, reply_to: ReplyTo, given: list[Answer], waiting: list[Waiting]
    ) -> None:
        answers: list[tuple[int, Answer]] = []
        for i, answer in enumerate(given):
            position = reply_to.position_in_request(i)
            if answer.code is Code.PENDING_ON:
                instruction = batch.instructions[i]
                if isinstance(instruction, Prepare | Decide):
                    waiting.append(Waiting(reply_to, position, instruction, answer.xids))
                    continue
                # Whoever asked asks again: proposed here a second time, it could come behind its own end.
                self._to_settle[answer.xids] = None
                answer = Answer(Code.PENDING_ON)
            elif answer.code is Code.FAILED:
                self._seldom.warning(
                    "failed",
                    "bucket %d: a %s of node %d failed, alike on every replica (%s): a fault of that node's program, "
                    "or of this one's",
                    self._replica.bucket,
                    type(batch.instructions[i]).__name__,
                    reply_to.peer,
                    answer.detail,
                )
            answers.append((position, answer))
        if answers:
            self._reply(reply_to.peer, Answers(reply_to.request, tuple(answers)))

    def _have_settled(self) -> None:
        """Ask the anchors of the legs that this turn's answers named, for whoever asks again."""
        named, self._to_settle = self._to_settle, {}
        if self._replica.leading:
            for xid in dict.fromkeys(xid for xids in named for xid in xids):
                if (legs := self._replica.rows.legs.get(xid)) is not None:
                    self._anchors.ask_to_settle(legs)
