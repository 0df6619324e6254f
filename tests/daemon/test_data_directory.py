"""A data directory is one node's, and one process's at a time."""

import os
import stat
from pathlib import Path
from random import Random

import pytest

from mas.daemon.data_directory import DataDirectory, Identity, read_secret, write_private
from mas.errors import DataDirectoryError

ALPHA = Identity("alpha", 1)


def test_a_second_process_is_kept_out_until_the_first_has_closed(tmp_path: Path) -> None:
    with (
        DataDirectory(tmp_path / "data", ALPHA),
        pytest.raises(DataDirectoryError, match="in use by another process"),
    ):
        DataDirectory(tmp_path / "data", ALPHA)
    DataDirectory(tmp_path / "data", ALPHA).close()


@pytest.mark.parametrize("other", [Identity("beta", 1), Identity("alpha", 2)])
def test_another_clusters_or_nodes_data_is_refused_and_left_alone(
    tmp_path: Path, other: Identity
) -> None:
    DataDirectory(tmp_path, ALPHA).close()
    before = (tmp_path / "identity.json").read_bytes()
    with pytest.raises(DataDirectoryError, match=r"belongs to node 1 of cluster 'alpha'"):
        DataDirectory(tmp_path, other)
    assert (tmp_path / "identity.json").read_bytes() == before
    DataDirectory(tmp_path, ALPHA).close()


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataDirectoryError, match="can't be written"):
        DataDirectory(tmp_path / "file" / "data", ALPHA)


def test_a_damaged_identity_is_named(tmp_path: Path) -> None:
    DataDirectory(tmp_path, ALPHA).close()
    (tmp_path / "identity.json").write_text("{")
    with pytest.raises(DataDirectoryError, match=r"identity\.json can't be read"):
        DataDirectory(tmp_path, ALPHA)


def test_a_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    with DataDirectory(tmp_path, ALPHA) as directory:
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
