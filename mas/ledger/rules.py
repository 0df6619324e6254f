"""The rules of the money: every change of a bucket's state is made in this file.

    an entry ──► for each batch: its coordinator's low-water mark (rule 10, low-water mark)
                 for each instruction: look ──► judge ──► stage ──► put in place ──► answer

An instruction changes staged copies of accounts, and puts them in place as its last act, when nothing can go wrong
any more. So a refusal, and a fault of our own, leave no trace (rule 16, admission). Nothing here waits, reads a clock,
or asks anybody: the same entries give every replica the same rows and the same answers.

A leg reserves: a debit its funds (`debits_pending`), a credit its room below the greatest balance (`credits_pending`).
What is reserved can always be posted (rule 13, prepared legs commit).
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

from msgspec.structs import astuple, replace

from mas.errors import UnknownVersion
from mas.ids import INCARNATION_BYTES, home_bucket
from mas.ledger.comparison import differing_fields
from mas.ledger.instructions import (
    EXTERNAL,
    LEDGER_VERSION,
    Abort,
    AccountState,
    Answer,
    Body,
    CloseIncarnation,
    Code,
    Commit,
    Decide,
    Genesis,
    Kind,
    Legs,
    LockMode,
    Mark,
    Parties,
    Prepare,
    Proposal,
    QueryRecord,
    Reason,
    RecordRefusal,
    RegisterNode,
    Resolve,
    RetireNode,
    SetAccount,
    TakeEpoch,
    Token,
    Unmark,
    compatible,
    encode,
    parties,
)
from mas.ledger.needs import NEEDS, external_number, own_legs
from mas.ledger.register import REGISTER_BUCKET, register, retire
from mas.ledger.row_cache import Missing, MissingSet, NotLoaded, RowCache
from mas.ledger.rows import Account, Posting, PreparedLegs, Record, ResidentState
from mas.ledger.shape import BEYOND_ALL, TIME_MAX, is_currency, wrong_field, wrong_in_batch
from mas.limits import BALANCE_MAX, MARKS_PER_ACCOUNT_MAX, UNDECIDED_PER_ACCOUNT_MAX

_PREPARED = Answer(Code.PREPARED)
_POSTED = Answer(Code.POSTED)
_FREED = Answer(Code.FREED)
_OVER = Answer(Code.OVER)
_DONE = Answer(Code.DONE)
_UNCHANGED = Answer(Code.UNCHANGED)
_NO_RECORD = Answer(Code.NONE)
_STALE_XID = Answer(Code.STALE_XID, Reason.STALE_XID)
_WRONG_BUCKET = Answer(Code.WRONG_BUCKET, Reason.WRONG_BUCKET)
_LOCK_CONFLICT = Answer(Code.LOCK_CONFLICT, Reason.LOCK_CONFLICT)
_CONTENDED = Answer(Code.CONTENDED, Reason.CONTENDED)

# On CPython 3.11 a member looked up in its enum costs as much as a call; every payment passes these.
_CREATION, _ABORTED, _COMMITTED = Kind.CREATION, Code.ABORTED, Code.COMMITTED

# What is said of several legs is what the most severe says: first what records nothing, then what ends the attempt
# alone, then a no that nothing can change, then what depends on legs still undecided.
_SEVERITY = {
    Code.WRONG_BUCKET: 0,
    Code.LOCK_CONFLICT: 1,
    Code.REFUSED: 2,
    Code.CONTENDED: 3,
    Code.PENDING_ON: 4,
}

_EXTERNAL_MAX = 7 << 60
"""Of `@external`: of its balance either way, all that is reserved included, and of each of the two sums reserved."""

_Staged = dict[str, Account]
"""Accounts as an instruction will leave them, by number; put in place at its end."""


class Ledger:
    """One bucket's ledger, as one replica holds it."""

    def __init__(self, kept: ResidentState) -> None:
        self.rows = RowCache(kept)
        self._now = 0
        self._created = 0
        # Of the batch being applied: whether its instructions are proposed for the second time, and what they leave out.
        self._is_second = False
        self._left_out: dict[str, tuple[int, int]] = {}
        # Accounts on which a leg of the `exclusive` mode is prepared (rule 35).
        self._exclusive: dict[str, bytes] = {}
        for legs in self.rows.legs.values():
            self._note_exclusive(legs)
        # `Any`, since the type of an instruction says which of them it goes to.
        self._rules: dict[type, Callable[[Any], Answer]] = {
            Prepare: self._prepare,
            Decide: self._decide,
            RecordRefusal: self._record_refusal,
            Commit: self._commit,
            Abort: self._abort,
            Resolve: self._resolve,
            QueryRecord: self._query_record,
            Mark: self._mark,
            Unmark: self._unmark,
            CloseIncarnation: self._close_incarnation,
            Genesis: self._genesis,
            TakeEpoch: self._take_epoch,
            SetAccount: self._set_account,
            RegisterNode: self._change_register,
            RetireNode: self._change_register,
        }

    # -- Entries ---------------------------------------------------------------------------------------

    def missing(self, proposal: Proposal) -> Missing:
        """List what to load before this is applied; each once, in the order of the instructions.

        An instruction that can't even be asked what it needs is FAILED when it is applied (rule 16).

        Raises:
            UnknownVersion: this program doesn't know the rules that the entry is to be judged by.
        """
        self._check_version(proposal)
        rows, found = self.rows, MissingSet({}, {}, {})
        for batch in proposal.batches:
            for instruction in batch.instructions:
                try:
                    needs = NEEDS[type(instruction)](instruction, rows.legs)
                    rows.add_missing(found, needs)
                except Exception:  # noqa: BLE001, S112 - `apply` will meet it too, and record it alike
                    continue
        return Missing(list(found.accounts), list(found.records), list(found.claims))

    def apply(self, index: int, term: int, proposal: Proposal) -> list[list[Answer]]:
        """Carry out an entry; the answers of each batch's instructions, in their order.

        Whatever leaves this leaves the ledger half way through an entry: it can't be used any more, and this replica
        starts again from what its database holds.

        Raises:
            UnknownVersion: the entry is of a newer program; nothing of it was applied (rule 16).
            NotLoaded: `missing` was not asked, or not heeded.
        """
        self._check_version(proposal)
        self._begin(index, term)
        self.rows.is_whole = False
        self.rows.bucket.version = max(self.rows.bucket.version, proposal.version)
        self._now = self.rows.bucket.time_us = max(
            self.rows.bucket.time_us, min(proposal.time_us, TIME_MAX)
        )
        self._created = 0
        answers = []
        for batch in proposal.batches:
            if wrong := wrong_in_batch(batch):
                answers.append([_failed(wrong)] * len(batch.instructions))
                continue
            if batch.incarnation:
                self._raise_low_water(batch.incarnation, batch.low_water)
            self._is_second = bool(batch.left_out)
            self._left_out = self._sum_left_out(batch.left_out) if batch.left_out else {}
            answers.append([self._carry_out(each) for each in batch.instructions])
        self.rows.is_whole = True
        return answers

    def advance(self, index: int, term: int, members: bytes | None = None) -> None:
        """Pass an entry without instructions; `members` is the encoded membership that it brought."""
        self._begin(index, term)
        if members is not None:
            self.rows.bucket.members = members

    def _begin(self, index: int, term: int) -> None:
        assert self.rows.is_whole, "an apply was interrupted: start again from the database"
        assert index == self.rows.bucket.applied + 1, f"{index} after {self.rows.bucket.applied}"
        self.rows.bucket.applied, self.rows.bucket.term = index, term

    def _check_version(self, proposal: Proposal) -> None:
        if proposal.version > LEDGER_VERSION:
            raise UnknownVersion(
                f"bucket {self.rows.bucket.bucket}: an entry after {self.rows.bucket.applied} is to be judged by ledger version "
                f"{proposal.version}, this program knows {LEDGER_VERSION}: run the newer program on this node"
            )

    def _carry_out(self, instruction: object) -> Answer:
        """Apply one instruction; one whose own logic raises has changed nothing, and says so alike everywhere."""
        try:
            if wrong := wrong_field(instruction, self.rows.bucket.buckets):
                return _failed(wrong)
            return self._rules[type(instruction)](instruction)
        except (MemoryError, RecursionError, OSError, NotLoaded):
            # Not of the instruction's making: another replica may fare better (rule 16).
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, every replica records it alike (rule 16)
            return Answer(Code.FAILED, detail=type(error).__name__)

    def _raise_low_water(self, name: bytes, low_water: int) -> None:
        """A coordinator's mark only grows (rule 10)."""
        row = self.rows.incarnation(name)
        if row is None or low_water > row.low_water:
            self.rows.change_incarnation(name).low_water = low_water

    # -- Phase 1, and its end at a bucket that isn't the anchor (rules 4, 10) -----------------------------

    def _prepare(self, prepare: Prepare) -> Answer:
        if prepare.xid in self.rows.legs:
            return _PREPARED
        if (settled := self._settled_answer(prepare.xid)) is not None:
            return _STALE_XID if settled is _OVER else settled
        staged: _Staged = {}
        if prepare.kind is _CREATION:
            refusal = self._reserve_opening(staged, *prepare.legs[0], prepare.currency)
        else:
            refusal = self._reserve(staged, prepare.legs, prepare.currency, prepare.tokens)
        if refusal is not None:
            return refusal
        legs = PreparedLegs(*astuple(prepare))
        self.rows.put_accounts(staged)
        self.rows.put_legs(legs)
        if prepare.tokens:
            self._note_exclusive(legs)
        return _PREPARED

    def _commit(self, commit: Commit) -> Answer:
        legs = self.rows.legs.get(commit.xid)
        if legs is None:
            return self._settled_answer(commit.xid) or Answer(
                Code.ALARM, detail="COMMIT of what is neither prepared nor posted"
            )
        staged: _Staged = {}
        if legs.kind is _CREATION:
            postings = self._open(staged, legs, legs.payment_id, commit.time_us)
        else:
            postings = self._post(
                staged, legs.legs, legs, legs.payment_id, legs.parties, commit.time_us
            )
        counter = int.from_bytes(commit.xid[INCARNATION_BYTES:], "big")
        self.rows.put_accounts(staged)
        self.rows.postings += postings
        self._settle(legs)
        self.rows.change_incarnation(commit.xid[:INCARNATION_BYTES]).posted[counter] = None
        return _POSTED

    def _abort(self, abort: Abort) -> Answer:
        legs = self.rows.legs.get(abort.xid)
        if legs is None:
            settled = self._settled_answer(abort.xid)
            return (
                Answer(Code.ALARM, detail="ABORT of what is posted")
                if settled is _POSTED
                else settled or _FREED
            )
        staged: _Staged = {}
        if legs.kind is _CREATION:
            if opening := legs.legs[0][1]:
                self._copy_for_update(staged, EXTERNAL, legs.currency).debits_pending -= opening
        else:
            for number, amount in legs.legs:
                row = self._copy_for_update(staged, number, legs.currency)
                if amount < 0:
                    row.debits_pending += amount
                else:
                    row.credits_pending -= amount
        self.rows.put_accounts(staged)
        self._settle(legs)
        return _FREED

    def _settled_answer(self, xid: bytes) -> Answer | None:
        """OVER below its coordinator's mark, POSTED if this bucket remembers posting it (rule 10)."""
        row = self.rows.incarnation(xid[:INCARNATION_BYTES])
        if row is None:
            return None
        counter = int.from_bytes(xid[INCARNATION_BYTES:], "big")
        if counter < row.low_water:
            return _OVER
        return _POSTED if counter in row.posted else None

    def _settle(self, legs: PreparedLegs) -> None:
        self.rows.drop_legs(legs)
        if legs.tokens:
            for number, _ in legs.legs:
                if self._exclusive.get(number) == legs.xid:
                    del self._exclusive[number]

    # -- The anchor: the last leg decides (rules 5, 6) -----------------------------------------------------

    def _decide(self, decide: Decide) -> Answer:
        body = decide.body
        if body.kind is _CREATION and not self._is_home(body.legs[0][0]):
            return _WRONG_BUCKET
        record = self.rows.require_record(decide.payment_id)
        if record is not None:
            if record.outcome is not Code.ABORTED:
                return _answer_for(record, body, decide.body_hash)
            if record.attempt >= decide.attempt:
                return _answer_from(record)
        if body.kind is _CREATION:
            return self._decide_creation(decide)
        assert not sum([amount for _, amount in body.legs]), "the legs don't sum to zero"

        legs = own_legs(decide)
        staged: _Staged = {}
        refusal = self._reserve(staged, legs, body.currency, decide.tokens)
        if refusal is not None:
            return self._decline(decide, refusal)
        postings = self._post(staged, legs, body, decide.payment_id, parties(body.legs), self._now)
        return self._conclude(decide, staged, postings)

    def _decide_creation(self, decide: Decide) -> Answer:
        """The home claims the number, and opens the account where it is the chosen place itself (rule 18, account
        creation).
        """
        number, opening = decide.body.legs[0]
        assert (decide.account_bucket == self.rows.bucket.bucket) == bool(decide.own), (
            "a place is either here or a participant"
        )
        if self.rows.require_claim(number) is not None:
            return self._decline(decide, Answer(Code.REFUSED, Reason.ACCOUNT_EXISTS))
        staged: _Staged = {}
        postings: list[Posting] = []
        if decide.own:
            refusal = self._reserve_opening(staged, number, opening, decide.body.currency)
            if refusal is not None:
                return self._decline(decide, refusal)
            postings = self._open(staged, decide.body, decide.payment_id, self._now)
        answer = self._conclude(decide, staged, postings)
        self.rows.put_claim(number, decide.account_bucket)
        return answer

    def _conclude(self, decide: Decide, staged: _Staged, postings: list[Posting]) -> Answer:
        record = Record(
            decide.payment_id,
            Code.COMMITTED,
            decide.body,
            decide.body_hash,
            Reason.NONE,
            decide.attempt,
            decide.xid,
            self._now,
            decide.account_bucket,
        )
        answer = _answer_from(record)
        self.rows.put_accounts(staged)
        self.rows.postings += postings
        self.rows.put_record(record)
        return answer

    def _decline(self, decide: Decide, refusal: Answer) -> Answer:
        """Record what was judged: a ledger's no is the outcome, anything else ends the attempt (rule 6, decide)."""
        if refusal.code in (Code.WRONG_BUCKET, Code.PENDING_ON):
            return refusal
        is_no = refusal.code is Code.REFUSED
        record = Record(
            decide.payment_id,
            Code.REFUSED if is_no else Code.ABORTED,
            decide.body,
            decide.body_hash,
            refusal.reason,
            decide.attempt,
            b"" if is_no else decide.xid,
            detail=refusal.detail,
        )
        self.rows.put_record(record)
        return _answer_from(record)

    def _record_refusal(self, record_refusal: RecordRefusal) -> Answer:
        """An outcome REFUSED, unless there is one, or the attempt that brings it is dead (rules 8, 9).

        Of another account's payment nothing is said and nothing recorded: an id is a hash that anybody can compute.
        """
        if record_refusal.kind is _CREATION and not self._is_home(record_refusal.payer):
            return _WRONG_BUCKET
        record = self.rows.require_record(record_refusal.payment_id)
        if record is not None and not record.is_of(record_refusal.payer):
            return _NO_RECORD
        if record is not None and record.outcome is not Code.ABORTED:
            return _answer_for(record, record_refusal.body, record_refusal.body_hash)
        if (
            record_refusal.kind is not _CREATION
            and self.rows.require_account(record_refusal.payer) is None
        ):
            return self._absent(record_refusal.payer)
        # A cancellation belongs to no attempt: dead ones don't stop it.
        if (
            record_refusal.attempt
            and record is not None
            and record.attempt >= record_refusal.attempt
        ):
            return _answer_from(record)
        record = Record(
            record_refusal.payment_id,
            Code.REFUSED,
            record_refusal.body,
            record_refusal.body_hash,
            record_refusal.reason,
            record_refusal.attempt,
            detail=record_refusal.detail,
            payer=record_refusal.payer if record_refusal.body is None else "",
        )
        self.rows.put_record(record)
        return _answer_from(record)

    def _resolve(self, resolve: Resolve) -> Answer:
        """Without an outcome the attempt dies first; then the answer is what the record says (rule 11, the resolver)."""
        record = self.rows.require_record(resolve.payment_id)
        if record is None or (record.outcome is Code.ABORTED and record.attempt < resolve.attempt):
            record = Record(
                resolve.payment_id, Code.ABORTED, reason=Reason.DIED, attempt=resolve.attempt
            )
            self.rows.put_record(record)
        return _answer_from(record)

    def _query_record(self, query_record: QueryRecord) -> Answer:
        if (
            query_record.payer
            and query_record.kind is _CREATION
            and not self._is_home(query_record.payer)
        ):
            return _WRONG_BUCKET
        record = self.rows.require_record(query_record.payment_id)
        if record is not None:
            return (
                _answer_from(record)
                if not query_record.payer or record.is_of(query_record.payer)
                else _NO_RECORD
            )
        if (
            query_record.payer
            and query_record.kind is not _CREATION
            and self.rows.require_account(query_record.payer) is None
        ):
            return self._absent(query_record.payer)
        return _NO_RECORD

    def _absent(self, number: str) -> Answer:
        """Of an account that isn't here: it may be about to be, where its creation is prepared (rule 3, anchor and
        record).
        """
        xids = self.rows.xids_on(number)
        return Answer(Code.PENDING_ON, xids=xids) if xids else _WRONG_BUCKET

    def _is_home(self, number: str) -> bool:
        """Tell whether this bucket holds the claim of this number (rule 20, genesis)."""
        return home_bucket(number, self.rows.bucket.buckets) == self.rows.bucket.bucket

    # -- Legs: judging and reserving (rules 13, 15, 34, 35) ------------------------------------------------

    def _reserve(
        self,
        staged: _Staged,
        legs: Legs,
        currency: str,
        tokens: tuple[Token | None, ...],
    ) -> Answer | None:
        """Reserve all legs on staged accounts, or say why not; legs on one account count together."""
        refusals: list[Answer] = []
        for position, (number, amount) in enumerate(legs):
            token = tokens[position] if tokens else None
            if number != EXTERNAL:
                refusal = self._judge(staged, number, amount, currency, token)
            else:
                refusal = self._external_lacks(staged, currency, amount)
            if refusal is not None:
                refusals.append(refusal)
                continue
            row = self._copy_for_update(staged, number, currency)
            if amount < 0:
                row.debits_pending -= amount
            else:
                row.credits_pending += amount
            if token is not None:
                _pass_marks(row, token)
        return _most_severe(refusals) if refusals else None

    def _judge(
        self,
        staged: _Staged,
        number: str,
        amount: int,
        currency: str,
        token: Token | None,
    ) -> Answer | None:
        """Return why this leg can't be prepared now, None if it can."""
        assert number[0] != EXTERNAL[0], "whatever begins so is the system's"
        account = staged.get(number) or self.rows.require_account(number)
        if account is None:
            # Only a creation is prepared on an account that isn't there.
            return self._undecided(number) if self.rows.count_prepared_on(number) else _WRONG_BUCKET
        if (account.marks or token or self._exclusive) and self._is_locked(account, token):
            return _LOCK_CONFLICT
        if account.currency != currency:
            return Answer(Code.REFUSED, Reason.CURRENCY_MISMATCH, detail=number)
        if account.closed or account.frozen:
            why = Reason.ACCOUNT_CLOSED if account.closed else Reason.ACCOUNT_FROZEN
            return Answer(Code.REFUSED, why, detail=number)
        if amount < 0:
            if account.balance - account.debits_pending + amount >= -account.overdraft_limit:
                return None
        elif account.balance + account.credits_pending + amount <= BALANCE_MAX:
            return None
        return self._without_room(account, amount)

    def _without_room(self, account: Account, amount: int) -> Answer:
        """Room is lacking as things stand: for good, or only for legs that are still undecided (rule 15, contention).

        What the second proposal leaves out counts as if it had never been there: it has been told to nobody.
        """
        number = account.number
        now = self.rows.require_account(number)
        assert now is not None, f"{number} is judged, and isn't there"
        debits, credits_ = self._left_out.get(number, (0, 0))
        if amount < 0:
            # At best all other debits are freed and all other credits posted; this payment's own stay.
            own, coming = (
                account.debits_pending - now.debits_pending,
                now.credits_pending - credits_,
            )
            at_best = account.balance + coming - own + amount >= -account.overdraft_limit
            why = Reason.INSUFFICIENT_FUNDS
        else:
            own, going = account.credits_pending - now.credits_pending, now.debits_pending - debits
            at_best = account.balance - going + own + amount <= BALANCE_MAX
            why = Reason.BALANCE_LIMIT
        return self._undecided(number) if at_best else Answer(Code.REFUSED, why, detail=number)

    def _undecided(self, number: str) -> Answer:
        """Once the leader has asked about them it isn't asked again, nor about too many: the attempt ends (rule 15)."""
        if self._is_second or self.rows.count_prepared_on(number) > UNDECIDED_PER_ACCOUNT_MAX:
            return _CONTENDED
        return Answer(Code.PENDING_ON, xids=self.rows.xids_on(number))

    def _sum_left_out(self, xids: tuple[bytes, ...]) -> dict[str, tuple[int, int]]:
        """Of the legs left out, by account: the sum of debits, and that of credits. Once a batch, whatever is judged in it."""
        sums: dict[str, tuple[int, int]] = {}
        for xid in set(xids):
            prepared = self.rows.legs.get(xid)
            for number, amount in prepared.legs if prepared is not None else ():
                debits, credits_ = sums.get(number, (0, 0))
                if amount < 0:
                    sums[number] = debits - amount, credits_
                else:
                    sums[number] = debits, credits_ + amount
        return sums

    def _is_locked(self, account: Account, token: Token | None) -> bool:
        """A mark, a newer fence, or a leg of the `exclusive` mode keeps this leg out (rules 34, 35)."""
        if account.number in self._exclusive:
            return True
        if token is None:
            return bool(account.marks)
        if account.fence is not None and token < account.fence:
            return True
        if token.mode is LockMode.EXCLUSIVE and self.rows.count_prepared_on(account.number):
            return True
        return any(mark > token for mark in account.marks)

    def _reserve_opening(
        self, staged: _Staged, number: str, opening: int, currency: str
    ) -> Answer | None:
        """Reserve the opening balance of an account that can be made here; or say why it can't (rules 13, 18)."""
        if self.rows.require_account(number) is not None:
            return Answer(Code.REFUSED, Reason.ACCOUNT_EXISTS, detail=number)
        if opening > BALANCE_MAX:
            return Answer(Code.REFUSED, Reason.BALANCE_LIMIT, detail=number)
        if self.rows.count_prepared_on(number):
            return self._undecided(number)
        if not opening:
            return None
        lacks = self._external_lacks(staged, currency, -opening)
        if lacks is None:
            self._copy_for_update(staged, EXTERNAL, currency).debits_pending += opening
        return lacks

    def _external_lacks(self, staged: _Staged, currency: str, amount: int) -> Answer | None:
        """Return why `@external` can't pay or take this much now, None if it can.

        It has no limit of its own; but its balance, like all that is stored, is a number of 64 bits.
        """
        number = external_number(currency)
        row = staged.get(number) or self.rows.require_account(number)
        balance, debits, credits_ = (
            (row.balance, row.debits_pending, row.credits_pending) if row is not None else (0, 0, 0)
        )
        debits, credits_ = debits - min(amount, 0), credits_ + max(amount, 0)
        if max(debits - balance, balance + credits_, debits, credits_) <= _EXTERNAL_MAX:
            return None
        if abs(balance + amount) <= _EXTERNAL_MAX:
            return _CONTENDED  # what is under way takes the room, and may still give it back
        return Answer(Code.REFUSED, Reason.BALANCE_LIMIT, detail=EXTERNAL)

    def _note_exclusive(self, legs: PreparedLegs) -> None:
        for (number, _), token in zip(legs.legs, legs.tokens, strict=False):
            if token is not None and token.mode is LockMode.EXCLUSIVE:
                self._exclusive[number] = legs.xid

    # -- Legs: posting -------------------------------------------------------------------------------------

    def _post(
        self,
        staged: _Staged,
        legs: Legs,
        payment: Body | PreparedLegs,
        payment_id: bytes,
        told: Parties,
        time: int,
    ) -> list[Posting]:
        """Turn what is reserved for these legs into postings; an account's postings are numbered in one sequence."""
        currency, reference = payment.currency, payment.reference
        debtor, creditor = told
        postings: list[Posting] = []
        for number, amount in legs:
            row = staged.get(number) or self._copy_for_update(staged, number, currency)
            if amount < 0:
                row.debits_pending += amount
                counterparty = creditor
            else:
                row.credits_pending -= amount
                counterparty = debtor
            row.balance = balance = row.balance + amount
            row.sequence = sequence = row.sequence + 1
            postings.append(
                Posting(
                    row.number,
                    sequence,
                    payment_id,
                    amount,
                    balance,
                    time,
                    counterparty,
                    reference,
                )
            )
        return postings

    def _open(
        self, staged: _Staged, opening: Body | PreparedLegs, payment_id: bytes, time: int
    ) -> list[Posting]:
        """Show a new account, its opening balance paid by `@external`, which has reserved it (rules 17, 18)."""
        number, amount = opening.legs[0]
        bucket = self.rows.bucket
        self._created += 1
        staged[number] = Account(
            number,
            f"{bucket.bucket}-{bucket.applied}-{self._created}",
            opening.currency,
            credits_pending=amount,
            overdraft_limit=opening.overdraft_limit,
            version=1,
        )
        if not amount:
            return []
        legs = ((EXTERNAL, -amount), (number, amount))
        return self._post(staged, legs, opening, payment_id, parties(legs), time)

    def _copy_for_update(self, staged: _Staged, number: str, currency: str) -> Account:
        """This instruction's copy of an account that exists, or of `@external`, which needs no creation."""
        if number == EXTERNAL:
            number = external_number(currency)
        row = staged.get(number)
        if row is None:
            account = self.rows.require_account(number)
            if account is None:
                assert number[0] == EXTERNAL[0], f"{number} has left under prepared legs"
                assert is_currency(currency), "a currency is three letters"
                account = Account(number, f"{self.rows.bucket.bucket}-0-0/{currency}", currency)
            staged[number] = row = account.__copy__()
            row.version += 1
        return row

    # -- Locks' marks, and an administrator's changes (rules 13, 33, 34) -----------------------------------

    def _mark(self, instruction: Mark) -> Answer:
        """Keep new legs out; PENDING_ON names those that were here before. Older marks that it excludes go (rule 34,
        escrow mode).
        """
        account, token = self.rows.require_account(instruction.account), instruction.token
        if account is None:
            return self._absent(instruction.account)
        if token not in account.marks:
            if _is_overtaken(account, token):
                return _LOCK_CONFLICT
            gone = [mark for mark in account.marks if not compatible(mark.mode, token.mode)]
            if len(account.marks) - len(gone) >= MARKS_PER_ACCOUNT_MAX:
                return _LOCK_CONFLICT
            self._put_marks(account, gone, token)
        xids = self.rows.xids_on(instruction.account)
        return Answer(Code.PENDING_ON, xids=xids) if xids else _DONE

    def _unmark(self, unmark: Unmark) -> Answer:
        """Take a mark away. One that isn't there may still be on its way, and is set no more (rule 34, escrow mode)."""
        account, token = self.rows.require_account(unmark.account), unmark.token
        if account is None:
            return _WRONG_BUCKET
        if token in account.marks:
            self._put_marks(account, [token])
            return _DONE
        if account.passed is None or account.passed < token:
            row = account.__copy__()
            row.passed = token
            self.rows.put_accounts({row.number: row})
        return _UNCHANGED

    def _put_marks(self, account: Account, gone: Sequence[Token], new: Token | None = None) -> None:
        """Without a new version: readers' locks would otherwise spoil each other's second looks (rule 31, serializable
        reads).
        """
        row = account.__copy__()
        row.marks = tuple(mark for mark in account.marks if mark not in gone)
        if new is not None:
            row.marks += (new,)
        for mark in gone:
            if mark.mode is LockMode.EXCLUSIVE:
                row.passed = _newest(row.passed, mark)
        self.rows.put_accounts({row.number: row})

    def _set_account(self, set_account: SetAccount) -> Answer:
        """Judge a change once by its name, if it has one: a copy that comes late does nothing (rule 39, unknown results)."""
        account = self.rows.require_account(set_account.account)
        if account is None:
            return self._absent(set_account.account)
        if not set_account.change_id:
            return self._change_account(account, set_account)
        content = _hash_change(set_account)
        record = self.rows.require_record(set_account.change_id)
        if record is not None:
            state = AccountState(account.frozen, account.closed, account.overdraft_limit)
            if record.body_hash != content:
                return Answer(Code.KEY_REUSED, detail="another change", state=state)
            return Answer(record.outcome, record.reason, detail=record.detail, state=state)
        answer = self._change_account(account, set_account)
        if answer.code is not Code.LOCK_CONFLICT:
            outcome = Code.REFUSED if answer.code is Code.REFUSED else Code.DONE
            record = Record(
                set_account.change_id,
                outcome,
                None,
                content,
                answer.reason,
                time_us=self._now,
                detail=answer.detail,
            )
            self.rows.put_record(record)
        return answer

    def _change_account(self, account: Account, set_account: SetAccount) -> Answer:
        if set_account.token is not None:
            if set_account.token not in account.marks:
                return _LOCK_CONFLICT
        elif any(mark.mode is LockMode.EXCLUSIVE for mark in account.marks):
            return _LOCK_CONFLICT
        if account.closed and (
            set_account.closed is False
            or (set_account.frozen, set_account.overdraft_limit) != (None, None)
        ):
            return Answer(Code.REFUSED, Reason.ACCOUNT_CLOSED, detail=set_account.account)
        if set_account.closed and self.rows.count_prepared_on(set_account.account):
            return Answer(Code.REFUSED, Reason.LEGS_PREPARED, detail=set_account.account)
        if set_account.closed and account.balance:
            return Answer(Code.REFUSED, Reason.ACCOUNT_NOT_EMPTY, detail=set_account.account)
        row = account.__copy__()
        row.frozen = account.frozen if set_account.frozen is None else set_account.frozen
        row.closed = account.closed if set_account.closed is None else set_account.closed
        if set_account.overdraft_limit is not None:
            row.overdraft_limit = set_account.overdraft_limit
            if row.balance < -row.overdraft_limit:
                return Answer(Code.REFUSED, Reason.INSUFFICIENT_FUNDS, detail=set_account.account)
            if row.balance - row.debits_pending < -row.overdraft_limit:
                return Answer(Code.REFUSED, Reason.LEGS_PREPARED, detail=set_account.account)
        state = AccountState(row.frozen, row.closed, row.overdraft_limit)
        if row == account:
            return Answer(Code.UNCHANGED, state=state)
        row.version += 1
        self.rows.put_accounts({row.number: row})
        return Answer(Code.DONE, state=state)

    # -- The bucket itself (rules 10, 20, 36) ---------------------------------------------------------------

    def _close_incarnation(self, close_incarnation: CloseIncarnation) -> Answer:
        name = close_incarnation.incarnation
        if any(xid[:INCARNATION_BYTES] == name for xid in self.rows.legs):
            return _UNCHANGED
        row = self.rows.incarnation(name)
        if row is not None and row.closed:
            return _UNCHANGED
        row = self.rows.change_incarnation(name)
        row.closed, row.low_water = True, BEYOND_ALL
        return _DONE

    def _genesis(self, genesis: Genesis) -> Answer:
        bucket = self.rows.bucket
        if bucket.bucket != genesis.bucket:
            return Answer(Code.ALARM, detail=f"genesis of bucket {genesis.bucket}")
        if not bucket.buckets:
            bucket.cluster, bucket.buckets = genesis.cluster, genesis.buckets
            return _DONE
        if (bucket.cluster, bucket.buckets) != (genesis.cluster, genesis.buckets):
            return Answer(Code.ALARM, detail="a second genesis says something else")
        return _UNCHANGED

    def _take_epoch(self, _: TakeEpoch) -> Answer:
        self.rows.bucket.epoch += 1
        return Answer(Code.DONE, value=self.rows.bucket.epoch)

    def _change_register(self, instruction: RegisterNode | RetireNode) -> Answer:
        bucket = self.rows.bucket
        if bucket.bucket != REGISTER_BUCKET:
            detail = (
                f"bucket {REGISTER_BUCKET} keeps the register of nodes, not bucket {bucket.bucket}"
            )
            return Answer(Code.ALARM, detail=detail)
        nodes = bucket.nodes
        judged = (
            register(nodes, instruction)
            if isinstance(instruction, RegisterNode)
            else retire(nodes, instruction)
        )
        if isinstance(judged, Answer):
            return judged
        if judged == nodes:
            return Answer(Code.UNCHANGED, value=bucket.nodes_index)
        self.rows.put_nodes(judged)
        return Answer(Code.DONE, value=bucket.nodes_index)


def _failed(field: str) -> Answer:
    return Answer(Code.FAILED, detail=f"{field} is not what it has to be")


def _answer_from(record: Record) -> Answer:
    """The record as it stands."""
    return Answer(
        record.outcome,
        record.reason,
        record.attempt,
        record.xid,
        record.time_us,
        (),
        record.detail,
        record.account_bucket,
    )


def _answer_for(record: Record, body: Body | None, body_hash: bytes) -> Answer:
    """An outcome, to whoever came with this body; a cancellation has none, and is the answer to any (rule 9, outcomes)."""
    if body is None or record.body is None or record.body_hash == body_hash:
        return _answer_from(record)
    return Answer(Code.KEY_REUSED, detail=differing_fields(record.body, body))


def _hash_change(set_account: SetAccount) -> bytes:
    """Compute what tells two changes apart, whoever's lock they are made under."""
    return blake2b(encode(replace(set_account, token=None, change_id=b"")), digest_size=16).digest()


def _most_severe(refusals: list[Answer]) -> Answer:
    first = min(refusals, key=lambda refusal: _SEVERITY[refusal.code])
    if first.code is not Code.PENDING_ON or len(refusals) == 1:
        return first
    xids = {xid for refusal in refusals for xid in refusal.xids}
    return Answer(Code.PENDING_ON, xids=tuple(sorted(xids)))


def _is_overtaken(account: Account, token: Token) -> bool:
    """Tell whether a newer token has been there before this mark, or is there and excludes it (rules 34, 35)."""
    if account.passed is not None and token <= account.passed:
        return True
    if account.fence is not None and token < account.fence:
        return True
    return any(mark > token and not compatible(mark.mode, token.mode) for mark in account.marks)


def _newest(one: Token | None, other: Token) -> Token:
    return other if one is None else max(one, other)


def _pass_marks(row: Account, token: Token) -> None:
    """A newer token passes older marks and takes them away; an EXCLUSIVE one fences what is older (rules 34, 35)."""
    older = [mark for mark in row.marks if mark < token]
    if older:
        row.marks = tuple(mark for mark in row.marks if mark >= token)
        row.passed = _newest(row.passed, token)
    if token.mode is LockMode.EXCLUSIVE:
        row.fence = token
