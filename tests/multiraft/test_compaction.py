"""How far a log may be cut (rule 26)."""

from mas.multiraft.compaction import LogMargin
from tests.multiraft.fakes import FakeClock


def test_margin_in_entries() -> None:
    margin = LogMargin(80, 0.0, FakeClock())
    margin.allows(1, 1_000)
    margin.allows(1, 1_000)

    assert margin.allows(1, 1_000) == 920
    assert margin.allows(912, 1_000) == 0, "not worth a write"
    assert margin.allows(911, 1_000) == 920


def test_margin_in_seconds() -> None:
    clock = FakeClock()
    margin = LogMargin(0, 60.0, clock)
    cuts = []
    for second in range(200):
        clock.seconds = 1_000.0 + second
        cuts.append(margin.allows(1, second))

    assert all(cut <= second - 60 for second, cut in enumerate(cuts) if cut)
    assert cuts[-1] >= 199 - 121


def test_slow_follower_is_spared_within_reason() -> None:
    margin = LogMargin(100, 0.0, FakeClock())

    assert margin.spare(cut=9_900, flushed=10_000, needed=9_500) == 9_500
    assert margin.spare(cut=9_900, flushed=10_000, needed=10) == 9_000
    assert margin.spare(cut=9_900, flushed=10_000, needed=9_999) == 9_900
