"""`mas pay`, and `mas payment`: what has become of one."""

from typing import TYPE_CHECKING

import click

from mas.cli.output import complain
from mas.cli.session import (
    EXIT_REFUSED,
    Command,
    Session,
    client_command,
    end_with,
    key_or_new,
    receipt_tree,
)
from mas.money import DEFAULT_CURRENCY

if TYPE_CHECKING:
    from mas.client import Receipt


@click.command()
@click.argument("payer", metavar="FROM")
@click.argument("payee", metavar="TO")
@click.argument("amount")
@click.option("--currency", default=DEFAULT_CURRENCY, show_default=True)
@click.option(
    "--key", help="Idempotency key: with the same key it happens once.  [default: a new one]"
)
@click.option("--reference", default="", help="What the payee is told.")
@client_command
def pay(
    session: Session,
    payer: str,
    payee: str,
    amount: str,
    currency: str,
    key: str | None,
    reference: str,
) -> None:
    """Pay AMOUNT ("12.50") from account FROM to account TO.

    FROM or TO may be @external: a deposit or a withdrawal.

    The same --key never pays twice from FROM: not later, nor from another machine, nor by another operator. The keys of
    an account's own token (--as) are its own, and so are those of a token issued with --keys.
    """
    what = f"paying {amount} {currency} from {payer} to {payee}"
    asked = key_or_new(key)
    receipt = session.ask_for(
        payer,
        asked,
        # A key that is given may have been used before: whoever asks again must hear of it.
        lambda client: client.pay(
            payer,
            payee,
            amount,
            currency=currency,
            key=asked,
            reference=reference,
            repeat=bool(key),
        ),
    )
    if receipt.committed or session.as_json:
        session.show(
            receipt_tree(receipt),
            f"Paid {amount} {currency} from {payer} to {payee}: "
            f"payment {receipt.payment_id.hex()}, key {receipt.key}",
        )
    end_with(receipt, what, session.again(asked))


@click.group()
def payment() -> None:
    """Look up a payment, or end it for good."""


def _named(command: Command) -> Command:
    """The arguments that name a payment."""
    command = click.option("--id", "payment_id", default="", help="The payment's id.")(command)
    command = click.option("--key", default="", help="The key it was made with.")(command)
    return click.argument("payer")(command)


@payment.command()
@_named
@client_command
def get(session: Session, payer: str, key: str, payment_id: str) -> None:
    """Show what has become of a payment from account PAYER (of a deposit, the account paid into)."""
    given = _parse_id(key, payment_id)
    receipt = session.ask(lambda client: client.payment(payer, key, payment_id=given))
    session.show(receipt_tree(receipt), _text(receipt))


@payment.command()
@_named
@client_command
def cancel(session: Session, payer: str, key: str, payment_id: str) -> None:
    """See to it that a payment never happens, unless it has."""
    given = _parse_id(key, payment_id)
    receipt = session.ask(lambda client: client.cancel(payer, key, payment_id=given))
    if receipt.final or session.as_json:
        session.show(receipt_tree(receipt), _text(receipt))
    if receipt.committed:
        complain("Error: it had happened before: nothing was cancelled")
        raise SystemExit(EXIT_REFUSED)
    if not receipt.final:
        end_with(receipt, f"cancelling a payment of account {payer}", session.again())


def _parse_id(key: str, payment_id: str) -> bytes:
    if bool(key) == bool(payment_id):
        raise click.UsageError("a payment is named by --key or by --id: give one of them")
    try:
        return bytes.fromhex(payment_id)
    except ValueError:
        raise click.UsageError(
            f"--id {payment_id!r} is not one: expected 32 hexadecimal digits"
        ) from None


def _text(receipt: "Receipt") -> str:
    tree = receipt_tree(receipt)
    reason = f" ({tree['reason']})" if receipt.reason else ""
    detail = f": {receipt.detail}" if receipt.detail else ""
    return f"{tree['outcome']}{reason}{detail}, payment {tree['payment_id']}"
