"""Crashes, cut lines and cut logs, all at once: what was applied anywhere is applied everywhere, in one order."""

from random import Random
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.multiraft.conftest import Cluster, Node

pytestmark = pytest.mark.asyncio


class Storm:
    """Rounds of one fault each, while proposals go on at every node that runs."""

    def __init__(self, cluster: "Cluster", seed: int) -> None:
        self.cluster = cluster
        self.random = Random(seed)
        self.seen: dict[int, list[bytes]] = {1: [], 2: []}
        self.number = 0

    async def run(self, rounds: int) -> None:
        for _ in range(rounds):
            victim = self.cluster.nodes[self.random.randrange(3) + 1]
            await self.strike(victim)
            for _ in range(self.random.randrange(12)):
                for _ in range(self.random.randrange(12)):
                    self.propose()
                await self.wait_turns(self.random.randrange(30))
                self.look()
            self.cluster.network.cut = []
            victim.log.gate.set()
            if not victim.is_running:
                await self.cluster.restart(victim)
        for group in self.seen:
            await self.end(group)

    async def strike(self, victim: "Node") -> None:
        match self.random.randrange(5):
            case 0:
                await victim.kill()
            case 1:
                await victim.kill()
                await self.cluster.restart(victim)
            case 2:
                self.cluster.network.cut = [victim.id]
            case 3:
                victim.log.gate.clear()
            case 4:
                self.cluster.network.losses += [4, 1, 1]

    def propose(self) -> None:
        node = self.cluster.nodes[self.random.randrange(3) + 1]
        if node.is_running:
            self.number += 1
            group = node.machines[self.random.randrange(2) + 1].group
            group.propose(self.number, b"%d" % self.number)

    async def wait_turns(self, count: int) -> None:
        def turns() -> int:
            return sum(node.host.statistics().turns for node in self.cluster.nodes.values())

        until = turns() + count
        await self.cluster.wait(lambda: turns() >= until)

    def look(self) -> None:
        """There is one log: what a node has applied is a beginning of what another has."""
        for node in self.cluster.nodes.values():
            for group, machine in node.machines.items():
                seen = self.seen[group]
                common = min(len(machine.data), len(seen))
                assert machine.data[:common] == seen[:common]
                seen.extend(machine.data[common:])

    async def end(self, group: int) -> None:
        """The faults have stopped: all nodes come to the same state."""
        nodes = self.cluster.nodes.values()
        last = b"last"
        leading = (await self.cluster.leader(group)).machines[group]
        leading.group.propose(self.number, last)
        await self.cluster.wait(lambda: last in leading.data or not leading.is_leading)
        if last not in leading.data:
            await self.end(group)  # leadership has changed once more
            return
        await self.cluster.wait(
            lambda: all(node.machines[group].data[-1:] == [last] for node in nodes), 20
        )
        self.look()
        assert all(node.machines[group].data == self.seen[group] for node in nodes)
        assert all(node.host.groups[group].error is None for node in nodes)


@pytest.mark.parametrize("seed", [1, 2])
async def test_storm(cluster: "Cluster", seed: int) -> None:
    await cluster.start(groups=2, log_margin_entries=4, snapshot_idle_seconds=0.2, balance_tick=30)
    for node in cluster.nodes.values():
        node.files.padding = 400_000
    await Storm(cluster, seed).run(rounds=12)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(10, 30))
async def test_many_storms(cluster: "Cluster", seed: int) -> None:
    await cluster.start(groups=2, log_margin_entries=4, snapshot_idle_seconds=0.2, balance_tick=30)
    await Storm(cluster, seed).run(rounds=40)
