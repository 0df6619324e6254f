"""`mas token`: tokens, from the secret that signs them."""

from pathlib import Path

import click


@click.group()
def token() -> None:
    """Issue tokens. Needs the secret that signs them."""


@token.command()
@click.option("--account", "number", help="For the owner of this account.")
@click.option("--operator", help="For an operator of this name.")
@click.option(
    "--role",
    type=click.Choice(["auditor", "operator", "gateway"]),
    default="operator",
    show_default=True,
    help="An operator's: an auditor reads, an operator opens and freezes accounts and deposits too, "
    "a gateway also pays from any account.",
)
@click.option(
    "--keys",
    default="",
    help="A key space of its own, with --operator. Without it all operators share the cluster's, so that no key of "
    "theirs pays twice.",
)
@click.option(
    "--secret-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=Path("data/jwt.secret"),
    show_default=True,
)
@click.option("--days", type=click.IntRange(1, 3_650), default=90, show_default=True)
@click.option("--issuer", default="mas", show_default=True)
@click.option("--audience", default="mas", show_default=True)
def issue(
    *,
    number: str | None,
    operator: str | None,
    role: str,
    keys: str,
    secret_file: Path,
    days: int,
    issuer: str,
    audience: str,
) -> None:
    """Print a token for an account or an operator."""
    from mas.api.tokens import (
        Role,
        TokenIssuer,
        account_subject,
        operator_subject,
    )
    from mas.files import read_secret

    if bool(number) == bool(operator):
        raise click.UsageError("a token is for --account NUMBER or --operator NAME: give one")
    if number and keys:
        raise click.UsageError(
            "an account's token has keys of its own: --keys goes with --operator"
        )
    if number:
        subject, granted = account_subject(number), Role.ACCOUNT
    else:
        subject, granted = operator_subject(str(operator)), Role(role)
    made = TokenIssuer(read_secret(secret_file), issuer, audience)
    click.echo(made.issue(subject, granted, days * 24 * 3600, keys))
