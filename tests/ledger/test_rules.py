"""The ledger's rules, each by its number in `docs` and in the code's comments."""

import msgspec
import pytest

from mas import limits
from mas.errors import UnknownVersion
from mas.ids import COUNTER_MAX
from mas.ledger import (
    EXTERNAL,
    NONE_LEFT_OUT,
    Abort,
    AccountState,
    Answer,
    Batch,
    BucketRow,
    CloseIncarnation,
    Code,
    Commit,
    Genesis,
    Kind,
    Ledger,
    LockMode,
    Mark,
    NotLoaded,
    Proposal,
    QueryRecord,
    Reason,
    Record,
    RecordRefusal,
    ResidentState,
    Resolve,
    SetAccount,
    TakeEpoch,
    Token,
    Unmark,
)
from mas.ledger.instructions import LEDGER_VERSION, Body
from mas.ledger.row_cache import RowCache
from mas.ledger.rules import Ledger as Rules
from mas.limits import BALANCE_MAX
from tests.ledger.harness import (
    BUCKET,
    BUCKETS,
    HASH,
    HOME_ELSEWHERE,
    HOME_HERE,
    OTHER_TC,
    TC,
    USD,
    Bank,
    decide,
    pid,
    prepare,
    xid,
)


@pytest.fixture
def bank() -> Bank:
    bank = Bank()
    bank.open(("a", 100), ("b", 100), ("c", 0))
    return bank


def codes(answers: list[Answer]) -> list[Code]:
    return [answer.code for answer in answers]


def ask(number: int, attempt: int = 1, who: bytes = b"") -> Resolve:
    return Resolve(pid(number), attempt, who or xid(number), HASH)


def end(number: int, attempt: int = 1, payer: str = "a", **rest: object) -> RecordRefusal:
    body = Body(Kind.PAYMENT, "USD", ((payer, -5), ("far", 5)))
    given: dict[str, object] = {
        "payer": payer,
        "body": body,
        "body_hash": HASH,
        "reason": Reason.ACCOUNT_FROZEN,
    }
    return RecordRefusal(pid(number), Kind.PAYMENT, attempt=attempt, **{**given, **rest})


def told(bank: Bank, number: int) -> list[tuple[str, int, str, str]]:
    """What the postings of payment `number` say: whose, how much, with whom, and what the payer said."""
    return [
        (posting.account, posting.amount, posting.counterparty, posting.reference)
        for posting in bank.all_postings
        if posting.payment_id == pid(number)
    ]


def test_users_7_postings_tell_the_counterparty_and_the_reference(bank: Bank) -> None:
    """Of several the first in request order; of deposits, withdrawals and openings it is the world outside."""
    bank.do(decide(1, ("a", -1), ("b", 1), reference="one"))
    bank.do(prepare(2, ("b", 2), parties=("far", "b"), reference="two"), Commit(xid(2), 7))
    bank.do(decide(3, ("a", -3), ("far", 3), own=(0,), reference="three"))
    bank.do(decide(4, (EXTERNAL, -4), ("a", 4), kind=Kind.DEPOSIT, reference="four"))
    bank.do(decide(5, ("a", -5), (EXTERNAL, 5), kind=Kind.WITHDRAWAL))
    bank.do(decide(6, ("a", -3), ("b", -1), ("c", 2), ("far", 2), own=(0, 1, 2), reference="six"))
    bank.do(prepare(7, ("new", 8), kind=Kind.CREATION), Commit(xid(7), 7))
    assert told(bank, 1) == [("a", -1, "b", "one"), ("b", 1, "a", "one")]
    assert told(bank, 2) == [("b", 2, "far", "two")]
    assert told(bank, 3) == [("a", -3, "far", "three")]
    assert told(bank, 4) == [(USD, -4, "a", "four"), ("a", 4, EXTERNAL, "four")]
    assert told(bank, 5) == [("a", -5, EXTERNAL, ""), (USD, 5, "a", "")]
    assert told(bank, 6) == [("a", -3, "c", "six"), ("b", -1, "c", "six"), ("c", 2, "a", "six")]
    assert told(bank, 7) == [(USD, -8, "new", ""), ("new", 8, EXTERNAL, "")]


def test_users_4_what_is_closed_is_empty_and_stays_closed(bank: Bank) -> None:
    """Nobody can reach money in a closed account, or pay a debt there: it is paid out first."""
    closing = SetAccount("a", closed=True)
    assert bank.one(closing).reason is Reason.ACCOUNT_NOT_EMPTY
    bank.do(decide(1, ("a", -100), ("b", 100)))
    bank.do(prepare(2, ("a", 5)))
    assert bank.one(closing).reason is Reason.LEGS_PREPARED
    bank.do(Abort(xid(2)))
    assert bank.one(closing).code is Code.DONE
    opening = bank.one(SetAccount("a", closed=False))
    assert (opening.code, opening.reason) == (Code.REFUSED, Reason.ACCOUNT_CLOSED)
    assert bank.account("a").closed
    assert bank.one(decide(3, ("b", -1), ("a", 1))).reason is Reason.ACCOUNT_CLOSED


def test_users_5_a_closed_account_is_not_unfrozen(bank: Bank) -> None:
    """Neither frozen nor unfrozen; and whoever changes an account is told what it is now."""
    answer = bank.one(SetAccount("c", frozen=True, overdraft_limit=3))
    assert answer.state == AccountState(frozen=True, closed=False, overdraft_limit=3)
    assert bank.one(SetAccount("c", closed=True)).state == AccountState(
        frozen=True, closed=True, overdraft_limit=3
    )
    for change in (SetAccount("c", frozen=False), SetAccount("c", overdraft_limit=0)):
        assert bank.one(change).reason is Reason.ACCOUNT_CLOSED
    assert bank.account("c").frozen


def test_security_b2_an_id_finds_and_ends_its_payers_payment_alone(bank: Bank) -> None:
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


def test_twopc_a1_an_end_whose_body_is_another_payers_is_failed(bank: Bank) -> None:
    stolen = end(1, payer="b", body=end(1).body)
    assert bank.one(stolen).code is Code.FAILED


CANCEL = {"body": None, "body_hash": b"", "reason": Reason.CANCELLED}


# -- Rules 3 to 9: attempts, the record, the last leg decides ------------------------------------------------


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


# -- Rules 10, 11: the other buckets ---------------------------------------------------------------------------


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


# -- Rules 13 to 20: the ledger ----------------------------------------------------------------------------------


def test_rule_13_what_is_prepared_commits_whatever_the_account_has_come_to(bank: Bank) -> None:
    bank.do(prepare(1, ("a", -30), ("b", 10)))
    bank.do(SetAccount("a", frozen=True), SetAccount("b", frozen=True))
    assert bank.one(Commit(xid(1), 5)).code is Code.POSTED
    assert bank.one(prepare(2, ("a", 1))).reason is Reason.ACCOUNT_FROZEN


def test_rule_14_the_version_grows_with_every_change(bank: Bank) -> None:
    versions = [bank.account("a").version]
    for change in (
        prepare(1, ("a", -1)),
        Commit(xid(1), 5),
        prepare(2, ("a", -1)),
        Abort(xid(2)),
        decide(3, ("a", -1), ("b", 1)),
        SetAccount("a", frozen=True),
    ):
        bank.do(change)
        versions.append(bank.account("a").version)
    assert versions == list(range(versions[0], versions[0] + 7))
    bank.do(prepare(4, ("a", -1)), Mark("a", Token(1, 1)), Commit(xid(1), 5))
    assert bank.account("a").version == versions[-1], "a refusal, a mark, a repeat"


def test_rule_15_the_second_proposal_is_prepared_once_what_it_waited_for_is_settled(
    bank: Bank,
) -> None:
    """T6: the payee spends in the moment in which its payment was answered."""
    bank.do(prepare(1, ("c", 40)))
    spend = prepare(2, ("c", -40))
    assert bank.one(spend) == Answer(Code.PENDING_ON, xids=(xid(1),))
    (posted,), (prepared,) = bank.propose(
        Batch(b"", 0, (Commit(xid(1), 5),)), Batch(b"", 0, (spend,), NONE_LEFT_OUT)
    )
    assert codes([posted, prepared]) == [Code.POSTED, Code.PREPARED]


@pytest.mark.parametrize("restarted", [False, True])
def test_rule_15_every_replica_names_what_a_leg_waits_for_in_one_order(
    bank: Bank, *, restarted: bool
) -> None:
    bank.do(prepare(2, ("a", -40)), prepare(1, ("a", -40)))
    if restarted:
        bank.flush()
        bank.restart()
    for waits in (prepare(3, ("a", -40)), Mark("a", Token(1, 1))):
        assert bank.one(waits) == Answer(Code.PENDING_ON, xids=(xid(1), xid(2)))


def test_rule_15_money_that_nobody_was_told_of_does_not_count(bank: Bank) -> None:
    bank.do(prepare(1, ("c", 40)))
    answer = bank.one(prepare(2, ("c", -40)), left_out=(xid(1),))
    assert (answer.code, answer.reason) == (Code.REFUSED, Reason.INSUFFICIENT_FUNDS)


def test_rule_15_a_hold_that_may_be_freed_never_refuses_for_good(bank: Bank) -> None:
    """T7: refused for funds that another payment, later aborted, held."""
    bank.do(prepare(1, ("a", -80)))
    assert bank.one(prepare(2, ("a", -30))) == Answer(Code.PENDING_ON, xids=(xid(1),))
    answer = bank.one(prepare(2, ("a", -30)), left_out=(xid(1),))
    assert answer == Answer(Code.CONTENDED, Reason.CONTENDED)


def test_rule_15_newer_legs_may_still_turn_out_either_way(bank: Bank) -> None:
    bank.do(prepare(1, ("c", 40)), prepare(2, ("c", 40)))
    spend, too_much = prepare(3, ("c", -40)), prepare(3, ("c", -41))
    assert bank.one(spend, left_out=(xid(1),)).code is Code.CONTENDED, (
        "payment 2 may bring the money"
    )
    assert bank.one(too_much, left_out=(xid(1),)).code is Code.REFUSED, (
        "2 alone can't bring so much"
    )
    assert bank.one(spend, left_out=(xid(1), xid(2))).code is Code.REFUSED


def test_rule_15_passing_with_all_of_them_in_it_is_prepared(bank: Bank) -> None:
    bank.do(prepare(1, ("a", -80)))
    assert bank.one(prepare(2, ("a", -20)), left_out=(xid(1),)).code is Code.PREPARED


def test_rule_15_is_never_asked_twice(bank: Bank) -> None:
    bank.do(prepare(1, ("a", -80)))
    assert bank.one(prepare(2, ("a", -30)), left_out=NONE_LEFT_OUT).code is Code.CONTENDED


def test_rule_15_at_the_anchor_contended_ends_the_attempt_alone(bank: Bank) -> None:
    bank.do(prepare(1, ("a", -80)))
    pay = decide(2, ("a", -30), ("b", 30))
    assert bank.one(pay).code is Code.PENDING_ON
    assert bank.ledger.rows.record(pid(2)) is None, "not recorded"
    judged = bank.one(decide(2, ("a", -30), ("b", 30)), left_out=(xid(1),))
    assert judged == Answer(Code.ABORTED, Reason.CONTENDED, 1, xid(2))


def test_rule_15_the_other_legs_of_a_payment_do_not_count_as_undecided(bank: Bank) -> None:
    """Two debits of one account in one payment count together, and for good."""
    answer = bank.one(prepare(1, ("a", -60), ("a", -60)))
    assert (answer.code, answer.reason) == (Code.REFUSED, Reason.INSUFFICIENT_FUNDS)
    assert bank.one(prepare(2, ("a", -60), ("a", -40))).code is Code.PREPARED
    assert bank.account("a").debits_pending == 100


def test_p14_paying_oneself_moves_nothing_and_doubles_nothing(bank: Bank) -> None:
    assert bank.one(decide(1, ("a", -100), ("a", 100))).code is Code.COMMITTED
    assert (bank.account("a").balance, bank.account("a").sequence) == (100, 3)
    assert bank.one(decide(2, ("a", -101), ("a", 101))).reason is Reason.INSUFFICIENT_FUNDS


@pytest.mark.parametrize(
    ("part", "broken"),
    [
        (Rules, "_post"),
        (RowCache, "put_record"),
        (Rules, "_reserve"),
        (Rules, "_copy_for_update"),
    ],
)
def test_rule_16_an_instruction_that_raises_is_undone_whole(
    bank: Bank, part: type, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P16: recorded as failed, those beside it unharmed (rule 37)."""
    before, hashed = bank.accounts(), bank.ledger.rows.state_hash()
    calls = []
    whole = getattr(part, broken)

    def fail_late(self: object, *arguments: object) -> object:
        calls.append(arguments)
        if broken != "put_record" and len(calls) == 1:
            whole(self, *arguments)
        raise ZeroDivisionError

    monkeypatch.setattr(part, broken, fail_late)
    poison = decide(1, ("a", -1), ("b", 1))
    if broken == "put_record":
        poison = ask(1)
    failed, fine = bank.do(poison, QueryRecord(pid(1)), sender=b"")
    assert failed == Answer(Code.FAILED, detail="ZeroDivisionError")
    assert fine.code is Code.NONE
    assert (bank.accounts(), bank.ledger.rows.state_hash()) == (before, hashed)
    bank.check()


@pytest.mark.parametrize("error", [MemoryError, RecursionError, OSError, NotLoaded])
def test_rule_16_what_is_not_of_the_instructions_making_stops_this_replica(
    bank: Bank, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """T21: and what is left half way is never flushed, nor applied to."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Rules, "_post", fail)
    with pytest.raises(error):
        bank.do(decide(1, ("a", -1), ("b", 1)))
    monkeypatch.undo()
    with pytest.raises(AssertionError, match="interrupted"):
        bank.do(ask(2))
    with pytest.raises(AssertionError, match="interrupted"):
        bank.ledger.rows.take_writes()


def test_rule_16_an_entry_of_a_newer_program_stops_the_group(bank: Bank) -> None:
    newer = Proposal(LEDGER_VERSION + 1, 0, 1, 1, ())
    applied = bank.ledger.rows.bucket.applied
    for attempt in (bank.ledger.missing, lambda p: bank.ledger.apply(applied + 1, 1, p)):
        with pytest.raises(UnknownVersion, match="version 2"):
            attempt(newer)
    assert bank.ledger.rows.bucket.applied == applied, "and nothing of it is applied"


def test_rule_17_deposits_and_withdrawals_are_paid_by_external(bank: Bank) -> None:
    owed = bank.account(USD).balance
    bank.do(decide(1, ("a", 50), (EXTERNAL, -50), kind=Kind.DEPOSIT))
    bank.do(decide(2, (EXTERNAL, 20), ("a", -20), kind=Kind.WITHDRAWAL))
    assert bank.account("a").balance == 130
    assert bank.account(USD).balance == owed - 30
    assert bank.account(USD).id == f"{BUCKET}-0-0/USD"
    assert bank.one(decide(3, ("a", -131), (EXTERNAL, 131))).reason is Reason.INSUFFICIENT_FUNDS
    assert sum(account.balance for account in bank.accounts().values()) == 0


def test_rule_17_external_stays_a_number_of_64_bits(bank: Bank) -> None:
    """Its digest and its column would raise on every replica, at every start."""
    for number in range(6):
        bank.open((f"rich{number}", BALANCE_MAX))
        bank.ledger.rows.state_hash()
    more = decide(3, ("c", BALANCE_MAX), (EXTERNAL, -BALANCE_MAX), kind=Kind.DEPOSIT)
    assert bank.one(more).reason is Reason.BALANCE_LIMIT
    opening = prepare(4, ("new", BALANCE_MAX), kind=Kind.CREATION)
    assert bank.one(opening).reason is Reason.BALANCE_LIMIT


def test_rule_17_each_currency_has_its_own_external(bank: Bank) -> None:
    bank.open(("x", 5), currency="EUR")
    assert bank.account("@external/EUR").balance == -5


def test_rule_18_a_new_account_is_unseen_until_its_commit(bank: Bank) -> None:
    create = prepare(1, ("new", 70), kind=Kind.CREATION, overdraft_limit=9)
    bank.do(create)
    assert bank.ledger.rows.account("new") is None
    assert bank.ledger.rows.prepared_on(["new"]) == [bank.ledger.rows.legs[xid(1)]]
    assert bank.one(decide(2, ("a", -1), ("new", 1))) == Answer(Code.PENDING_ON, xids=(xid(1),))
    bank.do(Commit(xid(1), 44))
    new = bank.account("new")
    assert (new.balance, new.overdraft_limit, new.credits_pending, new.sequence) == (70, 9, 0, 1)
    assert [p.time_us for p in bank.all_postings if p.account == "new"] == [44]
    assert bank.one(decide(2, ("a", -1), ("new", 1))).code is Code.COMMITTED


def test_rule_18_the_leg_of_an_attempt_that_lost_leaves_nothing(bank: Bank) -> None:
    before = bank.accounts()
    bank.do(prepare(1, ("new", 70), kind=Kind.CREATION), Abort(xid(1)))
    after = bank.accounts()
    after[USD].version = before[USD].version
    assert after == before
    bank.flush()
    assert not bank.ledger.rows.legs
    assert bank.one(prepare(2, ("new", 5), kind=Kind.CREATION)).code is Code.PREPARED


def test_rule_18_two_creations_of_one_number_have_one_claim() -> None:
    """T18: whoever is second hears that it exists; a repeat hears where."""
    bank = Bank()
    number = HOME_HERE[0]
    first = decide(1, (number, 5), own=(), kind=Kind.CREATION, account_bucket=2, participants=(2,))
    second = decide(2, (number, 5), own=(), kind=Kind.CREATION, account_bucket=3, participants=(3,))
    won, lost, repeated = bank.do(first, second, first)
    assert (won.code, won.account_bucket) == (Code.COMMITTED, 2)
    assert repeated == won
    assert (lost.code, lost.reason) == (Code.REFUSED, Reason.ACCOUNT_EXISTS)
    assert bank.ledger.rows.claim(number) == 2
    assert number not in bank.accounts(), "it lives in bucket 2"


def test_rule_18_a_creation_placed_at_its_home_is_one_entry() -> None:
    bank = Bank()
    number = HOME_HERE[0]
    create = decide(1, (number, 5), kind=Kind.CREATION, account_bucket=BUCKET, overdraft_limit=3)
    assert bank.one(create).account_bucket == BUCKET
    account = bank.account(number)
    assert (account.balance, account.overdraft_limit) == (5, 3)
    assert bank.account(USD).balance == -5


def test_rule_19_the_internal_id_names_the_entry_and_the_place_in_it() -> None:
    bank = Bank()
    creations = [
        decide(n, (number, 0), kind=Kind.CREATION, account_bucket=BUCKET)
        for n, number in enumerate(HOME_HERE[:2])
    ]
    bank.do(*creations)
    assert [bank.account(n).id for n in HOME_HERE[:2]] == ["1-2-1", "1-2-2"]


def test_rule_20_creations_know_their_home(bank: Bank) -> None:
    number = HOME_ELSEWHERE[0]
    answers = bank.do(
        decide(1, (number, 5), own=(), kind=Kind.CREATION, account_bucket=2, participants=(2,)),
        RecordRefusal(pid(1), Kind.CREATION, number, 1, Reason.ACCOUNT_EXISTS),
        QueryRecord(pid(1), number, Kind.CREATION),
    )
    assert codes(answers) == [Code.WRONG_BUCKET] * 3
    at_home = HOME_HERE[0]
    answers = bank.do(
        QueryRecord(pid(2), at_home, Kind.CREATION),
        RecordRefusal(pid(2), Kind.CREATION, at_home, 1, Reason.BALANCE_LIMIT),
    )
    assert codes(answers) == [Code.NONE, Code.REFUSED]


def test_rule_20_genesis_is_said_once() -> None:
    bank = Bank(genesis=False)
    again = Genesis("cluster", BUCKET, BUCKETS)
    answers = bank.do(
        again,
        again,
        Genesis("cluster", BUCKET, BUCKETS + 1),
        Genesis("another", BUCKET, BUCKETS),
        Genesis("cluster", BUCKET + 1, BUCKETS),
    )
    assert codes(answers) == [Code.DONE, Code.UNCHANGED, Code.ALARM, Code.ALARM, Code.ALARM]
    assert (bank.ledger.rows.bucket.cluster, bank.ledger.rows.bucket.buckets) == (
        "cluster",
        BUCKETS,
    )


# -- Rules 33 to 36: locks ------------------------------------------------------------------------------------------

OLD, NEW, NEWER = Token(1, 1), Token(1, 2, LockMode.ESCROW), Token(2, 1)


def carry(token: Token | None) -> dict[str, tuple[Token | None, ...]]:
    return {"tokens": (token,)}


def test_rule_33_a_mark_names_the_legs_that_were_there_before_it(bank: Bank) -> None:
    bank.do(prepare(1, ("a", -1)), prepare(2, ("a", 1)))
    assert bank.one(Mark("a", OLD)) == Answer(Code.PENDING_ON, xids=(xid(1), xid(2)))
    bank.do(Commit(xid(1), 5), Abort(xid(2)))
    assert bank.one(Mark("a", OLD)).code is Code.DONE
    assert bank.account("a").marks == (OLD,), "set once"


def test_rule_33_a_mark_keeps_new_legs_out_until_it_is_taken_away(bank: Bank) -> None:
    bank.do(Mark("a", OLD))
    assert bank.one(prepare(1, ("a", -1))).code is Code.LOCK_CONFLICT
    assert codes(bank.do(Unmark("a", OLD), Unmark("a", OLD))) == [Code.DONE, Code.UNCHANGED]
    assert bank.one(prepare(1, ("a", -1))).code is Code.PREPARED


def test_rule_33_there_is_nothing_to_mark_where_there_is_no_account(bank: Bank) -> None:
    assert codes(bank.do(Mark("nobody", OLD), Unmark("nobody", OLD))) == [Code.WRONG_BUCKET] * 2


def test_rule_34_a_newer_token_passes_marks_and_takes_them_away(bank: Bank) -> None:
    shared = Token(1, 1, LockMode.SHARED)
    bank.do(Mark("a", OLD), Mark("a", shared))
    assert bank.one(prepare(1, ("a", -1), **carry(NEW))).code is Code.PREPARED
    assert (bank.account("a").marks, bank.account("a").passed) == ((), NEW)
    assert bank.one(prepare(2, ("a", -1))).code is Code.PREPARED, "ESCROW fences nothing"


def test_rule_34_an_older_token_does_not_pass(bank: Bank) -> None:
    bank.do(Mark("a", NEWER), Mark("b", OLD))
    answer = bank.one(prepare(1, ("a", -1), ("b", 1), tokens=(NEW, NEW)))
    assert answer.code is Code.LOCK_CONFLICT
    assert bank.account("b").marks == (OLD,), "none of its legs has passed"


def test_rule_34_a_mark_that_was_passed_is_not_set_again(bank: Bank) -> None:
    bank.do(Mark("a", OLD), prepare(1, ("a", -1), **carry(NEW)))
    assert codes(bank.do(Mark("a", OLD), Mark("a", NEW))) == [Code.LOCK_CONFLICT] * 2
    assert bank.one(Mark("a", NEWER)).code is Code.PENDING_ON


def test_rule_34_the_anchors_own_leg_passes_too(bank: Bank) -> None:
    """A token travels for each of the anchor's own legs, in their order."""
    bank.do(Mark("b", OLD))
    pay = decide(1, ("far", -1), ("b", 1), own=(1,), participants=(2,), **carry(NEW))
    assert bank.one(pay).code is Code.COMMITTED
    assert bank.account("b").marks == ()


def test_twopc_a2_marks_exclude_each_other_whatever_two_lock_services_grant(bank: Bank) -> None:
    """A service that was taken for dead still marks behind the new one; one EXCLUSIVE mark stands at the most."""
    late, newer = Token(1, 5), Token(2, 1)
    bank.do(Mark("a", late))
    assert codes(bank.do(Mark("a", newer), Mark("a", late))) == [Code.DONE, Code.LOCK_CONFLICT]
    assert bank.account("a").marks == (newer,)
    bank.do(Unmark("a", newer))
    answers = bank.do(Mark("a", late), Mark("a", newer), Mark("a", Token(2, 2)))
    assert codes(answers) == [Code.LOCK_CONFLICT, Code.LOCK_CONFLICT, Code.DONE]


def test_rule_34_readers_marks_stand_together_and_an_older_exclusive_one_goes(bank: Bank) -> None:
    one, two = Token(1, 2, LockMode.SHARED), Token(1, 3, LockMode.SHARED)
    answers = bank.do(Mark("a", OLD), Mark("a", two), Mark("a", one), Mark("a", OLD))
    assert codes(answers) == [Code.DONE, Code.DONE, Code.DONE, Code.LOCK_CONFLICT]
    assert bank.account("a").marks == (two, one)
    assert codes(bank.do(Unmark("a", two), Mark("a", two))) == [Code.DONE] * 2
    bank.do(Mark("a", NEWER))
    assert bank.account("a").marks == (NEWER,)


@pytest.mark.parametrize("mode", [LockMode.EXCLUSIVE, LockMode.SHARED])
def test_twopc_a2_a_mark_that_comes_behind_its_unmark_is_not_set(
    bank: Bank, mode: LockMode
) -> None:
    token = Token(1, 4, mode)
    assert codes(bank.do(Unmark("a", token), Mark("a", token))) == [
        Code.UNCHANGED,
        Code.LOCK_CONFLICT,
    ]
    assert bank.account("a").marks == ()


def test_twopc_b3_an_account_being_created_is_not_in_a_wrong_bucket(bank: Bank) -> None:
    """Its creation may be committed: whoever asks waits for it, and doesn't look for the account elsewhere."""
    bank.do(prepare(1, ("new", 5), kind=Kind.CREATION))
    pending = Answer(Code.PENDING_ON, xids=(xid(1),))
    answers = bank.do(
        QueryRecord(pid(2), "new"),
        RecordRefusal(pid(2), Kind.PAYMENT, "new", 0, Reason.CANCELLED),
        Mark("new", OLD),
        SetAccount("new", frozen=True),
    )
    assert answers == [pending] * 4
    bank.do(Abort(xid(1)))
    assert bank.one(QueryRecord(pid(2), "new")).code is Code.WRONG_BUCKET


def test_twopc_c1_a_change_is_judged_once_by_its_name(bank: Bank) -> None:
    freeze = SetAccount("a", frozen=True, change_id=pid(7))
    state = bank.one(freeze).state
    bank.do(SetAccount("a", frozen=False), Mark("a", NEWER))
    again = bank.one(freeze)
    assert (again.code, again.state) == (Code.DONE, msgspec.structs.replace(state, frozen=False))
    assert not bank.account("a").frozen
    other = bank.one(SetAccount("a", frozen=False, change_id=pid(7)))
    assert other.code is Code.KEY_REUSED


def test_twopc_c1_a_refusal_of_a_change_is_for_ever_and_a_lock_is_not(bank: Bank) -> None:
    close = SetAccount("a", closed=True, change_id=pid(7))
    assert bank.one(close).reason is Reason.ACCOUNT_NOT_EMPTY
    bank.do(Mark("b", OLD))
    freeze = SetAccount("b", frozen=True, change_id=pid(8))
    assert bank.one(freeze).code is Code.LOCK_CONFLICT
    bank.do(
        Unmark("b", OLD),
        decide(1, ("a", -bank.account("a").balance), ("b", bank.account("a").balance)),
    )
    assert bank.account("a").balance == 0
    assert codes(bank.do(close, freeze)) == [Code.REFUSED, Code.DONE]


def test_rule_34_what_is_done_under_a_mark_needs_it_to_stand(bank: Bank) -> None:
    bank.do(Mark("a", OLD), prepare(1, ("a", -1), **carry(NEW)))
    freeze = SetAccount("a", frozen=True, token=OLD)
    assert bank.one(freeze).code is Code.LOCK_CONFLICT
    assert not bank.account("a").frozen


def test_rule_35_an_exclusive_token_fences_what_is_older(bank: Bank) -> None:
    """L1, L3: the holder that was paused finds its token refused."""
    bank.do(prepare(1, ("a", -1), **carry(NEWER)), Commit(xid(1), 5))
    assert bank.account("a").fence == NEWER
    assert bank.one(prepare(2, ("a", -1), **carry(OLD))).code is Code.LOCK_CONFLICT
    assert bank.one(Mark("a", OLD)).code is Code.LOCK_CONFLICT
    assert bank.one(prepare(3, ("a", -1), **carry(NEWER))).code is Code.PREPARED


@pytest.mark.parametrize(
    ("first", "second"), [(OLD, None), (OLD, NEWER), (None, NEWER), (NEW, NEWER)]
)
@pytest.mark.parametrize("restarted", [False, True])
def test_rule_35_in_exclusive_mode_a_prepared_leg_keeps_every_other_out(
    bank: Bank, first: Token | None, second: Token | None, restarted: bool
) -> None:
    """L2, L4: two holders, one lock lost; one PREPARE wins."""
    bank.do(prepare(1, ("a", -1), ("b", -1), tokens=(first, first)))
    if restarted:
        bank.flush()
        bank.restart()
    assert bank.one(prepare(2, ("a", -1), **carry(second))).code is Code.LOCK_CONFLICT
    bank.do(Commit(xid(1), 5))
    assert bank.one(prepare(2, ("a", -1), **carry(second))).code is Code.PREPARED


def test_rule_35_legs_without_exclusive_tokens_stand_side_by_side(bank: Bank) -> None:
    bank.do(prepare(1, ("a", -1), **carry(NEW)))
    assert bank.one(prepare(2, ("a", -1), **carry(NEW))).code is Code.PREPARED


def test_rule_36_an_epoch_is_taken_once() -> None:
    bank = Bank()
    assert [answer.value for answer in bank.do(TakeEpoch("one"), TakeEpoch("two"))] == [1, 2]
    bank.flush()
    bank.restart()
    assert bank.one(TakeEpoch("one")).value == 3


# -- Entries -------------------------------------------------------------------------------------------------------


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


# -- Rule 16: what no rule can make sense of ------------------------------------------------------------------


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
def test_twopc_a1_what_cannot_be_is_failed_alike_and_nothing_else_is_harmed(
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


def test_twopc_a1_the_systems_accounts_are_nobodys_to_name(bank: Bank) -> None:
    """`@external` is reached by that name alone, which is judged by the room in 64 bits."""
    bank.do(decide(1, (EXTERNAL, -4), ("a", 4), kind=Kind.DEPOSIT))
    assert bank.one(decide(2, ("a", -1), (USD, 1))).code is Code.FAILED
    assert bank.one(prepare(3, (USD, 1))).code is Code.FAILED
    strange = decide(4, (EXTERNAL, -4), ("a", 4), kind=Kind.DEPOSIT, currency="x\x00")
    assert bank.one(strange).code in (Code.FAILED, Code.REFUSED)
    assert set(bank.accounts()) == {"a", "b", "c", USD}


def test_twopc_a1_a_batch_whose_head_cannot_be_is_failed_whole(bank: Bank) -> None:
    for batch in (
        Batch(b"short", 0, (QueryRecord(pid(1)),)),
        Batch(TC, 2**49, (QueryRecord(pid(1)),)),
    ):
        ((answer,),) = bank.propose(batch)
        assert answer.code is Code.FAILED
    assert bank.one(prepare(1, ("a", -1))).code is Code.PREPARED


def test_twopc_a1_a_stamp_beyond_all_time_is_kept_within_it(bank: Bank) -> None:
    """The stamp is written to a column of 64 bits."""
    bank.do(decide(1, ("a", -1), ("b", 1)), time_us=2**64 - 1)
    assert bank.ledger.rows.bucket.time_us == 2**63 - 1


# -- B1: what waits on one account ---------------------------------------------------------------------------


def test_twopc_b1_however_much_waits_on_an_account_a_batch_is_judged_by_sums(bank: Bank) -> None:
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


def test_twopc_b1_too_much_waiting_on_one_account_ends_the_attempt_at_once(bank: Bank) -> None:
    most = limits.UNDECIDED_PER_ACCOUNT_MAX
    bank.do(*[prepare(n, ("c", 1)) for n in range(1, most + 1)])
    spend = prepare(5_000, ("c", -1))
    assert bank.one(spend).code is Code.PENDING_ON
    bank.do(prepare(most + 1, ("c", 1)))
    assert bank.one(spend) == Answer(Code.CONTENDED, Reason.CONTENDED)
    assert bank.one(prepare(5_001, ("c", -2_000))).code is Code.REFUSED, "whatever becomes of them"


def test_twopc_b1_marks_on_one_account_are_bounded(bank: Bank) -> None:
    most = limits.MARKS_PER_ACCOUNT_MAX
    readers = [Mark("a", Token(1, n, LockMode.SHARED)) for n in range(1, most + 2)]
    assert codes(bank.do(*readers)) == [Code.DONE] * most + [Code.LOCK_CONFLICT]
    assert bank.one(Mark("a", Token(2, 1))).code is Code.DONE, (
        "one that excludes them takes their place"
    )


# -- A3: what is promised is reserved ------------------------------------------------------------------------


def test_twopc_a3_openings_under_way_reserve_what_external_has_room_for() -> None:
    """Each was judged against the same balance, and together they left no number that a database holds."""
    bank = Bank()
    count = 10
    creations = [
        prepare(n, (f"n{n}", BALANCE_MAX), kind=Kind.CREATION) for n in range(1, count + 1)
    ]
    said = codes(bank.do(*creations))
    assert said == [Code.PREPARED] * 7 + [Code.CONTENDED] * 3
    prepared = list(bank.ledger.rows.legs)
    assert len(prepared) == 7
    assert bank.account(USD).debits_pending == 7 * BALANCE_MAX
    bank.do(*[Commit(one, 5) for one in prepared])
    row = bank.account(USD)
    assert (row.balance, row.debits_pending) == (-7 * BALANCE_MAX, 0)
    bank.flush()
    too_many = prepare(count + 1, ("late", BALANCE_MAX), kind=Kind.CREATION)
    assert bank.one(too_many).reason is Reason.BALANCE_LIMIT, "nothing gives the room back"


def test_twopc_a3_what_an_opening_reserved_is_freed_with_it(bank: Bank) -> None:
    before = bank.account(USD)
    opening = prepare(1, ("new", 70), kind=Kind.CREATION)
    bank.do(opening)
    assert bank.account(USD).debits_pending == 70
    bank.do(Abort(xid(1)))
    row = bank.account(USD)
    assert (row.balance, row.debits_pending) == (before.balance, 0)
    bank.do(prepare(2, ("new", 70), kind=Kind.CREATION), Commit(xid(2), 5))
    row = bank.account(USD)
    assert (row.balance, row.debits_pending) == (before.balance - 70, 0)


def test_twopc_a3_deposits_of_one_payment_count_together(bank: Bank) -> None:
    half = 4 * BALANCE_MAX
    answer = bank.one(prepare(1, (EXTERNAL, -half), (EXTERNAL, -half), kind=Kind.DEPOSIT))
    assert (answer.code, answer.reason) == (Code.CONTENDED, Reason.CONTENDED)
