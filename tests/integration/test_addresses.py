"""Servers of IPv6, and servers of this machine beside a proxy in the environment: clients and nodes reach both."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from mas.client import Client
from mas.config import load_config
from mas.errors import MasError
from mas.testing import LocalCluster
from tests.integration.processes import Server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

PROXY = "http://user:hidden@127.0.0.1:1"


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_users_13_a_server_of_ipv6_serves(tmp_path: Path, host: str) -> None:
    server = Server(tmp_path)
    config = load_config(server.config)
    listen = msgspec.structs.replace(config.listen, host=host)
    server.write_config(msgspec.structs.replace(config, listen=listen))
    with server.running():
        assert f"API on [::1]:{listen.api}" in (tmp_path / "serve.log").read_text()
        assert server.run("account", "create", "alice").returncode == 0
        members = server.run("admin", "members")
        assert members.returncode == 0, members.stderr
        assert f"[::1]:{listen.peer}" in members.stdout


@pytest.mark.asyncio
async def test_users_13_and_14_a_cluster_of_ipv6_beside_a_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Peers, a node that joins, and clients; none of them asks the proxy, which isn't there."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(name, PROXY)
        monkeypatch.setenv(name.upper(), PROXY)
    async with LocalCluster(resource_managers=1, buckets=1, host="::1") as cluster:
        await cluster.join(hold=(1,))
        async with cluster.client() as client:
            await client.create_account("alice", "1.00")


def test_users_14_this_machine_is_reached_without_the_proxy(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.environment |= {"http_proxy": PROXY, "https_proxy": PROXY}
    with server.running():
        created = server.run("account", "create", "alice")
        assert created.returncode == 0, created.stderr
        members = server.run("admin", "members")
        assert members.returncode == 0, members.stderr


def test_users_14_elsewhere_the_error_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", PROXY)

    async def ask() -> None:
        async with Client("mas.example:9008", token="t") as client:
            await client.account("alice")

    with pytest.raises(MasError) as caught:
        asyncio.run(ask())
    assert "the proxy http_proxy=127.0.0.1:1" in str(caught.value)
    assert "hidden" not in str(caught.value)
