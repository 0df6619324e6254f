"""Broken products, and the seeds that find them out: a simulator that finds nothing in these proves nothing."""

import pytest

from mas.raft.core import Raft
from mas.sim.plan import FAULTS
from mas.sim.run import simulate
from mas.sim.world import Options
from tests.sim.mutants import MUTANTS, Mutant, applied
from tests.sim.test_world import SEEDS

pytestmark = pytest.mark.sim

OPTIONS = Options(faults=tuple(FAULTS))


def seeds_to_find(mutant: Mutant) -> int | None:
    """A seed that finds it: the one that did last, or else the first."""
    with applied(mutant):
        for seed in (mutant.seed, *range(1, mutant.seeds + 1)):
            if simulate(seed, OPTIONS, kept=1).violation:
                return seed
    return None


@pytest.mark.timeout(240)
@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_broken_product_is_found_out(mutant: Mutant) -> None:
    """`test_world` runs the same seeds over the whole product, which passes them all."""
    assert mutant.seed <= mutant.seeds <= SEEDS
    assert seeds_to_find(mutant) is not None


def test_there_are_enough() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 15


def test_a_patch_ends_with_its_block() -> None:
    before = Raft._may_commit.__code__
    [mutant] = [mutant for mutant in MUTANTS if mutant.function == Raft._may_commit]
    with applied(mutant):
        assert Raft._may_commit.__code__ is not before
    assert Raft._may_commit.__code__ is before


def test_a_patch_of_a_source_that_has_changed_fails() -> None:
    mutant = Mutant("late", Raft._may_commit, "self._first_of_the_term", "0", 1, 1)
    with pytest.raises(AssertionError, match=r"late: .* isn't there once"), applied(mutant):
        raise AssertionError("applied")
