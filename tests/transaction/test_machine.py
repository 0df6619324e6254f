"""The coordinator's side of two-phase commit, event by event. Each test cites its rule of the protocol."""

import pytest

from mas.ids import xid_incarnation
from mas.ledger.instructions import (
    Abort,
    Body,
    Code,
    Commit,
    Decide,
    Kind,
    LockMode,
    Prepare,
    QueryRecord,
    Reason,
    RecordRefusal,
    RejectReason,
    Resolve,
    Token,
)
from mas.transaction.machine import (
    ATTEMPTS_MAX,
    Alarm,
    Later,
    Locate,
    NeedLocks,
    NotePending,
    Phase,
    ReleaseLocks,
    Settled,
)
from mas.transaction.outcome import Status
from mas.transaction.placement import Placement, place_creation
from tests.transaction.runs import (
    ANCHOR,
    FAR,
    OTHER,
    PAYEE,
    PAYER,
    SOMEBODY_ELSE,
    SPLIT,
    THIRD,
    Run,
    lives,
)


def deciding(run: Run | None = None) -> tuple[Run, list, object]:
    """A run whose votes are all yes, with its DECIDE."""
    run = run or Run()
    run.start()
    for send in run.sent(Prepare):
        run.answer(send, Code.PREPARED)
    return run, run.take(NotePending), run.one(Decide)


# -- the last leg decides (rules 4, 5) -------------------------------------------------------------------


def test_rule_4_every_bucket_but_the_anchor_is_asked_at_once() -> None:
    run = Run(SPLIT, (ANCHOR, OTHER, FAR)).start()

    assert run.wants() == [NotePending, Prepare, Prepare]
    prepares = [send.instruction for send in run.sent(Prepare)]
    assert [(p.legs, p.anchor, p.participants, p.attempt) for p in prepares] == [
        (((PAYEE, 2),), ANCHOR, (OTHER, FAR), 1),
        (((THIRD, 3),), ANCHOR, (OTHER, FAR), 1),
    ]
    assert prepares[0].xid == prepares[1].xid


def test_users_7_phase_1_carries_what_postings_tell() -> None:
    """A bucket that isn't the anchor knows only its own legs, and its postings name the other side all the same."""
    body = Body(Kind.PAYMENT, "USD", SPLIT.legs, reference="rent")
    for send in Run(body, (ANCHOR, OTHER, FAR)).start().sent(Prepare):
        assert send.instruction.parties == (PAYER, PAYEE)
        assert send.instruction.reference == "rent"


def test_rule_4_all_legs_of_a_bucket_are_one_instruction() -> None:
    run = Run(SPLIT, (ANCHOR, OTHER, OTHER)).start()

    assert run.one(Prepare).instruction.legs == ((PAYEE, 2), (THIRD, 3))


def test_rule_5_decide_goes_out_when_the_last_vote_is_yes() -> None:
    run = Run(SPLIT, (ANCHOR, OTHER, FAR)).start()
    first, second = run.sent(Prepare)

    run.answer(first, Code.PREPARED)
    assert run.sent(Decide) == []
    run.answer(second, Code.PREPARED)

    send = run.one(Decide)
    assert send.bucket == ANCHOR
    assert send.instruction.participants == (OTHER, FAR)
    assert send.instruction.own == (0,)


def test_rule_5_the_client_hears_before_the_others_are_told() -> None:
    run, _, decide = deciding()
    xid = decide.instruction.xid

    run.answer(decide, Code.COMMITTED, xid=xid, time_us=42)

    result = run.result()
    assert (result.status, result.time_us) == (Status.COMMITTED, 42)
    commit = run.one(Commit)
    assert (commit.bucket, commit.instruction) == (OTHER, Commit(xid, 42))
    run.answer(commit, Code.POSTED)
    assert [settled.xid for settled in run.take(Settled)] == [xid]
    assert run.transaction.is_over


def test_rule_5_a_payment_within_one_bucket_is_its_decide_alone() -> None:
    run = Run(buckets=(ANCHOR, ANCHOR)).start()

    decide = run.one(Decide)
    assert decide.instruction.participants == ()
    assert decide.instruction.own == (0, 1)
    assert run.wants() == []
    run.answer(decide, Code.COMMITTED, xid=decide.instruction.xid, time_us=1)
    assert run.result().status is Status.COMMITTED
    assert run.wants() == []


# -- what DECIDE is answered (rules 6, 7) ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status"),
    [(Code.REFUSED, Status.REFUSED), (Code.KEY_REUSED, Status.KEY_REUSED)],
)
def test_rule_6_a_no_and_a_reused_key_free_the_legs(code: Code, status: Status) -> None:
    run, _, decide = deciding()

    run.answer(decide, code, Reason.INSUFFICIENT_FUNDS, detail="amount")

    result = run.result()
    assert (result.status, result.detail) == (status, "amount")
    assert run.one(Abort).instruction.xid == decide.instruction.xid


def test_rule_7_the_outcome_of_another_xid_is_the_clients_and_frees_the_own_legs() -> None:
    run, _, decide = deciding()

    run.answer(decide, Code.COMMITTED, xid=SOMEBODY_ELSE, time_us=9)

    assert run.result().time_us == 9
    assert run.wants() == [Abort]


def test_rule_6_after_a_dead_attempt_the_next_one_begins_under_a_new_xid() -> None:
    run, _, decide = deciding()

    run.answer(decide, Code.ABORTED, Reason.DIED, attempt=3)

    assert run.wants() == [Abort, NotePending, Prepare]
    prepare = run.one(Prepare).instruction
    assert prepare.attempt == 4
    assert prepare.xid != decide.instruction.xid
    assert run.one(Abort).instruction.xid == decide.instruction.xid


def test_rule_6_the_reason_of_its_own_decide_goes_to_the_client() -> None:
    run, _, decide = deciding()

    run.answer(decide, Code.ABORTED, Reason.CONTENDED, attempt=1, xid=decide.instruction.xid)

    result = run.result()
    assert (result.status, result.reason) == (Status.ABORTED, Reason.CONTENDED)
    assert run.wants() == [Abort]


def test_rule_6_no_attempt_follows_a_client_that_has_gone() -> None:
    run, _, decide = deciding()
    run.expire()
    assert run.result().status is Status.UNKNOWN

    run.answer(decide, Code.ABORTED, Reason.DIED, attempt=1)

    assert run.sent(Prepare) == []
    assert run.transaction.phase is Phase.DONE


def test_a_run_makes_a_bounded_number_of_attempts() -> None:
    run = Run(buckets=(ANCHOR, ANCHOR)).start()
    for _ in range(ATTEMPTS_MAX):
        decide = run.one(Decide)
        run.answer(decide, Code.ABORTED, Reason.DIED, attempt=decide.instruction.attempt)

    assert run.result().status is Status.ABORTED
    assert run.wants() == []


@pytest.mark.parametrize("why", list(RejectReason))
def test_t23_over_prepared_legs_nothing_ends_by_a_copy_that_is_turned_away(
    why: RejectReason,
) -> None:
    run, _, decide = deciding()

    run.turn_away(decide, why)
    assert run.wants() == [Later]
    run.wait()
    again = run.one(Decide)
    assert again.instruction == decide.instruction
    assert again.tries == 1

    run.turn_away(again, why)
    run.late()
    assert run.wants() == [Later, Resolve]


@pytest.mark.parametrize(
    ("why", "reason"),
    [(RejectReason.OVERLOADED, Reason.OVERLOADED), (RejectReason.INVALID, Reason.UNAVAILABLE)],
)
def test_rule_6_a_one_bucket_decide_may_end_by_being_turned_away(
    why: RejectReason, reason: Reason
) -> None:
    run = Run(buckets=(ANCHOR, ANCHOR)).start()

    run.turn_away(run.one(Decide), why)

    result = run.result()
    assert (result.status, result.reason) == (Status.REJECTED, reason)
    assert run.wants() == []


def test_rule_6_a_one_bucket_decide_once_lost_sight_of_is_asked_about() -> None:
    run = Run(buckets=(ANCHOR, ANCHOR)).start()
    run.turn_away(run.one(Decide), RejectReason.UNKNOWN)
    run.wait()

    run.turn_away(run.one(Decide), RejectReason.OVERLOADED)
    assert run.is_silent()
    run.late()

    ask = run.one(Resolve)
    run.answer(ask, Code.ABORTED, Reason.DIED, attempt=1)
    result = run.result()
    assert (result.status, result.reason) == (Status.ABORTED, Reason.TIMED_OUT)


def test_rule_6_a_one_bucket_decide_under_way_is_asked_about_when_time_is_up() -> None:
    run = Run(buckets=(ANCHOR, ANCHOR)).start()
    decide = run.one(Decide)

    run.late()
    ask = run.one(Resolve)
    run.answer(decide, Code.COMMITTED, xid=decide.instruction.xid, time_us=3)

    assert run.result().status is Status.COMMITTED
    run.answer(ask, Code.COMMITTED, xid=decide.instruction.xid, time_us=3)
    assert run.wants() == []


def test_a_one_bucket_decide_between_two_copies_ends_when_time_is_up() -> None:
    run = Run(buckets=(ANCHOR, ANCHOR)).start()
    run.turn_away(run.one(Decide), RejectReason.NOT_LEADING)

    run.late()

    assert run.result().status is Status.REJECTED
    run.wait()
    assert run.wants() == []


# -- ending by itself (rule 8) ---------------------------------------------------------------------------


def test_rule_8_time_is_up_in_phase_1_the_legs_are_freed_and_the_anchor_is_asked() -> None:
    run = Run().start()
    xid = run.one(Prepare).instruction.xid

    run.late()

    assert run.wants() == [NotePending, Abort, QueryRecord]
    assert run.is_silent()
    assert run.one(Abort).instruction.xid == xid
    look = run.one(QueryRecord)
    assert (look.bucket, look.instruction.payer) == (ANCHOR, PAYER)
    run.answer(look, Code.NONE)
    result = run.result()
    assert (result.status, result.reason) == (Status.ABORTED, Reason.TIMED_OUT)


def test_rule_8_an_outcome_found_instead_of_an_error_is_the_answer() -> None:
    run = Run().start()
    run.late()

    run.answer(run.one(QueryRecord), Code.COMMITTED, xid=SOMEBODY_ELSE, time_us=8)

    decide = run.one(Decide)  # which a payment that has an outcome answers, or says KEY_REUSED
    run.answer(decide, Code.COMMITTED, xid=SOMEBODY_ELSE, time_us=8)
    assert run.result().time_us == 8
    assert run.sent(Commit) == []


def test_rule_6_an_outcome_found_for_another_body_is_a_reused_key() -> None:
    run = Run(repeat=True).start()
    run.answer(run.one(QueryRecord), Code.COMMITTED, xid=SOMEBODY_ELSE, time_us=8)

    run.answer(run.one(Decide), Code.KEY_REUSED, detail="amount")

    result = run.result()
    assert (result.status, result.detail) == (Status.KEY_REUSED, "amount")
    assert run.wants() == []


def test_rule_6_what_a_question_says_of_another_xid_is_asked_of_decide() -> None:
    run, _, decide = deciding()
    run.late()

    run.answer(run.one(Resolve), Code.COMMITTED, xid=SOMEBODY_ELSE, time_us=8)

    assert run.one(Abort).instruction.xid == decide.instruction.xid
    assert run.is_silent()
    run.answer(run.one(Decide), Code.KEY_REUSED, detail="amount")
    assert run.result().status is Status.KEY_REUSED


def test_rule_8_without_a_reply_the_answer_is_unknown() -> None:
    run = Run().start()
    run.late()
    run.turn_away(run.one(QueryRecord), RejectReason.UNAVAILABLE)
    run.wait()
    assert run.sent(QueryRecord)
    assert run.is_silent()

    run.expire()

    assert run.result().status is Status.UNKNOWN


def test_rule_8_a_repeat_asks_before_phase_1() -> None:
    run = Run(repeat=True).start()
    assert run.wants() == [QueryRecord]

    run.answer(run.one(QueryRecord), Code.ABORTED, attempt=2)

    assert run.one(Prepare).instruction.attempt == 3


def test_rule_8_a_repeat_that_finds_nothing_begins_with_attempt_1() -> None:
    run = Run(repeat=True).start()

    run.answer(run.one(QueryRecord), Code.NONE)

    assert run.one(Prepare).instruction.attempt == 1


def test_rule_8_a_repeat_without_a_reply_is_unknown() -> None:
    run = Run(repeat=True).start()

    run.expire()

    assert run.result().status is Status.UNKNOWN


def test_rule_8_a_ledgers_no_is_written_before_the_client_hears_it() -> None:
    run = Run(SPLIT, (ANCHOR, OTHER, FAR)).start()
    first, second = run.sent(Prepare)
    run.answer(first, Code.PREPARED)

    run.answer(second, Code.REFUSED, Reason.ACCOUNT_FROZEN, detail=THIRD)

    assert run.is_silent()
    abort = run.one(Abort)
    assert abort.bucket == OTHER  # who said no holds nothing
    end = run.one(RecordRefusal)
    assert (end.bucket, end.instruction.attempt) == (ANCHOR, 1)
    assert end.instruction.reason is Reason.ACCOUNT_FROZEN
    run.answer(end, Code.REFUSED, Reason.ACCOUNT_FROZEN, detail=THIRD)
    result = run.result()
    assert (result.status, result.reason) == (Status.REFUSED, Reason.ACCOUNT_FROZEN)


def test_rule_8_a_no_that_finds_an_outcome_gives_the_client_that() -> None:
    run = Run().start()
    run.answer(run.one(Prepare), Code.REFUSED, Reason.ACCOUNT_FROZEN)

    run.answer(run.one(RecordRefusal), Code.COMMITTED, xid=SOMEBODY_ELSE, time_us=5)

    assert run.result().status is Status.COMMITTED


def test_rule_8_a_no_of_a_dead_attempt_is_asked_for_again() -> None:
    run = Run().start()
    run.answer(run.one(Prepare), Code.REFUSED, Reason.ACCOUNT_FROZEN)

    run.answer(run.one(RecordRefusal), Code.ABORTED, attempt=4)

    assert run.one(Prepare).instruction.attempt == 5


def test_rule_8_an_end_that_is_lost_sight_of_is_sent_again() -> None:
    run = Run().start()
    run.answer(run.one(Prepare), Code.REFUSED, Reason.ACCOUNT_FROZEN)

    run.turn_away(run.one(RecordRefusal), RejectReason.UNKNOWN)
    assert run.is_silent()
    run.wait()

    assert run.sent(RecordRefusal)


def test_rule_8_after_decide_nothing_is_freed_before_the_anchor_has_spoken() -> None:
    run, _, decide = deciding()

    run.late()
    assert run.wants() == [Resolve]
    run.expire()
    assert run.result().status is Status.UNKNOWN
    assert run.wants() == [Resolve]

    ask = run.one(Resolve)
    run.turn_away(ask, RejectReason.UNKNOWN)
    run.wait()
    run.answer(run.one(Resolve), Code.COMMITTED, xid=decide.instruction.xid, time_us=6)
    assert run.wants() == [Commit]


def test_c14_decide_of_an_attempt_declared_dead_is_told_so() -> None:
    run, _, decide = deciding()
    run.late()

    run.answer(run.one(Resolve), Code.ABORTED, Reason.DIED, attempt=1)

    result = run.result()
    assert (result.status, result.reason) == (Status.ABORTED, Reason.TIMED_OUT)
    assert run.wants() == [Abort]
    run.answer(decide, Code.ABORTED, Reason.DIED, attempt=1)
    assert run.wants() == [Abort]


@pytest.mark.parametrize("code", [Code.NONE, Code.FAILED, Code.ABORTED])
def test_rule_11_an_answer_that_says_nothing_of_this_xid_is_asked_for_again(code: Code) -> None:
    run, _, _ = deciding()
    run.late()

    run.answer(run.one(Resolve), code)

    assert run.wants() == [Later]
    assert run.is_silent()


def test_rule_6_a_decide_that_failed_over_prepared_legs_is_asked_about() -> None:
    run, _, decide = deciding()

    run.answer(decide, Code.FAILED, detail="KeyError")
    assert run.wants() == [Resolve]
    run.answer(run.one(Resolve), Code.ABORTED, Reason.DIED, attempt=1)

    result = run.result()
    assert (result.status, result.reason) == (Status.ABORTED, Reason.UNAVAILABLE)


@pytest.mark.parametrize(
    ("code", "reason"),
    [(Code.CONTENDED, Reason.CONTENDED), (Code.FAILED, Reason.UNAVAILABLE)],
)
def test_rule_15_what_ends_an_attempt_alone_is_retryable(code: Code, reason: Reason) -> None:
    run = Run().start()

    run.answer(run.one(Prepare), code)
    run.answer(run.one(QueryRecord), Code.NONE)

    result = run.result()
    assert (result.status, result.reason) == (Status.ABORTED, reason)


def test_rule_16_overload_in_phase_1_ends_the_attempt_and_needs_no_abort_there() -> None:
    run = Run(SPLIT, (ANCHOR, OTHER, FAR)).start()
    first, second = run.sent(Prepare)
    run.answer(first, Code.PREPARED)

    run.turn_away(second, RejectReason.OVERLOADED)

    assert run.one(Abort).bucket == OTHER
    run.answer(run.one(QueryRecord), Code.NONE)
    assert run.result().reason is Reason.OVERLOADED


# -- the votes (rule 10) ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "why", [RejectReason.NOT_LEADING, RejectReason.UNAVAILABLE, RejectReason.UNKNOWN]
)
def test_rule_39_a_prepare_lost_sight_of_is_sent_again_under_the_same_xid(
    why: RejectReason,
) -> None:
    run = Run().start()
    prepare = run.one(Prepare)

    run.turn_away(prepare, why)
    run.wait()

    again = run.one(Prepare)
    assert again.instruction == prepare.instruction
    run.answer(again, Code.PREPARED)
    assert run.sent(Decide)


def test_rule_10_a_prepare_lost_sight_of_is_aborted_whatever_its_next_copy_says() -> None:
    run = Run().start()
    run.turn_away(run.one(Prepare), RejectReason.UNKNOWN)
    run.wait()

    run.answer(run.one(Prepare), Code.REFUSED, Reason.ACCOUNT_FROZEN)

    assert run.one(Abort).bucket == OTHER


def test_p12_a_vote_that_comes_after_its_abort_was_answered_is_freed_again() -> None:
    run = Run().start()
    prepare = run.one(Prepare)
    run.late()
    run.answer(run.one(Abort), Code.FREED)
    assert len(run.take(Settled)) == len(run.take(NotePending)) == 1

    run.answer(prepare, Code.PREPARED)

    assert len(run.take(NotePending)) == 1
    run.answer(run.one(Abort), Code.FREED)
    assert len(run.take(Settled)) == 1
    assert run.transaction.unsettled == 0


def test_a_vote_told_twice_counts_once_and_never_frees_what_is_posted() -> None:
    run = Run(SPLIT, (ANCHOR, OTHER, FAR)).start()
    first, second = run.sent(Prepare)
    run.answer(first, Code.PREPARED)
    run.answer(first, Code.PREPARED)
    assert run.sent(Decide) == []
    run.answer(second, Code.PREPARED)
    decide = run.one(Decide)
    run.answer(decide, Code.COMMITTED, xid=decide.instruction.xid)
    for commit in run.sent(Commit):
        run.answer(commit, Code.POSTED)

    run.answer(first, Code.POSTED)

    assert run.sent(Abort) == []


def test_rule_10_a_stale_xid_is_followed_by_an_attempt_of_a_new_incarnation() -> None:
    run = Run().start()
    first = run.one(Prepare)

    run.answer(first, Code.STALE_XID)

    second = run.one(Prepare).instruction
    assert second.attempt == 2
    assert xid_incarnation(second.xid) != xid_incarnation(first.instruction.xid)
    assert run.sent(Abort) == []


def test_settling_goes_on_until_every_bucket_has_answered() -> None:
    run, _, decide = deciding(Run(SPLIT, (ANCHOR, OTHER, FAR)))
    run.answer(decide, Code.COMMITTED, xid=decide.instruction.xid, time_us=1)
    first, second = run.sent(Commit)

    run.answer(first, Code.POSTED)
    run.turn_away(second, RejectReason.UNAVAILABLE)
    assert run.take(Settled) == []
    run.wait()
    run.answer(run.one(Commit), Code.OVER)

    assert len(run.take(Settled)) == 1


@pytest.mark.parametrize("code", [Code.ALARM, Code.FAILED])
def test_rule_10_what_cannot_be_is_an_alarm(code: Code) -> None:
    run, _, decide = deciding()
    run.answer(decide, Code.COMMITTED, xid=decide.instruction.xid)

    run.answer(run.one(Commit), code)

    assert len(run.take(Alarm)) == 1


# -- the low-water mark (rule 10) ------------------------------------------------------------------------


def test_rule_10_the_low_water_mark_stands_at_the_lowest_attempt_in_phase_1() -> None:
    attempts = lives()
    first, second, third = attempts.begin(), attempts.begin(), attempts.begin()
    assert attempts.low_water() == 1

    attempts.leave(second)
    assert attempts.low_water() == 1
    attempts.leave(first)
    assert attempts.low_water() == 3
    attempts.leave(third)
    attempts.leave(third)
    assert attempts.low_water() == 4
    attempts.name()
    assert attempts.low_water() == 5


def test_rule_10_a_new_incarnation_is_taken_once_for_all_its_stale_attempts() -> None:
    attempts = lives()
    first, second = attempts.begin(), attempts.begin()

    attempts.renew(first)
    name = attempts.incarnation
    attempts.renew(second)

    assert attempts.incarnation == name
    assert attempts.low_water() == 1
    attempts.leave(first)


@pytest.mark.parametrize("event", ["yes", "no", "late", "overloaded"])
def test_rule_10_an_attempt_leaves_phase_1_with_its_decide_or_its_end(event: str) -> None:
    run = Run().start()
    prepare = run.one(Prepare)
    assert run.attempts.low_water() == 1

    match event:
        case "yes":
            run.answer(prepare, Code.PREPARED)
        case "no":
            run.answer(prepare, Code.REFUSED, Reason.ACCOUNT_FROZEN)
        case "late":
            run.late()
        case _:
            run.turn_away(prepare, RejectReason.OVERLOADED)

    assert run.attempts.low_water() == 2


# -- recovery (rule 11) ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mine", [True, False])
def test_rule_11_an_attempt_of_a_coordinator_that_is_gone_is_asked_about_and_told(
    mine: bool,
) -> None:
    run = Run()
    run.transaction.take_over(SOMEBODY_ELSE, 3, ANCHOR, (OTHER, FAR), run.effects)

    ask = run.one(Resolve)
    assert (ask.bucket, ask.instruction.attempt, ask.instruction.xid) == (ANCHOR, 3, SOMEBODY_ELSE)
    if mine:
        run.answer(ask, Code.COMMITTED, xid=SOMEBODY_ELSE, time_us=4)
        told = run.sent(Commit)
    else:
        run.answer(ask, Code.ABORTED, Reason.DIED, attempt=3)
        told = run.sent(Abort)
    assert [send.bucket for send in told] == [OTHER, FAR]
    for send in told:
        run.answer(send, Code.POSTED if mine else Code.FREED)
    assert [type(effect) for effect in run.effects] == [Settled]
    assert run.transaction.is_over


# -- places (rules 3, 18) --------------------------------------------------------------------------------


def test_rule_3_a_payer_that_nobody_has_claimed_leaves_no_record() -> None:
    run = Run(placement=Placement(0, missing=PAYER)).start()

    result = run.result()
    assert (result.status, result.reason) == (Status.REJECTED, Reason.ACCOUNT_NOT_FOUND)
    assert run.wants() == []


def test_rule_3_a_payee_that_nobody_has_claimed_is_a_ledgers_no() -> None:
    run = Run(placement=Placement(ANCHOR, missing=PAYEE)).start()

    end = run.one(RecordRefusal)
    assert (end.bucket, end.instruction.reason) == (ANCHOR, Reason.ACCOUNT_NOT_FOUND)
    assert (end.instruction.attempt, end.instruction.detail) == (1, PAYEE)
    run.answer(end, Code.REFUSED, Reason.ACCOUNT_NOT_FOUND, detail=PAYEE)
    assert run.result().status is Status.REFUSED


def test_rule_3_a_wrong_bucket_in_phase_1_frees_the_legs_and_begins_again_elsewhere() -> None:
    run = Run(SPLIT, (ANCHOR, OTHER, FAR)).start()
    first, second = run.sent(Prepare)
    run.answer(first, Code.PREPARED)

    run.answer(second, Code.WRONG_BUCKET)
    assert run.one(Abort).bucket == OTHER
    assert len(run.take(Locate)) == 1
    run.transaction.located(Placement(ANCHOR, (0, 2), ((OTHER, (1,)),), (OTHER,)), run.effects)

    prepare = run.one(Prepare).instruction
    assert prepare.xid != first.instruction.xid
    assert prepare.attempt == 2


def test_t19_a_wrong_anchor_is_asked_before_the_legs_that_name_it_are_freed() -> None:
    run, _, decide = deciding()

    run.answer(decide, Code.WRONG_BUCKET)
    assert run.wants() == [Resolve]
    ask = run.one(Resolve)
    assert ask.bucket == ANCHOR
    run.answer(ask, Code.ABORTED, Reason.DIED, attempt=1)
    assert run.wants() == [Abort, Locate]
    run.transaction.located(Placement(FAR, (0,), ((OTHER, (1,)),), (OTHER,)), run.effects)

    prepare = run.one(Prepare).instruction
    assert (prepare.anchor, prepare.attempt) == (FAR, 2)
    assert prepare.xid != decide.instruction.xid


def test_rule_3_a_one_bucket_decide_at_the_wrong_bucket_is_placed_anew() -> None:
    run = Run(buckets=(ANCHOR, ANCHOR)).start()

    run.answer(run.one(Decide), Code.WRONG_BUCKET)

    assert run.wants() == [Locate]
    run.transaction.located(Placement(FAR, (0, 1)), run.effects)
    assert run.one(Decide).bucket == FAR


def test_homes_are_asked_again_only_after_a_pause_that_grows() -> None:
    """The home says that it is there, and the bucket that it isn't: each run's second question waits."""
    run = Run(repeat=True).start()
    for tries in range(4):
        run.answer(run.one(QueryRecord), Code.WRONG_BUCKET)
        assert [locate.tries for locate in run.take(Locate)] == [tries]
        run.transaction.located(run.placement, run.effects)


@pytest.mark.parametrize("kind", [QueryRecord, RecordRefusal])
def test_an_account_that_is_being_created_is_waited_for_where_it_is(kind: type) -> None:
    run = Run(repeat=kind is QueryRecord).start()
    if kind is RecordRefusal:
        run.answer(run.one(Prepare), Code.REFUSED, Reason.ACCOUNT_FROZEN)
    run.answer(run.one(kind), Code.PENDING_ON)
    assert run.wants()[-1] is Later
    run.wait()
    assert run.one(kind).bucket == ANCHOR


def test_rule_3_a_check_at_the_wrong_bucket_is_made_at_the_right_one() -> None:
    run = Run().start()
    run.answer(run.one(Prepare), Code.CONTENDED)
    run.answer(run.one(QueryRecord), Code.WRONG_BUCKET)

    assert len(run.take(Locate)) == 1
    run.transaction.located(Placement(FAR, (0,), ((OTHER, (1,)),), (OTHER,)), run.effects)

    look = run.one(QueryRecord)
    assert look.bucket == FAR
    run.answer(look, Code.NONE)
    assert run.result().reason is Reason.CONTENDED


def test_rule_18_a_creation_is_prepared_where_it_is_placed_and_claimed_at_its_home() -> None:
    body = Body(Kind.CREATION, "USD", ((PAYEE, 100),), 7)
    run = Run(body, placement=place_creation(ANCHOR, OTHER)).start()

    prepare = run.one(Prepare)
    assert (prepare.bucket, prepare.instruction.kind) == (OTHER, Kind.CREATION)
    assert prepare.instruction.overdraft_limit == 7
    run.answer(prepare, Code.PREPARED)
    decide = run.one(Decide)
    assert (decide.bucket, decide.instruction.account_bucket, decide.instruction.own) == (
        ANCHOR,
        OTHER,
        (),
    )
    run.answer(decide, Code.COMMITTED, xid=decide.instruction.xid, time_us=2, account_bucket=OTHER)
    assert run.result().account_bucket == OTHER


def test_rule_18_a_creation_placed_at_its_home_is_one_decide() -> None:
    body = Body(Kind.CREATION, "USD", ((PAYEE, 100),))
    run = Run(body, placement=place_creation(ANCHOR, ANCHOR)).start()

    decide = run.one(Decide).instruction
    assert (decide.account_bucket, decide.own, decide.participants) == (ANCHOR, (0,), ())


# -- locks (rules 34, 35) --------------------------------------------------------------------------------

TOKEN = Token(1, 7, LockMode.ESCROW)


def test_rule_34_a_mark_in_phase_1_queues_for_all_accounts_and_the_next_attempt_carries_tokens() -> (
    None
):
    run = Run().start()

    run.answer(run.one(Prepare), Code.LOCK_CONFLICT)
    (need,) = run.take(NeedLocks)
    assert (need.numbers, need.mode) == ([PAYER, PAYEE], LockMode.ESCROW)
    run.transaction.granted(need.owner, {PAYER: TOKEN, PAYEE: TOKEN}, run.effects)

    prepare = run.one(Prepare)
    assert (prepare.instruction.attempt, prepare.instruction.tokens) == (2, (TOKEN,))
    run.answer(prepare, Code.PREPARED)
    decide = run.one(Decide)
    assert decide.instruction.tokens == (TOKEN,)
    run.answer(decide, Code.COMMITTED, xid=decide.instruction.xid)
    assert run.take(ReleaseLocks) == []
    run.answer(run.one(Commit), Code.POSTED)
    assert [release.owner for release in run.take(ReleaseLocks)] == [need.owner]


def test_rule_34_a_mark_at_the_anchor_queues_too() -> None:
    run, _, decide = deciding()

    run.answer(decide, Code.ABORTED, Reason.LOCK_CONFLICT, attempt=1, xid=decide.instruction.xid)

    assert run.wants() == [Abort, NeedLocks]
    assert run.is_silent()


def test_rule_34_locks_that_are_not_had_end_the_attempt_as_a_lock_conflict() -> None:
    run = Run().start()
    run.answer(run.one(Prepare), Code.LOCK_CONFLICT)
    (need,) = run.take(NeedLocks)

    run.transaction.denied(need.owner, run.effects)
    run.answer(run.one(QueryRecord), Code.NONE)

    result = run.result()
    assert (result.status, result.reason) == (Status.ABORTED, Reason.LOCK_CONFLICT)


def test_rule_35_exclusive_payments_take_their_locks_first() -> None:
    run = Run(exclusive=True).start()

    assert run.wants() == [NeedLocks]
    (need,) = run.take(NeedLocks)
    assert need.mode is LockMode.EXCLUSIVE
    token = Token(1, 1)
    run.transaction.granted(need.owner, {PAYER: token, PAYEE: token}, run.effects)
    assert run.one(Prepare).instruction.tokens == (token,)


def test_rule_35_what_does_not_exist_is_not_locked() -> None:
    creation = Body(Kind.CREATION, "USD", ((PAYEE, 100),))
    creating = Run(creation, placement=place_creation(ANCHOR, OTHER), exclusive=True).start()
    refused = Run(placement=Placement(ANCHOR, missing=PAYEE), exclusive=True).start()

    assert creating.wants() == [NotePending, Prepare]
    assert refused.wants() == [RecordRefusal]


def test_l7_an_exclusive_payment_without_a_lock_service_is_turned_away() -> None:
    run = Run(exclusive=True).start()
    (need,) = run.take(NeedLocks)

    run.transaction.denied(need.owner, run.effects)

    result = run.result()
    assert (result.status, result.reason) == (Status.REJECTED, Reason.UNAVAILABLE)


def test_locks_granted_to_a_client_that_has_gone_are_given_back() -> None:
    run = Run(exclusive=True).start()
    (need,) = run.take(NeedLocks)
    run.expire()
    assert run.result().status is Status.REJECTED
    run.take(ReleaseLocks)

    run.transaction.granted(need.owner, {PAYER: TOKEN}, run.effects)

    assert [release.owner for release in run.take(ReleaseLocks)] == [need.owner]
    assert run.wants() == []


# -- time (rule 9) ---------------------------------------------------------------------------------------


def test_rule_9_what_never_began_is_turned_away_when_time_is_up() -> None:
    run = Run()

    run.expire()

    assert run.result().status is Status.REJECTED
    run.start()
    assert run.wants() == []


def test_rule_9_a_client_that_waits_no_longer_hears_unknown_and_the_legs_are_freed() -> None:
    run = Run().start()

    run.expire()

    assert run.result().status is Status.UNKNOWN
    assert run.sent(Abort)


def test_the_client_hears_once() -> None:
    run, _, decide = deciding()
    run.expire()
    assert run.result().status is Status.UNKNOWN

    run.answer(decide, Code.COMMITTED, xid=decide.instruction.xid, time_us=3)
    run.expire()

    assert run.is_silent()
    assert run.wants()[-1] is Commit


def test_users_17_whoever_gives_up_is_told_who_has_not_answered() -> None:
    def told(run: Run) -> tuple[Status, str]:
        run.expire()
        result = run.result()
        return result.status, result.detail

    deciding = Run(buckets=(ANCHOR, ANCHOR)).start()
    assert told(deciding) == (Status.UNKNOWN, "bucket 1 has not answered in time")

    voting = Run(SPLIT, (ANCHOR, OTHER, FAR)).start()
    assert len(voting.sent(Prepare)) == 2
    voting.late()
    voting.answer(voting.one(QueryRecord), Code.NONE)
    assert voting.result().detail == "buckets 2, 3 have not answered in time"

    assert told(Run()) == (
        Status.REJECTED,
        "the buckets that know where its accounts are have not answered in time",
    )
    assert told(Run(exclusive=True).start())[1] == "the lock service has not answered in time"
