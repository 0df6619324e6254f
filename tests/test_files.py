"""Private files are whole or not at all, there for good, nobody else's to read, and never written through a link."""

import os
import stat
from pathlib import Path

import pytest

from mas.errors import ConfigError
from mas.files import check_private, read_secret, write_private


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "secret").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_private(tmp_path / "secret", "x" * 64)
    assert (tmp_path / "secret").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "secret"], "what was written of it takes no room"


def test_a_file_that_was_written_is_there_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rename too has to be on the disk, before a replica is erased by the word of the file."""
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((path.name.split(".")[1] if path.is_file() else str(path), target.exists()))
        fsync(descriptor)

    target = tmp_path / "secret"
    monkeypatch.setattr(os, "fsync", record)
    write_private(target, "x" * 64)
    assert synced == [("secret", False), (str(tmp_path), True)]


def test_security_b14_a_link_laid_in_the_way_gets_nothing(tmp_path: Path) -> None:
    """The secret was written through it, into a file of the attacker's mode."""
    stolen = tmp_path / "stolen"
    stolen.write_text("")
    for name in ("secret", "secret.new", ".secret.new"):
        (tmp_path / name).symlink_to(stolen)
    umask = os.umask(0)
    try:
        write_private(tmp_path / "secret", b"x" * 64)
    finally:
        os.umask(umask)
    assert stolen.read_text() == ""
    assert not (tmp_path / "secret").is_symlink()
    assert mode(tmp_path / "secret") == 0o600


@pytest.mark.parametrize("loose", [0o640, 0o604, 0o660, 0o602])
def test_security_b14_a_secret_that_others_may_read_is_refused(tmp_path: Path, loose: int) -> None:
    secret = tmp_path / "cluster.secret"
    write_private(secret, "s" * 64 + "\n")
    assert read_secret(secret) == b"s" * 64
    secret.chmod(loose)
    with pytest.raises(ConfigError, match=f"`chmod 600 {secret}`"):
        read_secret(secret)


def test_a_short_secret_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    write_private(tmp_path / "secret", "password")
    with pytest.raises(ConfigError, match="has 8 bytes: expected 32 or more"):
        read_secret(tmp_path / "secret")
    with pytest.raises(ConfigError, match="missing can't be read"):
        check_private(tmp_path / "missing")
