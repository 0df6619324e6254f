"""Clients that write to the lists and read them, at whichever node, and remember what they were told."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from mas.runtime import Dice
from mas.sim.history import Operation
from mas.sim.machine import ListService
from mas.sim.plan import Plan, pick
from mas.sim.process import Process

_PADDING_BYTES = (0, 0, 10, 100, 3_000)


class Server(Protocol):
    """A node, as clients see it."""

    id: int
    process: Process
    services: dict[int, ListService]

    @property
    def is_up(self) -> bool: ...


class Servers(Protocol):
    """A cluster, as clients see it."""

    @property
    def victims(self) -> Sequence[Server]: ...

    @property
    def groups(self) -> Sequence[int]: ...


class Clients:
    """All of them: each operation is somebody's, and nobody waits for an answer."""

    def __init__(
        self,
        cluster: Servers,
        plan: Plan,
        dice: Dice,
        on_question: Callable[[Operation], None],
    ) -> None:
        self.operations: list[Operation] = []
        self._cluster = cluster
        self._dice = dice
        self._on_question = on_question
        self._loop = asyncio.get_running_loop()
        self._period = 1 / plan.operations_per_second

    async def run(self) -> None:
        """Ask until cancelled, now and then several things at once, or nothing for a while."""
        while True:
            await asyncio.sleep(self._period * (1 + self._dice.randrange(2000)) / 1000)
            if not self._dice.randrange(150):
                await asyncio.sleep(4 * (1 + self._dice.randrange(1000)) / 1000)
            for _ in range(pick(self._dice, (1, 1, 1, 5))):
                self._ask()

    def served_since(self, group: int, moment: float) -> int | None:
        """The place of the first write that was asked for and done since then, where a read was answered too."""
        place = None
        was_read = False
        for operation in reversed(self.operations):
            if operation.asked < moment:
                break
            if (
                operation.group == group
                and operation.answered < float("inf")
                and not operation.refused
            ):
                was_read = was_read or operation.kind == "read"
                place = operation.length if operation.kind == "write" else place
        return place if was_read else None

    def _ask(self) -> None:
        group = pick(self._dice, self._cluster.groups)
        servers = [
            server for server in self._cluster.victims if server.is_up and group in server.services
        ]
        leaders = [server for server in servers if server.services[group].is_leading]
        if leaders and self._dice.randrange(5):
            servers = leaders
        if not servers:
            return
        server = pick(self._dice, servers)
        operation = Operation(
            number=len(self.operations) + 1,
            group=group,
            node=server.id,
            kind="write" if self._dice.randrange(5) < 3 else "read",
            asked=self._loop.time(),
        )
        self.operations.append(operation)
        self._on_question(operation)
        padding = pick(self._dice, _PADDING_BYTES)
        server.process.post(server.services[group].submit, operation, padding)
