"""The coordinator of a process, its API, and the NodeService for operators.

It stops edges first: payments under way get their answers, then the servers stop, then the coordinator.
"""

import shlex
from contextlib import AsyncExitStack
from pathlib import Path

from mas.addresses import join_address
from mas.api import AccountServicer, ApiServer, Authenticator, TokenIssuer
from mas.api import Role as ClientRole
from mas.api.requests import TIMEOUT_SECONDS_MAX
from mas.client import profile
from mas.config import Role
from mas.coordinator import CoordinatorSettings, Ports, TransactionCoordinator, TransactionStore
from mas.daemon.data_directory import read_file
from mas.daemon.parts import API_GRACE_SECONDS, NodeParts, Running, Starting
from mas.files import read_secret
from mas.locks import Leases

_OPERATOR = "operator:root"


class TransactionRole(Running):
    """A coordinator at work."""

    def __init__(
        self, started: AsyncExitStack, coordinator: TransactionCoordinator, greeting: list[str]
    ) -> None:
        super().__init__(started)
        self.coordinator = coordinator
        self.greeting = greeting
        """For whoever started the process: what to try."""


async def start(
    parts: NodeParts, store: TransactionStore, leases: Leases, authenticator: Authenticator
) -> TransactionRole:
    """Start a coordinator and its servers.

    Raises:
        MasError: a key can't be read, or a port can't be listened on; what was started is stopped.
    """
    config = parts.config
    async with AsyncExitStack() as started:
        starting = Starting("coordinator", parts, started)
        coordinator = TransactionCoordinator(
            Ports(parts.buckets, store, leases),
            CoordinatorSettings(
                parts.bucket_count,
                config.locking,
                # Other coordinators' payments are in a shared store too, and theirs while they may live.
                recovery_pause=0.0
                if config.storage.tm_store == "embedded"
                else TIMEOUT_SECONDS_MAX,
            ),
            parts.clock,
            parts.dice,
        )
        starting.spawn(coordinator)
        issuer = _token_issuer(parts)
        accounts = AccountServicer(
            coordinator, parts.buckets, authenticator, issuer, parts.shares, parts.dice
        )
        api = await starting.serve(config.listen.api, accounts)
        operators = await starting.serve(config.listen.node_service, parts.node_service())
        started.push_async_callback(coordinator.finish, API_GRACE_SECONDS)
        greeting: list[str] = []
        if config.node.role is Role.ALL and issuer is not None:
            greeting = _welcome(parts, api, operators, issuer, authenticator)
        return TransactionRole(started.pop_all(), coordinator, greeting)


def make_authenticator(parts: NodeParts) -> Authenticator:
    """Make what knows clients by their tokens. Raises `MasError`: its key can't be read."""
    jwt = parts.config.jwt
    return Authenticator(_token_key(parts), parts.clock, jwt.algorithm, jwt.issuer, jwt.audience)


def _token_issuer(parts: NodeParts) -> TokenIssuer | None:
    """None where tokens are signed elsewhere."""
    jwt = parts.config.jwt
    if jwt.algorithm != "HS256":
        return None
    return TokenIssuer(_token_key(parts), jwt.issuer, jwt.audience, parts.clock)


def _token_key(parts: NodeParts) -> bytes:
    jwt = parts.config.jwt
    if jwt.algorithm != "HS256":
        return read_file(Path(jwt.public_key_file))
    if jwt.secret_file:
        return read_secret(Path(jwt.secret_file))
    return parts.directory.secret("jwt.secret", parts.dice)


def _welcome(
    parts: NodeParts,
    api: ApiServer,
    operators: ApiServer,
    issuer: TokenIssuer,
    authenticator: Authenticator,
) -> list[str]:
    """A single node to play with: leave its address and a gateway's token where the command line finds them."""
    config, directory = parts.config, parts.directory.path
    address = join_address(config.listen.host, api.port)
    secret = config.node.secret_file or directory / "cluster.secret"
    found = profile.Profile(
        address=address,
        ca=str(parts.tls.ca.resolve()) if parts.tls else "",
        token=issuer.issue(_OPERATOR, ClientRole.GATEWAY),
        plaintext=parts.tls is None,
        node_service=join_address(config.listen.host, operators.port),
        secret_file=str(Path(secret).resolve()),
        cluster=config.node.cluster_id,
    )
    kept = profile.leave(found, authenticator.accepts, directory.resolve() / profile.PROFILE_NAME)
    default = profile.default_path()
    named = "" if kept == default else " --profile " + shlex.quote(str(kept))
    elsewhere = [f"{default} isn't this cluster's, and stays as it is."] if named else []
    return [
        *elsewhere,
        f"API on {address}; its CA and a gateway's token are in {kept}. Try:",
        "",
        f"  mas account create alice --balance 100.00{named}",
        f"  mas account create bob{named}",
        f"  mas pay alice bob 12.50{named}",
        f"  mas account get alice{named}",
        "",
        "Ctrl-C stops it; everything is kept in " + str(directory),
    ]
