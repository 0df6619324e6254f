"""Clusters under seeded hardship: every promise holds, the lives are hard, and a seed is a run."""

import ast
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mas.sim
from mas.multiraft import RaftHost
from mas.sim import world
from mas.sim.plan import FAULTS
from mas.sim.run import simulate
from mas.sim.world import Options, Outcome

pytestmark = pytest.mark.sim

ALL = tuple(FAULTS)
SEEDS = 240
"""Of the default run; the mutants' are among them."""
_AT_ONCE = 20


@functools.cache
def run(seed: int, nodes: int = 3, faults: tuple[str, ...] = ALL) -> Outcome:
    outcome = simulate(seed, Options(nodes=nodes, faults=faults))
    assert not outcome.violation, "\n".join([f"seed {seed}", *outcome.lines, outcome.violation])
    return outcome


@pytest.mark.timeout(120)
@pytest.mark.parametrize("first", range(1, SEEDS + 1, _AT_ONCE))
def test_a_cluster_keeps_its_promises_and_recovers(first: int) -> None:
    for seed in range(first, first + _AT_ONCE):
        run(seed)


@pytest.mark.timeout(120)
def test_five_nodes_do_as_well() -> None:
    for seed in range(1, 21):
        run(seed, nodes=5)


@pytest.mark.parametrize("faults", [(), *((name,) for name in FAULTS)], ids="".join)
def test_each_class_of_faults_is_borne_alone(faults: tuple[str, ...]) -> None:
    for seed in (1, 2):
        run(seed, faults=faults)


@pytest.mark.timeout(120)
def test_the_lives_are_hard() -> None:
    """What the default run goes through: a simulation in which nothing happens finds nothing."""
    lives = [run(seed) for seed in range(1, 41)]
    assert sum(life.leaders for life in lives) > 160
    assert sum(life.crashes for life in lives) > 250
    assert sum(life.committed for life in lives) > 5_000
    assert sum(life.operations for life in lives) > 15_000
    assert sum(life.restored for life in lives) > 20
    assert sum(life.members_changed for life in lives) > 20
    assert sum(life.isolated for life in lives) > 5


def test_without_faults_nobody_dies_and_one_leads() -> None:
    outcome = run(1, faults=())
    assert (outcome.crashes, outcome.isolated, outcome.members_changed) == (0, 0, 0)
    assert outcome.leaders <= 2  # of one group or two
    assert outcome.committed > 100


# -- one seed, one run ----------------------------------------------------------------------------

_SHOW = """
import sys
from mas.sim.plan import FAULTS
from mas.sim.run import simulate
from mas.sim.world import Options
outcome = simulate(int(sys.argv[1]), Options(faults=tuple(FAULTS)), kept=None)
print(outcome.digest, *outcome.lines, sep="\\n")
"""


def traced(seed: int) -> list[str]:
    outcome = simulate(seed, Options(faults=ALL), kept=None)
    return [outcome.digest, *outcome.lines]


@pytest.mark.parametrize("seed", [1, 4, 11, 36])
def test_one_seed_is_one_run(seed: int) -> None:
    first, second = traced(seed), traced(seed)
    assert len(first) > 500
    assert first == second


def test_other_seeds_are_other_runs() -> None:
    assert len({simulate(seed, Options(faults=ALL)).digest for seed in range(1, 6)}) == 5


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [8, 24])
def test_one_seed_is_one_run_in_every_process(seed: int) -> None:
    """Whatever the order of sets and the addresses of objects: those differ from process to process."""
    runs = [
        subprocess.run(
            [sys.executable, "-c", _SHOW, str(seed)],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert runs[0].splitlines() == traced(seed)


# -- production actors, and nothing in their place ------------------------------------------------

# What the world may take from production rooms. Everything else it is made of is the simulator's own.
_TAKEN = {
    "mas.channels",
    "mas.errors",
    "mas.multiraft",
    "mas.raft",
    "mas.runtime",
}


def imports(path: Path) -> dict[str, list[str]]:
    """Module by module, the names that a file imports from it."""
    found: dict[str, list[str]] = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found.setdefault(node.module or "", []).extend(name.name for name in node.names)
        elif isinstance(node, ast.Import):
            found.update({name.name: [] for name in node.names})
    return found


def test_the_world_builds_the_production_host() -> None:
    made = imports(Path(world.__file__))
    ours = {module for module in made if module.split(".")[0] == "mas"}
    assert {module for module in ours if not module.startswith("mas.sim")} == _TAKEN
    assert world.RaftHost is RaftHost
    assert RaftHost.__module__ == "mas.multiraft.actor"


def test_no_room_of_the_simulator_has_a_host_or_a_core_of_its_own() -> None:
    production = {"RaftHost", "RaftGroup", "RawNode", "Raft", "LogWriter", "Log", "ApplyQueue"}
    for path in Path(mas.sim.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text())
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        for made in classes:
            bases = {base.id for base in made.bases if isinstance(base, ast.Name)}
            assert not production & {made.name, *bases}, (path.name, made.name)


# -- by hand --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(10_000, 13_000, 250))
def test_many_clusters_keep_their_promises_and_recover(first: int) -> None:
    for seed in range(first, first + 250):
        run(seed, nodes=3 if seed % 3 else 5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_long_lives_keep_their_promises_and_recover() -> None:
    for seed in range(1, 11):
        outcome = simulate(seed, Options(nodes=5, ticks=2_000, faults=ALL))
        assert not outcome.violation, (seed, outcome.violation)
