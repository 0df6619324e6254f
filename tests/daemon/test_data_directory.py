"""A data directory is one node's, and one process's at a time."""

import os
import stat
from pathlib import Path
from random import Random

import pytest

from mas.daemon.data_directory import DataDirectory, Identity
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


def test_a_raft_log_that_was_there_is_missed(tmp_path: Path) -> None:
    """Made anew it would vote as if nothing had been promised; a mount that failed leaves an empty directory of it."""
    with opened(tmp_path, ALPHA) as directory:
        directory.check_log()
        (tmp_path / "raft").mkdir()
        (tmp_path / "raft" / "CURRENT").touch()
        store = directory.store
        directory.note_log()
        directory.check_log()
    with opened(tmp_path, ALPHA) as directory:
        assert directory.store == store
        directory.check_log()
        (tmp_path / "raft" / "CURRENT").unlink()
        for _ in range(2):
            with pytest.raises(DataDirectoryError, match="with it what this node has promised"):
                directory.check_log()
            if (tmp_path / "raft").exists():
                (tmp_path / "raft").rmdir()


def test_an_identity_that_is_gone_is_missed(tmp_path: Path) -> None:
    """A new one would say that there never was a log, and be another store."""
    with opened(tmp_path, ALPHA):
        (tmp_path / "raft").mkdir()
    (tmp_path / "identity.json").unlink()
    with pytest.raises(DataDirectoryError, match=r"holds a Raft log, and identity\.json"):
        opened(tmp_path, ALPHA)
    assert not (tmp_path / "identity.json").exists()


def test_security_b14_a_directory_that_others_may_enter_is_shut(tmp_path: Path) -> None:
    """Every balance and name stood in files of mode 0644 for any local user, where it had been made by somebody else."""
    data = tmp_path / "mas"
    data.mkdir(mode=0o755)
    (data / "tls").mkdir()  # laid there beforehand
    for mode in (0o755, 0o750, 0o701):
        data.chmod(mode)
        with opened(data, ALPHA):
            assert stat.S_IMODE(data.stat().st_mode) == 0o700


def test_security_b14_a_directory_that_cannot_be_shut_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system without modes."""
    tmp_path.chmod(0o755)
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    with pytest.raises(DataDirectoryError, match="can be entered by other users"):
        opened(tmp_path, ALPHA)
    assert list(tmp_path.iterdir()) == []


def test_security_b14_another_users_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(DataDirectoryError, match=rf"belongs to user {owner}.*chown"):
        opened(tmp_path, ALPHA)
    assert list(tmp_path.iterdir()) == []


def test_security_b14_a_directory_of_other_things_is_left_alone(tmp_path: Path) -> None:
    """`--data-dir /srv` would shut everybody out of what is there."""
    (tmp_path / "www").mkdir()
    tmp_path.chmod(0o755)
    with pytest.raises(
        DataDirectoryError, match=r"is no data directory, holds other things \(www\)"
    ):
        opened(tmp_path, ALPHA)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_directory_that_was_made_is_there_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut could take the whole of it, and the node would be a new one."""
    synced: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    opened(tmp_path / "var" / "mas", ALPHA).close()
    assert {str(tmp_path), str(tmp_path / "var")} <= set(synced[:2])
