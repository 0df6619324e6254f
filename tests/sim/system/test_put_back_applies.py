"""The faults that slow tests put back fit the source as it is: a renamed line shows at once, not when they run."""

import inspect

import pytest

from tests.sim.system.delays_put_back import DELAYS_PUT_BACK
from tests.sim.system.faults_put_back import FAULTS_PUT_BACK, Fault, put_back

FAULTS = [*FAULTS_PUT_BACK, *DELAYS_PUT_BACK]


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_fault_fits_the_source_and_leaves_it_whole(fault: Fault) -> None:
    functions = [inspect.unwrap(function) for function, _, _ in fault.patches]
    before = [function.__code__ for function in functions]

    with put_back(fault):
        assert all(
            function.__code__ is not code for function, code in zip(functions, before, strict=True)
        )

    assert [function.__code__ for function in functions] == before
