"""A simulator that doesn't find a fault that is there proves nothing."""

import pytest

from mas.sim.system.run import simulate
from tests.sim.system.faults_put_back import FAULTS_PUT_BACK, Fault, put_back

pytestmark = [pytest.mark.sim, pytest.mark.slow]


def seed_that_finds(fault: Fault) -> int | None:
    """The one that did last, or else the first."""
    with put_back(fault):
        for seed in (fault.seed, *range(1, fault.seeds + 1)):
            outcome = simulate(seed, fault.options, kept=1)
            if outcome.violation and fault.words in outcome.violation:
                return seed
    return None


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS_PUT_BACK, ids=[fault.name for fault in FAULTS_PUT_BACK])
def test_a_fault_that_is_put_back_is_found(fault: Fault) -> None:
    assert fault.seed <= fault.seeds
    assert seed_that_finds(fault) is not None
