"""A disk that is small, and may be filled; a Redis and a MariaDB for all tests of a run."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mas.files import free_bytes
from mas.testing import MariaDbServer, RedisServer


class SmallDisk:
    """A file system of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def free(self) -> int:
        """Bytes."""
        return free_bytes(self.path)

    def fill(self, left: int) -> None:
        """Leave so many bytes."""
        with (self.path / "filler").open("ab") as filler:
            filler.write(bytes(max(0, self.free - left)))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """48 MB; skips where this user may not mount: each of these cases has a sibling with an injected error."""
    path = tmp_path / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", path]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a file system")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that nobody harms; each test has a cluster of its own there."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    try:
        asyncio.run(server.restart())
        yield server
    finally:
        server.end()


@pytest.fixture(scope="session")
def mariadb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDbServer]:
    """A MariaDB that nobody harms; each test makes databases of its own there."""
    server = MariaDbServer(tmp_path_factory.mktemp("mariadb"), "--debug-no-sync")
    try:
        asyncio.run(server.restart())
        yield server
    finally:
        server.end()
