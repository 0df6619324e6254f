"""One command's conversation with a server: where it is, who acts, and how an answer is printed and a command ends.

A command acts as its profile's token says, wherever it runs and whatever is kept there; only `--as` makes it act for an
account by the account's own token. For a key belongs to whoever pays with it (rule 1, payment ids): a command that
chose by itself would pay the same key twice, once for each.
"""

import asyncio
import shlex
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mas.cli import output
from mas.errors import ConfigError, PermissionDenied

if TYPE_CHECKING:
    from mas.client import Client, Profile, Receipt

EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_TRY_AGAIN = 3

ARGUMENTS = "mas.arguments"
"""Where a command finds what was typed behind `mas`."""

T = TypeVar("T")
Command = Callable[..., Any]


class Session:
    """Where the server is, who acts, and how the user wants to be answered."""

    def __init__(
        self, profile: "Profile", acting: str, *, timeout: float, as_json: bool, typed: list[str]
    ) -> None:
        self.profile = profile
        self._acting = acting
        self._timeout = timeout
        self.as_json = as_json
        self._typed = typed

    def ask(self, question: Callable[["Client"], Awaitable[T]]) -> T:
        """Connect, ask, and hang up.

        Raises:
            MasError: whatever the server or the connection says.
        """
        from mas.client import Client

        async def talk() -> T:
            async with Client(
                self.profile.address,
                token=self._token(),
                ca=Path(self.profile.ca) if self.profile.ca else None,
                timeout=self._timeout,
                plaintext=self.profile.plaintext,
            ) as client:
                return await question(client)

        return asyncio.run(talk())

    def ask_for(
        self, payer: str, key: str, question: Callable[["Client"], Awaitable["Receipt"]]
    ) -> "Receipt":
        """Ask for a change of the payer's money under a key; say of an interrupted one that its outcome isn't known.

        Raises:
            MasError: nothing has happened.
        """
        from mas.client import Receipt
        from mas.client.profile import find_token
        from mas.transaction.outcome import Status

        try:
            return self.ask(question)
        except KeyboardInterrupt:
            return Receipt(key, Status.UNKNOWN, detail="interrupted")
        except PermissionDenied as error:
            if self._acting or not find_token(self.profile, payer):
                raise
            raise PermissionDenied(f"{error}; that token is kept here: add --as {payer}") from None

    def show(self, tree: object, text: str) -> None:
        """Print an answer: for a program, or for a person."""
        output.show(tree, text, as_json=self.as_json)

    def again(self, key: str = "") -> str:
        """The command that asks for the same once more: of the same server, as the same caller, under the same key."""
        typed = list(self._typed)
        if key and not any(word == "--key" or word.startswith("--key=") for word in typed):
            place = len(click.get_current_context().command_path.split()) - 1
            typed[place:place] = ["--key", key]
        return shlex.join(["mas", *typed])

    def _token(self) -> str:
        from mas.client.profile import find_token, token_path

        if not self._acting:
            return self.profile.token
        token = find_token(self.profile, self._acting)
        if not token:
            raise ConfigError(
                f"no token of account {self._acting} is kept here for this server: expected it in "
                f"{token_path(self.profile, self._acting)}, where `mas account create` puts it"
            )
        return token


def client_command(command: Command) -> Command:
    """Give a command its `session`, and the options that say which."""

    @click.option(
        "--profile",
        "profile_file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Address, CA and token of a server.  [default: client.toml in $MAS_HOME or ~/.config/mas]",
    )
    @click.option(
        "--as",
        "acting",
        metavar="NUMBER",
        default="",
        help="Act for this account, by its own token kept here, and with its own keys.  [default: by the profile's token]",
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
        acting: str,
        timeout: float,
        as_json: bool,
        **options: Any,  # noqa: ANN401
    ) -> None:
        from mas.client import profile
        from mas.limits import check_account_number

        if acting:
            check_account_number(acting, "--as")
        typed = click.get_current_context().find_root().meta.get(ARGUMENTS, [])
        session = Session(
            profile.read(profile_file), acting, timeout=timeout, as_json=as_json, typed=typed
        )
        command(session, *arguments, **options)

    return wrapped


def key_or_new(given: str | None) -> str:
    """The key that was given, or a new one; made here and not by the client, so that it can be told whatever happens.

    Raises:
        UsageError: an empty one was given: each time a new one would be made for it.
    """
    from mas.runtime import SystemDice

    if given == "":
        raise click.UsageError("--key is empty: give one, or leave the option out for a new one")
    return given or SystemDice().randbytes(8).hex()


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
    may_try_again = receipt.status in (Status.ABORTED, Status.UNKNOWN) or (
        receipt.status is Status.REJECTED and receipt.is_transient
    )
    text = _sentence(receipt, what, again)
    output.complain(f"Error: {text[0].upper()}{text[1:]}")
    raise SystemExit(EXIT_TRY_AGAIN if may_try_again else EXIT_REFUSED)


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
        case Status.REJECTED if receipt.is_transient:
            return f"{what} was not begun{because}; try again: {again}"
        case _:
            return f"{what} was refused{because}"
