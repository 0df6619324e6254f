"""The drills find the faults that cost time, marks and replicas rather than money; and the product passes the same lives."""

import pytest

from mas.sim.system.run import simulate
from mas.sim.system.world import Options
from tests.sim.system.delays_put_back import DELAYS_PUT_BACK
from tests.sim.system.faults_put_back import Fault
from tests.sim.system.test_faults_put_back import seed_that_finds

pytestmark = pytest.mark.sim
_NAMES = [fault.name for fault in DELAYS_PUT_BACK]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("drill", "seed", "ticks"),
    [("nonsense", 1, 20), ("transit", 3, 100), ("locks", 2, 100), ("openings", 2, 25)],
)
def test_a_drill_finds_nothing_in_the_product(drill: str, seed: int, ticks: int) -> None:
    outcome = simulate(seed, Options(ticks=ticks, drill=drill), kept=1)
    assert not outcome.violation, outcome.violation
    assert outcome.committed > 20
    assert outcome.holds > 10 or drill != "locks"
    assert outcome.crashes > 0 or drill != "openings"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", DELAYS_PUT_BACK, ids=_NAMES)
def test_a_fault_that_is_put_back_is_found_by_its_drill(fault: Fault) -> None:
    assert fault.seed <= fault.seeds
    assert seed_that_finds(fault) is not None


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", DELAYS_PUT_BACK, ids=_NAMES)
def test_without_the_fault_the_same_lives_go_well(fault: Fault) -> None:
    for seed in range(1, fault.seeds + 1):
        outcome = simulate(seed, fault.options, kept=1)
        assert not outcome.violation, f"seed {seed}: {outcome.violation}"
