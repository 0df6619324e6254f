"""Where a client finds its server and its tokens; nobody else can read them."""

from pathlib import Path

import pytest

from mas.client import Profile, profile
from mas.errors import ConfigError


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
    for path in (profile.write(Profile("a:1")), profile.keep_token("alice", "t")):
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
    assert sorted(p.name for p in home.iterdir()) == ["client.toml", "tokens"]


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
    path = profile.keep_token(number, "t.o.k")
    assert path.parent == home / "tokens"
    assert profile.find_token(number) == "t.o.k"
    profile.keep_token(number, "new")
    assert profile.find_token(number) == "new"
    assert profile.find_token(number + "x") == ""


def test_home_without_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert profile.default_path() == tmp_path / ".config" / "mas" / "client.toml"
