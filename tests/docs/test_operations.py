"""What docs/operations.md tells an operator to type works, as it stands there, and its tables are the program's."""

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from mas.api.tokens import Role
from mas.client import Status
from mas.config import Config, ListenConfig, StorageConfig, parse_config
from mas.testing import LocalCluster
from mas.testing.local_cluster import free_ports
from mas.testing.program import end_all
from tests.docs.pages import OPERATIONS, blocks
from tests.integration.processes import MAS

PAGE = OPERATIONS.read_text()


def test_the_configuration_is_one() -> None:
    (text,) = blocks(OPERATIONS, "toml")
    config = parse_config(text)
    assert [peer.id for peer in config.peers] == [1, 2, 3, 4]


def test_every_table_of_the_settings_is_named() -> None:
    for name, kind in Config.__annotations__.items():
        is_table = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
        listed = re.search(rf"^\| (?:`\[+{name}\]+`|top level \| .*`{name}`)", PAGE, re.MULTILINE)
        assert listed, f"{name}, a {'table' if is_table else 'setting'}, isn't there"


def test_the_ports_and_bounds_are_the_defaults() -> None:
    listen, storage = ListenConfig(), StorageConfig()
    for name in ("api", "gls", "node_service", "rm"):
        assert f"`listen.{name}`, {getattr(listen, name)}" in PAGE
    assert f"`storage.log_reserve_mb` of the disk ({storage.log_reserve_mb} MiB)" in _on_one_line()
    assert f"`storage.log_write_seconds` ({storage.log_write_seconds:g} s)" in _on_one_line()


@pytest.mark.integration
@pytest.mark.timeout(180)
@pytest.mark.asyncio
async def test_the_commands_for_nodes_that_come_and_go_work_in_their_order(tmp_path: Path) -> None:
    serve, *others = "".join(blocks(OPERATIONS, "sh")).splitlines()
    async with LocalCluster(directory=tmp_path) as cluster:
        peer, rm = free_ports(2)
        service = cluster.transaction_manager.listen
        here = {
            "--join": f"{service.host}:{service.node_service}",
            "--address": f"127.0.0.1:{peer}",
            "--cluster-id": "local",
            "--rm-port": str(rm),
            "--data-dir": str(tmp_path / "node5"),
            "--secret-file": str(tmp_path / "cluster.secret"),
            "--tls-dir": str(tmp_path / "tls"),
            "--config": str(cluster.transaction_manager.config_file),
        }
        log = tmp_path / "node5.log"
        with log.open("w") as output:
            process = subprocess.Popen((*MAS, *_at(serve, here)), stdout=output, stderr=output)
        try:
            while " is ready" not in log.read_text():
                assert process.poll() is None, log.read_text()
                await asyncio.sleep(0.02)
            for line in others:
                done = await asyncio.to_thread(
                    subprocess.run, (*MAS, *_at(line, here)), capture_output=True, text=True
                )
                assert done.returncode == 0, (line, done.stderr)
        finally:
            process.kill()
            process.wait()


@pytest.mark.integration
@pytest.mark.timeout(180)
@pytest.mark.asyncio
async def test_a_whole_cluster_goes_back_to_the_copies_of_one_moment(tmp_path: Path) -> None:
    """The section "Backup"."""
    async with LocalCluster(directory=tmp_path / "cluster") as cluster:
        nodes = [*cluster.nodes.values()]
        directories = [cluster.directory / f"node{node.id}" for node in nodes]
        async with cluster.client(role=Role.GATEWAY) as client:
            await client.create_account("alice", "100.00")
            await client.create_account("bob")
            assert (await client.pay("alice", "bob", "12.50", key="before")).committed
        end_all(nodes)
        for directory in directories:
            shutil.copytree(directory, tmp_path / directory.name)
        await cluster.start()
        async with cluster.client(role=Role.GATEWAY) as client:
            assert (await client.pay("alice", "bob", "50.00", key="after")).committed
        end_all(nodes)
        for directory in directories:
            shutil.rmtree(directory)
            shutil.copytree(tmp_path / directory.name, directory)
        await cluster.start()
        async with cluster.client(role=Role.GATEWAY) as client:
            assert (await client.account("alice")).balance == 8750
            assert (await client.pay("alice", "bob", "12.50", key="before")).committed
            assert (await client.account("bob")).balance == 1250


@pytest.mark.integration
@pytest.mark.timeout(180)
@pytest.mark.asyncio
async def test_a_bucket_without_a_quorum_needs_its_nodes_and_nothing_else(tmp_path: Path) -> None:
    """The section "A bucket without a quorum"."""
    async with (
        LocalCluster(directory=tmp_path) as cluster,
        cluster.client(role=Role.GATEWAY) as client,
    ):
        await client.create_account("alice", "100.00")
        await client.create_account("bob")
        first, second, _ = cluster.resource_managers
        cluster.kill(first)
        cluster.kill(second)
        receipt = await client.pay("alice", "bob", "12.50", key="order", timeout=2.0)
        assert receipt.status in (Status.REJECTED, Status.UNKNOWN, Status.ABORTED)
        assert not receipt.final
        await cluster.restart(first)
        while not (await client.pay("alice", "bob", "12.50", key="order")).committed:
            pass
        assert (await client.account("bob")).balance == 1250


def _at(line: str, here: dict[str, str]) -> list[str]:
    """What follows `mas`, with this machine's addresses and files in the place of the page's."""
    words = line.split()[1:]
    return [here.get(before, word) for before, word in zip(["", *words], words, strict=False)]


def _on_one_line() -> str:
    return " ".join(PAGE.split())
