"""`mas serve`, `mas demo`, `mas bench`, `mas version`: what runs, runs elsewhere."""

from collections.abc import Callable
from pathlib import Path

import click

from mas import __version__


@click.command()
@click.option(
    "--role",
    type=click.Choice(["all", "tm", "tc", "gls", "rm"]),
    help="What runs here: `rm` the buckets, `tc` the coordinator, `gls` the lock service, `tm` both of these.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Everything that this node stores.",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A TOML file; the options here win.",
)
@click.option("--db", "database", help="The name of this node's database.")
def serve(
    *, role: str | None, data_dir: Path | None, config_file: Path | None, database: str | None
) -> None:
    """Run a node until Ctrl-C. Without options: everything in one process."""
    from mas.daemon.main import serve as run

    run(role=role, data_dir=data_dir, config_file=config_file, database=database)


@click.command()
def demo() -> None:
    """Show a cluster at work, and what happens when its nodes die."""
    from mas.testing.demo import run

    run()


def _benchmark(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every benchmark."""
    quick = click.option("--quick", is_flag=True, help="A few seconds, for a first look.")
    json_file = click.option(
        "--json",
        "json_file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write the figures here too.",
    )
    return quick(json_file(command))


@click.group(invoke_without_command=True)
@_benchmark
@click.pass_context
def bench(context: click.Context, *, quick: bool, json_file: Path | None) -> None:
    """Measure payments a second on this machine, next to a bare gRPC echo."""
    if context.invoked_subcommand is None:
        from mas.testing.bench import run

        run(quick=quick, json_file=json_file)


@bench.command("raft")
@_benchmark
def bench_raft(*, quick: bool, json_file: Path | None) -> None:
    """Measure consensus alone: proposals, idle groups, failover; next to etcd where that is installed."""
    from mas.testing.raft_bench import run

    run(quick=quick, json_file=json_file)


@click.command()
def version() -> None:
    """Say which version this is."""
    click.echo(f"mas {__version__}")
