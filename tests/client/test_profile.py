"""Where a client finds its server and its tokens; nobody else can read them."""

import os
import re
from pathlib import Path

import msgspec
import pytest

from mas.client import Profile, profile
from mas.errors import ConfigError

HERE = Profile("127.0.0.1:9008", plaintext=True)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MAS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_what_is_written_is_read(home: Path, tmp_path: Path) -> None:
    kept = Profile("127.0.0.1:9008", '/tmp/a "strange" place/ca.crt', "t.o.k")
    assert profile.write(kept) == home / "client.toml"
    assert profile.read() == kept
    other = tmp_path / "other.toml"
    profile.write(Profile("b:1", plaintext=True), other)
    assert profile.read(other) == Profile("b:1", plaintext=True)
    profile.write(Profile("c:1"))
    assert profile.read().address == "c:1"


def test_only_the_owner_can_read_it(home: Path) -> None:
    """Whatever the environment would give to others."""
    before = os.umask(0o022)
    try:
        profile.write(HERE)
        token = profile.keep_token(HERE, "alice", "t")
    finally:
        os.umask(before)
    everything = [home, *home.rglob("*")]
    assert token in everything
    for path in everything:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    assert sorted(p.name for p in home.iterdir()) == ["client.toml", "tokens"]


def test_what_others_can_read_is_refused(home: Path) -> None:
    path = profile.write(Profile("a:1", token="t"))
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        profile.read()
    kept = profile.keep_token(HERE, "alice", "t")
    kept.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        profile.find_token(HERE, "alice")
    profile.write(Profile("a:1")).chmod(0o644)  # nothing in it is anybody's secret
    assert profile.read().address == "a:1"


def test_no_profile_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="mas serve --role all"):
        profile.read()


@pytest.mark.parametrize("text", ["address = 5", "no toml at all =", "", 'address="a:1"\nx=1'])
def test_a_profile_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "p").write_text(text)
    with pytest.raises(ConfigError, match="is not one"):
        profile.read(tmp_path / "p")


@pytest.mark.parametrize(
    "number", ["alice", "..", ".", "../client.toml", "a/b", "é" * 64, "\N{SNOWMAN}" * 64]
)
def test_a_token_for_any_number_stays_in_its_folder(home: Path, number: str) -> None:
    path = profile.keep_token(HERE, number, "t.o.k")
    assert path.parent.parent == home / "tokens"
    assert profile.find_token(HERE, number) == "t.o.k"
    profile.keep_token(HERE, number, "new")
    assert profile.find_token(HERE, number) == "new"
    assert profile.find_token(HERE, number + "x") == ""


def test_security_b14_no_number_has_the_file_of_another() -> None:
    """Not one that is named by its hash, nor where a file system knows no capitals."""
    long = "\N{SNOWMAN}" * 64
    hashed = profile.token_path(HERE, long).name
    assert len(hashed) < 64
    numbers = [long, hashed, hashed[1:], "alice", "Alice", "ALICE", "%41lice", "a.b", "a%2Eb", "é"]
    names = [profile.token_path(HERE, number).name for number in numbers]
    assert len({name.lower() for name in names}) == len(numbers)
    assert all(re.fullmatch(r"[=%A-Za-z0-9_-]+", name) for name in names)


def profile_of(tmp_path: Path, cluster: str, address: str = "127.0.0.1:9008") -> Profile:
    ca = tmp_path / f"{cluster}.crt"
    ca.write_text(f"the CA of {cluster}\n")
    return Profile(address, str(ca), f"token of {cluster}", cluster="mas")


def test_users_15_a_token_belongs_to_its_cluster(tmp_path: Path) -> None:
    """Two servers, one home: the CA tells them apart, the address doesn't."""
    one, two = profile_of(tmp_path, "one"), profile_of(tmp_path, "two")
    profile.keep_token(one, "alice", "one's")
    assert profile.find_token(two, "alice") == ""
    profile.keep_token(two, "alice", "two's")
    moved = msgspec.structs.replace(one, address="10.0.0.1:9008", token="other")
    assert profile.find_token(moved, "alice") == "one's"
    assert profile.find_token(two, "alice") == "two's"
    named = msgspec.structs.replace(one, cluster="prod")
    assert profile.find_token(named, "alice") == ""
    plain = Profile("127.0.0.1:9008", plaintext=True)
    assert profile.find_token(plain, "alice") == ""
    assert len({profile.cluster_of(each) for each in (one, two, named, plain)}) == 4
    Path(one.ca).unlink()
    with pytest.raises(ConfigError, match=r"one\.crt can't be read"):
        profile.find_token(one, "alice")


def test_users_15_a_server_leaves_the_profile_of_another_cluster_alone(
    home: Path, tmp_path: Path
) -> None:
    one, two = profile_of(tmp_path, "one"), profile_of(tmp_path, "two")
    own = tmp_path / "data" / "client.toml"
    assert profile.leave(one, lambda _: False, own) == home / "client.toml"
    assert profile.leave(two, lambda _: True, own) == own
    assert profile.read() == one
    assert profile.read(own) == two
    # Started again, at another port: the address is the new one, a token that is still good is its user's choice.
    chosen = msgspec.structs.replace(one, token="chosen")
    profile.write(chosen)
    again = msgspec.structs.replace(one, address="127.0.0.1:1")
    assert profile.leave(again, lambda token: token == "chosen", own) == home / "client.toml"
    assert profile.read() == msgspec.structs.replace(again, token="chosen")
    assert profile.leave(again, lambda _: False, own) == home / "client.toml"
    assert profile.read() == again
    # What can't be told isn't overwritten either.
    (home / "client.toml").write_text("address = 5")
    assert profile.leave(one, lambda _: True, own) == own
    assert (home / "client.toml").read_text() == "address = 5"


def test_home_without_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert profile.default_path() == tmp_path / ".config" / "mas" / "client.toml"
