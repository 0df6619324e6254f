"""An attacker at its limit, for each thing that a caller can hold, against a real cluster: others' payments go on beside it.

The attacker shares a machine with those who pay, so what is asked of the rate is little; each of these
attacks once took all of it, for as long as it lasted.
"""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from mas.api.tokens import Role
from mas.client import Client
from mas.testing import LocalCluster
from tests.integration import attackers
from tests.integration.attackers import ATTACKS, Target

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

_log = logging.getLogger(__name__)

_WINDOW_SECONDS = 2.0
_CALLERS = 16
_MEMORY_MIB_MAX = 250
"""That an attack may cost the coordinator: its share of everything, as Python keeps it."""


@asynccontextmanager
async def attacked(cluster: LocalCluster, attack: str) -> AsyncIterator[None]:
    """The attacker is at its limit, until left."""
    nodes = cluster.nodes.values()
    target = Target(
        cluster.address,
        str(cluster.directory / "tls" / "ca.crt"),
        cluster.token("account:mallory"),
        (*(node.listen.peer for node in nodes), cluster.transaction_manager.listen.api),
    )
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, attackers.__file__, attack),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(msgspec.json.encode(target))
        program.stdin.close()
        assert await program.stdout.readline() == b"ready\n"
        yield
    finally:
        program.kill()
        await program.wait()


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    async with LocalCluster(resource_managers=1, buckets=1) as cluster:
        yield cluster


def _memory_mib(cluster: LocalCluster) -> float:
    process = cluster.transaction_manager.pid
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


async def _paid(client: Client) -> int:
    """Payments committed in one window."""
    committed = 0
    over = asyncio.get_running_loop().time() + _WINDOW_SECONDS

    async def pay() -> None:
        nonlocal committed
        while asyncio.get_running_loop().time() < over:
            committed += (await client.pay("alice", "bob", 1, timeout=20)).committed

    await asyncio.gather(*(pay() for _ in range(_CALLERS)))
    return committed


@pytest.mark.asyncio
@pytest.mark.parametrize("attack", ATTACKS)
async def test_payments_go_on_beside_an_attacker_at_its_limit(
    cluster: LocalCluster, attack: str
) -> None:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(cluster.client("operator:shop", Role.GATEWAY))
        for number in ("alice", "bob", "mallory"):
            assert (await client.create_account(number, 10**6)).receipt.committed
        await _paid(client)
        memory, before = _memory_mib(cluster), await _paid(client)
        async with attacked(cluster, attack):
            beside = await _paid(client)
            grown = _memory_mib(cluster) - memory
            # Somebody who comes only now gets in, and reads.
            late = await stack.enter_async_context(cluster.client("account:bob"))
            assert (await late.account("bob", timeout=20)) is not None
        told = f"{before} payments before, {beside} beside it, {grown:+.0f} MiB"
        _log.info("%s: %s", attack, told)
        assert beside > before / 10, told
        assert grown < _MEMORY_MIB_MAX, told
