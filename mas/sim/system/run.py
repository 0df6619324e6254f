"""Seeds of the whole system, one after the other: each is one run, bit for bit."""

import tempfile
from pathlib import Path
from random import Random

from mas.sim.loop import run_virtual
from mas.sim.system.plan import FAULTS
from mas.sim.system.world import Options, Outcome, World

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
    what = f"--drill {options.drill}" if options.drill else f"--faults {_name(options.faults)}"
    return f"mas sim --seed {seed} --nodes {options.nodes} --ticks {options.ticks} {what}"


def _name(faults: tuple[str, ...]) -> str:
    return "all" if faults == tuple(FAULTS) else ",".join(faults) or "none"


def describe(outcome: Outcome) -> str:
    """A run in one line."""
    return (
        f"{outcome.seconds:.1f} s simulated, {outcome.events} events, {outcome.crashes} deaths, {outcome.calls} calls, "
        f"{outcome.committed} payments committed and {outcome.refused} refused, {outcome.reads} reads, "
        f"{outcome.statements} statements, {outcome.holds} locks held"
    )
