"""What is in memory, what is known to be absent, what isn't durable yet, and the state hash over all of it."""

import msgspec
import pytest

from mas.ledger import (
    UNKNOWN,
    Abort,
    Account,
    Batch,
    BucketRow,
    CloseIncarnation,
    Code,
    Commit,
    Kind,
    Ledger,
    Loaded,
    Mark,
    Missing,
    NodeRow,
    Proposal,
    QueryRecord,
    Record,
    RegisterNode,
    ResidentState,
    Resolve,
    RetireNode,
    SetAccount,
    Token,
    account_digest,
    nodes_digest,
)
from tests.ledger.harness import (
    BUCKET,
    HOME_HERE,
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
    """Accounts a, b and c, durable and not in memory."""
    bank = Bank(keep=0)
    bank.open(("a", 100), ("b", 100), ("c", 0))
    bank.keep = None
    return bank


def proposal(*instructions: object) -> Proposal:
    return Proposal(1, 0, 1, 1, (Batch(TC, 0, instructions),))


def asked(bank: Bank, *instructions: object) -> tuple[list[str], list[bytes], list[str]]:
    missing = bank.ledger.missing(proposal(*instructions))
    return missing.accounts, missing.records, missing.claims


# -- What is asked for (rule 23) ---------------------------------------------------------------------------------


def test_each_row_is_asked_for_once_in_the_order_of_the_instructions(bank: Bank) -> None:
    bank.ledger.rows.filter.is_complete = False
    wanted = asked(
        bank,
        prepare(1, ("c", 1), ("a", -1)),
        decide(2, ("b", -1), ("a", 1)),
        QueryRecord(pid(3), "d"),
        QueryRecord(pid(2)),
        decide(4, (HOME_HERE[0], 0), own=(), kind=Kind.CREATION, account_bucket=2),
        Mark("e", Token(1, 1)),
    )
    assert wanted == (["c", "a", "b", "d", "e"], [pid(2), pid(3), pid(4)], [HOME_HERE[0]])


def test_what_is_in_memory_or_known_to_be_absent_is_not_asked_for(bank: Bank) -> None:
    wanted = bank.ledger.missing(proposal(prepare(1, ("a", 1), ("nobody", 1))))
    bank.ledger.rows.load(wanted, bank.database.load(wanted))
    assert not bank.ledger.missing(proposal(prepare(1, ("a", 1), ("nobody", 1))))
    assert bank.ledger.rows.account("nobody") is None
    assert bank.ledger.rows.account("b") is UNKNOWN


def test_a_creation_needs_the_account_that_pays_its_opening_balance(bank: Bank) -> None:
    bank.restart()
    assert asked(bank, prepare(1, ("new", 5), kind=Kind.CREATION))[0] == ["new", USD]


def test_after_a_restart_the_accounts_of_prepared_legs_are_asked_for(bank: Bank) -> None:
    bank.do(prepare(1, ("a", -1), ("b", 1)))
    bank.flush()
    bank.restart()
    assert asked(bank, Commit(xid(1), 5))[0] == ["a", "b"]
    assert asked(bank, Abort(xid(1)))[0] == ["a", "b"]
    assert not bank.ledger.missing(proposal(Commit(xid(2), 5)))
    assert bank.one(Commit(xid(1), 5)).code is Code.POSTED


def test_rule_24_a_fresh_key_asks_for_nothing_once_the_filter_is_complete(bank: Bank) -> None:
    fresh = decide(1, ("a", -1), ("b", 1))
    assert asked(bank, fresh)[1] == []
    bank.ledger.rows.filter.is_complete = False
    bank.ledger.rows.evict(10)
    assert asked(bank, fresh)[1] == [pid(1)]


def test_rule_24_an_old_key_is_found_again_after_eviction_and_restart(bank: Bank) -> None:
    """T12."""
    pay = decide(1, ("a", -1), ("b", 1))
    first = bank.one(pay)
    bank.flush()
    bank.ledger.rows.evict(0)
    assert bank.ledger.rows.record(pid(1)) is UNKNOWN
    assert bank.one(pay) == first
    bank.restart()
    bank.ledger.rows.filter.is_complete = False
    assert bank.one(pay) == first


def test_rule_23_a_late_load_does_not_undo_what_came_into_memory_meanwhile(bank: Bank) -> None:
    """T11: two loads of one row; the account changes between their returns."""
    wanted = Missing(["a"], [pid(1)], [])
    late = bank.database.load(wanted)
    bank.do(decide(1, ("a", -1), ("b", 1)))
    bank.ledger.rows.load(wanted, late)
    assert bank.account("a").balance == 99
    assert bank.ledger.rows.record(pid(1)).outcome is Code.COMMITTED


def test_rule_23_nor_does_it_undo_a_record(bank: Bank) -> None:
    bank.do(Resolve(pid(1), 1, xid(1), b""))
    bank.flush()
    bank.ledger.rows.evict(0)
    wanted = Missing([], [pid(1)], [])
    late = bank.database.load(wanted)
    bank.do(decide(1, ("a", -1), ("b", 1), attempt=2))
    bank.ledger.rows.load(wanted, late)
    assert bank.ledger.rows.record(pid(1)).outcome is Code.COMMITTED


def test_rule_23_rows_older_than_the_last_flush_are_never_taken_in(bank: Bank) -> None:
    wanted = Missing(["a"], [], [])
    stale = bank.database.load(wanted)
    bank.do(decide(1, ("a", -1), ("b", 1)))
    bank.flush()
    bank.ledger.rows.evict(0)
    with pytest.raises(AssertionError, match="older"):
        bank.ledger.rows.load(wanted, stale)


# -- What leaves (rule 22) ------------------------------------------------------------------------------------------


def in_memory(bank: Bank) -> set[str]:
    return {number for number in "abc" if bank.ledger.rows.account(number) is not UNKNOWN}


def test_rule_22_nothing_leaves_before_its_flush_is_durable(bank: Bank) -> None:
    """T11: a row evicted while its flush is in flight."""
    bank.do(decide(1, ("a", -1), ("b", 1)))
    bank.ledger.rows.evict(0)
    assert in_memory(bank) == {"a", "b"}
    bank.ledger.rows.state_hash()
    bank.ledger.rows.evict(0)
    assert in_memory(bank) == {"a", "b"}, "folded, and of no write set"
    writes = bank.ledger.rows.take_writes()
    bank.ledger.rows.evict(0)
    assert in_memory(bank) == {"a", "b"}, "in flight"
    assert bank.ledger.rows.record(pid(1)) is not UNKNOWN
    bank.database.flush(writes)
    bank.ledger.rows.flushed(writes)
    bank.do(decide(2, ("b", -1), ("c", 1)))
    bank.ledger.rows.evict(0)
    assert in_memory(bank) == {"b", "c"}, "changed again since"
    assert bank.ledger.rows.record(pid(1)) is UNKNOWN


def test_rule_22_accounts_with_prepared_legs_or_marks_stay(bank: Bank) -> None:
    bank.do(prepare(1, ("a", -1)), Mark("b", Token(1, 1)), SetAccount("c", frozen=True))
    bank.flush()
    bank.ledger.rows.evict(0)
    assert in_memory(bank) == {"a", "b"}
    assert bank.ledger.rows.account(USD) is not UNKNOWN
    assert bank.ledger.rows.legs


def test_absence_is_forgotten_with_what_leaves(bank: Bank) -> None:
    """Or what is created, flushed and evicted would be taken for absent."""
    bank.do(prepare(1, ("new", 5), kind=Kind.CREATION), Commit(xid(1), 5))
    bank.flush()
    bank.ledger.rows.evict(0)
    assert bank.ledger.rows.account("new") is UNKNOWN
    assert bank.one(prepare(2, ("new", 5))).code is Code.PREPARED


def test_claims_leave_and_come_back() -> None:
    bank = Bank()
    claim = decide(1, (HOME_HERE[0], 0), own=(), kind=Kind.CREATION, account_bucket=2)
    bank.do(claim)
    bank.flush()
    bank.ledger.rows.evict(0)
    assert bank.ledger.rows.claim(HOME_HERE[0]) is UNKNOWN
    again = decide(2, (HOME_HERE[0], 0), own=(), kind=Kind.CREATION, account_bucket=2)
    assert bank.one(again).code is Code.REFUSED


def test_the_oldest_leave_first_and_an_eviction_looks_at_few() -> None:
    numbers = [f"n{i:04}" for i in range(3_000)]
    rows = {number: Account(number, "1-1-1", "USD") for number in numbers}
    ledger = Ledger(ResidentState(BucketRow(BUCKET), {}, {}))
    ledger.rows.load(Missing(numbers, [], []), Loaded(0, rows, {}, {}))
    ledger.apply(1, 1, proposal(*[SetAccount(number, frozen=True) for number in numbers[:2_500]]))

    def left() -> int:
        return sum(ledger.rows.account(number) is not UNKNOWN for number in numbers)

    for expected in (
        3_000,
        3_000,
        2_900,
    ):  # the changed ones are looked at first, so many at a time
        ledger.rows.evict(2_900)
        assert left() == expected
    assert ledger.rows.account("n2599") is UNKNOWN
    assert ledger.rows.account("n2600") is not UNKNOWN


# -- Write sets -----------------------------------------------------------------------------------------------------


def test_a_write_set_is_all_that_changed_and_nothing_else(bank: Bank) -> None:
    bank.flush()
    bank.do(decide(1, ("a", -1), ("b", 1)), prepare(2, ("c", 5)), low_water=1)
    writes = bank.ledger.rows.take_writes()
    assert list(writes.accounts) == ["a", "b", "c"]
    assert list(writes.records) == [pid(1)]
    assert list(writes.legs) == [xid(2)]
    assert list(writes.incarnations) == [TC]
    assert [posting.amount for posting in writes.postings] == [-1, 1]
    assert writes.bucket.applied == bank.ledger.rows.bucket.applied
    bank.ledger.rows.flushed(writes)
    empty = bank.ledger.rows.take_writes()
    assert not any(
        (
            empty.accounts,
            empty.records,
            empty.legs,
            empty.claims,
            empty.incarnations,
            empty.postings,
        )
    )


def test_a_leg_prepared_and_settled_between_two_flushes_is_not_written(bank: Bank) -> None:
    bank.flush()
    bank.do(prepare(1, ("a", -1)), Commit(xid(1), 5), prepare(2, ("a", -1)), Abort(xid(2)))
    assert bank.flush().legs == {}
    bank.do(prepare(3, ("a", -1)))
    assert list(bank.flush().legs.values()) == [bank.ledger.rows.legs[xid(3)]]
    bank.do(Commit(xid(3), 5))
    assert bank.flush().legs == {xid(3): None}


def test_a_leg_freed_prepared_again_and_freed_between_two_flushes_is_gone(bank: Bank) -> None:
    """A delayed copy of a PREPARE after its ABORT: the stored row was once left behind, and in the state hash for ever."""
    bank.do(prepare(1, ("a", -1)))
    bank.flush()
    bank.do(Abort(xid(1)), prepare(1, ("a", -1)), Abort(xid(1)))
    assert bank.flush().legs == {xid(1): None}
    assert bank.database.bucket.state_hash == bank.database.state_hash()


def test_a_write_set_does_not_change_any_more(bank: Bank) -> None:
    bank.do(prepare(1, ("a", -1)), Commit(xid(1), 5))
    writes = bank.ledger.rows.take_writes()
    before = repr(writes)
    bank.do(prepare(2, ("a", -1)), Commit(xid(2), 5), CloseIncarnation(b"x" * 10), low_water=9)
    assert repr(writes) == before


def test_write_sets_are_taken_one_at_a_time(bank: Bank) -> None:
    writes = bank.ledger.rows.take_writes()
    with pytest.raises(AssertionError, match="one write set"):
        bank.ledger.rows.take_writes()
    with pytest.raises(AssertionError, match="not the write set"):
        bank.ledger.rows.flushed(msgspec.structs.replace(writes))
    bank.ledger.rows.flushed(writes)
    bank.ledger.rows.flushed(bank.ledger.rows.take_writes())


def test_chunks_are_taken_over_once_they_are_durable(bank: Bank) -> None:
    bank.do(decide(1, ("a", -1), ("b", 1)))
    before, hashed = bank.account("a").chunk, bank.ledger.rows.state_hash()
    writes = bank.ledger.rows.take_writes()
    bank.do(prepare(2, ("a", -1)), Abort(xid(2)))
    writes.accounts["a"].chunk, writes.accounts["a"].chunk64 = 7, 6
    bank.ledger.rows.flushed(writes)
    assert (before, bank.account("a").chunk, bank.account("a").chunk64) == (1, 7, 6)
    assert bank.ledger.rows.state_hash() != hashed, "versions have grown"
    assert account_digest(bank.account("a")) == account_digest(
        msgspec.structs.replace(bank.account("a"), chunk=9, chunk64=9)
    )


def test_a_reader_keeps_the_account_that_it_was_given(bank: Bank) -> None:
    """Rule 30: a read's answer is the state at its moment, whatever comes after."""
    bank.do(QueryRecord(pid(1), "a"))
    row = bank.ledger.rows.account("a")
    bank.do(decide(1, ("a", -1), ("b", 1)))
    assert (row.balance, bank.ledger.rows.account("a").balance) == (100, 99)


# -- The state hash --------------------------------------------------------------------------------------------------


def test_the_state_hash_is_that_of_the_rows_alone(bank: Bank) -> None:
    steps = [
        [prepare(1, ("a", -1)), prepare(2, ("b", 5))],
        [Commit(xid(1), 5), decide(3, ("a", -1), ("b", 1))],
        [Abort(xid(2)), decide(4, (HOME_HERE[0], 0), own=(), kind=Kind.CREATION, account_bucket=2)],
        [CloseIncarnation(b"x" * 10)],
        [Resolve(pid(9), attempt, xid(9), b"") for attempt in (1, 2, 3)],
        [decide(9, ("a", -1), ("b", 1), attempt=4)],
        [RegisterNode(4, "d:1", ("rm",)), RegisterNode(5, "e:1", ("rm",))],
        [RegisterNode(4, "d:2", ("rm",)), prepare(10, ("b", 5)), RetireNode(5)],
    ]
    seen = []
    for low_water, step in enumerate(steps):
        bank.do(*step, low_water=low_water)
        seen.append(bank.ledger.rows.state_hash())
        bank.flush()
        assert bank.database.bucket.state_hash == bank.database.state_hash() == seen[-1]
    assert len(set(seen)) == len(seen)


def test_the_state_hash_knows_every_field_of_the_register() -> None:
    """And its index, by which a reader tells the newer of two copies."""
    row = NodeRow(4, "d:1", ("rm",), "rack", b"s" * 16)
    changes = ({"node": 5}, {"address": "d:2"}, {"roles": ()}, {"host": ""}, {"store": b""})
    others = [msgspec.structs.replace(row, **change) for change in (*changes, {"retired": True})]
    registers = [((row,), 1), ((row,), 2), *(((other,), 1) for other in others), ((), 0)]
    assert len({nodes_digest(*register) for register in registers}) == len(registers)


def test_the_state_hash_does_not_depend_on_when_it_is_asked_for() -> None:
    """Rule 22: nor on the cache, flushes, or a restart."""
    often, seldom, restarted = Bank(keep=1), Bank(), Bank()
    for bank in (often, seldom, restarted):
        bank.open(("a", 100), ("b", 100))
        for number in range(6, 25):
            one = (
                prepare(number, ("a", -1), ("b", 1))
                if number % 3
                else decide(number, ("a", -1), ("b", 1))
            )
            bank.do(one, Abort(xid(number - 5)) if number == 12 else Commit(xid(number - 4), 5))
            if bank is often:
                bank.ledger.rows.state_hash()
            if bank is restarted and number % 4 == 0:
                bank.flush()
                bank.restart()
    assert (
        often.ledger.rows.state_hash()
        == seldom.ledger.rows.state_hash()
        == restarted.ledger.rows.state_hash()
    )


def test_rows_of_two_kinds_never_stand_for_each_other() -> None:
    ledger = Ledger(ResidentState(BucketRow(BUCKET), {}, {}))
    ledger.rows.load(
        Missing(["a"], [pid(1)], []),
        Loaded(0, {"a": Account("a", "1-1-1", "USD")}, {pid(1): Record(pid(1), Code.REFUSED)}, {}),
    )
    assert ledger.rows.state_hash() == 0, "loading is no change"
