"""What a group's users ask of it: proposals and reads wait here for the host's turn, and refusals go back.

    propose_c ──► take_proposals ──► core
    reads     ──► take_reads     ──► core ──► finish_round ──► ReadReady
    error_c   ◄── refusals of both

Nothing more is taken while a refusal finds no room in error_c, so that nobody's answer is lost.
"""

from collections import deque

import msgspec

from mas.errors import MailboxClosed, MasError, NotLeading, Overloaded
from mas.limits import TURN_BYTES_MAX
from mas.multiraft.events import Refused
from mas.raft import NotLeader, ProposalDropped, RawNode
from mas.runtime import Mailbox

_PROPOSALS = 1_024
_READS = 65_536


class Proposal(msgspec.Struct, frozen=True, gc=False):
    """Bytes to propose; `number` names them in a refusal."""

    number: int
    data: bytes


class GroupIntake:
    """Queues one group's proposals and reads, hands them to its core, and refuses what the core doesn't take."""

    def __init__(self, group: int) -> None:
        self.propose_c: Mailbox[Proposal] = Mailbox(f"propose_c {group}", _PROPOSALS)
        self.reads: Mailbox[int] = Mailbox(f"reads {group}", _READS)
        """The numbers of reads that wait for a round of heartbeats."""
        self.error_c: Mailbox[Refused] = Mailbox(f"error_c {group}", _PROPOSALS)
        self._group = group
        self._rounds: dict[bytes, tuple[int, ...]] = {}
        self._last_round = 0
        self._refusals: deque[Refused] = deque()

    @property
    def is_refusing(self) -> bool:
        """Whether a refusal waits for room in error_c."""
        return bool(self._refusals)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and no read is under way."""
        return not (len(self.propose_c) or len(self.reads) or self._rounds or self._refusals)

    # -- to the core ---------------------------------------------------------------------------

    def take_proposals(self, core: RawNode) -> None:
        """Propose what waits, up to a turn's bytes (rule 38, bounded turns)."""
        size = 0
        while size < TURN_BYTES_MAX and len(self.propose_c):
            [proposal] = self.propose_c.drain_nowait(1)
            number, data = proposal.number, proposal.data
            size += len(data)
            try:
                core.propose(data)
            except NotLeader as error:
                self._refuse(Refused(number, NotLeading(str(error), error.leader)))
            except ProposalDropped as error:
                self._refuse(Refused(number, _why_dropped(core, error)))

    def take_reads(self, core: RawNode) -> None:
        """Begin one round of heartbeats for all reads that wait (rule 32, lease-based reads). Call it on the leader only."""
        if not len(self.reads):
            return
        self._last_round += 1
        context = self._last_round.to_bytes(8)
        self._rounds[context] = tuple(self.reads.drain_nowait())
        core.read_index(context)

    def finish_round(self, context: bytes) -> tuple[int, ...]:
        """Return the numbers of the reads that a confirmed round was for; none where they were refused meanwhile."""
        return self._rounds.pop(context, ())

    # -- refusals ------------------------------------------------------------------------------

    def refuse_rounds(self, leader: int) -> None:
        """Refuse the reads that are under way. `leader`: whom to ask instead, 0 for nobody known."""
        rounds, self._rounds = self._rounds, {}
        for numbers in rounds.values():
            self.refuse_reads(numbers, leader)

    def refuse_waiting_reads(self, leader: int) -> None:
        """Refuse the reads that wait for a round."""
        if len(self.reads):
            self.refuse_reads(tuple(self.reads.drain_nowait()), leader)

    def refuse_all(self, why: str) -> None:
        """Refuse whatever waits or is under way, because this replica is stopped."""
        for proposal in self.propose_c.drain_nowait():
            self._refuse(Refused(proposal.number, NotLeading(why)))
        self.refuse_rounds(0)
        self.refuse_waiting_reads(0)

    def refuse_reads(self, numbers: tuple[int, ...], leader: int) -> None:
        """Refuse these reads."""
        error: MasError = NotLeading(
            f"this node doesn't lead bucket {self._group} (any more): ask its leader", leader
        )
        for number in numbers:
            self._refuse(Refused(number, error, read=True))

    def send_refusals(self) -> None:
        """Send the refusals that error_c has room for; the others wait."""
        try:
            while self._refusals and self.error_c.offer(self._refusals[0]):
                self._refusals.popleft()
        except MailboxClosed:
            self._refusals.clear()

    def _refuse(self, refused: Refused) -> None:
        self._refusals.append(refused)
        self.send_refusals()


def _why_dropped(core: RawNode, error: ProposalDropped) -> MasError:
    """Send whoever proposes to the next leader while leadership is transferred: there is room enough there."""
    target = core.status().lead_transferee
    return NotLeading(str(error), target) if target else Overloaded(str(error))
