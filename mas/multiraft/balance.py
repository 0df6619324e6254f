"""Leaders spread evenly over the nodes: who leads more hands over to who leads less, a few groups at a time.

Every node looks for itself, at what its peers' beats say. A group goes only to a voter that leads at least two groups
less, so each move makes the spread more even, and where no move is left nothing moves any more. The time of a look is by
chance, so that two nodes seldom give to a third at once. A node that is about to stop gives everything away, and gets
nothing back.
"""

from collections.abc import Mapping

from mas.multiraft.config import HostConfig
from mas.multiraft.group import RaftGroup
from mas.multiraft.resting import Resting
from mas.raft import Role
from mas.runtime import Dice

# A hand-over holds up its group's proposals for a round trip and a write.
_MOVES_PER_LOOK = 32


class Balance:
    """What a host leads, weighed against its peers."""

    def __init__(
        self, config: HostConfig, groups: Mapping[int, RaftGroup], resting: Resting, dice: Dice
    ) -> None:
        self._period = config.balance_tick
        # Where much is to be moved, the next look follows as soon as these moves have succeeded or failed.
        self._pause = config.election_tick
        self._groups = groups
        self._resting = resting
        self._dice = dice
        self._ticks_left = self._period
        self.drains = False
        """This node is about to stop."""

    def tick(self, count: int) -> None:
        """So much time has passed."""
        self._ticks_left -= count
        if self._ticks_left > 0:
            return
        self._ticks_left = self._period // 2 + self._dice.randrange(self._period) + 1
        if self.drains:
            self._give_all()
        elif self._even_out() == _MOVES_PER_LOOK:
            self._ticks_left = self._pause

    def drain(self) -> None:
        """Lead nothing any more."""
        self.drains = True
        self._give_all()

    def _even_out(self) -> int:
        """How many groups it has handed over."""
        own, leads = self._resting.leads, self._resting.heirs(self._period)
        if not leads or own - min(leads.values()) < 2:
            return 0
        takes = self._groups_by_heir(leads)
        moved: dict[int, None] = {}
        while takes and len(moved) < _MOVES_PER_LOOK:
            heir = min(takes, key=lambda node: (leads[node], node))
            if own - leads[heir] < 2:
                break
            group = takes[heir].pop()
            if not takes[heir]:
                del takes[heir]
            if group.id not in moved:
                group.hand_over(heir)
                moved[group.id] = None
                own, leads[heir] = own - 1, leads[heir] + 1
        return len(moved)

    def _groups_by_heir(self, leads: Mapping[int, int]) -> dict[int, list[RaftGroup]]:
        """The groups that each node could take over, beginning anywhere: what couldn't move last time may not again."""
        led = self._led()
        start = self._dice.randrange(len(led)) if led else 0
        takes: dict[int, list[RaftGroup]] = {}
        for group in led[start:] + led[:start]:
            for heir in group.heirs():
                if heir in leads:
                    takes.setdefault(heir, []).append(group)
        return takes

    def _give_all(self) -> None:
        leads = self._resting.heirs(steady_for=0)
        for group in self._led():
            able = [heir for heir in group.heirs() if heir in leads]
            heir = min(able, key=lambda node: (leads[node], node), default=0)
            group.hand_over(heir)
            if heir:
                leads[heir] += 1

    def _led(self) -> list[RaftGroup]:
        return [group for group in self._groups.values() if group.role is Role.LEADER]
