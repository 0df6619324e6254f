"""What a command says and how it ends stays true when stdout is full, when it is interrupted, and for whatever is typed."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from mas import errors
from mas.bench import account_db, payments, raft
from mas.cli import cli, demo
from mas.client import Client, operator, profile
from mas.daemon import main as daemon
from mas.ledger.instructions import AccountState, Answer, Code, Reason
from mas.transaction.outcome import PaymentResult, Status, payment_id_of
from tests.api.edge import Edge, account, commit
from tests.cli.typed import mas

UNKNOWN = PaymentResult(Status.UNKNOWN, b"", Reason.TIMED_OUT, "bucket 1 doesn't answer")
REFUSED = PaymentResult(Status.REFUSED, b"", Reason.INSUFFICIENT_FUNDS)


# -- the exit status is the outcome's ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "code", "shell"),
    [
        (None, 0, "{} > /dev/full"),
        (None, 0, "{} >&-"),
        (None, 0, "{} > /dev/full 2> /dev/full"),
        (REFUSED, 1, "{} > /dev/full"),
        (UNKNOWN, 3, "{} >&- 2>&-"),
    ],
)
def test_users_1_the_exit_status_is_the_payments_whatever_happens_to_the_printing(
    edge: Edge, result: PaymentResult | None, code: int, shell: str
) -> None:
    edge.coordinator.decide = commit if result is None else lambda request: result
    timeout = "1" if result is UNKNOWN else "20"  # only what isn't known is asked for until then
    command = [sys.executable, "-m", "mas", "pay", "alice", "bob", "7.00", "--timeout", timeout]
    line = shell.format(shlex.join([*command, "--json"]))
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    requests = edge.coordinator.requests
    assert requests
    if "2>" not in shell:
        said = json.loads(next(line for line in done.stderr.splitlines() if line.startswith("{")))
        assert said["key"] == requests[0].key
        if result is None:
            assert said["payment_id"] == payment_id_of(requests[0]).hex()


def test_users_1_also_where_stdout_has_another_alphabet(edge: Edge) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mas", "pay", "alice", "Nguy\u1ec5n", "7.00"],
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert edge.coordinator.requests[0].key in done.stderr


def test_users_1_an_interrupted_payment_is_not_known_to_have_failed(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    paid = Client.pay

    async def interrupted(*arguments: Any, **options: Any) -> Any:
        await paid(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "pay", interrupted)
    result = mas("pay", "alice", "bob", "7.00")
    assert result.exit_code == 3
    assert "it is not known whether" in result.stderr.lower()
    monkeypatch.setattr(Client, "pay", paid)
    assert suggested(result.stderr).exit_code == 0
    first, second = edge.coordinator.requests
    assert payment_id_of(first) == payment_id_of(second)


def test_users_1_an_account_is_open_also_where_its_token_cannot_be_kept(
    edge: Edge, home: Path
) -> None:
    (home / "tokens").write_text("in the way")
    result = mas("account", "create", "alice")
    assert result.exit_code == 0
    assert result.stdout.startswith("Account alice is open with 0.00 USD")
    assert "the token of account alice isn't kept" in result.stderr
    (home / "tokens").unlink()
    again = result.stderr.partition("For another: ")[2].strip()
    assert mas(*shlex.split(again)[1:]).exit_code == 0
    assert profile.find_token(profile.read(), "alice")
    first, second = edge.coordinator.requests
    assert payment_id_of(first) == payment_id_of(second)


# -- what is suggested is what was asked -------------------------------------------------------------


def suggested(stderr: str) -> Any:
    """Run the command that an error ends with."""
    line = stderr.strip().splitlines()[-1]
    words = shlex.split(line.partition(" again: ")[2])
    assert words[0] == "mas", line
    return mas(*words[1:])


PAYMENTS = [
    ("pay", "alice", "bob", "1.00", "--reference", "invoice 7"),
    (
        "pay",
        "alice",
        'bob\'s "best" $HOME;ls',
        "1",
        "--currency",
        "JPY",
        "--reference",
        "it's; `ls`",
    ),
    ("pay", "alice", "bob", "1.00", "--profile", "{other}", "--json"),
    ("pay", "alice", "bob", "1.00", "--as", "alice"),
    ("pay", "--reference=r", "--currency", "EUR", "--", "alice", "-bob-", "3.00"),
    ("pay", "@external", "bob", "1.00", "--key", "my own key", "--timeout", "0.2"),
    ("account", "create", "carol", "--balance", "5.00", "--overdraft", "20.00"),
    ("account", "create", "--currency", "KWD", "--", "-carol-"),
    ("account", "create", "carol", "--key=mine", "--profile", "{other}"),
]


@pytest.mark.parametrize("command", PAYMENTS, ids=" ".join)
def test_users_2_the_suggested_command_asks_again_for_the_same(
    edge: Edge, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """Of the same server, as the same caller, under the same key, to the same end."""
    found = profile.read()
    profile.keep_token(found, "alice", edge.token("account:alice"))
    other = tmp_path / "other profile.toml"
    if "{other}" in command:
        profile.write(found, other)
        profile.write(profile.Profile("127.0.0.1:1"))  # whoever asks this one asks nobody
    words = [word.format(other=other) for word in command]
    at = 1 if words[0] == "pay" else 2
    edge.coordinator.decide = lambda request: UNKNOWN
    while not edge.coordinator.requests:  # on a busy machine the call may end before it has begun
        result = mas(*words[:at], "--timeout", "0.3", *words[at:])
        assert result.exit_code == 3, result.output
    asked = edge.coordinator.requests[0]
    edge.coordinator.batches.clear()
    edge.coordinator.decide = commit
    assert suggested(result.stderr).exit_code == 0
    assert edge.coordinator.requests
    for again in edge.coordinator.requests:  # a busy machine may have it ask once more by itself
        assert (again.key, again.key_space, again.body) == (asked.key, asked.key_space, asked.body)
        assert again.repeat or words[0] != "pay"


@pytest.mark.parametrize(
    "command",
    [
        ("account", "freeze", "a b"),
        ("account", "close", "a b", "--profile", "{other}"),
        ("payment", "cancel", "a b", "--key", "it's"),
    ],
    ids=" ".join,
)
def test_users_2_also_of_what_has_no_key_of_its_own(
    edge: Edge, tmp_path: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = profile.write(profile.read(), tmp_path / "it's other.toml")
    words = [word.format(other=other) for word in command]
    edge.coordinator.answer = Answer(Code.WRONG_BUCKET, Reason.WRONG_BUCKET)
    cancel = edge.coordinator.cancel

    async def lost(*_: object) -> PaymentResult:
        return UNKNOWN

    monkeypatch.setattr(edge.coordinator, "cancel", lost)
    result = mas(*words, "--timeout", "0.3")
    assert result.exit_code == 3, result.output
    assert shlex.split(result.stderr.strip().partition(" again: ")[2])[1:3] == words[:2]
    edge.coordinator.answer = Answer(Code.DONE, state=AccountState(True, False, 0))
    monkeypatch.setattr(edge.coordinator, "cancel", cancel)
    edge.coordinator.changes.clear()
    assert suggested(result.stderr).exit_code == 0
    assert [change.account for change in edge.coordinator.changes] in (["a b"], [])


# -- whatever is typed -------------------------------------------------------------------------------

STRANGE = [
    *("", "-1", "0", "1", str(2**31), str(2**63), str(2**64), "9" * 5_000, "1e400", "nan", "inf"),
    *("a\nb", "cafe\u0301", "a\u200b", "\udcff", "x" * 100_000, "../..", "@external", "--help"),
]

COMMANDS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("serve",): (),
    ("demo",): (),
    ("bench",): (),
    ("bench", "raft"): (),
    ("bench", "storage"): (),
    ("version",): (),
    ("account", "create"): ("a",),
    ("account", "get"): ("a",),
    ("account", "postings"): ("a",),
    ("account", "freeze"): ("a",),
    ("account", "unfreeze"): ("a",),
    ("account", "close"): ("a",),
    ("pay",): ("a", "b", "1"),
    ("payment", "get"): ("a",),
    ("payment", "cancel"): ("a",),
    ("token", "issue"): (),
    ("admin", "members"): ("1",),
    ("admin", "replica", "add"): ("1", "2"),
    ("admin", "replica", "remove"): ("1", "2"),
    ("admin", "replica", "rebuild"): ("1", "2"),
    ("admin", "transfer-leader"): ("1", "2"),
    ("admin", "node", "drain"): ("1",),
    ("admin", "node", "retire"): ("1",),
}
SHARED = {
    "--profile": ("account", "get"),
    "--as": ("account", "get"),
    "--config": ("admin", "members"),
    "--address": ("admin", "members"),
    "--ca": ("admin", "members"),
    "--timeout": ("pay",),
}
"""Options that many commands have in one way, and the command that tries each."""
OTHERS_TEST = {("sim",), ("certs",)}


def leaves(of: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if not isinstance(of, click.Group) or of.invoke_without_command:
        yield path
    if isinstance(of, click.Group):
        for word, command in of.commands.items():
            yield from leaves(command, (*path, word))


def test_every_command_is_tried() -> None:
    assert set(leaves(cli)) == COMMANDS.keys() | OTHERS_TEST


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that start something start nothing, and no NodeService is there."""

    async def nobody(*_: object) -> None:
        raise errors.Unavailable("nobody is there")

    monkeypatch.setattr(daemon, "serve", lambda config: None)
    for room in (account_db, demo, payments, raft):
        monkeypatch.setattr(room, "run", lambda **options: None)
    monkeypatch.setattr(operator, "connected", nobody)


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_users_11_whatever_is_typed_a_command_ends_with_a_sentence(
    edge: Edge, tmp_path: Path, path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text("a secret of at least thirty-two bytes")
    edge.coordinator.accounts["a"] = account("a")
    edge.coordinator.postings["a"] = []
    command: click.Command = cli
    for word in path:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    base = COMMANDS[path]
    if path[0] == "admin":
        base += ("--address", "127.0.0.1:1", "--secret-file", str(secret), "--plaintext")
    tried = 0
    for place in range(len(COMMANDS[path])):
        for strange in STRANGE:
            ends_with_a_sentence(*path, "--", *base[:place], strange, *COMMANDS[path][place + 1 :])
            tried += 1
    for option in command.params:
        if not isinstance(option, click.Option) or option.is_flag:
            continue
        if SHARED.get(option.opts[0], path) == path or path == ("serve",):
            for strange in STRANGE:
                ends_with_a_sentence(*path, *base, f"{option.opts[0]}={strange}")
                tried += 1
    assert tried or path == ("version",) or path == ("demo",)


def ends_with_a_sentence(*words: str) -> None:
    result = mas(*words)  # which itself fails for anything that isn't an exit
    assert result.exit_code in (0, 1, 2, 3), (words, result.output)
    assert "Traceback" not in result.output


def test_users_11_a_number_out_of_range_is_named(edge: Edge) -> None:
    result = mas("account", "postings", "alice", "--before", "-1")
    assert result.exit_code == 2
    assert "before -1 is not allowed" in result.stderr
    far = mas("account", "postings", "alice", "--before", str(2**64))
    assert far.exit_code == 2
    assert "before 18446744073709551616 is not allowed" in far.stderr
