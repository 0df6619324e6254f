"""The whole system under seeded hardship: every promise holds, and a seed is a run."""

import functools

import pytest

from mas.sim.system.run import simulate
from mas.sim.system.world import Options, Outcome

pytestmark = pytest.mark.sim

TICKS = 60


@functools.cache
def run(seed: int, faults: tuple[str, ...] = (), nodes: int = 5) -> Outcome:
    outcome = simulate(seed, Options(nodes=nodes, ticks=TICKS, faults=faults))
    assert not outcome.violation, "\n".join([f"seed {seed}", *outcome.lines, outcome.violation])
    return outcome


@pytest.mark.timeout(120)
def test_payments_are_made_where_nothing_goes_wrong() -> None:
    outcome = run(1)
    assert outcome.crashes == 0
    assert outcome.committed > 40
    assert outcome.reads > 20


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_payments_are_made_though_processes_die(seed: int) -> None:
    outcome = run(seed, ("crash",))
    assert outcome.crashes > 2
    assert outcome.committed > 10


@pytest.mark.timeout(120)
def test_one_seed_is_one_run() -> None:
    first = run(2, ("crash",))
    again = simulate(2, Options(ticks=TICKS, faults=("crash",)))
    assert first.events > 500
    assert first.digest == again.digest
