"""Leadership and members move."""

from mas.raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfState,
)
from mas.runtime import Dice
from mas.sim.faults.aim import Aim, Strikes
from mas.sim.faults.victims import Victims, attempt
from mas.sim.plan import pick
from mas.sim.trace import Trace


class MemberFaults:
    """Moves leadership, and changes groups' members."""

    def __init__(self, aim: Aim, cluster: Victims, dice: Dice, trace: Trace) -> None:
        self._aim = aim
        self._cluster = cluster
        self._dice = dice
        self._trace = trace
        self.strikes: Strikes = {
            "members": (self._change_members, self._change_members),
            "transfer": (self._transfer,),
        }

    def _transfer(self) -> None:
        leader = self._aim.leader()
        if leader is not None:
            node, group = leader
            self._trace.add(node.id, f"is to hand over group {group.id}")
            node.process.post(group.transfer_leadership)

    def _change_members(self) -> None:
        leader = self._aim.leader()
        if leader is None:
            return
        node, group = leader
        change = self._random_change(group.id, node.id)
        if change is not None:
            self._trace.add(node.id, f"is to change group {group.id}: {_show(change)}")
            node.process.post(attempt, group.change_members, change)

    def _random_change(self, group: int, leader: int) -> ConfChange | None:
        """Members come under new ids, change their part, and go; the leader isn't one of them."""
        conf = self._cluster.conf(group)
        if conf.voters_outgoing:
            return ConfChange()
        changes: dict[int, ConfChangeSingle] = {}
        for _ in range(1 + self._dice.randrange(3)):
            one = self._random_single(conf, leader)
            if one is not None:
                changes[one.node_id] = one
        voters = set(conf.voters)
        for one in changes.values():
            voters.discard(one.node_id)
            if one.type is ConfChangeType.ADD_NODE:
                voters.add(one.node_id)
        after = ConfState(voters=tuple(sorted(voters)))
        if not changes or len(voters) < 3 or not self._cluster.is_safe(after, group, 0):
            return None
        return ConfChange(tuple(changes.values()), pick(self._dice, list(ConfChangeTransition)))

    def _random_single(self, conf: ConfState, leader: int) -> ConfChangeSingle | None:
        others = [node for node in conf.voters + conf.learners if node != leader]
        kind = pick(self._dice, list(ConfChangeType))
        newcomer = None
        if kind is not ConfChangeType.REMOVE_NODE and self._dice.randrange(2):
            newcomer = self._cluster.newcomer()
        node = newcomer or (pick(self._dice, others) if others else None)
        return None if node is None else ConfChangeSingle(kind, node)


def _show(change: ConfChange) -> str:
    if not change.changes:
        return "leave the joint configuration"
    singles = ", ".join(f"{one.type.name} {one.node_id}" for one in change.changes)
    return f"{singles} ({change.transition.name})"
