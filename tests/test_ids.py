"""Names are made the same way everywhere and for all time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mas import ids

COUNTERS = st.integers(1, ids.COUNTER_MAX)


@given(incarnation=st.binary(min_size=10, max_size=10), counter=COUNTERS)
def test_an_xid_keeps_both_its_parts(incarnation: bytes, counter: int) -> None:
    xid = ids.make_xid(incarnation, counter)
    assert len(xid) == ids.XID_BYTES
    assert ids.xid_incarnation(xid) == incarnation
    assert ids.xid_counter(xid) == counter


@given(one=COUNTERS, other=COUNTERS)
def test_xids_of_one_coordinator_sort_by_their_counter(one: int, other: int) -> None:
    incarnation = ids.make_incarnation(1, b"abcd")
    assert (ids.make_xid(incarnation, one) < ids.make_xid(incarnation, other)) == (one < other)


def test_a_counter_beyond_its_bytes_is_a_bug() -> None:
    with pytest.raises(OverflowError):
        ids.make_xid(bytes(10), ids.COUNTER_MAX + 1)


def test_an_incarnation_is_time_and_chance() -> None:
    first = ids.make_incarnation(1_700_000_000_000_000, b"\x00\x00\x00\x01")
    assert len(first) == ids.INCARNATION_BYTES
    assert first != ids.make_incarnation(1_700_000_000_000_000, b"\x00\x00\x00\x02")
    assert first < ids.make_incarnation(1_700_000_000_001_000, b"\x00\x00\x00\x00")


def test_payment_ids_never_change() -> None:
    # Records are kept for ever under these names: another hash would forget every payment.
    assert ids.payment_id(1, "alice", "alice", "key-1").hex() == "1c3cfa3b4cf71f40fde899d84c69a7a5"
    assert ids.payment_id(2, "ops", "bob", "").hex() == "ba9bc489ed1ae14518e3e39c053a4856"


def test_homes_never_change() -> None:
    # Claims are kept where these say: another hash would create every account a second time.
    homes = [ids.home_bucket(number, 7) for number in ("alice", "bob", "carol", "", "Nguyễn")]
    assert homes == [3, 1, 3, 1, 4]


@given(
    parts=st.tuples(st.text(), st.text(), st.text()),
    other=st.tuples(st.text(), st.text(), st.text()),
)
def test_payment_ids_tell_their_parts_apart(
    parts: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    assert (ids.payment_id(1, *parts) == ids.payment_id(1, *other)) == (parts == other)
    assert ids.payment_id(1, *parts) != ids.payment_id(2, *parts)


def test_a_part_cannot_run_into_the_next() -> None:
    assert ids.payment_id(1, "ab", "c", "") != ids.payment_id(1, "a", "bc", "")


def test_homes_spread_evenly() -> None:
    counts = [0] * 8
    for number in range(8_000):
        counts[ids.home_bucket(f"account-{number}", 8) - 1] += 1
    assert min(counts) > 850
    assert max(counts) < 1150
