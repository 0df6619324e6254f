"""All commands under one name, and how each of them ends.

0   done
1   refused: by the ledger, or because this token may not, or there is no such thing
2   the command line or the configuration can't be used
3   not possible now, or not known: the same command may be tried again
"""

from typing import Any

import click

from mas.cli.accounts import account
from mas.cli.admin import admin
from mas.cli.certs import certs
from mas.cli.output import complain
from mas.cli.payments import pay, payment
from mas.cli.process import bench, demo, serve, version
from mas.cli.session import ARGUMENTS, EXIT_REFUSED, EXIT_TRY_AGAIN, EXIT_USAGE
from mas.cli.sim import sim
from mas.cli.tokens import token
from mas.errors import (
    ConfigError,
    InvalidRequest,
    MasError,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)


def exit_code_of(error: MasError) -> int:
    """Return the exit code of a command that failed with this error."""
    if error.retryable:
        return EXIT_TRY_AGAIN
    if isinstance(error, Unauthenticated | PermissionDenied | NotFound):
        return EXIT_REFUSED
    if isinstance(error, InvalidRequest | ConfigError):
        return EXIT_USAGE
    return EXIT_REFUSED


class _Commands(click.Group):
    """Commands whose errors are sentences, not tracebacks."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Remember what was typed, for a command that has to say how it is asked again."""
        context.meta[ARGUMENTS] = list(args)
        return super().parse_args(context, args)

    def invoke(self, context: click.Context) -> Any:  # noqa: ANN401 - click's own type
        """Run the command that the arguments name."""
        try:
            return super().invoke(context)
        except MasError as error:
            complain(f"Error: {error}")
            context.exit(exit_code_of(error))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Accounts and payments that survive everything.

    `mas serve` starts a server and leaves a profile that the other commands find.
    """


for command in (serve, admin, account, pay, payment, token, certs, demo, bench, sim, version):
    cli.add_command(command)


def main() -> None:
    """The program `mas`."""
    cli(prog_name="mas")
