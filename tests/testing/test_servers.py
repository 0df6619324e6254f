"""The servers that tests and demos start: they keep what they stored, and end when told to."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from mas.testing.servers import MariaDbServer, RedisServer, ServerFailed, find_program

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]


async def _greeting(server: MariaDbServer | RedisServer, timeout: float) -> bytes:
    """MariaDB speaks first; Redis answers a PING without a password by an error."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(b"PING\r\n")
        async with asyncio.timeout(timeout):
            return await reader.read(100)
    finally:
        writer.close()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("make", [MariaDbServer, RedisServer])
async def test_a_server_is_paused_killed_started_again_and_ended(
    make: Callable[[Path], MariaDbServer | RedisServer], tmp_path: Path
) -> None:
    async with make(tmp_path / "server") as server:
        assert await _greeting(server, 10)

        server.pause()
        with pytest.raises(TimeoutError):
            await _greeting(server, 0.2)
        server.resume()
        assert await _greeting(server, 10)

        server.kill()
        with pytest.raises(ConnectionRefusedError):
            await _greeting(server, 10)
        await server.restart()
        assert await _greeting(server, 10)

        server.pause()  # and it ends all the same
    assert not server.is_running()


async def test_a_server_that_does_not_start_is_told_with_its_log(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "nonsense yes")
    with pytest.raises(ServerFailed, match="nonsense"):
        async with server:
            pass
    assert not server.is_running()


async def test_a_missing_program_is_told_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _, path: None)
    with pytest.raises(ServerFailed, match="scripts/setup --packages mariadb-server-core"):
        find_program("mariadbd")
