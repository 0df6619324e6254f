"""A cluster of real processes, killed with SIGKILL and stopped with SIGSTOP; the money is counted afterwards."""

import asyncio
from collections.abc import Callable

import pytest

from mas.api.tokens import Role
from mas.client import Client, Receipt
from mas.config import RaftConfig, StorageConfig
from mas.testing import LocalCluster
from mas.testing.audit import audit
from mas.testing.local_cluster import Node, NodeFailed

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

OPENING = 1_000_000
QUICK = RaftConfig(tick_ms=50)


async def open_accounts(client: Client, count: int = 6) -> list[str]:
    numbers = [f"a{i}" for i in range(count)]
    for number in numbers:
        assert (await client.create_account(number, OPENING)).receipt.committed
    return numbers


async def storm(client: Client, numbers: list[str], name: str, count: int) -> list[Receipt]:
    """Everybody pays everybody, 32 at a time, each asked again by its key until it is certain."""
    slots = asyncio.Semaphore(32)

    async def one(i: int) -> Receipt:
        payer = numbers[i % len(numbers)]
        payee = numbers[(i + 1 + i // len(numbers) % (len(numbers) - 1)) % len(numbers)]
        async with slots:
            return await client.pay(payer, payee, 3, key=f"{name}-{i}", timeout=60)

    return await asyncio.gather(*(one(i) for i in range(count)))


async def check(cluster: LocalCluster, accounts: int, payments: int) -> None:
    """No cent lost or made, no payment missing or twice, nothing left prepared, replicas alike."""
    async with cluster.client() as operator:
        money = await audit(operator)
    assert money.total == {"USD": accounts * OPENING}
    assert money.payments == accounts + payments


async def leader_of(client: Client, cluster: LocalCluster, bucket: int) -> Node:
    for node in cluster.resource_managers:
        if node.is_running():
            leader = (await client.bucket(bucket, node.id)).leader
            if leader:
                return cluster.nodes[leader]
    raise AssertionError(f"bucket {bucket} has no leader")


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["kill", "pause"])
async def test_a_leader_dies_or_stands_still_in_the_middle(how: str) -> None:
    """F1, F2, P2, C8, K1."""
    async with (
        LocalCluster(raft=QUICK) as cluster,
        cluster.client("operator:x", Role.GATEWAY) as client,
    ):
        numbers = await open_accounts(client)
        victim = await leader_of(client, cluster, (await client.account("a0")).bucket)

        async def disturb() -> None:
            await storm(client, numbers, "before", 50)
            (cluster.kill if how == "kill" else cluster.pause)(victim)

        receipts, _ = await asyncio.gather(storm(client, numbers, "storm", 400), disturb())
        assert all(receipt.committed for receipt in receipts)
        if how == "kill":
            await cluster.restart(victim)
        else:
            cluster.resume(victim)
        await check(cluster, len(numbers), 450)
        again = await storm(client, numbers, "storm", 400)
        assert [r.payment_id for r in again] == [r.payment_id for r in receipts]
        await check(cluster, len(numbers), 450)
        await cluster.verify_databases()


@pytest.mark.asyncio
async def test_the_transaction_manager_dies_in_the_middle() -> None:
    """C3 to C10, C15: legs left prepared find their outcome by themselves, and keys their first answer."""
    async with LocalCluster(raft=QUICK, lock_timeout_seconds=1.0) as cluster:
        async with cluster.client("operator:x", Role.GATEWAY) as client:
            numbers = await open_accounts(client)

            async def disturb() -> None:
                await storm(client, numbers, "before", 50)
                cluster.kill(cluster.transaction_manager)
                await cluster.restart(cluster.transaction_manager)

            receipts, _ = await asyncio.gather(storm(client, numbers, "storm", 400), disturb())
        assert all(receipt.committed for receipt in receipts)
        await check(cluster, len(numbers), 450)


@pytest.mark.asyncio
async def test_two_transaction_managers_share_keys_and_accounts() -> None:
    """T1, T18: whichever is asked, a key is paid once and a number is opened once."""
    async with LocalCluster(raft=QUICK, managers=("tm", "tm")) as cluster:
        first, second = cluster.transaction_managers
        async with (
            cluster.client("operator:x", Role.GATEWAY, at=first) as one,
            cluster.client("operator:x", Role.GATEWAY, at=second) as other,
        ):
            numbers = await open_accounts(one)
            both = await asyncio.gather(
                storm(one, numbers, "storm", 200), storm(other, numbers, "storm", 200)
            )
            assert [r.payment_id for r in both[0]] == [r.payment_id for r in both[1]]
            assert all(receipt.committed for receipts in both for receipt in receipts)
            opened = await asyncio.gather(
                *(
                    client.create_account("twin", 5, key="by " + name)
                    for client, name in ((one, "one"), (other, "other"))
                )
            )
            assert sorted(new.receipt.committed for new in opened) == [False, True]
            money = await audit(one)
            assert money.total == {"USD": len(numbers) * OPENING + 5}
            assert money.payments == len(numbers) + 200 + 1


@pytest.mark.asyncio
async def test_coordinator_and_lock_service_in_processes_of_their_own() -> None:
    async with LocalCluster(raft=QUICK, resource_managers=1, managers=("gls", "tc")) as cluster:
        async with cluster.client("operator:x", Role.GATEWAY) as client:
            numbers = await open_accounts(client)
            receipts = await storm(client, numbers, "storm", 50)
            assert all(receipt.committed for receipt in receipts)
        await check(cluster, len(numbers), 50)


@pytest.mark.asyncio
async def test_the_whole_cluster_loses_its_power() -> None:
    """F16: no acknowledged payment is lost."""
    async with LocalCluster(raft=QUICK) as cluster:
        async with cluster.client("operator:x", Role.GATEWAY) as client:
            numbers = await open_accounts(client)
            receipts = await storm(client, numbers, "storm", 200)
            assert all(receipt.committed for receipt in receipts)
        for node in cluster.nodes.values():
            cluster.kill(node)
        await cluster.start()
        await check(cluster, len(numbers), 200)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "step", ["snapshot.received", "snapshot.noted", "snapshot.installed", "snapshot.restored"]
)
async def test_a_follower_too_far_behind_is_killed_while_it_installs_a_snapshot(step: str) -> None:
    """F5, F7, T15: old state or new, never a mix; and in the end the leader's."""
    storage = StorageConfig(log_margin_entries=1, log_margin_seconds=0.0)
    async with LocalCluster(raft=QUICK, storage=storage) as cluster:
        async with cluster.client("operator:x", Role.GATEWAY) as client:
            numbers = await open_accounts(client)
            follower = cluster.resource_managers[0]
            async with cluster.operator() as operator:
                ends = {
                    bucket: (await operator.replica(bucket, follower.id)).last_index
                    for bucket in await client.buckets()
                }
            cluster.kill(follower)
            rounds = 0
            while not await is_cut_behind(cluster, ends):
                await storm(client, numbers, f"away-{rounds}", 40)
                await compacted(client, cluster, follower)
                rounds += 1
            follower.start({"MAS_FAILPOINTS": f"{step}=kill"})
            await until(lambda: not follower.is_running(), cluster)
            assert follower.wait(1) == -9
            await cluster.restart(follower)
            await storm(client, numbers, "after", 40)
        await check(cluster, len(numbers), 40 * (rounds + 1))


async def is_cut_behind(cluster: LocalCluster, ends: dict[int, int]) -> bool:
    """Whether a bucket's leader doesn't hold any more what comes behind these."""
    async with cluster.operator() as operator:
        leaders = [(await operator.replicas(bucket))[0] for bucket in ends]
    return any(leader.first_index > ends[leader.bucket] + 1 for leader in leaders)


async def compacted(client: Client, cluster: LocalCluster, follower: Node) -> None:
    """Every database holds what it can; the logs are cut behind that by the next entries."""
    for bucket in await client.buckets():
        for node in cluster.resource_managers:
            if node is not follower:
                await client.bucket(bucket, node.id)


async def until(condition: Callable[[], object], cluster: LocalCluster) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await cluster._clock.sleep(0.02)


@pytest.mark.asyncio
async def test_a_node_that_cannot_start_is_told_with_its_log() -> None:
    cluster = LocalCluster(resource_managers=1, buckets=1)
    try:
        cluster.resource_managers[0].config_file.write_text("[node]\nwrong = 1\n")
        with pytest.raises(NodeFailed, match="unknown key 'wrong'"):
            await cluster.start()
    finally:
        cluster.close()
    assert not cluster.directory.exists()


@pytest.mark.asyncio
async def test_closing_leaves_no_process_and_no_file() -> None:
    async with LocalCluster(resource_managers=1, buckets=1) as cluster:
        nodes = list(cluster.nodes.values())
        assert all(node.is_running() for node in nodes)
    assert not any(node.is_running() for node in nodes)
    assert not cluster.directory.exists()
