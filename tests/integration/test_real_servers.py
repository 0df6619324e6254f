"""A cluster of real processes beside a real Redis and a real MariaDB, which are harmed while they run."""

import asyncio
from pathlib import Path

import pytest
from redis.asyncio import Redis

from mas.api.tokens import Role
from mas.config import StorageConfig
from mas.errors import MasError
from mas.testing import LocalCluster, MariaDbServer, RedisServer
from mas.testing.audit import audit

pytestmark = [pytest.mark.asyncio, pytest.mark.integration, pytest.mark.timeout(120)]


async def test_r3_payments_go_on_whatever_becomes_of_redis(tmp_path: Path) -> None:
    """Managers share it; it is emptied, a manager starts on what is left, and it is killed."""
    async with RedisServer(tmp_path / "redis") as redis:
        storage = StorageConfig(tm_store=redis.url)
        cluster = LocalCluster(resource_managers=1, managers=("tm", "tm"), storage=storage)
        async with cluster:
            first, second = cluster.transaction_managers
            async with cluster.client("operator:x", Role.GATEWAY) as client:
                for number in ("alice", "bob", "carol"):
                    assert (await client.create_account(number, 1_000)).receipt.committed
                assert (await client.pay("alice", "bob", 10, key="1")).committed
            async with Redis(port=redis.port, password=redis.password) as admin:
                # Hints are written behind the answers.
                while len(await admin.keys("mas:local:*:directory")) != 1:
                    await asyncio.sleep(0.02)
                await admin.flushall()

            async with cluster.client("operator:x", Role.GATEWAY, at=second) as client:
                assert (await client.pay("bob", "carol", 5, key="2")).committed
            cluster.kill(first)
            await cluster.restart(first)
            async with cluster.client("operator:x", Role.GATEWAY) as client:
                assert (await client.pay("carol", "alice", 1, key="3")).committed
                assert (await client.pay("alice", "bob", 10, key="1")).committed

                redis.kill()
                assert (await client.pay("bob", "alice", 2, key="4")).committed
                assert (await client.create_account("dave", 1_000)).receipt.committed
            async with cluster.client() as operator:
                money = await audit(operator)
            assert money.total == {"USD": 4_000}
            assert money.payments == 4 + 4


async def test_a_redis_that_may_evict_is_refused_by_name(tmp_path: Path) -> None:
    async with RedisServer(tmp_path / "redis", "maxmemory-policy allkeys-lru") as redis:
        storage = StorageConfig(tm_store=redis.url)
        cluster = LocalCluster(resource_managers=1, storage=storage)
        with pytest.raises(MasError, match="expected noeviction") as refused:
            async with cluster:
                pass
    assert redis.password not in str(refused.value)


async def test_s1_no_money_is_lost_with_mariadb(tmp_path: Path) -> None:
    """It is killed under payments, and no answer is wrong; then the node that keeps its accounts there is."""
    async with MariaDbServer(tmp_path / "mariadb", "--debug-no-sync") as mariadb:
        storage = StorageConfig(account_db=mariadb.url)
        async with (
            LocalCluster(resource_managers=1, storage=storage) as cluster,
            cluster.client("operator:x", Role.GATEWAY) as client,
        ):
            for number in ("alice", "bob"):
                assert (await client.create_account(number, 1_000)).receipt.committed
            for number in range(20):
                assert (await client.pay("alice", "bob", 1, key=f"before {number}")).committed
            mariadb.kill()
            # Once a flush has failed, new payments are turned away: no outcome, and they may be tried again.
            down = [
                client.pay("bob", "alice", 2, key=f"down {number}", timeout=2.0)
                for number in range(20)
            ]
            assert all(each.committed or not each.final for each in await asyncio.gather(*down))
            await mariadb.restart()
            cluster.kill(cluster.resource_managers[0])
            await cluster.restart(cluster.resource_managers[0])
            for number in range(20):
                assert (await client.pay("bob", "alice", 2, key=f"down {number}")).committed
            async with cluster.client() as operator:
                money = await audit(operator)
                assert (await operator.account("alice")).balance == 1_000 - 20 + 40
        assert money.total == {"USD": 2_000}
        assert money.payments == 2 + 40


async def test_a_mariadb_that_may_forget_is_refused_by_name(tmp_path: Path) -> None:
    options = ("--debug-no-sync", "--innodb-flush-log-at-trx-commit=2")
    async with MariaDbServer(tmp_path / "mariadb", *options) as mariadb:
        cluster = LocalCluster(resource_managers=1, storage=StorageConfig(account_db=mariadb.url))
        with pytest.raises(MasError, match="innodb_flush_log_at_trx_commit is 2") as refused:
            async with cluster:
                pass
    assert mariadb.password not in str(refused.value)
