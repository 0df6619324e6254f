"""`mas serve`, `mas demo`, `mas bench`, `mas version`: what runs, runs elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mas import __version__

if TYPE_CHECKING:
    from mas.config import Config

_PORT_DIGITS_MAX = 5


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
@click.option("--id", "node_id", type=int, help="This node's id: unique, and never used again.")
@click.option("--cluster-id", help="The cluster that it belongs to.")
@click.option(
    "--join",
    help="host:port of a NodeService of the cluster to join, with --role rm and a new --id.",
)
@click.option(
    "--hold",
    help="With --join: the buckets to hold a replica of, as 1,2,3. More can be added later: `mas admin replica add`.",
)
@click.option(
    "--address", help="host:port where the other nodes find this one; it listens on that port."
)
@click.option("--rm-port", type=int, help="The port of its TransactionService and NodeService.")
@click.option("--secret-file", type=click.Path(dir_okay=False), help="The cluster's secret.")
@click.option(
    "--tls-dir",
    type=click.Path(file_okay=False),
    help="Holds ca.crt, node-ID.crt and node-ID.key (`mas certs`).",
)
def serve(config_file: Path | None, **given: Any) -> None:  # noqa: ANN401 - of many kinds
    """Run a node until Ctrl-C. Without options: everything in one process."""
    from mas.config import Config, load_config
    from mas.daemon.main import serve as run

    config = load_config(config_file) if config_file is not None else Config()
    run(override(config, given))


def override(config: "Config", given: dict[str, Any]) -> "Config":
    """The configuration with what the command line says instead.

    Raises:
        ConfigError: together they can't be.
    """
    import msgspec

    from mas.config import convert_config, parse_ids

    tree = msgspec.to_builtins(config)
    places = {
        "role": ("node", "role"),
        "data_dir": ("node", "data_dir"),
        "node_id": ("node", "id"),
        "cluster_id": ("node", "cluster_id"),
        "join": ("node", "join"),
        "address": ("node", "address"),
        "secret_file": ("node", "secret_file"),
        "rm_port": ("listen", "rm"),
        "tls_dir": ("tls", "directory"),
        "database": ("storage", "database"),
    }
    for name, (table, key) in places.items():
        if given.get(name) is not None:
            value = given[name]
            tree[table][key] = str(value) if isinstance(value, Path) else value
    if given.get("hold") is not None:
        tree["node"]["hold"] = parse_ids("--hold", given["hold"])
    if given.get("address") is not None:
        port = given["address"].rpartition(":")[2]
        if port.isdecimal() and len(port) <= _PORT_DIGITS_MAX:
            tree["listen"]["peer"] = int(port)
    return convert_config(tree)


@click.command()
def demo() -> None:
    """Show a cluster at work, and what happens when its nodes die."""
    from mas.cli.demo import run

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
        from mas.bench.payments import run

        run(quick=quick, json_file=json_file)


@bench.command("raft")
@_benchmark
def bench_raft(*, quick: bool, json_file: Path | None) -> None:
    """Measure consensus alone: proposals, idle groups, failover; next to etcd where that is installed."""
    from mas.bench.raft import run

    run(quick=quick, json_file=json_file)


@bench.command("storage")
@_benchmark
def bench_storage(*, quick: bool, json_file: Path | None) -> None:
    """Measure what a payment costs the AccountDB at 0.1, 1 and 3 million records. Takes half an hour."""
    from mas.bench.account_db import run

    run(quick=quick, json_file=json_file)


@click.command()
def version() -> None:
    """Say which version this is."""
    click.echo(f"mas {__version__}")
