"""The whole system under seeded hardship: every promise holds, the lives are hard, and a seed is a run."""

import functools

import pytest

from mas.sim.system.plan import FAULTS, MEETINGS
from mas.sim.system.run import simulate
from mas.sim.system.world import Options, Outcome

pytestmark = pytest.mark.sim

ALL = tuple(FAULTS)
SEEDS = 12
TICKS = 50
MEETING_TICKS = 60
_AT_ONCE = 4


@functools.cache
def run(seed: int, faults: tuple[str, ...] = ALL, nodes: int = 5) -> Outcome:
    outcome = simulate(seed, Options(nodes=nodes, ticks=TICKS, faults=faults))
    assert not outcome.violation, "\n".join([f"seed {seed}", *outcome.lines, outcome.violation])
    return outcome


@pytest.mark.timeout(120)
@pytest.mark.parametrize("first", range(1, SEEDS + 1, _AT_ONCE))
def test_the_system_keeps_its_promises_and_recovers(first: int) -> None:
    for seed in range(first, first + _AT_ONCE):
        run(seed)


@pytest.mark.timeout(120)
def test_three_nodes_do_as_well() -> None:
    for seed in (1,):
        run(seed, nodes=3)


@pytest.mark.timeout(120)
def test_the_lives_are_hard() -> None:
    """What the default run goes through: a simulation in which nothing happens finds nothing."""
    lives = [run(seed) for seed in range(1, SEEDS + 1)]
    assert sum(life.crashes for life in lives) > 5
    assert sum(life.committed for life in lives) > 200
    assert sum(life.refused for life in lives) > 50
    assert sum(life.reads for life in lives) > 200
    assert sum(life.statements for life in lives) > 40
    assert sum(life.holds for life in lives) > 2
    assert sum(life.unknown for life in lives) > 50


@pytest.mark.timeout(120)
def test_without_faults_nobody_dies() -> None:
    outcome = run(1, faults=())
    assert outcome.crashes == 0
    assert outcome.committed > 40
    assert outcome.reads > 20


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("drill", ["pause", "quorum"])
def test_what_is_broken_delays_nobody_else_for_long(drill: str, seed: int) -> None:
    """A leader that is silent costs no more than one that is dead; a bucket without a majority costs its own payments alone."""
    outcome = simulate(seed, Options(ticks=100, drill=drill))
    assert not outcome.violation, outcome.violation
    assert outcome.committed > 200


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "seeds", [range(1, 2), pytest.param(range(2, 11), marks=pytest.mark.slow)], ids=["one", "more"]
)
@pytest.mark.parametrize("meeting", list(MEETINGS))
def test_who_meets_is_told_the_truth(meeting: str, seeds: range) -> None:
    """The seeds in which faults are found when they are put back."""
    for seed in seeds:
        outcome = simulate(seed, Options(ticks=MEETING_TICKS, drill=meeting))
        assert not outcome.violation, f"seed {seed}: {outcome.violation}"


@pytest.mark.timeout(120)
def test_a_replica_that_lost_what_it_acknowledged_is_stopped_and_built_anew() -> None:
    """A node's directory is put back, its leaders prove the loss, an operator removes and adds it."""
    assert run(1, faults=("older",)).rebuilt


@pytest.mark.timeout(120)
def test_a_node_whose_file_names_other_founders_is_refused_or_does_not_start() -> None:
    """One node is founded otherwise than the others, which the world requires to be said; files change later."""
    assert run(3, faults=("files",)).files_refused


@pytest.mark.timeout(120)
def test_one_seed_is_one_run() -> None:
    for seed in (2,):
        first = run(seed)
        assert first.events > 300
        assert simulate(seed, Options(ticks=TICKS, faults=ALL)).digest == first.digest
