"""A ledger without cleverness: it keeps lists, adds them up each time, and tries every way in which what is undecided may end.

It is what the rules say, word by word, where `mas.ledger.rules` has formulas: rule 15's "whatever became of every
other prepared leg" is tried out here, set by set.
"""

from dataclasses import dataclass, field
from itertools import chain, combinations

from mas.ids import xid_counter, xid_incarnation
from mas.ledger import Code, Decide, Prepare, Reason, RecordRefusal, RegisterNode, SetAccount
from mas.limits import BALANCE_MAX

Leg = tuple[str, int]


@dataclass
class Record:
    outcome: Code
    reason: Reason = Reason.NONE
    attempt: int = 0
    xid: bytes = b""
    body_hash: bytes = b""
    owner: str = ""
    """Whose it is; empty where only attempts have died."""


@dataclass
class Node:
    said: RegisterNode | None = None
    """What it said of itself last; None where it was retired unheard."""
    retired: bool = False


@dataclass
class Reference:
    """The accounts exist from the start, and have what has been posted to them."""

    limits: dict[str, int]
    posted: list[Leg] = field(default_factory=list)
    prepared: dict[bytes, tuple[Leg, ...]] = field(default_factory=dict)
    posted_xids: list[bytes] = field(default_factory=list)
    records: dict[bytes, Record] = field(default_factory=dict)
    low_water: dict[bytes, int] = field(default_factory=dict)
    frozen: list[str] = field(default_factory=list)
    marked: list[str] = field(default_factory=list)
    nodes: dict[int, Node] = field(default_factory=dict)

    def balance(self, number: str, also: tuple[Leg, ...] = ()) -> int:
        return sum(amount for other, amount in chain(self.posted, also) if other == number)

    def raise_mark(self, incarnation: bytes, mark: int) -> None:
        self.low_water[incarnation] = max(mark, self.low_water.get(incarnation, 0))

    def is_over(self, xid: bytes) -> bool:
        return xid_counter(xid) < self.low_water.get(xid_incarnation(xid), 0)

    # -- judging -----------------------------------------------------------------------------------------

    def passes(self, leg: Leg, settled: tuple[bytes, ...]) -> bool:
        """Whether the leg could be posted if exactly these of the prepared xids were committed."""
        number, amount = leg
        legs = tuple(chain.from_iterable(self.prepared[xid] for xid in settled))
        after = self.balance(number, legs) + amount
        return after >= -self.limits[number] if amount < 0 else after <= BALANCE_MAX

    def judge_leg(self, leg: Leg, left_out: tuple[bytes, ...]) -> Code | Reason:
        number, _ = leg
        if number not in self.limits:
            return Code.WRONG_BUCKET
        if number in self.marked:
            return Code.LOCK_CONFLICT
        if number in self.frozen:
            return Reason.ACCOUNT_FROZEN
        here = [x for x, legs in self.prepared.items() if any(n == number for n, _ in legs)]
        others = [xid for xid in here if xid not in left_out]
        if all(self.passes(leg, settled) for settled in subsets(here)):
            return Code.PREPARED
        if not any(self.passes(leg, settled) for settled in subsets(others)):
            return Reason.INSUFFICIENT_FUNDS if leg[1] < 0 else Reason.BALANCE_LIMIT
        return Code.CONTENDED if left_out else Code.PENDING_ON

    def judge(self, legs: tuple[Leg, ...], left_out: tuple[bytes, ...]) -> Code | Reason:
        """What the payment hears: of its legs' answers the gravest, and of equals the first."""
        said = [self.judge_leg(leg, left_out) for leg in legs]
        for code in (Code.WRONG_BUCKET, Code.LOCK_CONFLICT):
            if code in said:
                return code
        for each in said:
            if isinstance(each, Reason):
                return each
        return next((each for each in said if each is not Code.PREPARED), Code.PREPARED)

    # -- instructions ------------------------------------------------------------------------------------

    def prepare(self, prepare: Prepare, left_out: tuple[bytes, ...] = ()) -> Code | Reason:
        if prepare.xid in self.prepared:
            return Code.PREPARED
        if self.is_over(prepare.xid):
            return Code.STALE_XID
        if prepare.xid in self.posted_xids:
            return Code.POSTED
        said = self.judge(prepare.legs, left_out)
        if said is Code.PREPARED:
            self.prepared[prepare.xid] = prepare.legs
        return said

    def commit(self, xid: bytes) -> Code:
        if xid in self.prepared:
            self.posted += self.prepared.pop(xid)
            self.posted_xids.append(xid)
            return Code.POSTED
        if self.is_over(xid):
            return Code.OVER
        return Code.POSTED if xid in self.posted_xids else Code.ALARM

    def abort(self, xid: bytes) -> Code:
        if self.prepared.pop(xid, None) is None and self.is_over(xid):
            return Code.OVER
        return Code.ALARM if xid in self.posted_xids else Code.FREED

    def decide(self, decide: Decide, left_out: tuple[bytes, ...] = ()) -> Code | Reason:
        record = self.records.get(decide.payment_id)
        if record and record.outcome is not Code.ABORTED:
            return self.tell(record, decide.body_hash)
        if record and record.attempt >= decide.attempt:
            return Code.ABORTED
        legs = tuple(decide.body.legs[position] for position in decide.own)
        said = self.judge(legs, left_out)
        if said in (Code.WRONG_BUCKET, Code.PENDING_ON):
            return said
        if isinstance(said, Reason):
            record = Record(Code.REFUSED, said, decide.attempt, decide.xid, decide.body_hash)
        elif said is Code.PREPARED:
            record = Record(
                Code.COMMITTED, Reason.NONE, decide.attempt, decide.xid, decide.body_hash
            )
            self.posted += legs
        else:
            record = Record(
                Code.ABORTED, Reason[said.name], decide.attempt, decide.xid, decide.body_hash
            )
        record.owner = next(number for number, amount in decide.body.legs if amount < 0)
        self.records[decide.payment_id] = record
        return self.tell(record, decide.body_hash)

    def end(self, record_refusal: RecordRefusal) -> Code | Reason:
        record = self.records.get(record_refusal.payment_id)
        if record and record.owner not in ("", record_refusal.payer):
            return Code.NONE
        if record and record.outcome is not Code.ABORTED:
            return self.tell(record, record_refusal.body_hash)
        if record_refusal.payer not in self.limits:
            return Code.WRONG_BUCKET
        if record and record_refusal.attempt and record.attempt >= record_refusal.attempt:
            return Code.ABORTED
        record = Record(
            Code.REFUSED,
            record_refusal.reason,
            record_refusal.attempt,
            b"",
            record_refusal.body_hash,
            record_refusal.payer,
        )
        self.records[record_refusal.payment_id] = record
        return record_refusal.reason

    def look(self, payment_id: bytes, payer: str) -> Code | Reason:
        record = self.records.get(payment_id)
        if record is None or record.owner not in ("", payer):
            return Code.NONE
        return self.tell(record, b"")

    def ask(self, payment_id: bytes, attempt: int) -> Code | Reason:
        record = self.records.get(payment_id)
        if record is None or (record.outcome is Code.ABORTED and record.attempt < attempt):
            record = self.records[payment_id] = Record(Code.ABORTED, Reason.DIED, attempt)
        return self.tell(record, b"")

    def tell(self, record: Record, body_hash: bytes) -> Code | Reason:
        if body_hash and record.body_hash and record.body_hash != body_hash:
            return Code.KEY_REUSED
        return record.reason if record.outcome is Code.REFUSED else record.outcome

    def set_account(self, set_account: SetAccount) -> Code | Reason:
        if set_account.account in self.marked:
            return Code.LOCK_CONFLICT
        if set_account.frozen == (set_account.account in self.frozen):
            return Code.UNCHANGED
        if set_account.frozen:
            self.frozen.append(set_account.account)
        else:
            self.frozen.remove(set_account.account)
        return Code.DONE

    def register(self, register_node: RegisterNode) -> Code | Reason:
        node = self.nodes.setdefault(register_node.node, Node(register_node))
        if node.retired or node.said is None or node.said.store != register_node.store:
            return Reason.NODE_ID_USED
        changed, node.said = node.said is register_node or node.said != register_node, register_node
        return Code.DONE if changed else Code.UNCHANGED

    def retire(self, number: int) -> Code:
        node = self.nodes.setdefault(number, Node())
        changed, node.retired = not node.retired, True
        return Code.DONE if changed else Code.UNCHANGED


def subsets(xids: list[bytes]) -> list[tuple[bytes, ...]]:
    return list(chain.from_iterable(combinations(xids, size) for size in range(len(xids) + 1)))
