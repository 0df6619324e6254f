"""What a bucket does about its prepared legs: when it asks, and what an answer means (rules 10 to 12, 15)."""

from itertools import pairwise

import pytest

from mas.ids import make_xid
from mas.ledger.instructions import Abort, Answer, Code, Commit, Kind, Reason
from mas.ledger.rows import PreparedLegs
from mas.transaction.participant import BACK_OFF_MAX, Resolver, settle

LIFE = bytes(10)
LOCK_TIMEOUT = 5.0


def legs(counter: int, *, anchor: int = 1, attempt: int = 1) -> PreparedLegs:
    return PreparedLegs(
        xid=make_xid(LIFE, counter),
        payment_id=bytes((counter,)) * 16,
        attempt=attempt,
        body_hash=b"hash",
        anchor=anchor,
        participants=(2,),
        kind=Kind.PAYMENT,
        currency="USD",
        legs=(("B", 5),),
    )


MINE = make_xid(LIFE, 1)
OTHER = make_xid(LIFE, 9)


@pytest.mark.parametrize(
    ("answer", "instruction"),
    [
        (Answer(Code.COMMITTED, attempt=2, xid=MINE, time_us=77), Commit(MINE, 77)),
        (Answer(Code.COMMITTED, attempt=3, xid=OTHER, time_us=77), Abort(MINE)),
        (Answer(Code.REFUSED, Reason.CANCELLED), Abort(MINE)),
        (Answer(Code.KEY_REUSED), Abort(MINE)),
        (Answer(Code.ABORTED, attempt=2), Abort(MINE)),
        (Answer(Code.ABORTED, attempt=3), Abort(MINE)),
        (Answer(Code.ABORTED, attempt=1), None),
        (Answer(Code.NONE), None),
        (Answer(Code.WRONG_BUCKET), None),
        (Answer(Code.FAILED), None),
    ],
)
def test_rule_11_only_the_records_own_xid_is_committed(
    answer: Answer, instruction: Commit | Abort | None
) -> None:
    assert settle(legs(1, attempt=2), answer) == instruction


def by_xid(*counters: int) -> dict[bytes, PreparedLegs]:
    return {legs(counter).xid: legs(counter) for counter in counters}


def test_rule_11_a_leg_is_asked_about_once_it_is_older_than_the_lock_timeout() -> None:
    resolver = Resolver(LOCK_TIMEOUT)
    resolver.lead(100.0, by_xid(1))
    resolver.observe(102.0, by_xid(1, 2))

    assert resolver.due(104.9) == []
    assert resolver.due(105.0) == [legs(1)]
    assert resolver.due(106.0) == []
    assert resolver.due(107.0) == [legs(2)]


def test_a_settled_leg_is_never_asked_about() -> None:
    resolver = Resolver(LOCK_TIMEOUT)
    prepared = by_xid(1, 2)
    resolver.lead(0.0, prepared)

    del prepared[legs(1).xid]
    assert resolver.due(5.0) == [legs(2)]

    resolver.observe(6.0, {})
    assert resolver.due(1_000.0) == []


def test_an_unanswered_question_is_asked_again_ever_more_slowly() -> None:
    resolver = Resolver(LOCK_TIMEOUT)
    resolver.lead(0.0, by_xid(1))
    asked = []
    for now in range(200):
        resolver.observe(float(now), by_xid(1))
        asked += [now] * len(resolver.due(float(now)))

    pauses = [after - before for before, after in pairwise(asked)]
    assert asked[0] == 5
    assert pauses[:3] == [5, 10, 20]
    assert set(pauses[3:]) == {int(BACK_OFF_MAX)}


def test_rule_12_a_new_leadership_counts_all_ages_again() -> None:
    resolver = Resolver(LOCK_TIMEOUT)
    resolver.lead(0.0, by_xid(1))
    assert resolver.due(5.0) == [legs(1)]

    resolver.lead(50.0, by_xid(1, 2))

    assert resolver.due(54.0) == []
    assert resolver.due(55.0) == [legs(1), legs(2)]


def test_a_leg_seen_again_keeps_its_age() -> None:
    resolver = Resolver(LOCK_TIMEOUT)
    resolver.lead(0.0, by_xid(1))

    resolver.observe(4.0, by_xid(1))

    assert resolver.due(5.0) == [legs(1)]


def test_rule_38_a_turn_asks_a_bounded_number_of_questions_and_forgets_none() -> None:
    resolver = Resolver(LOCK_TIMEOUT)
    resolver.lead(0.0, by_xid(*range(1, 8)))

    turns = [resolver.due(5.0, limit=3) for _ in range(3)]

    assert [len(asked) for asked in turns] == [3, 3, 1]
    assert {one.xid for asked in turns for one in asked} == set(by_xid(*range(1, 8)))
