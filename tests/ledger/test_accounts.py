"""Accounts, reservations and creations (rules 13 to 20)."""

import pytest

from mas.errors import UnknownVersion
from mas.ledger import (
    EXTERNAL,
    NONE_LEFT_OUT,
    Abort,
    AccountState,
    Answer,
    Batch,
    Code,
    Commit,
    Genesis,
    Kind,
    Mark,
    NotLoaded,
    Proposal,
    QueryRecord,
    Reason,
    RecordRefusal,
    SetAccount,
    Token,
)
from mas.ledger.instructions import LEDGER_VERSION
from mas.ledger.row_cache import RowCache
from mas.ledger.rules import Ledger as Rules
from mas.limits import BALANCE_MAX
from tests.ledger.harness import (
    BUCKET,
    BUCKETS,
    HOME_ELSEWHERE,
    HOME_HERE,
    USD,
    Bank,
    ask,
    codes,
    decide,
    pid,
    prepare,
    xid,
)


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


def test_openings_under_way_reserve_what_external_has_room_for() -> None:
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


def test_what_an_opening_reserved_is_freed_with_it(bank: Bank) -> None:
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


def test_deposits_of_one_payment_count_together(bank: Bank) -> None:
    half = 4 * BALANCE_MAX
    answer = bank.one(prepare(1, (EXTERNAL, -half), (EXTERNAL, -half), kind=Kind.DEPOSIT))
    assert (answer.code, answer.reason) == (Code.CONTENDED, Reason.CONTENDED)
