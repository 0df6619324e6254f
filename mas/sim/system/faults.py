"""The hand that strikes the whole system: cuts lines, kills and freezes processes, spoils disks and stores, moves replicas."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from mas.ids import PAYMENT_ID_BYTES, XID_BYTES
from mas.ledger import Batch, Body, Decide, Kind, Prepare, Resolve
from mas.rpc.messages import Change, ChangeMembers
from mas.runtime import Dice
from mas.sim.plan import pick
from mas.sim.system.history import Trouble
from mas.sim.system.node import Node
from mas.sim.system.plan import LONG, Plan
from mas.sim.system.wires import Wires
from mas.sim.trace import WORLD, Trace

_REST_SECONDS = 3.0
"""Between two strikes of a drill: a bucket that has its majority again has a leader by then."""
_HOUR_US = 3_600_000_000


class Victims(Protocol):
    """A cluster, as faults see it."""

    plan: Plan
    trace: Trace
    wires: Wires

    @property
    def nodes(self) -> Sequence[Node]:
        """All processes, dead or alive."""

    @property
    def placement(self) -> dict[int, tuple[int, ...]]:
        """The nodes that each bucket was founded with."""


class Nemesis:
    """Strikes a cluster, again and again."""

    def __init__(self, cluster: Victims, dice: Dice) -> None:
        self._cluster = cluster
        self._plan = cluster.plan
        self._trace = cluster.trace
        self._wires = cluster.wires
        self._dice = dice
        self._loop = asyncio.get_running_loop()
        strikes: dict[str, Sequence[Callable[[], None]]] = {
            "partition": (self._cut_off, self._cut_off_leader, self._cut_line, self._break_line),
            "crash": (self._crash, self._crash, self._crash_leader, self._crash_manager),
            "fsync": (self._fail_sync,),
            "database": (self._take_database_away,),
            "rollback": (self._roll_back,),
            "store": (self._take_store_away, self._put_store_back, self._lose_store),
            "clock": (self._jump,),
            "pause": (self._pause, self._pause_leader),
            "transfer": (self._transfer,),
            "compact": (self._leave_behind,),
            "members": (self._remove, self._add, self._add),
            "quorum": (self._lose_quorum,),
            "files": (self._mistype,),
            "older": (self._put_back, self._put_back, self._rebuild),
        }
        if "older" in self._plan.classes:
            strikes["members"] = ()  # of two replicas, none can be put back
        if self._plan.is_drill:
            strikes = {
                "pause": (self._drill_pause,),
                "quorum": (self._lose_quorum,),
                "nonsense": (self._send_nonsense,),
            }
        if self._plan.meeting:
            strikes["partition"] = (self._lose_answers,)
        self._strikes = [
            strike for name in self._plan.classes if name in strikes for strike in strikes[name]
        ]
        self.troubles: list[Trouble] = []
        """What a drill excuses."""
        self.rebuilt: dict[tuple[int, int], str] = {}
        """By node and bucket: why replicas were built anew."""
        self._alone: Node | None = None
        """It was founded otherwise than the others."""
        self._busy_until = 0.0

    async def run(self) -> None:
        """Strike until cancelled."""
        while True:
            await asyncio.sleep(self._seconds(2 * self._plan.pause_between))
            if self._strikes and self._loop.time() >= self._busy_until:
                pick(self._dice, self._strikes)()

    # -- the network ---------------------------------------------------------------------------

    def _cut_off(self) -> None:
        """Some from the others, both ways or one."""
        self._cut_off_side([node.id for node in self._cluster.nodes if self._dice.randrange(2)])

    def _cut_off_leader(self) -> None:
        leader = self._leader()
        if leader is not None:
            self._cut_off_side([leader.id])

    def _cut_off_side(self, side: list[int]) -> None:
        others = [node.id for node in self._cluster.nodes if node.id not in side]
        direction = pick(self._dice, ("both ways", "outwards", "inwards", "with notice"))
        self._trace.add(WORLD, f"cuts off nodes {side} {direction}")
        for one in side:
            for other in others:
                if direction == "with notice":
                    self._wires.close(one, other)
                if direction in ("both ways", "outwards"):
                    self._wires.silence(one, other)
                if direction in ("both ways", "inwards"):
                    self._wires.silence(other, one)
        self._loop.call_later(self._seconds(pick(self._dice, (2.0, 12.0))), self._heal)

    def _cut_line(self) -> None:
        one, other = pick(self._dice, self._cluster.nodes), pick(self._dice, self._cluster.nodes)
        if one is not other:
            self._trace.add(WORLD, f"silences the line from node {one.id} to node {other.id}")
            self._wires.silence(one.id, other.id)
            self._loop.call_later(self._seconds(12.0), self._heal)

    def _lose_answers(self) -> None:
        """A manager doesn't hear a leader, which hears it; then its answers come, or the connection breaks and they never do."""
        leader, manager = self._leader(), self._manager()
        if leader is None or manager is None or leader is manager:
            return
        self._trace.add(WORLD, f"keeps node {leader.id}'s answers from node {manager.id}")
        self._wires.silence(leader.id, manager.id)
        seconds = self._seconds(3.0)
        if self._dice.randrange(2):
            self._loop.call_later(seconds, self._wires.hang_up, leader.id, manager.id)
        self._loop.call_later(seconds, self._wires.open_line, leader.id, manager.id)

    def _break_line(self) -> None:
        one, other = pick(self._dice, self._cluster.nodes), pick(self._dice, self._cluster.nodes)
        if one is not other:
            self._trace.add(WORLD, f"breaks the connection of nodes {one.id} and {other.id}")
            self._wires.hang_up(one.id, other.id)

    def _leave_behind(self) -> None:
        """One node, for as long as the others need to cut their logs beyond what it has."""
        node = self._node()
        if node is None or not node.has_buckets:
            return
        self._trace.add(node.id, "is left behind")
        for other in self._cluster.nodes:
            if other is not node:
                self._wires.close(node.id, other.id)
        self._loop.call_later(2.0 + self._seconds(3.0), self._heal)

    def _heal(self) -> None:
        self._trace.add(WORLD, "heals all lines")
        self._wires.heal()

    # -- processes and their disks -------------------------------------------------------------

    def _crash(self) -> None:
        self._burn(self._node())

    def _crash_leader(self) -> None:
        self._burn(self._leader())

    def _crash_manager(self) -> None:
        managers = [node for node in self._cluster.nodes if node.coordinates and node.is_up]
        self._burn(pick(self._dice, managers) if managers else None)

    def _burn(self, node: Node | None) -> None:
        if node is not None:
            node.process.burn_fuse(1 + self._dice.randrange(300))

    def on_note(self, node: Node) -> None:
        """A node is installing a snapshot: a good time to die (rule 28, snapshots)."""
        if "crash" in self._plan.classes and not self._dice.randrange(3):
            node.process.burn_fuse(1 + self._dice.randrange(30))

    def _fail_sync(self) -> None:
        node = self._node()
        if node is not None and node.has_buckets:
            self._trace.add(node.id, "is to fail a sync")
            node.disk.fails_next_sync = True

    def _take_database_away(self) -> None:
        node = self._node()
        if node is not None and node.has_buckets:
            self._trace.add(node.id, "has its database taken away")
            node.database.is_away = True
            self._loop.call_later(self._seconds(4.0), self._bring_database_back, node)

    def _bring_database_back(self, node: Node) -> None:
        self._trace.add(node.id, "has its database back")
        node.database.is_away = False

    def _roll_back(self) -> None:
        """A database goes back to what it held: the first strike keeps a copy, the next puts it back."""
        node = self._node()
        if node is None or not node.has_buckets:
            return
        if not node.database_backup:
            node.database_backup = node.database.backup()
            return
        self._trace.add(node.id, "has its database put back")
        node.database.restore(node.database_backup)
        node.database_backup = {}
        node.expects_rollback = True
        if self._dice.randrange(2):
            self._burn(node)

    def mistype_first(self) -> None:
        """Before the first start: one node's configuration has it hold a bucket alone; some time later an operator mends that."""
        if "files" not in self._plan.classes:
            return
        holders = [
            node for node in self._cluster.nodes if node.has_buckets and not node.coordinates
        ]
        node = pick(self._dice, holders)
        bucket = pick(self._dice, self._buckets_of(node))
        self._trace.add(node.id, f"is to hold bucket {bucket} alone, by its file")
        node.mistype(bucket, (node.id,))
        self._alone = node
        self._loop.call_later(1.0 + self._seconds(2.0), self._begin_anew, node)

    def _begin_anew(self, node: Node) -> None:
        """In a new cluster, the node whose file was wrong gets an empty directory; others have refused it since it began."""
        if node is not self._alone:
            return
        self._trace.require(
            node.id,
            bool(node.refused),
            "was founded otherwise than the others, and nobody says so",
        )
        node.begin_anew()
        self._alone = None

    def _mistype(self) -> None:
        """A file is changed between two lives: voters that aren't a bucket's founders."""
        node = self._node()
        if node is None or not node.has_buckets or node.mistyped or not node.roster.buckets:
            return
        bucket = pick(self._dice, self._buckets_of(node))
        others = [each.id for each in self._cluster.nodes if each.has_buckets and each is not node]
        founders = pick(self._dice, ((node.id,), tuple(others[:3]), (*others[:2], node.id)))
        if set(founders) != set(self._cluster.placement[bucket]):
            self._trace.add(node.id, f"has its file changed: bucket {bucket} is of {founders}")
            node.mistype(bucket, tuple(sorted(founders)))
            self._burn(node)

    def stop_mistyping(self) -> None:
        """All files are as they were."""
        if self._alone is not None:
            self._begin_anew(self._alone)
        for node in self._cluster.nodes:
            node.mend_config()

    def _buckets_of(self, node: Node) -> list[int]:
        return [each for each, nodes in self._cluster.placement.items() if node.id in nodes]

    def _put_back(self) -> None:
        """A node's directory goes back to what it was: the first strike keeps a copy, the next puts it back.

        One node at a time, and only where all other replicas are there: more than one can't be lost.
        """
        node = self._node()
        if node is None or not node.has_buckets or node.mistyped:
            return
        if node.copy is None:
            node.take_copy()
            return
        placement = self._cluster.placement
        is_whole = all(self._leader_of(bucket) and not self._away(bucket) for bucket in placement)
        is_lacking = any(each.lacks for each in self._cluster.nodes)
        if is_whole and not is_lacking and node.copy.fits(node.disk.durable):
            self._trace.add(node.id, "has its directory put back")
            node.put_back(node.copy)

    def _rebuild(self) -> None:
        """Do what an operator does about a stopped replica: remove it, and add it again once it is erased."""
        for bucket, nodes in self._cluster.placement.items():
            for node in self._cluster.nodes:
                why = node.why_stopped(bucket) if node.id in nodes else ""
                leader = self._leader_of(bucket) if why else None
                if not why or leader is None or node.id in self._away(bucket):
                    continue
                self._trace.require(node.id, bucket in node.had, "stops bucket {}: {}", bucket, why)
                self.rebuilt[node.id, bucket] = why
                self._change(leader, bucket, Change.REMOVE, node.id)
            self._add_to(bucket)

    def _take_store_away(self) -> None:
        manager = self._manager()
        if manager is not None:
            self._trace.add(manager.id, "has its TM store taken away")
            manager.store.is_away = True
            self._loop.call_later(self._seconds(4.0), self._bring_store_back, manager)

    def _bring_store_back(self, manager: Node) -> None:
        manager.store.is_away = False

    def _put_store_back(self) -> None:
        manager = self._manager()
        if manager is None:
            return
        if not manager.store_backup:
            manager.store.sync()
            manager.store_backup = manager.store.synced
            return
        self._trace.add(manager.id, "has its TM store put back")
        manager.store.restore(manager.store_backup)
        manager.store_backup = b""

    def _lose_store(self) -> None:
        manager = self._manager()
        if manager is not None:
            self._trace.add(manager.id, "loses its TM store")
            manager.store.lose()
            self._burn(manager)

    def _jump(self) -> None:
        """A calendar is wrong by up to an hour; sometimes it is right again."""
        node = pick(self._dice, self._cluster.nodes)
        ahead = pick(self._dice, (0, 0, self._dice.randrange(2 * _HOUR_US) - _HOUR_US))
        self._trace.add(node.id, f"believes to be {ahead} us ahead")
        node.clock.ahead_us = ahead

    def _pause(self) -> None:
        self._freeze(self._node())

    def _pause_leader(self) -> None:
        self._freeze(self._leader())

    def _freeze(self, node: Node | None) -> None:
        if node is not None:
            self._trace.add(node.id, "stands still")
            node.process.freeze()
            seconds = self._seconds(pick(self._dice, (1.0, 6.0, 12.0)))
            self._loop.call_later(seconds, node.process.thaw)

    def _drill_pause(self) -> None:
        """A leader is silent, not dead."""
        leader = self._leader()
        if leader is not None:
            self._stand_still([leader.id], 5.0 + self._seconds(5.0))

    def _stand_still(self, nodes: list[int], seconds: float) -> None:
        self._trace.add(WORLD, f"has nodes {nodes} stand still for {seconds:.1f} s")
        for node in self._cluster.nodes:
            if node.id in nodes and node.is_up:
                node.process.freeze()
                self._loop.call_later(seconds, node.process.thaw)
        if self._plan.is_drill:
            self._busy_until = self._loop.time() + seconds + _REST_SECONDS

    def _cut_away(self, nodes: list[int], seconds: float) -> None:
        """Nobody reaches them, and everybody knows."""
        for node in nodes:
            for other in self._cluster.nodes:
                if other.id != node:
                    self._wires.close(node, other.id)
        self._loop.call_later(seconds, self._heal)
        self._busy_until = self._loop.time() + seconds + _REST_SECONDS

    def on_answer(self, node: Node, *, is_creation: bool) -> None:
        """A manager tells a client that a payment is committed, and hasn't told the other buckets: a good time to die.

        Another one lives on, so that what follows is seen.
        """
        others = [each for each in self._cluster.nodes if each.coordinates and each.is_up]
        if "crash" not in self._plan.classes or len(others) < 2:
            return
        often = 1 if self._plan.is_drill else 3
        if not self._dice.randrange(often if is_creation else 50):
            node.process.burn_fuse(1)

    def _lose_quorum(self) -> None:
        """All but one of a bucket's nodes that no other bucket needs for its majority are dead for a while."""
        placement = self._cluster.placement
        bucket = pick(self._dice, list(placement))
        victims: list[int] = []
        for node in placement[bucket]:
            dead = [*victims, node]
            others = [voters for other, voters in placement.items() if other != bucket]
            if all(2 * sum(each not in dead for each in voters) > len(voters) for voters in others):
                victims = dead
        if 2 * (len(placement[bucket]) - len(victims)) > len(placement[bucket]):
            return
        self._trace.add(WORLD, f"takes bucket {bucket} its majority: nodes {victims}")
        seconds = self._seconds(12.0)
        if self._plan.drill in LONG:
            seconds = 6.0 + seconds / 2
        now = self._loop.time()
        self.troubles.append(Trouble(bucket, now, now + seconds + _REST_SECONDS))
        if self._plan.is_drill:
            self._cut_away(victims, seconds)
        else:
            self._stand_still(victims, seconds)

    def _send_nonsense(self) -> None:
        """A coordinator of another version sends what no rule of this one knows what to do with."""
        manager = self._manager()
        if manager is not None and manager.router is not None:
            bucket = pick(self._dice, list(self._cluster.placement))
            batch = Batch(b"", 0, (pick(self._dice, nonsense(self._dice)),))
            self._trace.add(manager.id, f"sends nonsense to bucket {bucket}")
            manager.process.post(manager.router.submit, bucket, batch, _hear_nothing)

    # -- groups --------------------------------------------------------------------------------

    def _transfer(self) -> None:
        leader = self._leader()
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
        leader = self._leader_of(bucket)
        if leader is None or self._away(bucket):
            return
        followers = [node for node in self._cluster.placement[bucket] if node != leader.id]
        if "partition" in self._plan.classes and self._dice.randrange(2):
            self._wires.silence(leader.id, pick(self._dice, followers))
            self._loop.call_later(self._seconds(4.0), self._heal)
        node = pick(self._dice, followers)
        if "delay" in self._plan.classes and self._dice.randrange(2):
            seconds = 2.0 + self._seconds(2.0)
            self._wires.hold_up(node, leader.id, seconds)
            self._loop.call_later(seconds - 0.5, self._add_to, bucket)
        self._change(leader, bucket, Change.REMOVE, node)

    def _add(self) -> None:
        """A replica comes back."""
        self._add_to(pick(self._dice, list(self._cluster.placement)))

    def give_back(self) -> list[str]:
        """Add what was removed, rebuild what is stopped; the buckets that don't have their first members again."""
        self._rebuild()
        return [
            f"bucket {bucket} has no leader, or not its members"
            for bucket in self._cluster.placement
            if self._leader_of(bucket) is None or self._away(bucket)
        ]

    def _add_to(self, bucket: int) -> None:
        leader = self._leader_of(bucket)
        stopped = [node.id for node in self._cluster.nodes if node.why_stopped(bucket)]
        away = [node for node in self._away(bucket) if node not in stopped]
        if leader is not None and away:
            self._change(leader, bucket, Change.ADD, away[0])

    def _away(self, bucket: int) -> list[int]:
        """Founders that don't vote now, as the leader knows."""
        leader = self._leader_of(bucket)
        if leader is None:
            return []
        voters = leader.groups[bucket].status().raft.conf_state.voters
        return [node for node in self._cluster.placement[bucket] if node not in voters]

    def _change(self, leader: Node, bucket: int, change: Change, node: int) -> None:
        members = leader.members
        if members is not None:
            self._trace.add(leader.id, f"is to {change.name} node {node} in bucket {bucket}")
            leader.process.post(members.answer, ChangeMembers(0, bucket, change, node))

    # -- who -----------------------------------------------------------------------------------

    def _node(self) -> Node | None:
        node = pick(self._dice, self._cluster.nodes)
        return node if node.is_up else None

    def _manager(self) -> Node | None:
        managers = [node for node in self._cluster.nodes if node.coordinates]
        return pick(self._dice, managers) if managers else None

    def _leader(self) -> Node | None:
        return self._leader_of(pick(self._dice, list(self._cluster.placement)))

    def _leader_of(self, bucket: int) -> Node | None:
        leaders = [node for node in self._cluster.nodes if node.leads(bucket)]
        return pick(self._dice, leaders) if leaders else None

    def _seconds(self, most: float) -> float:
        return most * (1 + self._dice.randrange(1000)) / 1000


def nonsense(dice: Dice) -> Sequence[Resolve | Decide | Prepare]:
    """Each is decoded well, and has a field that its rule can't work with."""
    xid, payment_id = dice.randbytes(XID_BYTES), dice.randbytes(PAYMENT_ID_BYTES)
    legs = ((f"a{dice.randrange(8)}", 1),)
    body = Body(Kind.PAYMENT, "USD", (("a1", -1), ("a2", 1)))
    return (
        Decide(xid, payment_id, 1, body, b"hash", (), own=(5,)),
        Resolve(payment_id[:1], 1, xid, b"hash"),
        Prepare(xid, payment_id, 1, b"hash", 99, (1,), Kind.PAYMENT, "USD", legs),
    )


def _hear_nothing(_: int, __: object) -> None:
    """Whoever sent it is content with any answer."""
