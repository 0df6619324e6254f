"""`mas serve --role all`: what a newcomer starts, types, stops and starts again."""

import shutil
import signal
import socket
import stat
from pathlib import Path

import msgspec
import pytest

from mas.config import BucketConfig, Config, ListenConfig, NodeConfig, PeerConfig, TlsConfig
from mas.network.tls import make_ca
from mas.runtime import SystemClock
from tests.integration.processes import Server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


def balance_of(server: Server, number: str) -> str:
    found = msgspec.json.decode(server.run("account", "get", number, "--json").stdout)
    account = found[0] if isinstance(found, list) else found
    balance: str = account["balance"]
    return balance


def assert_nobody_else_may_read(data: Path) -> None:
    """Every balance and name, and the keys."""
    everything = [data, *data.rglob("*")]
    assert len(everything) > 20
    loose = [path for path in everything if path.stat().st_mode & 0o077]
    assert loose == []


def test_what_the_greeting_says_works_and_a_restart_finds_everything(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with server.running() as process:
        assert server.run("account", "create", "alice", "--balance", "100.00").returncode == 0
        assert server.run("account", "create", "bob").returncode == 0
        [token] = (tmp_path / "home" / "tokens").glob("*/alice")
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        paid = server.run("pay", "alice", "bob", "12.50", "--key", "lunch")
        assert paid.returncode == 0, paid.stderr
        refused = server.run("pay", "alice", "bob", "1000.00")
        assert refused.returncode == 1
        assert "INSUFFICIENT_FUNDS" in refused.stdout + refused.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=2) == 0
    assert_nobody_else_may_read(server.data)
    with server.running():
        assert balance_of(server, "alice") == "87.50"
        again = server.run("pay", "alice", "bob", "12.50", "--key", "lunch")
        assert again.returncode == 0, again.stderr
        other = server.run("pay", "alice", "bob", "99.00", "--key", "lunch")
        assert other.returncode == 1
        assert balance_of(server, "bob") == "12.50"


def test_users_15_a_second_cluster_leaves_the_first_ones_profile_and_tokens_alone(
    tmp_path: Path,
) -> None:
    home, own = tmp_path / "home", tmp_path / "second" / "data" / "client.toml"
    servers = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        servers.append(Server(tmp_path / name))
        servers[-1].environment["MAS_HOME"] = str(home)
    first, second = servers
    with first.running():
        assert first.run("account", "create", "alice", "--balance", "5.00").returncode == 0
        before = (home / "client.toml").read_bytes()
        with second.running():
            assert f"mas pay alice bob 12.50 --profile {own}" in second.log.read_text()
            assert (home / "client.toml").read_bytes() == before
            for number in ("alice", "bob"):
                opened = second.run("account", "create", number, "--profile", str(own))
                assert opened.returncode == 0, opened.stderr
            assert len(list(home.glob("tokens/*/alice"))) == 2
            assert first.run("account", "create", "bob").returncode == 0
            paid = first.run("pay", "alice", "bob", "1.00", "--as", "alice")
            assert paid.returncode == 0, paid.stderr
            poor = second.run("pay", "alice", "bob", "1.00", "--as", "alice", "--profile", str(own))
            assert "INSUFFICIENT_FUNDS" in poor.stderr


@pytest.mark.parametrize("port", ["api", "peer", "rm"])
def test_an_occupied_port_is_named(tmp_path: Path, port: str) -> None:
    server = Server(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", getattr(server.listen, port)))
        other.listen()
        failed = server.fails()
    assert failed.returncode == 2, failed.stderr
    assert str(getattr(server.listen, port)) in failed.stderr
    assert "Traceback" not in failed.stderr


def test_the_data_of_another_cluster_is_refused(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with server.running():
        pass
    server.write_config(Config(node=NodeConfig(cluster_id="other"), listen=server.listen))
    failed = server.fails()
    assert failed.returncode == 2
    assert "belongs to node 1 of cluster 'test'" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_node_whose_log_and_database_are_gone_is_refused(tmp_path: Path) -> None:
    """F13: its identity and its roster are still there, and what it promised isn't."""
    server = Server(tmp_path)
    with server.running():
        pass
    shutil.rmtree(server.data / "raft")
    (server.data / "raft").mkdir()  # as where a mount failed
    shutil.rmtree(server.data / "mas.rocksdb")
    failed = server.fails()
    assert failed.returncode == 2
    assert "is gone or empty, and with it what this node has promised" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_directory_of_a_former_version_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with server.running():
        pass
    shutil.rmtree(server.data / "mas.rocksdb")
    (server.data / "mas.sqlite3").write_bytes(b"SQLite format 3\0")
    before = contents(server.data)
    failed = server.fails()
    assert failed.returncode == 2
    assert "mas.sqlite3 holds the accounts of a former version" in failed.stderr
    assert "mas account create NUMBER --balance AMOUNT" in failed.stderr
    assert contents(server.data) == before


def contents(folder: Path) -> dict[Path, bytes]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file: file.read_bytes() for file in files}


def test_a_data_directory_in_use_is_refused(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with server.running():
        failed = server.fails()
    assert failed.returncode == 2
    assert "in use by another process" in failed.stderr


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.config.write_text('[node]\ncluster = "x"\n')
    failed = server.fails()
    assert failed.returncode == 2
    assert "unknown key 'cluster'" in failed.stderr
    assert "cluster_id" in failed.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("pay", "alice", "alice", "1.00"), "alice"),
        (("pay", "alice", "nobody", "1.00"), "ACCOUNT_NOT_FOUND"),
        (("pay", "nobody", "alice", "1.00"), "ACCOUNT_NOT_FOUND"),
        (("pay", "alice", "bob", "0"), "amount"),
        (("pay", "alice", "bob", "--", "-1.00"), "amount"),
        (("pay", "alice", "bob", "1.005"), "amount"),
        (("pay", "alice", "bob", "99999999999999999999"), "amount"),
        (("pay", "alice", "bob", "1e3"), "amount"),
        (("account", "create", ""), "account"),
        (("account", "create", "x" * 65), "account"),
        (("account", "create", "a\tb"), "account"),
        (("account", "create", "@external"), "account"),
        (("account", "create", "alice"), "ACCOUNT_EXISTS"),
        (("account", "get", "nobody"), "nobody"),
    ],
)
def test_bad_input_gets_a_sentence_and_changes_nothing(
    playground: Server, arguments: tuple[str, ...], complaint: str
) -> None:
    result = playground.run(*arguments)
    assert result.returncode in (1, 2), result
    assert complaint.lower() in (result.stdout + result.stderr).lower()
    assert "Traceback" not in result.stderr
    assert balance_of(playground, "alice") == "100.00"


@pytest.fixture(scope="module")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Server:
    server = Server(tmp_path_factory.mktemp("playground"))
    with server.running():
        for number, balance in (("alice", "100.00"), ("bob", "0")):
            opened = server.run("account", "create", number, "--balance", balance)
            assert opened.returncode == 0, opened.stderr
        yield server


def test_a_peer_with_another_secret_is_refused_by_name(tmp_path: Path) -> None:
    """It can't join, though its certificate is good, and the node that it knocked at goes on."""
    make_ca(tmp_path / "tls", SystemClock())
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    first, second = Server(ours), Server(theirs)
    peers = (
        PeerConfig(id=1, address=f"127.0.0.1:{first.listen.peer}"),
        PeerConfig(id=2, address=f"127.0.0.1:{second.listen.peer}"),
    )
    buckets = (BucketConfig(id=1, voters=(1,)),)
    for server, node in ((first, 1), (second, 2)):
        listen: ListenConfig = server.listen
        server.write_config(
            Config(
                node=NodeConfig(id=node, cluster_id="test"),
                listen=listen,
                peers=peers,
                buckets=buckets,
                tls=TlsConfig(directory=str(tmp_path / "tls")),
            )
        )
    with first.running():
        assert first.run("account", "create", "alice").returncode == 0
        with second.running(says="node 1 has another cluster secret"):
            assert " is ready" not in second.log.read_text()
        assert first.run("account", "get", "alice").returncode == 0
