"""Callers have a share of the files that a process may open, and no more."""

import resource
from collections.abc import Iterator

import pytest

from mas.daemon.open_files import connections_of_a_server, raise_file_limit


@pytest.fixture(autouse=True)
def _limits() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def soft() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_all_that_is_granted_is_taken() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    raise_file_limit()
    assert soft() > 512
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] == hard
    raise_file_limit()


@pytest.mark.parametrize(
    ("files", "connections"), [(512, 16), (1_024, 64), (4_096, 832), (100_000, 4_096)]
)
def test_storage_and_peers_keep_what_they_need(
    monkeypatch: pytest.MonkeyPatch, files: int, connections: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert connections_of_a_server() == connections
