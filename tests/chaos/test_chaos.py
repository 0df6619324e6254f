"""Payments of every kind while processes die, stand still and come back at random moments; then every answer is held against the money.

A seed chooses the payments and the faults, not the moments at which the processes meet them.
"""

import asyncio
import random

import pytest

from mas.api.tokens import Role
from mas.client import Client, Receipt
from mas.config import RaftConfig
from mas.errors import MasError
from mas.testing import LocalCluster
from mas.testing.audit import audit
from mas.testing.local_cluster import Node
from mas.transaction.outcome import Status

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

OPENING = 1_000
ACCOUNTS = [f"a{i}" for i in range(6)]
Body = tuple[str, str, int, str]
"""Payer, payee, amount, key."""


def make_bodies(dice: random.Random, count: int) -> list[Body]:
    """Small ones, some without funds, some twice, and some keys with another amount too."""
    bodies: list[Body] = []
    for i in range(count):
        payer, payee = dice.sample(ACCOUNTS, 2)
        amount = OPENING * 100 if i % 10 == 3 else dice.randrange(1, 200)
        bodies.append((payer, payee, amount, f"k{i}"))
        if i % 5 == 0:
            bodies.append(bodies[-1])
        elif i % 7 == 0:
            bodies.append((payer, payee, amount + 1, f"k{i}"))
    return bodies


async def ask_until_final(client: Client, body: Body) -> Receipt:
    """Ask by the key until there is an outcome; the test's own timeout bounds it."""
    payer, payee, amount, key = body
    repeat = False
    while True:
        try:
            receipt = await client.pay(payer, payee, amount, key=key, repeat=repeat, timeout=10)
            if receipt.final:
                return receipt
        except MasError:
            pass  # What became of it is what the next question is for.
        repeat = True
        await asyncio.sleep(0.05)


async def create_until_final(client: Client, number: str, key: str) -> Receipt:
    while True:
        try:
            receipt = (await client.create_account(number, OPENING, key=key, timeout=10)).receipt
            if receipt.final:
                return receipt
        except MasError:
            pass  # As above.
        await asyncio.sleep(0.05)


async def disturb(
    cluster: LocalCluster, dice: random.Random, nodes: list[Node], rounds: int, failpoint: str
) -> None:
    for _ in range(rounds):
        await asyncio.sleep(dice.uniform(0.1, 0.8))
        node = dice.choice(nodes)
        if not failpoint and dice.random() < 0.4:
            cluster.pause(node)
            await asyncio.sleep(dice.uniform(0.5, 2.5))
            cluster.resume(node)
            continue
        if node.is_running():
            cluster.kill(node)
        node.start(
            {"MAS_FAILPOINTS": f"{failpoint}=kill@{dice.randrange(5, 40)}"} if failpoint else None
        )
        await asyncio.sleep(dice.uniform(1.0, 2.5))
    for node in nodes:
        if failpoint and node.is_running():
            cluster.kill(node)
        if not node.is_running():
            await cluster.restart(node)


async def run(seed: int, who: str, *, count: int, rounds: int, failpoint: str = "") -> None:
    dice = random.Random(seed)
    async with (
        LocalCluster(raft=RaftConfig(tick_ms=50), lock_timeout_seconds=1.0) as cluster,
        cluster.client("operator:x", Role.GATEWAY) as one,
        cluster.client("operator:x", Role.GATEWAY) as other,
    ):
        for number in ACCOUNTS:
            assert (await one.create_account(number, OPENING)).receipt.committed
        nodes = {
            "rm": cluster.resource_managers,
            "tm": cluster.transaction_managers,
            "any": list(cluster.nodes.values()),
        }[who]
        bodies = make_bodies(dice, count)
        slots = asyncio.Semaphore(24)

        async def ask(client: Client, body: Body) -> Receipt:
            async with slots:
                await asyncio.sleep(dice.uniform(0, 0.2))
                return await ask_until_final(client, body)

        *answers, made, made_too, _ = await asyncio.gather(
            *(ask((one, other)[i % 2], body) for i, body in enumerate(bodies)),
            create_until_final(one, "new", "first"),
            create_until_final(other, "new", "second"),
            disturb(cluster, dice, nodes, rounds, failpoint),
        )
        assert sorted([made.committed, made_too.committed]) == [False, True]
        again = await asyncio.gather(*(ask_until_final(one, body) for body in bodies))
        assert [r.status for r in again] == [r.status for r in answers]
        expected = dict.fromkeys([*ACCOUNTS, "new"], OPENING)
        committed: dict[str, Body] = {}
        for body, receipt in zip(bodies, answers, strict=True):
            if receipt.status is Status.COMMITTED:
                assert committed.setdefault(body[3], body) == body, "one key paid two bodies"
        for payer, payee, amount, _key in committed.values():
            expected[payer] -= amount
            expected[payee] += amount
        async with cluster.client() as operator:
            money = await audit(operator, seconds=30)
            views = await operator.accounts(list(expected))
        assert {v.number: v.balance for v in views if v is not None} == expected
        assert money.total == {"USD": OPENING * len(expected)}
        assert money.payments == len(expected) + len(committed)
        await cluster.verify_databases()


@pytest.mark.asyncio
async def test_a_short_storm() -> None:
    """K1, K2, K3; whichever rows of the crash matrix the moment brings."""
    await run(1, "any", count=60, rounds=2)


@pytest.mark.chaos
@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("seed", "who", "failpoint"),
    [
        pytest.param(2, "rm", "", id="resource-managers"),
        pytest.param(3, "tm", "", id="transaction-manager"),
        pytest.param(4, "any", "", id="anything"),
        pytest.param(5, "rm", "account_db.before_commit", id="killed-before-a-flush-is-committed"),
        pytest.param(6, "rm", "raft_log.before_sync", id="killed-before-the-log-is-synced"),
        pytest.param(7, "tm", "coordinator.before_reply", id="killed-before-an-answer"),
    ],
)
async def test_a_storm(seed: int, who: str, failpoint: str) -> None:
    await run(seed, who, count=300, rounds=6, failpoint=failpoint)
