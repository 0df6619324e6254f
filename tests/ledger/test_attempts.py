"""Attempts, the record that decides, and the last leg (rules 3 to 9, 11)."""

from mas.ledger import (
    EXTERNAL,
    Answer,
    Code,
    Kind,
    Mark,
    QueryRecord,
    Reason,
    Record,
    Token,
    Unmark,
)
from tests.ledger.harness import (
    BUCKET,
    HASH,
    HOME_HERE,
    OTHER_TC,
    Bank,
    ask,
    codes,
    decide,
    end,
    pid,
    prepare,
    xid,
)


def test_an_id_finds_and_ends_its_payers_payment_alone(bank: Bank) -> None:
    """An id is a hash that anybody can compute; whose it is is judged in the entry, where nobody can have changed it."""
    bank.do(decide(1, ("a", -1), ("b", 1)), end(2, payer="a", **CANCEL), ask(3))
    before = bank.ledger.rows.state_hash()
    for number in (1, 2):
        strangers = bank.do(
            QueryRecord(pid(number), "b"),
            end(number, payer="b"),
            end(number, 0, payer="b", **CANCEL),
        )
        assert strangers == [Answer(Code.NONE)] * 3
    assert bank.ledger.rows.state_hash() == before, "nothing was recorded"
    own = bank.do(QueryRecord(pid(1), "a"), QueryRecord(pid(2), "a"), QueryRecord(pid(3), "b"))
    assert codes(own) == [Code.COMMITTED, Code.REFUSED, Code.ABORTED]
    # A deposit is the payee's, a creation its account's.
    bank.do(decide(4, (EXTERNAL, -4), ("a", 4), kind=Kind.DEPOSIT))
    bank.do(decide(5, (HOME_HERE[0], 0), kind=Kind.CREATION, account_bucket=BUCKET))
    theirs = bank.do(QueryRecord(pid(4), "a"), QueryRecord(pid(5), HOME_HERE[0], Kind.CREATION))
    assert codes(theirs) == [Code.COMMITTED] * 2
    others = bank.do(QueryRecord(pid(4), "b"), QueryRecord(pid(5), HOME_HERE[1], Kind.CREATION))
    assert codes(others) == [Code.NONE] * 2


def test_an_end_whose_body_is_another_payers_is_failed(bank: Bank) -> None:
    stolen = end(1, payer="b", body=end(1).body)
    assert bank.one(stolen).code is Code.FAILED


CANCEL = {"body": None, "body_hash": b"", "reason": Reason.CANCELLED}


def test_rule_3_a_bucket_without_the_account_records_nothing(bank: Bank) -> None:
    answers = bank.do(
        prepare(1, ("a", -1), ("nobody", 1)),
        decide(2, ("a", -1), ("nobody", 1)),
        end(3, payer="nobody"),
        QueryRecord(pid(4), "nobody"),
    )
    assert codes(answers) == [Code.WRONG_BUCKET] * 4
    assert not bank.ledger.rows.legs
    assert [bank.ledger.rows.record(pid(n)) for n in (2, 3, 4)] == [None] * 3


def test_rule_3_a_question_by_xid_is_answered_wherever_it_comes(bank: Bank) -> None:
    look, asked = bank.do(QueryRecord(pid(1)), ask(1))
    assert look.code is Code.NONE
    assert (asked.code, asked.attempt, asked.reason) == (Code.ABORTED, 1, Reason.DIED)


def test_rule_3_an_outcome_is_told_even_where_an_account_lacks(bank: Bank) -> None:
    body = decide(1, ("gone", -1), ("b", 1)).body
    bank.database.records[pid(1)] = Record(pid(1), Code.COMMITTED, body, HASH)
    bank.restart()
    answers = bank.do(
        decide(1, ("gone", -1), ("b", 1)), end(1, payer="gone"), QueryRecord(pid(1), "gone")
    )
    assert codes(answers) == [Code.COMMITTED] * 3


def test_rule_4_all_legs_of_a_bucket_are_prepared_or_none(bank: Bank) -> None:
    before = bank.accounts()
    assert bank.one(prepare(1, ("a", -1), ("b", 1), ("c", -1))).reason is Reason.INSUFFICIENT_FUNDS
    assert bank.accounts() == before
    assert bank.one(prepare(2, ("a", -1), ("b", 1), ("c", 3))).code is Code.PREPARED
    legs = bank.ledger.rows.legs[xid(2)]
    assert (legs.attempt, legs.payment_id, legs.body_hash) == (1, pid(2), HASH)
    assert (legs.anchor, legs.participants) == (2, (BUCKET,))


def test_rule_5_one_entry_judges_posts_and_records(bank: Bank) -> None:
    """Debits and credits, several accounts, one bucket: its DECIDE alone."""
    answer = bank.one(decide(1, ("a", -30), ("b", -20), ("c", 45), ("a", 5)), time_us=77)
    assert answer == Answer(Code.COMMITTED, attempt=1, xid=xid(1), time_us=77)
    assert [bank.account(n).balance for n in "abc"] == [75, 80, 45]
    mine = [p for p in bank.all_postings if p.payment_id == pid(1)]
    assert [(p.account, p.amount, p.balance, p.time_us) for p in mine] == [
        ("a", -30, 70, 77),
        ("b", -20, 80, 77),
        ("c", 45, 45, 77),
        ("a", 5, 75, 77),
    ]
    record = bank.ledger.rows.record(pid(1))
    assert (record.outcome, record.time_us, record.body.legs[0]) == (Code.COMMITTED, 77, ("a", -30))


def test_rule_5_only_the_anchors_own_legs_are_posted_by_decide(bank: Bank) -> None:
    bank.do(decide(1, ("a", -30), ("far", 10), ("b", 20), own=(0, 2)))
    assert [bank.account(n).balance for n in "ab"] == [70, 120]


def test_rule_5_what_would_make_money_fails(bank: Bank) -> None:
    answer = bank.one(decide(1, ("a", -1), ("b", 2)))
    assert (answer.code, answer.detail) == (Code.FAILED, "AssertionError")


def test_rule_6_an_outcome_answers_every_later_decide(bank: Bank) -> None:
    first = bank.one(decide(1, ("a", -1), ("b", 1)))
    second = bank.one(decide(1, ("a", -1), ("b", 1), xid=xid(2, OTHER_TC), attempt=7), time_us=99)
    assert second == first
    assert bank.account("a").balance == 99


def test_rule_6_a_refusal_is_for_ever(bank: Bank) -> None:
    first = bank.one(decide(1, ("c", -1), ("a", 1)))
    bank.do(decide(2, ("a", -50), ("c", 50)))
    assert bank.one(decide(1, ("c", -1), ("a", 1), xid=xid(9), attempt=2)) == first
    assert first.reason is Reason.INSUFFICIENT_FUNDS


def test_rule_6_a_dead_attempt_decides_nothing(bank: Bank) -> None:
    """T4: ABORTED(2) at one index, DECIDE of attempt 2 and 1 at the next ones."""
    bank.do(ask(1, 2))
    for attempt in (1, 2):
        answer = bank.one(decide(1, ("a", -1), ("b", 1), attempt=attempt))
        assert (answer.code, answer.attempt, answer.xid) == (Code.ABORTED, 2, b"")
    assert bank.one(decide(1, ("a", -1), ("b", 1), attempt=3)).code is Code.COMMITTED


def test_rule_6_what_ends_the_attempt_alone_is_recorded_with_its_xid_and_reason(bank: Bank) -> None:
    bank.do(Mark("a", Token(1, 1)))
    judged = bank.one(decide(1, ("a", -1), ("b", 1)))
    assert judged == Answer(Code.ABORTED, Reason.LOCK_CONFLICT, 1, xid(1))
    assert bank.one(decide(1, ("a", -1), ("b", 1))) == judged, "the same copy once more"
    bank.do(Unmark("a", Token(1, 1)))
    assert bank.one(decide(1, ("a", -1), ("b", 1))) == judged, "dead is dead"
    assert bank.one(decide(1, ("a", -1), ("b", 1), attempt=2)).code is Code.COMMITTED


def test_rule_11_a_question_does_not_change_what_a_decide_was_judged(bank: Bank) -> None:
    bank.do(Mark("a", Token(1, 1)))
    judged = bank.one(decide(1, ("a", -1), ("b", 1)))
    assert bank.one(ask(1, 1)) == judged


def test_rule_8_a_no_of_another_bucket_becomes_the_outcome(bank: Bank) -> None:
    answer = bank.one(end(1, detail="far"))
    assert answer == Answer(Code.REFUSED, Reason.ACCOUNT_FROZEN, 1, detail="far")
    assert bank.one(decide(1, ("a", -5), ("far", 5), own=(0,))) == answer
    assert bank.ledger.rows.record(pid(1)).body.legs == (("a", -5), ("far", 5))


def test_rule_8_end_of_a_dead_attempt_writes_nothing(bank: Bank) -> None:
    bank.do(ask(1, 2))
    assert bank.one(end(1, 2)) == Answer(Code.ABORTED, Reason.DIED, 2)
    assert bank.one(end(1, 3)).code is Code.REFUSED


def test_rule_8_end_never_changes_an_outcome(bank: Bank) -> None:
    committed = bank.one(decide(1, ("a", -5), ("far", 5), own=(0,)))
    assert bank.one(end(1)) == committed
    assert bank.one(end(1, body_hash=b"another")).code is Code.KEY_REUSED


def test_rule_8_a_question_by_payment_changes_nothing(bank: Bank) -> None:
    before = bank.ledger.rows.state_hash()
    assert bank.one(QueryRecord(pid(1), "a"), sender=b"").code is Code.NONE
    assert bank.ledger.rows.state_hash() == before
    committed = bank.one(decide(1, ("a", -1), ("b", 1)))
    assert bank.do(QueryRecord(pid(1), "a"), QueryRecord(pid(1))) == [committed] * 2


def test_rule_9_a_cancelled_key_is_cancelled_for_whatever_body_comes(bank: Bank) -> None:
    """T20: cancelled before; the attempt that is dead doesn't stop it either."""
    bank.do(ask(1, 5))
    cancelled = bank.one(end(1, 0, **CANCEL))
    assert cancelled == Answer(Code.REFUSED, Reason.CANCELLED)
    bodies = (("a", -1), ("b", 1)), (("b", -7), ("a", 7))
    assert [bank.one(decide(1, *legs, attempt=9)) for legs in bodies] == [cancelled] * 2
    assert bank.one(ask(1, 9)) == cancelled


def test_rule_9_an_outcome_can_not_be_cancelled(bank: Bank) -> None:
    committed = bank.one(decide(1, ("a", -1), ("b", 1)))
    assert bank.one(end(1, 0, **CANCEL)) == committed
