"""The hand that strikes the whole system: each time one of the faults that its plan names, at a moment and a victim of the dice's choice."""

import asyncio

from mas.runtime import Dice
from mas.sim.plan import pick
from mas.sim.system.faults.aim import Aim, Strikes, Victims
from mas.sim.system.faults.lines import LineFaults
from mas.sim.system.faults.mistakes import FileMistakes
from mas.sim.system.faults.nonsense import NonsenseFaults
from mas.sim.system.faults.processes import ProcessFaults
from mas.sim.system.faults.quorum import QuorumFaults
from mas.sim.system.faults.replicas import ReplicaFaults
from mas.sim.system.faults.stores import StoreFaults


class Nemesis:
    """Strikes a cluster, again and again."""

    def __init__(self, cluster: Victims, dice: Dice) -> None:
        self._plan = plan = cluster.plan
        self._dice = dice
        self._loop = asyncio.get_running_loop()
        self._aim = aim = Aim(cluster, dice)
        lines = LineFaults(aim)
        self.processes = ProcessFaults(aim)
        self.mistakes = FileMistakes(aim, self.processes)
        self.quorum = QuorumFaults(aim, lines)
        self.replicas = ReplicaFaults(aim, lines)
        strikes: Strikes = {
            **lines.strikes,
            **self.processes.strikes,
            **StoreFaults(aim, self.processes).strikes,
            **self.mistakes.strikes,
            **self.quorum.strikes,
            **self.replicas.strikes,
        }
        if plan.is_drill:
            strikes = {**self.quorum.drill, **NonsenseFaults(aim).strikes}
        if plan.meeting:
            strikes["partition"] = lines.meeting
        self._strikes = [
            strike for name in plan.classes if name in strikes for strike in strikes[name]
        ]

    async def run(self) -> None:
        """Strike until cancelled."""
        while True:
            await asyncio.sleep(self._aim.seconds(2 * self._plan.pause_between))
            if self._strikes and self._loop.time() >= self.quorum.busy_until:
                pick(self._dice, self._strikes)()
