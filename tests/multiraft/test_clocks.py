"""Proposals are stamped with this node's time, or with its peers' where that is off (rule 12)."""

import pytest

from mas.multiraft.clocks import PeerClocks
from tests.multiraft.fakes import FakeClock


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ({}, 0),
        ({2: 3_600_000_000}, 0),
        ({2: 3_600_000_000, 3: 3_600_000_500}, 3_600_000_000),
        ({2: -3_600_000_000, 3: -3_600_000_500}, -3_600_000_000),
        ({2: 900_000, 3: 950_000}, 0),
        ({2: 3_600_000_000, 3: 100}, 0),
        ({2: 3_600_000_000, 9: 3_600_000_000}, 0),
    ],
    ids=["alone", "two", "behind", "ahead", "close", "one-is-off", "no-member"],
)
def test_stamp_is_own_time_or_the_median(offsets: dict[int, int], expected: int) -> None:
    clock = FakeClock()
    clocks = PeerClocks(1, clock)
    for peer, offset in offsets.items():
        clocks.heard(peer, clock.us + offset)
    clock.us += 5_000_000
    clock.seconds += 5

    assert clocks.stamp_us((1, 2, 3)) - clock.us == expected


@pytest.mark.parametrize("hours", [1, -1])
def test_bank_6_a_clock_that_jumps_shows_itself_before_anybody_is_heard_of(hours: int) -> None:
    """One leader's clock an hour ahead would spoil all later stamps of its bucket, which never go back (rule 12)."""
    clock = FakeClock()
    clocks = PeerClocks(1, clock)
    clocks.heard(2, clock.us + 100)
    clocks.heard(3, clock.us + 200)
    clock.seconds += 5
    right = clock.us + 5_000_000
    clock.us = right + hours * 3_600_000_000

    assert abs(clocks.stamp_us((1, 2, 3)) - right) < 1_000


def test_bank_6_a_clock_that_is_set_right_counts_again_at_once() -> None:
    clock = FakeClock()
    clocks = PeerClocks(1, clock)
    right = clock.us
    clock.us += 3_600_000_000
    clocks.heard(2, right)
    clocks.heard(3, right)
    assert clocks.stamp_us((1, 2, 3)) == right
    clock.us = right + 7
    assert clocks.stamp_us((1, 2, 3)) == right + 7


def test_a_clock_not_heard_of_lately_does_not_count() -> None:
    clock = FakeClock()
    clocks = PeerClocks(1, clock)
    clocks.heard(2, clock.us + 3_600_000_000)
    clocks.heard(3, clock.us + 3_600_000_000)
    clock.seconds += 60

    assert clocks.stamp_us((1, 2, 3)) == clock.us
