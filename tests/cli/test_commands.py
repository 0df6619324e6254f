"""The commands against a real server: what a person reads, what a program reads, and how each command ends."""

import json
from pathlib import Path

import msgspec
import pytest

from mas import __version__, errors
from mas.api import Role
from mas.api.tokens import CLUSTER_KEY_SPACE
from mas.cli.main import exit_code_of
from mas.client import Profile, profile
from mas.config import Config
from mas.files import write_private
from mas.ledger.instructions import EXTERNAL, AccountState, Answer, Body, Code, Kind, Reason
from mas.rpc.messages import PostingView, ReadLevel
from mas.transaction.outcome import PaymentRequest, PaymentResult, Status, payment_id_of
from tests.api.edge import START_US, Edge, account, certificate, commit
from tests.cli.typed import mas


def deciding(status: Status, reason: Reason = Reason.NONE, detail: str = "") -> object:
    def decide(request: PaymentRequest) -> PaymentResult:
        return PaymentResult(status, payment_id_of(request), reason, detail)

    return decide


def test_opening_an_account_keeps_its_token(edge: Edge, home: Path) -> None:
    result = mas("account", "create", "alice", "--balance", "100.00")
    assert result.exit_code == 0
    assert result.stdout.startswith("Account alice is open with 100.00 USD")
    kept = profile.token_path(profile.read(), "alice")
    assert kept.is_relative_to(home / "tokens")
    assert str(kept) in result.stdout
    assert kept.stat().st_mode & 0o777 == 0o600
    principal = edge.authenticator.authenticate((("authorization", kept.read_text().strip()),))
    assert principal.account == "alice"
    assert edge.coordinator.requests[0].body.legs == (("alice", 10_000),)


def test_an_account_that_exists_is_refused(edge: Edge, home: Path) -> None:
    edge.coordinator.decide = deciding(Status.REFUSED, Reason.ACCOUNT_EXISTS)
    result = mas("account", "create", "alice")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: Opening account alice was refused (ACCOUNT_EXISTS)\n"
    assert not (home / "tokens").exists()


def test_users_3_a_command_acts_as_the_profile_says_whatever_is_kept(edge: Edge) -> None:
    """The same command is the same payment, with the payer's token beside it and without; --as says another caller."""
    key = ("--key", "rent")
    without = mas("pay", "alice", "bob", "1", *key, "--json")
    profile.keep_token(profile.read(), "alice", edge.token("account:alice"))
    beside = mas("pay", "alice", "bob", "1", *key, "--json")
    assert beside.stdout == without.stdout
    own = mas("pay", "alice", "bob", "1", *key, "--json", "--as", "alice")
    assert json.loads(own.stdout)["payment_id"] != json.loads(without.stdout)["payment_id"]
    assert [request.key_space for request in edge.coordinator.requests] == [
        CLUSTER_KEY_SPACE,
        CLUSTER_KEY_SPACE,
        "account:alice",
    ]
    nobody = mas("pay", "bob", "alice", "1", "--as", "bob")
    assert nobody.exit_code == 2
    assert "no token of account bob is kept here for this server" in nobody.stderr


def test_users_3_a_token_that_would_do_is_pointed_out_and_not_taken(edge: Edge) -> None:
    found = profile.read()
    profile.write(msgspec.structs.replace(found, token=edge.token("operator:root", Role.OPERATOR)))
    refused = mas("pay", "alice", "bob", "1")
    assert (refused.exit_code, "--as" in refused.stderr) == (1, False)
    profile.keep_token(found, "alice", edge.token("account:alice"))
    refused = mas("pay", "alice", "bob", "1")
    assert (refused.exit_code, "add --as alice" in refused.stderr) == (1, True)
    assert edge.coordinator.requests == []
    assert mas("pay", "alice", "bob", "1", "--as", "alice").exit_code == 0


def test_users_15_a_token_of_another_cluster_is_not_sent(edge: Edge, tmp_path: Path) -> None:
    other = tmp_path / "other.crt"
    other.write_text("another CA")
    elsewhere = Profile(edge.address, str(other))
    profile.keep_token(elsewhere, "alice", "foreign")
    refused = mas("pay", "alice", "bob", "1", "--as", "alice")
    assert refused.exit_code == 2
    assert edge.coordinator.requests == []
    assert mas("account", "create", "alice").exit_code == 0
    assert profile.find_token(elsewhere, "alice") == "foreign"
    profile.keep_token(profile.read(), "alice", "older")
    assert "in the place of an older one" in mas("account", "create", "alice").stdout


@pytest.mark.parametrize("command", [("pay", "a", "b", "1"), ("account", "create", "a")])
def test_an_empty_key_is_no_key_and_is_not_replaced(edge: Edge, command: tuple[str, ...]) -> None:
    """`--key "$KEY"` where KEY isn't set would pay anew each time."""
    result = mas(*command, "--key", "")
    assert (result.exit_code, "--key is empty" in result.stderr) == (2, True)
    assert edge.coordinator.requests == []


def test_paying(edge: Edge) -> None:
    profile.keep_token(profile.read(), "alice", edge.token("account:alice"))
    result = mas("pay", "alice", "bob", "12.50", "--reference", "rent", "--as", "alice")
    assert result.exit_code == 0
    assert result.stdout.startswith("Paid 12.50 USD from alice to bob: payment ")
    mas("pay", "bob", "alice", "1")
    mas("pay", "alice", "bob", "1", "--key", "mine", "--as", "alice")
    assert [(r.key_space, r.repeat) for r in edge.coordinator.requests] == [
        ("account:alice", False),
        (CLUSTER_KEY_SPACE, False),
        ("account:alice", True),
    ]
    assert edge.coordinator.requests[0].body.reference == "rent"


def test_paying_for_programs(edge: Edge) -> None:
    paid = json.loads(mas("pay", "alice", "bob", "1", "--key", "k", "--json").stdout)
    assert paid == {
        "outcome": "COMMITTED",
        "reason": "NONE",
        "detail": "",
        "payment_id": payment_id_of(edge.coordinator.requests[0]).hex(),
        "key": "k",
        "time_us": START_US,
    }
    edge.coordinator.decide = deciding(Status.REFUSED, Reason.INSUFFICIENT_FUNDS)
    refused = mas("pay", "alice", "bob", "1", "--json")
    assert refused.exit_code == 1
    assert json.loads(refused.stdout)["reason"] == "INSUFFICIENT_FUNDS"
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("status", "reason", "code", "words"),
    [
        (Status.REFUSED, Reason.INSUFFICIENT_FUNDS, 1, "was refused (INSUFFICIENT_FUNDS: why)"),
        (Status.KEY_REUSED, Reason.NONE, 1, "this key has been used for something else (why)"),
        (Status.REJECTED, Reason.ACCOUNT_NOT_FOUND, 1, "was refused (ACCOUNT_NOT_FOUND: why)"),
        (Status.REJECTED, Reason.UNAVAILABLE, 3, "was not begun (UNAVAILABLE: why); try again"),
        (Status.ABORTED, Reason.CONTENDED, 3, "did not happen this time (CONTENDED: why)"),
        (Status.UNKNOWN, Reason.TIMED_OUT, 3, "it is not known whether"),
    ],
)
def test_how_a_payment_ends(
    edge: Edge, status: Status, reason: Reason, code: int, words: str
) -> None:
    edge.coordinator.decide = deciding(status, reason, "why")
    timeout = "1" if code == 3 else "20"  # only what may still happen is asked for until then
    result = mas("pay", "alice", "bob", "1", "--key", "k7", "--timeout", timeout)
    assert result.exit_code == code
    assert words.lower() in result.stderr.lower()
    assert result.stdout == ""
    if code == 3:
        assert "mas pay alice bob 1 --key k7 --timeout 1" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pay", "alice", "bob", "1.234"), "not an amount of USD"),
        (("pay", "alice", "bob", "-1"), "No such option"),
        (("pay", "alice", "bob", "0"), "amount 0 is not allowed"),
        (("pay", "alice", "alice", "1"), "expected another account"),
        (("pay", "alice", "bob", "1", "--currency", "XXX"), "currency 'XXX' is not known"),
        (("pay", "alice", "bob"), "Missing argument"),
        (("account", "create", "@bank"), '"@" at its beginning'),
        (("account", "get"), "Missing argument"),
        (("account", "get", "a", "--level", "psychic"), "psychic"),
        (("payment", "get", "alice"), "give one of them"),
        (("payment", "get", "alice", "--id", "xyz"), "32 hexadecimal digits"),
        (("payment", "get", "alice", "--id", "abcd"), "payment_id has 2 bytes"),
    ],
)
def test_a_command_that_makes_no_sense(edge: Edge, arguments: tuple[str, ...], words: str) -> None:
    result = mas(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stdout == ""
    assert edge.coordinator.requests == []


def test_reading_accounts(edge: Edge) -> None:
    edge.coordinator.accounts["alice"] = account("alice", 8_750)
    result = mas("account", "get", "alice", "--level", "stale")
    assert result.exit_code == 0
    assert "balance   87.50 USD" in result.stdout
    assert "state     open" in result.stdout
    assert edge.coordinator.levels == [ReadLevel.STALE]
    [tree] = json.loads(mas("account", "get", "alice", "--json").stdout)
    assert (tree["balance"], tree["currency"], tree["state"]) == ("87.50", "USD", "open")
    both = mas("account", "get", "alice", "nobody")
    assert both.exit_code == 1
    assert "alice" in both.stdout
    assert both.stderr == "Error: there is no account 'nobody': check the number\n"


def test_a_statement(edge: Edge) -> None:
    edge.coordinator.accounts["alice"] = account("alice", 8_750)
    edge.coordinator.postings["alice"] = [
        PostingView(2, b"\xab" * 16, -1_250, 8_750, 1_700_000_000_000_000, "bob", "invoice 9"),
        PostingView(1, b"\xcd" * 16, 10_000, 10_000, 1_600_000_000_000_000, EXTERNAL),
    ]
    lines = mas("account", "postings", "alice").stdout.splitlines()
    assert lines[1].split()[:6] == ["2", "2023-11-14", "22:13:20", "-12.50", "87.50", "ab" * 16]
    # Who was on the other side, and what the payer said.
    assert lines[1].endswith("to bob: invoice 9")
    assert lines[2].endswith("from @external")
    assert len(lines) == 3
    for_programs = json.loads(mas("account", "postings", "alice", "--json").stdout)
    assert [(one["counterparty"], one["reference"]) for one in for_programs] == [
        ("bob", "invoice 9"),
        (EXTERNAL, ""),
    ]
    older = json.loads(mas("account", "postings", "alice", "--before", "2", "--json").stdout)
    assert [posting["amount"] for posting in older] == ["100.00"]
    assert mas("account", "postings", "nobody").exit_code == 1


def test_users_5_freezing_and_closing_tell_the_state_of_the_account(edge: Edge) -> None:
    for state, command, said in [
        (AccountState(frozen=True, closed=False, overdraft_limit=0), "freeze", "frozen"),
        (AccountState(frozen=False, closed=False, overdraft_limit=0), "unfreeze", "open"),
    ]:
        edge.coordinator.answer = Answer(Code.DONE, state=state)
        assert mas("account", command, "bob").stdout == f"Account bob is {said}\n"
        assert json.loads(mas("account", command, "bob", "--json").stdout)["state"] == said
    edge.coordinator.changes.clear()
    # Not the state that was asked for, but the one that the account has.
    edge.coordinator.answer = Answer(Code.UNCHANGED, state=AccountState(True, True, 0))
    assert mas("account", "freeze", "bob").stdout == "Account bob is closed\n"
    edge.coordinator.answer = Answer(Code.REFUSED, Reason.ACCOUNT_CLOSED)
    thawing = mas("account", "unfreeze", "bob")
    assert (thawing.exit_code, thawing.stdout) == (1, "")
    assert "ACCOUNT_CLOSED" in thawing.stderr
    edge.coordinator.answer = Answer(Code.REFUSED, Reason.LEGS_PREPARED)
    closing = mas("account", "close", "bob")
    assert closing.exit_code == 1
    assert closing.stderr.startswith("Error: Closing account bob was refused (LEGS_PREPARED")
    assert [(c.frozen, c.closed) for c in edge.coordinator.changes] == [
        (True, None),
        (False, None),
        (None, True),
    ]


def test_asking_and_cancelling(edge: Edge) -> None:
    asked = mas("payment", "get", "alice", "--key", "k")
    assert asked.exit_code == 1
    assert "no outcome so far" in asked.stderr
    cancelled = mas("payment", "cancel", "alice", "--key", "k")
    assert cancelled.exit_code == 0
    assert cancelled.stdout.startswith("REFUSED (CANCELLED), payment ")
    assert mas("payment", "get", "alice", "--key", "k").stdout == cancelled.stdout
    body = Body(Kind.PAYMENT, "USD", (("alice", -1), ("bob", 1)))
    done = commit(PaymentRequest(CLUSTER_KEY_SPACE, "done", body))
    edge.coordinator.records[done.payment_id, Kind.PAYMENT, "alice"] = done
    late = mas("payment", "cancel", "alice", "--id", done.payment_id.hex())
    assert late.exit_code == 1
    assert late.stdout.startswith("COMMITTED")
    assert "nothing was cancelled" in late.stderr


def test_without_a_profile(home: Path) -> None:
    result = mas("account", "get", "alice")
    assert result.exit_code == 2
    assert "mas serve --role all" in result.stderr


def test_without_a_server(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(certificate()[0])
    other = profile.write(
        Profile("127.0.0.1:1", str(tmp_path / "ca.crt"), "t"), tmp_path / "other.toml"
    )
    for command in (
        ("account", "get", "alice"),
        ("account", "create", "alice"),
        ("pay", "alice", "bob", "1"),
    ):
        result = mas(*command, "--profile", str(other), "--timeout", "0.3")
        assert result.exit_code == 3
        assert result.stderr.startswith("Error: ")
        assert "Traceback" not in result.stderr


def test_a_token_that_may_not(edge: Edge) -> None:
    profile.write(
        Profile(edge.address, profile.read().ca, edge.token("account:alice")),
    )
    result = mas("account", "get", "bob")
    assert result.exit_code == 1
    assert "may not read account 'bob'" in result.stderr


def test_issuing_tokens(edge: Edge, tmp_path: Path) -> None:
    from mas.api import Authenticator
    from mas.runtime import SystemClock
    from tests.api.edge import SECRET

    secret = tmp_path / "jwt.secret"
    write_private(secret, SECRET)
    checker = Authenticator(SECRET, SystemClock())
    for arguments, subject, role in [
        (("--account", "alice"), "account:alice", Role.ACCOUNT),
        (("--operator", "eve"), "operator:eve", Role.OPERATOR),
        (("--operator", "eve", "--role", "auditor"), "operator:eve", Role.AUDITOR),
    ]:
        made = mas("token", "issue", *arguments, "--secret-file", str(secret))
        principal = checker.authenticate((("authorization", made.stdout.strip()),))
        assert (principal.subject, principal.role) == (subject, role)
    for keys in (("--keys", "shop"), ()):
        made = mas("token", "issue", "--operator", "eve", *keys, "--secret-file", str(secret))
        principal = checker.authenticate((("authorization", made.stdout.strip()),))
        assert principal.key_space == ("keys:shop" if keys else CLUSTER_KEY_SPACE)
    for wrong in (
        ("--account", "alice", "--keys", "shop"),
        ("--account", "cafe\u0301"),
        ("--operator", "eve\u200b"),
        ("--operator", "eve", "--keys", "a\nb"),
    ):
        assert mas("token", "issue", *wrong, "--secret-file", str(secret)).exit_code == 2
    neither = mas("token", "issue", "--secret-file", str(secret))
    assert neither.exit_code == 2
    secret.write_bytes(b"short")
    short = mas("token", "issue", "--account", "a", "--secret-file", str(secret))
    assert short.exit_code == 2
    assert "32 or more" in short.stderr


def test_serve_demo_and_bench_hand_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mas.bench import payments, raft
    from mas.cli import demo
    from mas.daemon import main as daemon

    called: list[dict] = []

    def record(**options: object) -> None:
        called.append(options)

    def occupied(config: Config) -> None:
        raise errors.ConfigError("can't listen on port 9008: choose another")

    served: list[Config] = []
    monkeypatch.setattr(daemon, "serve", served.append)
    monkeypatch.setattr(demo, "run", record)
    monkeypatch.setattr(payments, "run", record)
    monkeypatch.setattr(raft, "run", record)
    config = tmp_path / "mas.toml"
    config.write_text("lock_timeout_seconds = 3.0")
    assert mas("serve").exit_code == 0
    mas("serve", "--role", "rm", "--data-dir", "d", "--config", str(config), "--db", "mas1")
    mas("demo")
    mas("bench", "--quick")
    mas("bench", "raft", "--json", "figures.json")
    assert served[0] == Config()
    assert (served[1].node.role, served[1].node.data_dir) == ("rm", "d")
    assert (served[1].storage.database, served[1].lock_timeout_seconds) == ("mas1", 3.0)
    assert called == [
        {},
        {"quick": True, "json_file": None},
        {"quick": False, "json_file": Path("figures.json")},
    ]
    assert mas("serve", "--role", "god").exit_code == 2
    joining = ("--role", "rm", "--id", "7", "--join", "h:8008", "--address", "me:1234")
    mas("serve", *joining, "--hold", "1,2", "--rm-port", "50043")
    node = served[2].node
    assert (node.id, node.join, node.address, node.hold) == (7, "h:8008", "me:1234", (1, 2))
    assert (served[2].listen.peer, served[2].listen.rm) == (1234, 50043)
    for wrong in (["--hold", "1,x"], ["--join", "h:8008"], ["--role", "rm", "--join", "h"]):
        assert mas("serve", *wrong).exit_code == 2
    monkeypatch.setattr(daemon, "serve", occupied)
    failed = mas("serve")
    assert (failed.exit_code, failed.stderr) == (
        2,
        "Error: can't listen on port 9008: choose another\n",
    )


def test_version() -> None:
    assert mas("version").stdout == f"mas {__version__}\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.PermissionDenied, 1),
        (errors.Unauthenticated, 1),
        (errors.NotFound, 1),
        (errors.InvalidRequest, 2),
        (errors.ConfigError, 2),
        (errors.DataDirectoryError, 2),
        (errors.Unavailable, 3),
        (errors.OutcomeUnknown, 3),
        (errors.NetworkError, 3),
        (errors.CorruptData, 1),
    ],
)
def test_exit_codes(error: type[errors.MasError], code: int) -> None:
    assert exit_code_of(error("x")) == code
