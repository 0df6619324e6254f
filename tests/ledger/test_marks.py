"""Locks: marks and tokens (rules 33 to 36)."""

import msgspec
import pytest

from mas import limits
from mas.ledger import (
    Abort,
    Answer,
    Code,
    Commit,
    Kind,
    LockMode,
    Mark,
    QueryRecord,
    Reason,
    RecordRefusal,
    SetAccount,
    TakeEpoch,
    Token,
    Unmark,
)
from tests.ledger.harness import (
    NEW,
    NEWER,
    OLD,
    Bank,
    codes,
    decide,
    pid,
    prepare,
    xid,
)


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


def test_marks_exclude_each_other_whatever_two_lock_services_grant(bank: Bank) -> None:
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
def test_a_mark_that_comes_behind_its_unmark_is_not_set(bank: Bank, mode: LockMode) -> None:
    token = Token(1, 4, mode)
    assert codes(bank.do(Unmark("a", token), Mark("a", token))) == [
        Code.UNCHANGED,
        Code.LOCK_CONFLICT,
    ]
    assert bank.account("a").marks == ()


def test_an_account_being_created_is_not_in_a_wrong_bucket(bank: Bank) -> None:
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


def test_a_change_is_judged_once_by_its_name(bank: Bank) -> None:
    freeze = SetAccount("a", frozen=True, change_id=pid(7))
    state = bank.one(freeze).state
    bank.do(SetAccount("a", frozen=False), Mark("a", NEWER))
    again = bank.one(freeze)
    assert (again.code, again.state) == (Code.DONE, msgspec.structs.replace(state, frozen=False))
    assert not bank.account("a").frozen
    other = bank.one(SetAccount("a", frozen=False, change_id=pid(7)))
    assert other.code is Code.KEY_REUSED


def test_a_refusal_of_a_change_is_for_ever_and_a_lock_is_not(bank: Bank) -> None:
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


def test_marks_on_one_account_are_bounded(bank: Bank) -> None:
    most = limits.MARKS_PER_ACCOUNT_MAX
    readers = [Mark("a", Token(1, n, LockMode.SHARED)) for n in range(1, most + 2)]
    assert codes(bank.do(*readers)) == [Code.DONE] * most + [Code.LOCK_CONFLICT]
    assert bank.one(Mark("a", Token(2, 1))).code is Code.DONE, (
        "one that excludes them takes their place"
    )
