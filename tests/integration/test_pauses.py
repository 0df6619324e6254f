"""Nodes that stand still for longer than their peers wait, and go on: they, and their peers, are there afterwards."""

import asyncio

import pytest

from mas.api.tokens import Role
from mas.testing import LocalCluster

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(180)]

SECONDS = 9.0
"""Beyond the ping's deadline of 7.5: the connection is being closed when the paused side goes on and reads the ping."""


@pytest.mark.asyncio
@pytest.mark.parametrize("paused", ["a resource manager", "the transaction manager", "two"])
async def test_bank_2_a_node_that_stood_still_goes_on(paused: str) -> None:
    async with LocalCluster() as cluster, cluster.client(role=Role.GATEWAY) as client:
        await client.create_account("alice", "1000.00")
        await client.create_account("bob")
        standing = {
            "a resource manager": cluster.resource_managers[:1],
            "the transaction manager": cluster.transaction_managers,
            "two": cluster.resource_managers[:2],
        }[paused]
        stop = asyncio.Event()

        async def pay() -> None:
            while not stop.is_set():
                await client.pay("alice", "bob", "0.01", timeout=2)

        payers = [asyncio.create_task(pay()) for _ in range(16)]
        await asyncio.sleep(0.5)
        for node in standing:
            cluster.pause(node)
        await asyncio.sleep(SECONDS)
        assert any(
            "ended: " in node.log() for node in cluster.nodes.values() if node not in standing
        )
        for node in standing:
            cluster.resume(node)
        await asyncio.sleep(2.0)
        stop.set()
        await asyncio.wait(payers)
        assert all(node.is_running() for node in cluster.nodes.values())
        while not (await client.pay("alice", "bob", "0.01", timeout=5)).committed:
            await asyncio.sleep(0.1)
        for node in cluster.nodes.values():
            assert "Traceback" not in node.log()
