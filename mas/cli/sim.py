"""`mas sim`: a cluster's consensus on virtual time, all its hardship from one seed."""

import re
from typing import TYPE_CHECKING

import click

from mas.cli.session import EXIT_REFUSED

if TYPE_CHECKING:
    from mas.sim.world import Options

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


def _read_faults(
    _context: click.Context, _parameter: click.Parameter, value: str
) -> tuple[str, ...]:
    """Classes of faults by their names, in the order that they are listed in."""
    from mas.sim.plan import FAULTS

    if value == "all":
        return tuple(FAULTS)
    named = [] if value == "none" else [name.strip() for name in value.split(",")]
    unknown = [name for name in named if name not in FAULTS]
    if unknown:
        raise click.BadParameter(
            f"there are no faults {', '.join(map(repr, unknown))}: expected all, none, or some of "
            f"{', '.join(FAULTS)}, separated by commas"
        )
    return tuple(name for name in FAULTS if name in named)


@click.command()
@click.option(
    "--seed", type=click.IntRange(0, 10**15), help="One run, with its trace where it fails."
)
@click.option(
    "--seeds", metavar="A..B", callback=_read_seeds, help="Many runs, first and last seed included."
)
@click.option(
    "--nodes",
    type=click.Choice(["3", "5"]),
    default="3",
    show_default=True,
    help="Nodes that the cluster begins with.",
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
    callback=_read_faults,
    default="all",
    show_default=True,
    help="What may happen: all, none, or names separated by commas.",
)
@click.option("--trace", is_flag=True, help="Show the last events of a run that went well, too.")
def sim(
    *,
    seed: int | None,
    seeds: range | None,
    nodes: str,
    ticks: int,
    faults: tuple[str, ...],
    trace: bool,
) -> None:
    """Simulate clusters, and check every promise of Raft in every step.

    The same seed and options give the same run. A seed that fails says how to see it again.
    """
    from mas.sim.world import Options

    options = Options(nodes=int(nodes), ticks=ticks, faults=faults)
    if (seed is None) == (seeds is None):
        raise click.UsageError("say which: --seed N for one run, or --seeds A..B for many")
    failed = _run_one(seed, options, trace=trace) if seed is not None else _run_many(seeds, options)
    if failed:
        click.get_current_context().exit(EXIT_REFUSED)


def _run_one(seed: int, options: "Options", *, trace: bool) -> bool:
    from mas.sim.run import describe, replay_command, simulate

    outcome = simulate(seed, options)
    if outcome.violation or trace:
        click.echo("\n".join(outcome.lines))
    click.echo(f"Seed {seed}: {describe(outcome)}. Digest {outcome.digest}.")
    if not outcome.violation:
        click.echo("Every promise was kept.")
        return False
    click.echo(f"FAILED {outcome.violation}")
    click.echo(f"Again: {replay_command(seed, options)}")
    return True


def _run_many(seeds: range | None, options: "Options") -> bool:
    from mas.sim.run import replay_command, simulate

    assert seeds is not None
    failed = committed = crashes = 0
    for done, seed in enumerate(seeds, start=1):
        outcome = simulate(seed, options)
        committed += outcome.committed
        crashes += outcome.crashes
        if outcome.violation:
            failed += 1
            click.echo(f"Seed {seed} FAILED {outcome.violation}")
            click.echo(f"Again: {replay_command(seed, options)}")
        if done % _PROGRESS_EVERY == 0:
            click.echo(f"{done} of {len(seeds)} seeds, {failed} failed", err=True)
    click.echo(
        f"{len(seeds)} seeds, {failed} failed: {committed} entries committed, {crashes} crashes."
    )
    return failed > 0
