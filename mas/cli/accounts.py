"""`mas account`: open, read, freeze and close accounts."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from mas.cli.output import complain
from mas.cli.session import Session, client_command, end_with, key_or_new, receipt_tree
from mas.errors import ConfigError
from mas.money import DEFAULT_CURRENCY, format_amount

if TYPE_CHECKING:
    from mas.client import Client, Receipt
    from mas.ledger.instructions import AccountState
    from mas.rpc.messages import AccountView, PostingView

_LEVELS = ("LINEARIZABLE", "READ_COMMITTED", "READ_UNCOMMITTED", "STALE")


@click.group()
def account() -> None:
    """Open, read, freeze and close accounts."""


@account.command()
@click.argument("number")
@click.option("--balance", default="0", show_default=True, help='Opening balance, "100.00".')
@click.option("--currency", default=DEFAULT_CURRENCY, show_default=True)
@click.option("--overdraft", default="0", show_default=True, help="How far it may go below zero.")
@click.option("--key", help="Idempotency key: the same key opens it once.  [default: a new one]")
@client_command
def create(
    session: Session, number: str, balance: str, currency: str, overdraft: str, key: str | None
) -> None:
    """Open account NUMBER, and keep its token for --as. Operators only."""
    asked = key_or_new(key)
    token = ""

    async def open_it(client: "Client") -> "Receipt":
        nonlocal token
        made = await client.create_account(
            number, balance, currency=currency, overdraft_limit=overdraft, key=asked
        )
        token = made.token
        return made.receipt

    receipt = session.ask_for(number, asked, open_it)
    kept, where = _keep(session, number, token, session.again(asked))
    if receipt.committed or session.as_json:
        tree = receipt_tree(receipt) | {"number": number, "token_file": kept}
        opening = format_amount(_units(balance, currency), currency)
        session.show(tree, f"Account {number} is open with {opening} {currency}{where}")
    end_with(receipt, f"opening account {number}", session.again(asked))


def _keep(session: Session, number: str, token: str, again: str) -> tuple[str, str]:
    """Keep a new account's token; the file, and a clause that says so. That the account is open doesn't depend on it."""
    from mas.client import profile

    if not token:
        return "", ""
    try:
        before = profile.find_token(session.profile, number)
        kept = profile.keep_token(session.profile, number, token)
    except ConfigError as error:
        complain(f"Error: the token of account {number} isn't kept: {error}. For another: {again}")
        return "", ""
    replaced = ", in the place of an older one" if before and before != token else ""
    return str(kept), f"; its token is in {kept}{replaced}"


@account.command()
@click.argument("numbers", metavar="NUMBER...", nargs=-1, required=True)
@click.option(
    "--level",
    type=click.Choice(_LEVELS, case_sensitive=False),
    default=_LEVELS[0],
    show_default=True,
    help="How fresh and firm the answer is.",
)
@client_command
def get(session: Session, numbers: tuple[str, ...], level: str) -> None:
    """Read accounts."""
    from mas.errors import MasError, NotFound
    from mas.rpc.messages import AccountView, ReadLevel

    asked = ReadLevel[level.upper()]
    views = session.ask(lambda client: client.accounts(numbers, level=asked))
    found = [view for view in views if isinstance(view, AccountView)]
    if found or session.as_json:
        trees = [_account_tree(view) for view in found]
        session.show(trees, "\n\n".join(_account_text(view) for view in found))
    for error in views:
        if isinstance(error, MasError):
            raise error
    missing = [repr(number) for number, view in zip(numbers, views, strict=True) if view is None]
    if missing:
        raise NotFound(f"there is no account {', '.join(missing)}: check the number")


@account.command()
@click.argument("number")
@click.option("--limit", type=click.IntRange(1, 1_000), default=20, show_default=True)
@click.option("--before", type=int, default=0, help="Only postings below this sequence number.")
@client_command
def postings(session: Session, number: str, limit: int, before: int) -> None:
    """The statement of account NUMBER, newest first."""

    async def read(client: "Client") -> "tuple[list[PostingView], str]":
        page = await client.postings(number, before=before, limit=limit)
        return page, (await client.account(number)).currency

    page, currency = session.ask(read)
    trees = [_posting_tree(posting, currency) for posting in page]
    session.show(trees, "\n".join(_posting_lines(page, currency)))


_change_key = click.option(
    "--key", help="Idempotency key: the same key changes it once.  [default: a new one]"
)


@account.command()
@click.argument("number")
@_change_key
@client_command
def freeze(session: Session, number: str, key: str | None) -> None:
    """Let no new payment touch account NUMBER. Operators only."""
    _change(session, number, key, "freezing", frozen=True)


@account.command()
@click.argument("number")
@_change_key
@client_command
def unfreeze(session: Session, number: str, key: str | None) -> None:
    """Undo freeze. Operators only."""
    _change(session, number, key, "unfreezing", frozen=False)


@account.command()
@click.argument("number")
@_change_key
@client_command
def close(session: Session, number: str, key: str | None) -> None:
    """Close account NUMBER for good; it must be empty. Operators only."""
    _change(session, number, key, "closing", closed=True)


def _change(
    session: Session,
    number: str,
    key: str | None,
    doing: str,
    *,
    frozen: bool | None = None,
    closed: bool | None = None,
) -> None:
    asked = key_or_new(key)
    receipt = session.ask_for(
        number,
        asked,
        lambda client: client.set_account(number, frozen=frozen, closed=closed, key=asked),
    )
    if receipt.committed or session.as_json:
        state = _state(receipt.state) if receipt.state is not None else ""
        tree = receipt_tree(receipt) | {"number": number, "state": state}
        session.show(tree, f"Account {number} is {state}")
    end_with(receipt, f"{doing} account {number}", session.again(asked))


def _units(text: str, currency: str) -> int:
    from mas.money import parse_amount

    return parse_amount(text, currency, zero_allowed=True)


def _state(view: "AccountView | AccountState") -> str:
    return "closed" if view.closed else "frozen" if view.frozen else "open"


def _account_tree(view: "AccountView") -> dict[str, object]:
    def money(units: int) -> str:
        return format_amount(units, view.currency)

    return {
        "number": view.number,
        "id": view.id,
        "currency": view.currency,
        "balance": money(view.balance),
        "held": money(view.debits_pending),
        "overdraft_limit": money(view.overdraft_limit),
        "state": _state(view),
        "version": view.version,
        "postings": view.sequence,
        "bucket": view.bucket,
    }


def _account_text(view: "AccountView") -> str:
    tree = _account_tree(view)
    lines = [f"{view.number}", f"  balance   {tree['balance']} {view.currency}"]
    if view.debits_pending:
        lines.append(f"  held      {tree['held']} {view.currency}")
    if view.overdraft_limit:
        lines.append(f"  overdraft {tree['overdraft_limit']} {view.currency}")
    lines += [
        f"  state     {tree['state']}",
        f"  postings  {view.sequence}",
        f"  bucket    {view.bucket} (id {view.id})",
    ]
    return "\n".join(lines)


def _posting_tree(posting: "PostingView", currency: str) -> dict[str, object]:
    return {
        "sequence": posting.sequence,
        "time_us": posting.time_us,
        "amount": format_amount(posting.amount, currency),
        "balance": format_amount(posting.balance, currency),
        "payment_id": posting.payment_id.hex(),
        "counterparty": posting.counterparty,
        "reference": posting.reference,
    }


def _posting_lines(page: "list[PostingView]", currency: str) -> list[str]:
    if not page:
        return ["There are no postings."]
    lines = [
        f"{'#':>8}  {'time (UTC)':19}  {'amount ' + currency:>18}  {'balance':>18}  {'payment':32}  from or to"
    ]
    for posting in page:
        time = datetime.fromtimestamp(posting.time_us / 1e6, UTC)
        amount = format_amount(posting.amount, currency)
        balance = format_amount(posting.balance, currency)
        party = f"{'from' if posting.amount >= 0 else 'to'} {posting.counterparty}"
        reference = f": {posting.reference}" if posting.reference else ""
        lines.append(
            f"{posting.sequence:>8}  {time:%Y-%m-%d %H:%M:%S}  {amount:>18}  {balance:>18}  "
            f"{posting.payment_id.hex()}  {party}{reference}"
        )
    return lines
