"""The hand that strikes: each time one of the faults that its plan names, at a moment and a victim of the dice's choice."""

import asyncio

from mas.runtime import Dice
from mas.sim.faults.aim import Aim, Strikes
from mas.sim.faults.disks import DiskFaults
from mas.sim.faults.lines import LineFaults
from mas.sim.faults.members import MemberFaults
from mas.sim.faults.processes import ProcessFaults
from mas.sim.faults.victims import Victim, Victims
from mas.sim.plan import Plan, pick
from mas.sim.trace import Trace


class Nemesis:
    """Strikes a cluster, again and again."""

    def __init__(self, cluster: Victims, plan: Plan, dice: Dice, trace: Trace) -> None:
        self._plan = plan
        self._dice = dice
        self._aim = aim = Aim(cluster, dice)
        self._processes = ProcessFaults(aim, cluster, dice, trace)
        strikes: Strikes = {
            **LineFaults(aim, cluster, dice, trace).strikes,
            **self._processes.strikes,
            **DiskFaults(aim, cluster, dice, trace).strikes,
            **MemberFaults(aim, cluster, dice, trace).strikes,
        }
        self._strikes = [
            strike for name in plan.classes if name in strikes for strike in strikes[name]
        ]

    async def run(self) -> None:
        """Strike until cancelled."""
        while True:
            await asyncio.sleep(self._aim.seconds(2 * self._plan.pause_between))
            if self._strikes:
                pick(self._dice, self._strikes)()

    def on_note(self, node: Victim) -> None:
        """A node is installing a snapshot: a good time to die (rule 28, snapshots)."""
        if "crash" in self._plan.classes:
            self._processes.on_note(node)
