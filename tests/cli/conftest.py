"""A server for commands to talk to, and a home of its own for each test."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mas.api import Role
from mas.client import Profile, profile
from tests.api.edge import Edge, FakeCoordinator, certificate, serving


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MAS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    """A server on a loop of its own: each command runs a loop too."""
    ready = threading.Event()
    found: list[Edge] = []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with serving(FakeCoordinator()) as edge:
            found.append(edge)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(5)
    (tmp_path / "ca.crt").write_bytes(certificate()[0])
    token = found[0].token("operator:root", Role.GATEWAY)
    profile.write(Profile(found[0].address, str(tmp_path / "ca.crt"), token))
    yield found[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(5)
    loop.close()
