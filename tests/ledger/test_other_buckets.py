"""What the buckets beside the anchor prepare, post and free (rules 10 to 12)."""

from mas.ids import COUNTER_MAX
from mas.ledger import (
    Abort,
    Answer,
    CloseIncarnation,
    Code,
    Commit,
    Reason,
    Resolve,
)
from tests.ledger.harness import (
    OTHER_TC,
    TC,
    Bank,
    ask,
    codes,
    decide,
    pid,
    prepare,
    xid,
)


def test_rule_10_commit_posts_once_at_the_records_time(bank: Bank) -> None:
    """P7, P8: whoever brings it, however often."""
    bank.do(prepare(1, ("a", -30), ("b", 10)))
    assert (bank.account("a").debits_pending, bank.account("b").credits_pending) == (30, 10)
    answers = [bank.one(Commit(xid(1), 55), sender=sender) for sender in (TC, b"", OTHER_TC)]
    assert codes(answers) == [Code.POSTED] * 3
    assert [(bank.account(n).balance, bank.account(n).sequence) for n in "ab"] == [
        (70, 2),
        (110, 2),
    ]
    assert {p.time_us for p in bank.all_postings if p.payment_id == pid(1)} == {55}


def test_rule_10_abort_frees_once(bank: Bank) -> None:
    bank.do(prepare(1, ("a", -30), ("b", 10)))
    assert codes(bank.do(Abort(xid(1)), Abort(xid(1)))) == [Code.FREED] * 2
    assert (bank.account("a").balance, bank.account("a").debits_pending) == (100, 0)


def test_rule_10_a_prepare_that_is_posted_says_so_and_changes_nothing(bank: Bank) -> None:
    """T5: an old copy after the COMMIT, with an old mark."""
    bank.do(prepare(1, ("a", -30)), Commit(xid(1), 5))
    before = bank.accounts()
    assert bank.one(prepare(1, ("a", -30))).code is Code.POSTED
    assert bank.accounts() == before


def test_rule_10_what_can_not_happen_raises_an_alarm(bank: Bank) -> None:
    """P11, P13."""
    bank.do(prepare(1, ("a", -30)), Commit(xid(1), 5), prepare(2, ("a", -30)), Abort(xid(2)))
    before = bank.accounts()
    answers = bank.do(Abort(xid(1)), Commit(xid(2), 5), Commit(xid(3), 5))
    assert codes(answers) == [Code.ALARM] * 3
    assert bank.accounts() == before


def test_rule_10_below_the_low_water_mark_it_is_over(bank: Bank) -> None:
    bank.do(prepare(1, ("a", -30)), Commit(xid(1), 5), prepare(2, ("b", -30)))
    answers = bank.do(
        prepare(1, ("a", -30)),
        Commit(xid(1), 5),
        Abort(xid(1)),
        prepare(2, ("b", -30)),
        prepare(3, ("b", -1)),
        low_water=3,
    )
    assert codes(answers) == [Code.STALE_XID, Code.OVER, Code.OVER, Code.PREPARED, Code.PREPARED]
    assert codes(bank.do(Commit(xid(2), 5))) == [Code.POSTED], "prepared legs are never forgotten"
    assert codes(bank.do(Commit(xid(2), 5))) == [Code.OVER]
    bank.flush()
    row = bank.database.incarnations[TC]
    assert (row.low_water, list(row.posted)) == (3, [])


def test_rule_10_a_mark_only_grows_and_is_its_senders_own(bank: Bank) -> None:
    bank.do(low_water=5)
    bank.do(low_water=2)
    answers = bank.do(
        prepare(4, ("a", -1)), prepare(4, ("a", -1), xid=xid(4, OTHER_TC)), low_water=2
    )
    assert codes(answers) == [Code.STALE_XID, Code.PREPARED]
    assert sorted(bank.ledger.rows.incarnations()) == sorted([TC, b"tc-opener1"])


def test_rule_10_posted_xids_are_remembered_from_the_mark_on(bank: Bank) -> None:
    for number in (1, 2, 3):
        bank.do(prepare(number, ("a", -1)), Commit(xid(number), 5))
    bank.do(low_water=2)
    bank.flush()
    assert list(bank.database.incarnations[TC].posted) == [2, 3]
    assert codes(bank.do(*[prepare(n, ("a", -1)) for n in (1, 2, 3)])) == [
        Code.STALE_XID,
        Code.POSTED,
        Code.POSTED,
    ]


def test_rule_10_an_incarnation_is_closed_only_without_prepared_legs(bank: Bank) -> None:
    """T25: nothing of it is prepared afterwards."""
    bank.do(prepare(1, ("a", -30)))
    close = CloseIncarnation(TC)
    assert codes(bank.do(close, sender=b"")) == [Code.UNCHANGED]
    bank.do(Abort(xid(1)), sender=b"")
    assert codes(bank.do(close, close, sender=b"")) == [Code.DONE, Code.UNCHANGED]
    assert TC not in bank.ledger.rows.incarnations()
    late = prepare(COUNTER_MAX, ("a", -1))
    assert codes(bank.do(late, Commit(xid(9), 5), Abort(xid(9)))) == [
        Code.STALE_XID,
        Code.OVER,
        Code.OVER,
    ]


def test_rule_11_a_question_kills_the_attempt_where_there_is_no_outcome(bank: Bank) -> None:
    first = bank.one(ask(1, 2))
    assert first == Answer(Code.ABORTED, Reason.DIED, 2)
    assert bank.one(ask(1, 1)) == first
    assert bank.one(ask(1, 3)).attempt == 3


def test_rule_11_an_outcome_is_told_as_it_stands(bank: Bank) -> None:
    """T2: also to another xid, of another body: it compares, and is freed."""
    committed = bank.one(decide(1, ("a", -1), ("b", 1)))
    assert bank.one(Resolve(pid(1), 9, xid(9, OTHER_TC), b"another")) == committed
    assert committed.xid == xid(1)


def test_rule_12_stamps_never_go_back(bank: Bank) -> None:
    times = [
        bank.one(decide(n, ("a", -1), ("b", 1)), time_us=stamp).time_us
        for n, stamp in enumerate((50, 20, 60), start=1)
    ]
    assert times == [50, 50, 60]
