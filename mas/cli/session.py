"""One command's conversation with a server: where it is, whose token is used, and how an answer is printed."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

if TYPE_CHECKING:
    from mas.client import Client, Profile, Receipt

EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_TRY_AGAIN = 3

T = TypeVar("T")
Command = Callable[..., Any]


class Session:
    """Where the server is, and how the user wants to be answered."""

    def __init__(self, profile: "Profile", *, timeout: float, as_json: bool) -> None:
        self._profile = profile
        self._timeout = timeout
        self.as_json = as_json

    def ask(self, question: Callable[["Client"], Awaitable[T]], *, payer: str = "") -> T:
        """Connect, ask, and hang up; with the payer's own token, where one is kept here.

        Raises:
            MasError: whatever the server or the connection says.
        """
        from mas.client import Client
        from mas.client import profile as kept

        token = (kept.find_token(payer) if payer else "") or self._profile.token

        async def talk() -> T:
            async with Client(
                self._profile.address,
                token=token,
                ca=Path(self._profile.ca) if self._profile.ca else None,
                timeout=self._timeout,
                plaintext=self._profile.plaintext,
            ) as client:
                return await question(client)

        return asyncio.run(talk())

    def show(self, tree: object, text: str) -> None:
        """Print an answer: for a program, or for a person."""
        click.echo(msgspec.json.encode(tree).decode() if self.as_json else text)


def talking(command: Command) -> Command:
    """Give a command its `session`, and the options that say which."""

    @click.option(
        "--profile",
        "profile_file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Address, CA and token of a server.  [default: client.toml in $MAS_HOME or ~/.config/mas]",
    )
    @click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=10.0,
        show_default=True,
        help="Seconds to keep trying.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
    @wraps(command)
    def wrapped(
        *arguments: Any,  # noqa: ANN401 - whatever the command takes
        profile_file: Path | None,
        timeout: float,
        as_json: bool,
        **options: Any,  # noqa: ANN401
    ) -> None:
        from mas.client import profile

        session = Session(profile.read(profile_file), timeout=timeout, as_json=as_json)
        command(session, *arguments, **options)

    return wrapped


def receipt_tree(receipt: "Receipt") -> dict[str, object]:
    """A receipt for programs."""
    return {
        "outcome": receipt.status.name,
        "reason": receipt.reason.name,
        "detail": receipt.detail,
        "payment_id": receipt.payment_id.hex(),
        "key": receipt.key,
        "time_us": receipt.time_us,
    }


def end_with(receipt: "Receipt", what: str, again: str) -> None:
    """Exit as the outcome says, unless it is COMMITTED. `what` was asked for, `again` asks once more.

    Raises:
        SystemExit: 1 where it will never happen, 3 where the same command may be tried again.
    """
    from mas.transaction.outcome import Status

    if receipt.status is Status.COMMITTED:
        return
    passing = receipt.status in (Status.ABORTED, Status.UNKNOWN) or (
        receipt.status is Status.TURNED_AWAY and receipt.passing
    )
    text = _sentence(receipt, what, again)
    click.echo(f"Error: {text[0].upper()}{text[1:]}", err=True)
    raise SystemExit(EXIT_TRY_AGAIN if passing else EXIT_REFUSED)


def _sentence(receipt: "Receipt", what: str, again: str) -> str:
    from mas.transaction.outcome import Status

    reason = receipt.reason.name if receipt.reason else ""
    because = ": ".join(part for part in (reason, receipt.detail) if part)
    because = f" ({because})" if because else ""
    match receipt.status:
        case Status.UNKNOWN:
            return f"it is not known whether {what} has succeeded{because}; ask again: {again}"
        case Status.ABORTED:
            return f"{what} did not happen this time{because}; try again: {again}"
        case Status.KEY_REUSED:
            return f"{what} was refused: this key has been used for something else{because}"
        case Status.TURNED_AWAY if receipt.passing:
            return f"{what} was not begun{because}; try again: {again}"
        case _:
            return f"{what} was refused{because}"
