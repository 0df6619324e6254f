"""Replicas and leaders move: replicas are removed, added, put back to an older copy, and rebuilt."""

import asyncio

from mas.rpc.messages import Change, ChangeMembers
from mas.sim.plan import pick
from mas.sim.system.faults.aim import Aim, Strikes
from mas.sim.system.faults.lines import LineFaults
from mas.sim.system.node import Node


class ReplicaFaults:
    """Moves leaders and replicas."""

    def __init__(self, aim: Aim, lines: LineFaults) -> None:
        self._aim = aim
        self._cluster = aim.cluster
        self._plan = aim.cluster.plan
        self._trace = aim.cluster.trace
        self._wires = aim.cluster.wires
        self._dice = aim.dice
        self._loop = asyncio.get_running_loop()
        self._lines = lines
        self.rebuilt: dict[tuple[int, int], str] = {}
        """By node and bucket: why replicas were built anew."""
        # Of two replicas, none can be put back.
        moves = () if "older" in self._plan.classes else (self._remove, self._add, self._add)
        self.strikes: Strikes = {
            "transfer": (self._transfer,),
            "members": moves,
            "older": (self._put_back, self._put_back, self._rebuild),
        }

    def _transfer(self) -> None:
        leader = self._aim.leader()
        if leader is None:
            return
        for bucket, group in leader.groups.items():
            if leader.leads(bucket):
                self._trace.add(leader.id, f"is to hand over bucket {bucket}")
                leader.process.post(group.transfer_leadership)

    def _remove(self) -> None:
        """A replica goes, and is erased.

        A good time for another not to hear of it; or for what it has said to be heard when it is there again.
        """
        bucket = pick(self._dice, list(self._cluster.placement))
        leader = self._aim.leader_of(bucket)
        if leader is None or self._away(bucket):
            return
        followers = [node for node in self._cluster.placement[bucket] if node != leader.id]
        if "partition" in self._plan.classes and self._dice.randrange(2):
            self._wires.silence(leader.id, pick(self._dice, followers))
            self._loop.call_later(self._aim.seconds(4.0), self._lines.heal)
        node = pick(self._dice, followers)
        if "delay" in self._plan.classes and self._dice.randrange(2):
            seconds = 2.0 + self._aim.seconds(2.0)
            self._wires.hold_up(node, leader.id, seconds)
            self._loop.call_later(seconds - 0.5, self._add_to, bucket)
        self._change(leader, bucket, Change.REMOVE, node)

    def _add(self) -> None:
        """A replica comes back."""
        self._add_to(pick(self._dice, list(self._cluster.placement)))

    def _put_back(self) -> None:
        """A node's directory goes back to what it was: the first strike keeps a copy, the next puts it back.

        One node at a time, and only where all other replicas are there: more than one can't be lost.
        """
        node = self._aim.node()
        if node is None or not node.has_buckets or node.mistyped:
            return
        if node.copy is None:
            node.take_copy()
            return
        placement = self._cluster.placement
        is_whole = all(
            self._aim.leader_of(bucket) and not self._away(bucket) for bucket in placement
        )
        is_lacking = any(each.lacks for each in self._cluster.nodes)
        if is_whole and not is_lacking and node.copy.fits(node.disk.durable):
            self._trace.add(node.id, "has its directory put back")
            node.put_back(node.copy)

    def _rebuild(self) -> None:
        """Do what an operator does about a stopped replica: remove it, and add it again once it is erased."""
        for bucket, nodes in self._cluster.placement.items():
            for node in self._cluster.nodes:
                why = node.why_stopped(bucket) if node.id in nodes else ""
                leader = self._aim.leader_of(bucket) if why else None
                if not why or leader is None or node.id in self._away(bucket):
                    continue
                self._trace.require(node.id, bucket in node.had, "stops bucket {}: {}", bucket, why)
                self.rebuilt[node.id, bucket] = why
                self._change(leader, bucket, Change.REMOVE, node.id)
            self._add_to(bucket)

    def give_back(self) -> list[str]:
        """Add what was removed, rebuild what is stopped; the buckets that don't have their first members again."""
        self._rebuild()
        return [
            f"bucket {bucket} has no leader, or not its members"
            for bucket in self._cluster.placement
            if self._aim.leader_of(bucket) is None or self._away(bucket)
        ]

    def _add_to(self, bucket: int) -> None:
        leader = self._aim.leader_of(bucket)
        stopped = [node.id for node in self._cluster.nodes if node.why_stopped(bucket)]
        away = [node for node in self._away(bucket) if node not in stopped]
        if leader is not None and away:
            self._change(leader, bucket, Change.ADD, away[0])

    def _away(self, bucket: int) -> list[int]:
        """Founders that don't vote now, as the leader knows."""
        leader = self._aim.leader_of(bucket)
        if leader is None:
            return []
        voters = leader.groups[bucket].status().raft.conf_state.voters
        return [node for node in self._cluster.placement[bucket] if node not in voters]

    def _change(self, leader: Node, bucket: int, change: Change, node: int) -> None:
        members = leader.members
        if members is not None:
            self._trace.add(leader.id, f"is to {change.name} node {node} in bucket {bucket}")
            leader.process.post(members.answer, ChangeMembers(0, bucket, change, node))
