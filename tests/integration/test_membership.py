"""Nodes that join, leave, die for good and start again while payments go on: none fails that its key doesn't heal, no cent is lost."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from mas.api.tokens import Role
from mas.client import Client, Receipt
from mas.client.operator import OperatorClient
from mas.config import RaftConfig, StorageConfig
from mas.errors import InvalidRequest, MasError
from mas.ledger.rows import NodeRow
from mas.rpc.messages import ReplicaState
from mas.testing import LocalCluster
from mas.testing.audit import audit
from mas.testing.local_cluster import Node

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

OPENING = 1_000_000
ACCOUNTS = [f"a{i}" for i in range(6)]
BUCKETS = (1, 2, 3)
CALLERS = 8
QUICK = RaftConfig(tick_ms=50)
SHORT_LOG = StorageConfig(log_margin_entries=5, log_margin_seconds=0.0)
"""A replica that comes to such a log needs a snapshot."""


class Load:
    """Callers that pay without a pause, each asking again by the same key until there is an outcome."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.receipts: list[Receipt] = []
        self.errors: list[str] = []
        """Answers that weren't final; the key healed each."""
        self._stopping = False

    async def run(self) -> None:
        await asyncio.gather(*(self._pay(caller) for caller in range(CALLERS)))

    def stop(self) -> None:
        self._stopping = True

    async def more(self, count: int = 100) -> None:
        """Return once so many more payments have their outcome."""
        until = len(self.receipts) + count
        async with asyncio.timeout(60):
            while len(self.receipts) < until:
                await asyncio.sleep(0.01)

    async def _pay(self, caller: int) -> None:
        number = 0
        while not self._stopping:
            payer, payee = ACCOUNTS[caller % 6], ACCOUNTS[(caller + 1 + number % 5) % 6]
            self.receipts.append(await self._ask(payer, payee, f"{caller}-{number}"))
            number += 1

    async def _ask(self, payer: str, payee: str, key: str) -> Receipt:
        repeat = False
        while True:
            try:
                receipt = await self.client.pay(payer, payee, 1, key=key, repeat=repeat)
                if receipt.final:
                    return receipt
                self.errors.append(f"{receipt.status.name} {receipt.detail}")
            except MasError as error:
                self.errors.append(str(error))
            repeat = True


@asynccontextmanager
async def under_load(cluster: LocalCluster) -> AsyncIterator[tuple[Load, OperatorClient]]:
    """Payments all the while; at the end every one is committed, and every replica holds them all."""
    async with (
        cluster.client("operator:x", Role.GATEWAY) as client,
        cluster.operator(timeout=30) as operator,
    ):
        for number in ACCOUNTS:
            assert (await client.create_account(number, OPENING)).receipt.committed
        load = Load(client)
        running = asyncio.get_running_loop().create_task(load.run())
        try:
            await load.more()
            yield load, operator
            await load.more()
        finally:
            load.stop()
            await running
        assert all(receipt.committed for receipt in load.receipts)
    async with cluster.client() as auditor:
        money = await audit(auditor)
    assert money.total == {"USD": OPENING * len(ACCOUNTS)}
    assert money.payments == len(ACCOUNTS) + len(load.receipts)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.05)


async def until_voter(operator: OperatorClient, node: Node, buckets: tuple[int, ...]) -> None:
    async def votes() -> bool:
        views = [await operator.replicas(bucket) for bucket in buckets]
        return all(view and view[0].leading and node.id in view[0].voters for view in views)

    await until(votes)


async def remove_everywhere(operator: OperatorClient, node: Node) -> None:
    for bucket in BUCKETS:
        await operator.remove_replica(bucket, node.id)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "storage", [StorageConfig(), SHORT_LOG], ids=["by-the-log", "by-a-snapshot"]
)
async def test_a_node_joins_and_another_is_drained_and_stopped(storage: StorageConfig) -> None:
    """F5, F8, F9."""
    async with (
        LocalCluster(raft=QUICK, storage=storage) as cluster,
        under_load(cluster) as (load, operator),
    ):
        joined = await cluster.join(BUCKETS)
        await until_voter(operator, joined, BUCKETS)
        assert all(joined.id in members for members in (await load.client.buckets()).values())
        await load.more()
        leaving = cluster.resource_managers[0]
        await remove_everywhere(operator, leaving)
        await until_erased(operator, leaving)
        await load.more()
        leaving.signal(15)
        leaving.wait(10)
        roster = await operator.retire_node(leaving.id)
        assert [node.node for node in roster.nodes if node.retired] == [leaving.id]
        assert all(leaving.id not in each.voters for each in roster.buckets)


async def until_erased(operator: OperatorClient, node: Node) -> None:
    async def erased() -> bool:
        views = [await operator.replica(bucket, node.id) for bucket in BUCKETS]
        return all(view.state is ReplicaState.ABSENT for view in views)

    await until(erased)


@pytest.mark.asyncio
async def test_a_dead_node_is_replaced() -> None:
    """F13: and its id is used up, also for itself."""
    async with LocalCluster(raft=QUICK, storage=SHORT_LOG) as cluster:
        dead = cluster.resource_managers[0]
        async with under_load(cluster) as (load, operator):
            cluster.kill(dead)
            await load.more()
            joined = await cluster.join(BUCKETS)
            await until_voter(operator, joined, BUCKETS)
            await remove_everywhere(operator, dead)
            await operator.retire_node(dead.id)
            await load.more()
            with pytest.raises(InvalidRequest, match="another data directory"):
                await operator.add_node("local", row_of(dead), ())
            # What it held is enough for nothing: two of the three that hold a bucket now must agree.
            cluster.kill(cluster.resource_managers[1])
            await load.more()
            await cluster.restart(cluster.resource_managers[1])


def row_of(node: Node) -> NodeRow:
    return NodeRow(node.id, "127.0.0.1:1", ("rm",), "", b"s" * 16)


@pytest.mark.asyncio
async def test_a_wiped_node_is_refused_and_comes_back_under_a_new_id() -> None:
    """F13."""
    async with LocalCluster(raft=QUICK) as cluster:
        wiped = cluster.resource_managers[0]
        async with under_load(cluster) as (load, operator):
            cluster.kill(wiped)
            shutil.rmtree(cluster.directory / f"node{wiped.id}")
            wiped.start()
            await until(lambda: says(wiped, "has come back without the data directory"))
            await until(lambda: says(wiped, f"node {wiped.id} isn't ready, the others refuse it"))
            assert not wiped.is_ready()
            await load.more()
            for bucket in BUCKETS:
                views = await operator.replicas(bucket)
                assert wiped.id not in [view.node for view in views]
                assert views[0].leading
            cluster.kill(wiped)
            await remove_everywhere(operator, wiped)
            await operator.retire_node(wiped.id)
            joined = await cluster.join(BUCKETS)
            await until_voter(operator, joined, BUCKETS)


async def says(node: Node, words: str) -> bool:
    return words in node.log()


@pytest.mark.asyncio
async def test_a_rolling_restart() -> None:
    async with (
        LocalCluster(raft=QUICK, managers=("tm",)) as cluster,
        under_load(cluster) as (load, operator),
    ):
        joined = await cluster.join(BUCKETS)
        await until_voter(operator, joined, BUCKETS)
        for node in list(cluster.nodes.values()):
            node.signal(15)
            assert node.wait(20) == 0
            await cluster.restart(node)
            await load.more(50)


@pytest.mark.asyncio
async def test_the_whole_cluster_starts_again_with_a_node_that_joined() -> None:
    """F16: what the files of each node say is enough."""
    async with LocalCluster(raft=QUICK) as cluster:
        async with under_load(cluster) as (_, operator):
            joined = await cluster.join(BUCKETS)
            await until_voter(operator, joined, BUCKETS)
            await remove_everywhere(operator, cluster.resource_managers[1])
        for node in cluster.nodes.values():
            cluster.kill(node)
        await cluster.start()
        async with cluster.client("operator:x", Role.GATEWAY) as client:
            assert await client.buckets() == {bucket: [1, 3, joined.id] for bucket in BUCKETS}
            assert (await client.pay("a0", "a1", 1)).committed


@pytest.mark.asyncio
async def test_a_replica_is_rebuilt_from_the_command_line() -> None:
    """F14: while payments go on; the progress is shown, and the replicas agree in the end."""
    async with (
        LocalCluster(raft=QUICK, storage=SHORT_LOG) as cluster,
        under_load(cluster) as (load, _),
    ):
        shown = await mas_admin(cluster, "replica", "rebuild", "2", "1")
        assert shown[0] == "node 1 is out of bucket 2"
        assert shown[-1] == "node 1 is a voter of bucket 2"
        await load.more()


async def mas_admin(cluster: LocalCluster, *words: str) -> list[str]:
    config = cluster.transaction_manager.config_file
    command = (sys.executable, "-m", "mas", "admin", *words, "--config", str(config))
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode().splitlines()
