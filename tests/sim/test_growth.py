"""The simulator sees a log that is never cut, and what piles up; and nothing where all is as it should be."""

from types import SimpleNamespace

import pytest

from mas.multiraft import group
from mas.sim.growth import MESSAGES_MAX, Growth
from mas.sim.plan import FAULTS
from mas.sim.run import simulate
from mas.sim.world import Options
from tests.sim.mutants import Mutant, applied

MARGIN = 3
LONG = Options(faults=tuple(FAULTS), ticks=500)


def replica(*, first: int, flushed: int, last: int, waiting: int = 0) -> SimpleNamespace:
    status = SimpleNamespace(
        group=1, first_index=first, flushed=flushed, raft=SimpleNamespace(last_index=last)
    )
    return SimpleNamespace(messages_waiting=waiting, status=lambda: status)


def looks(growth: Growth, first: int, *, seconds: int, life: int = 1) -> list[str]:
    """Of a replica that flushes ten entries a second, and is ten behind."""
    return [
        growth.look(1, life, replica(first=first, flushed=10 * at, last=10 * at + 10), float(at))  # type: ignore[arg-type]
        for at in range(1, seconds)
    ]


def test_a_log_that_is_never_cut_is_seen() -> None:
    found = [each for each in looks(Growth(MARGIN), 1, seconds=60) if each]
    assert "10 aren't flushed, 10 margins of 3 are its peers', and 160 may be spared" in found[0]


def test_a_log_that_is_kept_for_a_snapshot_on_its_way_is_not() -> None:
    assert not any(looks(Growth(MARGIN), 1, seconds=19))


def test_a_life_that_begins_has_a_past_of_its_own() -> None:
    growth = Growth(MARGIN)
    looks(growth, 1, seconds=60)
    assert not any(looks(growth, 1, seconds=15, life=2))


def test_messages_that_pile_up_are_seen() -> None:
    some = replica(first=1, flushed=1, last=1, waiting=MESSAGES_MAX)
    more = replica(first=1, flushed=1, last=1, waiting=MESSAGES_MAX + 1)
    assert Growth(MARGIN).look(1, 1, some, 0.0) == ""  # type: ignore[arg-type]
    assert "messages waiting" in Growth(MARGIN).look(1, 1, more, 0.0)  # type: ignore[arg-type]


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_product_that_never_cuts_its_log_is_found_out() -> None:
    mutant = Mutant(
        "keep the whole log",
        group.RaftGroup.may_cut,
        "return cut",
        "return 0",
        1,
        8,
    )
    with applied(mutant):
        assert any(
            "keeps" in simulate(seed, LONG, kept=1).violation for seed in range(1, mutant.seeds + 1)
        )


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", range(1, 9))
def test_long_lives_keep_their_promises(seed: int) -> None:
    outcome = simulate(seed, LONG)
    assert not outcome.violation, "\n".join([f"seed {seed}", *outcome.lines, outcome.violation])
