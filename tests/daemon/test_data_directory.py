"""A data directory is one node's, and one process's at a time."""

import os
import stat
from pathlib import Path
from random import Random

import pytest

from mas.daemon.data_directory import DataDirectory, Identity, read_secret, write_private
from mas.errors import DataDirectoryError
from mas.ledger.rows import NodeRow
from mas.membership import Roster
from mas.membership.roster import founding_roster
from mas.runtime import SystemDice

ALPHA = Identity("alpha", 1)


def opened(path: Path, identity: Identity) -> DataDirectory:
    return DataDirectory(path, identity, SystemDice())


def test_a_second_process_is_kept_out_until_the_first_has_closed(tmp_path: Path) -> None:
    with (
        opened(tmp_path / "data", ALPHA),
        pytest.raises(DataDirectoryError, match="in use by another process"),
    ):
        opened(tmp_path / "data", ALPHA)
    opened(tmp_path / "data", ALPHA).close()


@pytest.mark.parametrize("other", [Identity("beta", 1), Identity("alpha", 2)])
def test_another_clusters_or_nodes_data_is_refused_and_left_alone(
    tmp_path: Path, other: Identity
) -> None:
    opened(tmp_path, ALPHA).close()
    before = (tmp_path / "identity.json").read_bytes()
    with pytest.raises(DataDirectoryError, match=r"belongs to node 1 of cluster 'alpha'"):
        opened(tmp_path, other)
    assert (tmp_path / "identity.json").read_bytes() == before
    opened(tmp_path, ALPHA).close()


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataDirectoryError, match="can't be written"):
        opened(tmp_path / "file" / "data", ALPHA)


def test_a_damaged_identity_is_named(tmp_path: Path) -> None:
    opened(tmp_path, ALPHA).close()
    (tmp_path / "identity.json").write_text("{")
    with pytest.raises(DataDirectoryError, match=r"identity\.json can't be read"):
        opened(tmp_path, ALPHA)


def test_a_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    with opened(tmp_path, ALPHA) as directory:
        secret = directory.secret("cluster.secret", Random(1))
        assert directory.secret("cluster.secret", Random(2)) == secret
    assert len(secret) >= 32
    mode = stat.S_IMODE((tmp_path / "cluster.secret").stat().st_mode)
    assert mode == 0o600


def test_a_short_secret_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("password")
    with pytest.raises(DataDirectoryError, match="has 8 bytes: expected 32 or more"):
        read_secret(tmp_path / "secret")


def test_a_file_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataDirectoryError, match="No space left"):
        write_private(tmp_path / "secret", "x" * 64)
    assert not (tmp_path / "secret").exists()


def test_a_directory_is_a_store_of_its_own_for_as_long_as_it_lasts(tmp_path: Path) -> None:
    with opened(tmp_path / "one", ALPHA) as one, opened(tmp_path / "other", ALPHA) as other:
        assert len(one.store) == 16
        assert one.store != other.store
        store = one.store
    with opened(tmp_path / "one", ALPHA) as again:
        assert again.store == store


def test_the_roster_is_what_was_written_last(tmp_path: Path) -> None:
    roster = founding_roster((NodeRow(1, "h:1", ("rm",), store=b"s" * 16),), {1: (1,)})
    with opened(tmp_path, ALPHA) as directory:
        assert directory.read_roster() == Roster()
        directory.write(roster)
    with opened(tmp_path, ALPHA) as directory:
        assert directory.read_roster() == roster


def test_a_damaged_roster_is_named(tmp_path: Path) -> None:
    with opened(tmp_path, ALPHA) as directory:
        (tmp_path / "roster.json").write_text("{")
        with pytest.raises(DataDirectoryError, match=r"roster\.json can't be read"):
            directory.read_roster()


def test_a_lost_roster_is_no_first_start(tmp_path: Path) -> None:
    """It names the buckets that this node was removed from: without it, an erased log would vote again."""
    with opened(tmp_path, ALPHA) as directory:
        (tmp_path / "raft").mkdir()
        with pytest.raises(DataDirectoryError, match=r"roster\.json is gone, and the Raft log is"):
            directory.read_roster()


def test_a_file_that_was_written_is_there_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rename too has to be on the disk, before a replica is erased by the word of the file."""
    synced: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    write_private(tmp_path / "secret", "x" * 64)
    assert synced == [str(tmp_path / "secret.new"), str(tmp_path)]


def test_a_raft_log_that_was_there_is_missed(tmp_path: Path) -> None:
    """Made anew it would vote as if nothing had been promised."""
    with opened(tmp_path, ALPHA) as directory:
        directory.check_log()
        (tmp_path / "raft").mkdir()
        store = directory.store
        directory.note_log()
        directory.check_log()
    with opened(tmp_path, ALPHA) as directory:
        assert directory.store == store
        directory.check_log()
        (tmp_path / "raft").rmdir()
        with pytest.raises(
            DataDirectoryError, match="is gone, and with it what this node has promised"
        ):
            directory.check_log()
