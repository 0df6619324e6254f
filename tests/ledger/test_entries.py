"""Entries: order, answers, bounds, and what no rule can make sense of (rules 16, 37)."""

import pytest

from mas import limits
from mas.ledger import (
    EXTERNAL,
    Abort,
    Answer,
    Batch,
    BucketRow,
    CloseIncarnation,
    Code,
    Commit,
    Genesis,
    Kind,
    Ledger,
    Mark,
    NotLoaded,
    Proposal,
    QueryRecord,
    Reason,
    ResidentState,
    Resolve,
    SetAccount,
    Token,
)
from mas.ledger.instructions import LEDGER_VERSION
from tests.ledger.harness import (
    BUCKET,
    BUCKETS,
    HASH,
    HOME_HERE,
    OLD,
    OTHER_TC,
    TC,
    USD,
    Bank,
    ask,
    codes,
    decide,
    end,
    pid,
    prepare,
    xid,
)


def test_rule_37_every_instruction_has_its_own_answer_in_its_place(bank: Bank) -> None:
    batches = (
        Batch(TC, 1, (prepare(1, ("a", -1)), prepare(2, ("c", -1)))),
        Batch(b"", 0, ()),
        Batch(OTHER_TC, 1, (prepare(3, ("b", -1), xid=xid(3, OTHER_TC)),)),
    )
    assert [codes(answers) for answers in bank.propose(*batches)] == [
        [Code.PREPARED, Code.REFUSED],
        [],
        [Code.PREPARED],
    ]


def test_entries_are_applied_in_their_order_without_a_gap(bank: Bank) -> None:
    applied = bank.ledger.rows.bucket.applied
    for index in (applied, applied + 2):
        with pytest.raises(AssertionError, match=f"{index} after {applied}"):
            bank.ledger.advance(index, 1)
    bank.ledger.advance(applied + 1, 7, b"members")
    bank.ledger.advance(applied + 2, 8)
    row = bank.ledger.rows.bucket
    assert (row.applied, row.term, row.members) == (applied + 2, 8, b"members")


def test_a_row_that_nobody_has_loaded_stops_the_replica() -> None:
    """It must not be taken for absent: another replica may have it in memory (rule 16)."""
    for instruction in (prepare(1, ("a", -1)), ask(1), end(1), Mark("a", OLD)):
        ledger = Ledger(ResidentState(BucketRow(BUCKET, buckets=BUCKETS), {}, {}))
        proposal = Proposal(LEDGER_VERSION, 0, 1, 1, (Batch(b"", 0, (instruction,)),))
        assert ledger.missing(proposal)
        with pytest.raises(NotLoaded):
            ledger.apply(1, 1, proposal)


@pytest.mark.parametrize(
    ("instruction", "field"),
    [
        (decide(1, ("a", -5), ("far", 5), own=(5,)), "own"),
        (decide(1, ("a", -5), ("far", 5), own=(-1,)), "own"),
        (decide(1, ("a", -5), ("far", 5), own=(1, 1)), "own"),
        (decide(1, ("a", -5), ("b", 5), participants=(99,)), "participants"),
        (decide(1, ("a", -5), ("b", 5), attempt=2**64 - 1), "attempt"),
        (decide(1, ("a", -5), ("b", 5), payment_id=b"p"), "payment_id"),
        (decide(1, ("a", -5), ("b", 5), tokens=(Token(1, 1),)), "tokens"),
        (decide(1, ("a", -5), ("b", 5), reference="x" * 141), "reference"),
        (
            decide(1, (HOME_HERE[0], 5), own=(), kind=Kind.CREATION, account_bucket=99),
            "account_bucket",
        ),
        (prepare(1, ("a", -5), anchor=99), "anchor"),
        (prepare(1, ("a", -5), anchor=0), "anchor"),
        (prepare(1, ("a", -5), xid=b"x"), "xid"),
        (prepare(1, ("nul\x00", 5), kind=Kind.CREATION), "legs"),
        (prepare(1, ("new", 5), kind=Kind.CREATION, overdraft_limit=2**63), "overdraft_limit"),
        (prepare(1, kind=Kind.CREATION), "legs"),
        (Resolve(b"p", 1, xid(1), HASH), "payment_id"),
        (QueryRecord(b"p"), "payment_id"),
        (QueryRecord(pid(1), "z" * 65), "payer"),
        (end(1, payer=""), "payer"),
        (end(1, attempt=-1), "attempt"),
        (Commit(xid(1), 2**63), "time"),
        (Abort(b""), "xid"),
        (Mark(USD, Token(1, 1)), "account"),
        (SetAccount(USD, frozen=True), "account"),
        (SetAccount("a", overdraft_limit=2**61), "overdraft_limit"),
        (CloseIncarnation(b"short"), "incarnation"),
        (Genesis("cluster", 2, 1), "bucket"),
    ],
)
def test_what_cannot_be_is_failed_alike_and_nothing_else_is_harmed(
    bank: Bank, instruction: object, field: str
) -> None:
    """It stands in the log for ever: a replica that fell over it would fall again at every start."""
    before = bank.ledger.rows.state_hash()
    pays = decide(2, ("a", -1), ("b", 1))
    answer, paid = bank.do(instruction, pays)
    assert (answer.code, answer.detail) == (Code.FAILED, f"{field} is not what it has to be")
    assert paid.code is Code.COMMITTED
    bank.flush()
    other = Bank()
    other.open(("a", 100), ("b", 100), ("c", 0))
    other.do(pays)
    assert before != bank.ledger.rows.state_hash() == other.ledger.rows.state_hash()


def test_the_systems_accounts_are_nobodys_to_name(bank: Bank) -> None:
    """`@external` is reached by that name alone, which is judged by the room in 64 bits."""
    bank.do(decide(1, (EXTERNAL, -4), ("a", 4), kind=Kind.DEPOSIT))
    assert bank.one(decide(2, ("a", -1), (USD, 1))).code is Code.FAILED
    assert bank.one(prepare(3, (USD, 1))).code is Code.FAILED
    strange = decide(4, (EXTERNAL, -4), ("a", 4), kind=Kind.DEPOSIT, currency="x\x00")
    assert bank.one(strange).code in (Code.FAILED, Code.REFUSED)
    assert set(bank.accounts()) == {"a", "b", "c", USD}


def test_a_batch_whose_head_cannot_be_is_failed_whole(bank: Bank) -> None:
    for batch in (
        Batch(b"short", 0, (QueryRecord(pid(1)),)),
        Batch(TC, 2**49, (QueryRecord(pid(1)),)),
    ):
        ((answer,),) = bank.propose(batch)
        assert answer.code is Code.FAILED
    assert bank.one(prepare(1, ("a", -1))).code is Code.PREPARED


def test_a_stamp_beyond_all_time_is_kept_within_it(bank: Bank) -> None:
    """The stamp is written to a column of 64 bits."""
    bank.do(decide(1, ("a", -1), ("b", 1)), time_us=2**64 - 1)
    assert bank.ledger.rows.bucket.time_us == 2**63 - 1


def test_however_much_waits_on_an_account_a_batch_is_judged_by_sums(bank: Bank) -> None:
    """Legs left out are summed once a batch, and what a leg waits for is named once an account, not once a payout."""
    count = 300
    bank.do(*[prepare(n, ("c", 1)) for n in range(1, count + 1)])
    payouts = [prepare(1_000 + n, ("c", -1)) for n in range(count)]
    first = bank.do(*payouts)
    assert {answer.code for answer in first} == {Code.PENDING_ON}
    assert len({id(answer.xids) for answer in first}) == 1, "one tuple for all of them"
    undecided = first[0].xids[: count // 2]
    (settled,) = bank.propose(
        Batch(b"", 0, tuple(Commit(x, 5) for x in first[0].xids[count // 2 :]))
    )
    assert {answer.code for answer in settled} == {Code.POSTED}
    second = bank.do(*payouts, left_out=undecided)
    paid, late = second[: count // 2], second[count // 2 :]
    assert {answer.code for answer in paid} == {Code.PREPARED}
    assert {answer.code for answer in late} == {Code.CONTENDED}, "what was paid may still be freed"
    too_much = prepare(9_000, ("c", -(count // 2) - 1))
    assert bank.one(too_much, left_out=undecided).reason is Reason.INSUFFICIENT_FUNDS


def test_too_much_waiting_on_one_account_ends_the_attempt_at_once(bank: Bank) -> None:
    most = limits.UNDECIDED_PER_ACCOUNT_MAX
    bank.do(*[prepare(n, ("c", 1)) for n in range(1, most + 1)])
    spend = prepare(5_000, ("c", -1))
    assert bank.one(spend).code is Code.PENDING_ON
    bank.do(prepare(most + 1, ("c", 1)))
    assert bank.one(spend) == Answer(Code.CONTENDED, Reason.CONTENDED)
    assert bank.one(prepare(5_001, ("c", -2_000))).code is Code.REFUSED, "whatever becomes of them"
