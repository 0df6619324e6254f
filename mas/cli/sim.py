"""`mas sim`: whole clusters on virtual time, all their hardship from one seed."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import click

from mas.cli.session import EXIT_REFUSED

_PROGRESS_EVERY = 25
_SEEDS_MAX = 1_000_000


def _read_seeds(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> range | None:
    """A..B, both ends included."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,15})\.\.(\d{1,15})", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is no range of seeds: expected A..B, like 1..300")
    first, last = int(match[1]), int(match[2])
    if not first <= last < first + _SEEDS_MAX:
        raise click.BadParameter(
            f"{value!r} holds no seed, or more than {_SEEDS_MAX}: expected A..B with A <= B"
        )
    return range(first, last + 1)


def _read_faults(text: str, known: Mapping[str, str]) -> tuple[str, ...]:
    """Classes of faults by their names, in the order that they are listed in."""
    if text == "all":
        return tuple(known)
    named = [] if text == "none" else [name.strip() for name in text.split(",")]
    unknown = [name for name in named if name not in known]
    if unknown:
        raise click.BadParameter(
            f"there are no faults {', '.join(map(repr, unknown))}: expected all, none, or some of "
            f"{', '.join(known)}, separated by commas",
            param_hint="'--faults'",
        )
    return tuple(name for name in known if name in named)


@click.command()
@click.option(
    "--seed", type=click.IntRange(0, 10**15), help="One run, with its trace where it fails."
)
@click.option(
    "--seeds", metavar="A..B", callback=_read_seeds, help="Many runs, first and last seed included."
)
@click.option(
    "--world",
    type=click.Choice(["system", "raft"]),
    default="system",
    show_default=True,
    help="The whole system and its clients, or consensus alone, more closely watched.",
)
@click.option(
    "--nodes",
    type=click.Choice(["3", "5"]),
    help="Nodes that hold buckets. [default: 5, of consensus alone 3]",
)
@click.option(
    "--ticks",
    type=click.IntRange(1, 100_000),
    default=150,
    show_default=True,
    help="Of hardship, at 100 ms; then the faults end and the cluster must recover.",
)
@click.option(
    "--faults",
    metavar="CLASSES",
    default="all",
    show_default=True,
    help="What may happen: all, none, or names separated by commas.",
)
@click.option(
    "--drill",
    metavar="NAME",
    help=(
        "Instead of faults: leaders that stand still, or one bucket without a majority, and a bound for each payment; "
        "or calls that meet closely (docs/simulator.md)."
    ),
)
@click.option("--trace", is_flag=True, help="Show the last events of a run that went well, too.")
def sim(
    *,
    seed: int | None,
    seeds: range | None,
    world: str,
    nodes: str | None,
    ticks: int,
    faults: str,
    drill: str | None,
    trace: bool,
) -> None:
    """Simulate clusters, and check every promise in every step.

    The same seed and options give the same run. A seed that fails says how to see it again.
    """
    if world == "raft":
        if drill:
            raise click.UsageError("a drill is one of the whole system: leave out --world raft")
        runs = _raft(nodes, ticks, faults)
    else:
        runs = _system(nodes, ticks, faults, drill or "")
    if (seed is None) == (seeds is None):
        raise click.UsageError("say which: --seed N for one run, or --seeds A..B for many")
    failed = _run_one(seed, runs, trace=trace) if seed is not None else _run_many(seeds, runs)
    if failed:
        click.get_current_context().exit(EXIT_REFUSED)


class Outcome(Protocol):
    """What both worlds say of a run."""

    @property
    def violation(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def lines(self) -> Sequence[str]: ...
    @property
    def committed(self) -> int: ...
    @property
    def crashes(self) -> int: ...


class _Runs(NamedTuple):
    """Seeds of one world, with the options of this command."""

    simulate: Callable[[int], Outcome]
    describe: Callable[[Any], str]
    again: Callable[[int], str]


def _system(nodes: str | None, ticks: int, faults: str, drill: str) -> _Runs:
    from mas.sim.system.plan import DRILLS, FAULTS, MEETINGS
    from mas.sim.system.run import describe, replay_command, simulate
    from mas.sim.system.world import Options

    if drill and drill not in DRILLS | MEETINGS:
        raise click.BadParameter(
            f"there is no drill {drill!r}: expected one of {', '.join(DRILLS | MEETINGS)}",
            param_hint="'--drill'",
        )
    options = Options(int(nodes or 5), ticks, _read_faults(faults, FAULTS), drill)
    return _Runs(
        lambda seed: simulate(seed, options), describe, lambda seed: replay_command(seed, options)
    )


def _raft(nodes: str | None, ticks: int, faults: str) -> _Runs:
    from mas.sim.plan import FAULTS
    from mas.sim.run import describe, replay_command, simulate
    from mas.sim.world import Options

    options = Options(int(nodes or 3), ticks, _read_faults(faults, FAULTS))
    return _Runs(
        lambda seed: simulate(seed, options), describe, lambda seed: replay_command(seed, options)
    )


def _run_one(seed: int, runs: _Runs, *, trace: bool) -> bool:
    outcome = runs.simulate(seed)
    if outcome.violation or trace:
        click.echo("\n".join(outcome.lines))
    click.echo(f"Seed {seed}: {runs.describe(outcome)}. Digest {outcome.digest}.")
    if not outcome.violation:
        click.echo("Every promise was kept.")
        return False
    click.echo(f"FAILED {outcome.violation}")
    click.echo(f"Again: {runs.again(seed)}")
    return True


def _run_many(seeds: range | None, runs: _Runs) -> bool:
    assert seeds is not None
    failed = committed = crashes = 0
    for done, seed in enumerate(seeds, start=1):
        outcome = runs.simulate(seed)
        committed += outcome.committed
        crashes += outcome.crashes
        if outcome.violation:
            failed += 1
            click.echo(f"Seed {seed} FAILED {outcome.violation}")
            click.echo(f"Again: {runs.again(seed)}")
        if done % _PROGRESS_EVERY == 0:
            click.echo(f"{done} of {len(seeds)} seeds, {failed} failed", err=True)
    click.echo(f"{len(seeds)} seeds, {failed} failed: {committed} committed, {crashes} crashes.")
    return failed > 0
