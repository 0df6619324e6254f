"""Seeds, one after the other: each is one run, bit for bit, and fails with all that it takes to see it again."""

import tempfile
from pathlib import Path
from random import Random

from mas.sim.loop import run_virtual
from mas.sim.plan import FAULTS
from mas.sim.world import Options, Outcome, World

_MEMORY = Path("/dev/shm")  # noqa: S108  (a folder of its own is made in it)


def simulate(seed: int, options: Options, *, kept: int | None = 400) -> Outcome:
    """One seed's cluster; `kept` is how many of the last events its outcome shows, None for all of them."""
    parent = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="mas-sim-", dir=parent) as folder:
        dice = Random(f"{seed} loop")  # noqa: S311  (nobody's secret)

        async def run() -> Outcome:
            return await World(seed, options, Path(folder), kept).run()

        return run_virtual(run(), dice)


def replay_command(seed: int, options: Options) -> str:
    """Return what to type to see a seed's run again."""
    faults = "all" if options.faults == tuple(FAULTS) else ",".join(options.faults) or "none"
    return f"mas sim --world raft --seed {seed} --nodes {options.nodes} --ticks {options.ticks} --faults {faults}"


def describe(outcome: Outcome) -> str:
    """Describe a run in a line."""
    return (
        f"{outcome.seconds:.1f} s of virtual time, {outcome.operations} operations, {outcome.committed} entries committed, "
        f"{outcome.leaders} leaders, {outcome.crashes} crashes, {outcome.restored} snapshots installed, "
        f"{outcome.members_changed} changes of members, {outcome.isolated} damaged replicas isolated"
    )
