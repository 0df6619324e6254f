"""Spreads leaders evenly over the nodes: a node that leads more groups transfers a few at a time to one that leads less.

Every node decides for itself by its peers' host heartbeats, which say how many groups each leads. A group goes only to a
voter that leads at least two groups less. So each transfer makes the spread more even, and transfers end once none does.
The time of a look is drawn by chance, so that two nodes seldom give to a third at once. A node that is about to stop
transfers every group, and gets none back.
"""

from collections.abc import Mapping

from mas.multiraft.config import HostConfig
from mas.multiraft.group import RaftGroup
from mas.multiraft.quiescence import Quiescence
from mas.raft import Role
from mas.runtime import Dice

# A transfer holds up its group's proposals for a round trip and a write.
_MOVES_PER_LOOK = 32


class LeaderBalancer:
    """Compares how many groups this host and its peers lead, and transfers what is too many."""

    def __init__(
        self,
        config: HostConfig,
        groups: Mapping[int, RaftGroup],
        quiescence: Quiescence,
        dice: Dice,
    ) -> None:
        self._period = config.balance_tick
        # Where much is to be moved, the next look follows as soon as these moves have succeeded or failed.
        self._pause = config.election_tick
        self._groups = groups
        self._quiescence = quiescence
        self._dice = dice
        self._ticks_left = self._period
        self.drains = False
        """This node is about to stop."""

    def tick(self, count: int) -> None:
        """Let `count` ticks pass, and look where one is due."""
        self._ticks_left -= count
        if self._ticks_left > 0:
            return
        self._ticks_left = self._period // 2 + self._dice.randrange(self._period) + 1
        if self.drains:
            self._give_all()
        elif self._even_out() == _MOVES_PER_LOOK:
            self._ticks_left = self._pause

    def drain(self) -> None:
        """Transfer every group now, and go on with it at each look: this node is about to stop."""
        self.drains = True
        self._give_all()

    def _even_out(self) -> int:
        """Begin transfers of this look; return how many."""
        own, leads = self._quiescence.leads, self._quiescence.candidate_loads(self._period)
        if not leads or own - min(leads.values()) < 2:
            return 0
        takes = self._groups_by_target(leads)
        moved: dict[int, None] = {}
        while takes and len(moved) < _MOVES_PER_LOOK:
            target = min(takes, key=lambda node: (leads[node], node))
            if own - leads[target] < 2:
                break
            group = takes[target].pop()
            if not takes[target]:
                del takes[target]
            if group.id not in moved:
                group.transfer_leadership(target)
                moved[group.id] = None
                own, leads[target] = own - 1, leads[target] + 1
        return len(moved)

    def _groups_by_target(self, leads: Mapping[int, int]) -> dict[int, list[RaftGroup]]:
        """Return the groups that each node could take over.

        They begin at a group drawn by chance, because one whose transfer failed last time may fail again.
        """
        led = self._led()
        start = self._dice.randrange(len(led)) if led else 0
        takes: dict[int, list[RaftGroup]] = {}
        for group in led[start:] + led[:start]:
            for target in group.transfer_candidates():
                if target in leads:
                    takes.setdefault(target, []).append(group)
        return takes

    def _give_all(self) -> None:
        leads = self._quiescence.candidate_loads(steady_for=0)
        for group in self._led():
            able = [target for target in group.transfer_candidates() if target in leads]
            target = min(able, key=lambda node: (leads[node], node), default=0)
            group.transfer_leadership(target)
            if target:
                leads[target] += 1

    def _led(self) -> list[RaftGroup]:
        return [group for group in self._groups.values() if group.role is Role.LEADER]
