"""One operator's conversation with a NodeService: where it is, what proves that one may, and how an answer is printed."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from mas.addresses import join_address
from mas.cli.output import complain, show
from mas.errors import ConfigError

if TYPE_CHECKING:
    from mas.client.operator import OperatorClient

T = TypeVar("T")
Command = Callable[..., Any]


class Endpoint(msgspec.Struct, frozen=True):
    """Where a NodeService is, and what it takes to talk to it."""

    address: str
    secret_file: str = ""
    ca: Path | None = None
    """None: whom this machine trusts."""
    plaintext: bool = False


class AdminSession:
    """Where the NodeService is, and how the user wants to be answered."""

    def __init__(self, endpoint: Endpoint, secret: bytes, *, timeout: float, as_json: bool) -> None:
        self._endpoint = endpoint
        self._secret = secret
        self.timeout = timeout
        self.as_json = as_json

    def ask(self, question: Callable[["OperatorClient"], Awaitable[T]]) -> T:
        """Connect, ask, and hang up. Raises `MasError`."""
        from mas.client.operator import OperatorClient

        async def talk() -> T:
            async with OperatorClient(
                self._endpoint.address,
                secret=self._secret,
                ca=self._endpoint.ca,
                timeout=self.timeout,
                plaintext=self._endpoint.plaintext,
            ) as operator:
                return await question(operator)

        try:
            return asyncio.run(talk())
        except KeyboardInterrupt:
            complain("What has begun goes on in the cluster; the same command goes on from there.")
            raise

    def say(self, text: str) -> None:
        """A line for a person; a program gets JSON, at the end."""
        if not self.as_json:
            click.echo(text)

    def show(self, tree: object, text: str) -> None:
        """The answer."""
        show(tree, text, as_json=self.as_json)


def admin_command(command: Command) -> Command:
    """Give a command its `session`, and the options that say which."""

    @click.option(
        "--config",
        "config_file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="A node's configuration: its NodeService, secret and CA are used.",
    )
    @click.option("--address", help="host:port of a NodeService.")
    @click.option(
        "--secret-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="The cluster's secret.",
    )
    @click.option(
        "--ca",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="The CA that signed the node's certificate.",
    )
    @click.option("--plaintext", is_flag=True, help="The node has no TLS.")
    @click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=30.0,
        show_default=True,
        help="Seconds to keep trying while nothing moves.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
    @wraps(command)
    def wrapped(
        *arguments: Any,  # noqa: ANN401 - whatever the command takes
        config_file: Path | None,
        address: str | None,
        secret_file: Path | None,
        ca: Path | None,
        plaintext: bool,
        timeout: float,
        as_json: bool,
        **options: Any,  # noqa: ANN401
    ) -> None:
        found = _from_config(config_file) if config_file is not None else _from_profile(address)
        endpoint = Endpoint(
            address or found.address,
            str(secret_file or found.secret_file),
            ca or found.ca,
            plaintext or (found.plaintext and ca is None),
        )
        if not endpoint.address:
            raise ConfigError("no NodeService: name one with --address, or a node's --config")
        session = AdminSession(
            endpoint, _read_secret(endpoint.secret_file), timeout=timeout, as_json=as_json
        )
        command(session, *arguments, **options)

    return wrapped


def _from_config(path: Path) -> Endpoint:
    from mas.config import Role, load_config

    config = load_config(path)
    data = Path(config.node.data_dir)
    port = config.listen.rm if config.node.role is Role.RM else config.listen.node_service
    tls = config.tls
    ca = Path(tls.ca_file) if tls.ca_file else Path(tls.directory or data / "tls") / "ca.crt"
    return Endpoint(
        join_address(config.listen.host, port),
        config.node.secret_file or str(data / "cluster.secret"),
        ca if tls.enabled else None,
        plaintext=not tls.enabled,
    )


def _from_profile(address: str | None) -> Endpoint:
    from mas.client import profile

    try:
        kept = profile.read(None)
    except ConfigError:
        if address:
            return Endpoint(address)
        raise
    return Endpoint(
        kept.node_service, kept.secret_file, Path(kept.ca) if kept.ca else None, kept.plaintext
    )


def _read_secret(path: str) -> bytes:
    if not path:
        raise ConfigError("no secret: name the cluster's with --secret-file, or a node's --config")
    from mas.files import read_secret

    return read_secret(Path(path))
