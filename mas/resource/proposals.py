"""What this leader proposes: as few and as large entries as the load asks for, and whom each is for.

While an entry is on its way, what comes waits and is the next one; only full entries follow each other at once. So under
light load an entry carries one instruction and leaves at once, and under heavy load as many as the bounds of a turn allow.
"""

import math
from collections import deque
from collections.abc import Sequence

import msgspec

from mas.decoding import msgpack_decoder
from mas.errors import CorruptData, InvalidRequest, MasError, Overloaded, Unavailable
from mas.ledger import (
    LEDGER_VERSION,
    Abort,
    Batch,
    Instruction,
    Prepare,
    Proposal,
    RawProposal,
    decode_proposal,
    encode,
)
from mas.ledger.instructions import RejectReason
from mas.limits import MAILBOX_ITEMS_MAX, TURN_BYTES_MAX, TURN_INSTRUCTIONS_MAX
from mas.multiraft.events import Refused
from mas.resource.ports import Group
from mas.resource.reply_to import OWN, Proposed, ReplyTo, SendReply, reject_reason
from mas.rpc.messages import Rejected
from mas.runtime import Clock

_ON_THEIR_WAY_MAX = 4
"""Entries between the leader and its own apply."""

_decode_raw = msgpack_decoder(RawProposal, "an entry", CorruptData)


class Item(msgspec.Struct, frozen=True, gc=False):
    """A batch to propose, its bytes as they will be in the log, and whom its answers are for."""

    batch: Batch
    raw: msgspec.Raw
    reply_to: ReplyTo
    deadline: float = math.inf
    """Monotonic seconds: whoever sent it waits no longer."""

    @classmethod
    def of(cls, batch: Batch, reply_to: ReplyTo, deadline: float = math.inf) -> "Item":
        """A batch that this bucket's leader has made itself."""
        return cls(batch, msgspec.Raw(encode(batch)), reply_to, deadline)

    def part(self, positions: Sequence[int]) -> "Item":
        """Some of its instructions, each for whom it was."""
        batch, whole = self.batch, self.reply_to
        instructions = tuple([batch.instructions[position] for position in positions])
        in_request = tuple([whole.position_in_request(position) for position in positions])
        return Item.of(
            Batch(batch.incarnation, batch.low_water, instructions, batch.left_out),
            ReplyTo(whole.peer, whole.request, in_request),
            self.deadline,
        )


class Proposals:
    """The proposals of one bucket's leader, waiting and on their way."""

    def __init__(self, group: Group, proposer: int, reply: SendReply, clock: Clock) -> None:
        """`proposer` marks what this process has proposed."""
        self._group = group
        self._proposer = proposer
        self._reply = reply
        self._clock = clock
        # What ends something goes before all that begins something, however long it has waited (rule 16, admission).
        self._ending: deque[Item] = deque()
        self._beginning: deque[Item] = deque()
        # Attempts whose ABORT has overtaken what waits: their PREPARE would hold funds for nobody.
        self._ended: set[bytes] = set()
        self._waiting_instructions = 0
        self._waiting_bytes = 0
        self._on_their_way: dict[int, Proposed] = {}
        self._last_number = 0
        self.instructions = 0
        """Instructions waiting or on their way."""

    def next_number(self) -> int:
        """A number that names a proposal or a read of this process, and nothing else."""
        self._last_number += 1
        return self._last_number

    def add(self, item: Item, *, begins: bool = False) -> None:
        """Have it proposed, by the next `send`: before all that begins something, or behind it."""
        (self._beginning if begins else self._ending).append(item)
        self._enter(item)
        self.instructions += len(item.batch.instructions)
        if self._beginning and not begins:
            self._ended.update(i.xid for i in item.batch.instructions if isinstance(i, Abort))
            if len(self._ended) > MAILBOX_ITEMS_MAX:
                self._ended.clear()  # what is prepared all the same asks its anchor, and is freed

    def add_own(self, *instructions: Instruction) -> None:
        """Have this leader's own instructions proposed; they end something, and nobody is answered."""
        self.add(Item.of(Batch(b"", 0, instructions), OWN))

    def send(self) -> None:
        """Propose what waits, as far as there is room on the way; turn away what the group has no room for.

        What begins something and has waited for longer than its sender does is turned away too.
        """
        refused: list[tuple[Proposed, MasError]] = []
        while self._may_send():
            items = self._take(refused)
            if not items:
                continue
            number = self.next_number()
            proposed = Proposed(
                tuple(item.batch for item in items), tuple(item.reply_to for item in items)
            )
            data = encode(
                RawProposal(
                    LEDGER_VERSION,
                    self._group.stamp_us(),
                    self._proposer,
                    number,
                    tuple(item.raw for item in items),
                )
            )
            try:
                self._group.propose(number, data)
            except (Overloaded, InvalidRequest) as error:
                self.instructions -= proposed.instructions()
                refused.append((proposed, error))
            else:
                self._on_their_way[number] = proposed
        for proposed, why in refused:
            self._turn_away(proposed, *reject_reason(why), str(why))

    def _may_send(self) -> bool:
        if not (self._ending or self._beginning) or len(self._on_their_way) >= _ON_THEIR_WAY_MAX:
            return False
        return not self._on_their_way or self._fills_an_entry()

    def _fills_an_entry(self) -> bool:
        return (
            self._waiting_instructions >= TURN_INSTRUCTIONS_MAX
            or self._waiting_bytes >= TURN_BYTES_MAX
        )

    def _take(self, late: list[tuple[Proposed, MasError]]) -> list[Item]:
        """One entry's worth (rule 38, bounded turns)."""
        now = self._clock.monotonic()
        items: list[Item] = []
        instructions = size = 0
        for lane in (self._ending, self._beginning):
            while lane:
                item = lane[0]
                if item.deadline <= now:
                    self._leave(lane.popleft())
                    self._give_back(item, late)
                    continue
                if self._ended and lane is self._beginning and self._without_ended(item, late):
                    continue
                instructions += len(item.batch.instructions)
                size += len(item.raw)
                if items and (instructions > TURN_INSTRUCTIONS_MAX or size > TURN_BYTES_MAX):
                    return items
                items.append(lane.popleft())
                self._leave(item)
        self._ended.clear()
        return items

    def _without_ended(self, first: Item, late: list[tuple[Proposed, MasError]]) -> bool:
        """Give back what of the first to begin belongs to attempts that have ended; whether there was any."""
        instructions = first.batch.instructions
        gone: list[int] = []
        kept: list[int] = []
        for position, each in enumerate(instructions):
            is_ended = isinstance(each, Prepare) and each.xid in self._ended
            (gone if is_ended else kept).append(position)
        if not gone:
            return False
        self._leave(self._beginning.popleft())
        self._give_back(first.part(gone), late)
        if kept:
            rest = first.part(kept)
            self._beginning.appendleft(rest)
            self._enter(rest)
        return True

    def _enter(self, item: Item) -> None:
        self._waiting_instructions += len(item.batch.instructions)
        self._waiting_bytes += len(item.raw)

    def _leave(self, item: Item) -> None:
        self._waiting_instructions -= len(item.batch.instructions)
        self._waiting_bytes -= len(item.raw)

    def _give_back(self, item: Item, late: list[tuple[Proposed, MasError]]) -> None:
        self.instructions -= len(item.batch.instructions)
        error = Unavailable("nobody waits for it any more: nothing was done")
        late.append((Proposed((item.batch,), (item.reply_to,)), error))

    def decode(self, data: bytes) -> Proposal:
        """An entry's content. Of one that is this leader's own the batches are here already."""
        raw = _decode_raw(data)
        own = self._on_their_way.get(raw.number) if raw.proposer == self._proposer else None
        if own is None:
            return decode_proposal(data)
        return Proposal(raw.version, raw.time_us, raw.proposer, raw.number, own.batches)

    def on_applied(self, proposal: Proposal) -> Proposed | None:
        """This entry is applied: whom to answer, None where this leader didn't propose it or gave it up."""
        return self._arrive(proposal.number) if proposal.proposer == self._proposer else None

    def on_refused(self, refused: Refused) -> None:
        """The group didn't take this proposal, and never will."""
        if proposed := self._arrive(refused.number):
            self._turn_away(proposed, *reject_reason(refused.error), str(refused.error))

    def _arrive(self, number: int) -> Proposed | None:
        proposed = self._on_their_way.pop(number, None)
        if proposed is not None:
            self.instructions -= proposed.instructions()
        return proposed

    def give_up(self, leader: int) -> None:
        """Leadership is lost: what is on its way is unknown now (rule 39, unknown results), and what waited has done nothing."""
        lost = list(self._on_their_way.values())
        waited = [
            Proposed((item.batch,), (item.reply_to,)) for item in (*self._ending, *self._beginning)
        ]
        self._on_their_way.clear()
        self._ending.clear()
        self._beginning.clear()
        self._ended.clear()
        self._waiting_instructions = self._waiting_bytes = self.instructions = 0
        for proposed in lost:
            self._turn_away(proposed, RejectReason.UNKNOWN, leader, "leadership was lost")
        for proposed in waited:
            self._turn_away(proposed, RejectReason.NOT_LEADING, leader)

    def _turn_away(
        self, proposed: Proposed, why: RejectReason, leader: int, detail: str = ""
    ) -> None:
        for batch, reply_to in zip(proposed.batches, proposed.reply_to, strict=True):
            if reply_to.peer:
                positions = reply_to.positions or tuple(range(len(batch.instructions)))
                self._reply(
                    reply_to.peer, Rejected(reply_to.request, why, positions, leader, detail)
                )
