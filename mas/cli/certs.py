"""`mas certs`: the certificates of a cluster's nodes."""

from pathlib import Path

import click


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--node", required=True, type=click.IntRange(min=1), help="The id of the node.")
@click.option(
    "--address",
    "addresses",
    multiple=True,
    help="A host name or an IP address by which clients reach it; may be given several times.",
)
def certs(*, directory: Path, node: int, addresses: tuple[str, ...]) -> None:
    """Make the certificate of a node, and at the first time the CA of the cluster.

    Run it for every node of the cluster, in one place and always with the same directory: there is one CA. Each node needs
    ca.crt and its own two files; ca.key stays where it is, and whoever has it can be any node.
    """
    from mas.addresses import bare_host
    from mas.limits import check_node_id
    from mas.network.tls import ensure_certificate, make_ca
    from mas.runtime import SystemClock

    check_node_id(node)
    clock = SystemClock()
    make_ca(directory, clock)
    files = ensure_certificate(directory, node, [bare_host(each) for each in addresses], clock)
    click.echo(
        f"Node {node} needs {files.ca}, {files.certificate} and {files.key}: name their directory there as `directory` in "
        f"[tls], or as --tls-dir. {directory / 'ca.key'} stays here."
    )
