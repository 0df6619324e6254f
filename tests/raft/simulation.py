"""A group of RawNodes on a virtual network and virtual disks, all hardship from one seed.

    Simulation(seed).run()      # faults, then a quiet time in which the group must recover

Messages are dropped, delayed, doubled and reordered; links are cut, in one direction too; nodes crash, losing what
they had not synced, at any place of a write; members come and go; leadership is handed around; logs are
cut behind snapshots. After every event the promises of Raft's figure 3, and what the host relies on,
are checked: `Violation` names the one that broke.
"""

import heapq
import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mas.raft import (
    Compacted,
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    Config,
    ConfState,
    Entry,
    EntryType,
    MemoryStorage,
    Message,
    MessageType,
    NotLeader,
    ProposalDropped,
    RawNode,
    ReadState,
    Ready,
    Role,
    Snapshot,
    SnapshotMetadata,
    Unavailable,
)
from mas.raft.quorum import VoteResult, joint_vote

TICK = 4  # units of virtual time
CONTEXTS = (b"a", b"b", b"c")  # few, so that they repeat


class Violation(AssertionError):
    """A promise of Raft is broken."""


def require(holds: bool, what: str) -> None:
    """Raises Violation where a promise doesn't hold."""
    if not holds:
        raise Violation(what)


@dataclass(frozen=True)
class Faults:
    """How likely each hardship is: of messages for each one, of the rest for each unit of time."""

    drop: float = 0.04
    duplicate: float = 0.04
    delay: int = 12
    write: int = 4
    cut: float = 0.01
    heal: float = 0.02
    crash: float = 0.008
    restart: float = 0.04
    transfer: float = 0.004
    change_members: float = 0.01
    compact: float = 0.02
    nudge: float = 0.01
    propose: float = 0.5

    @staticmethod
    def drawn(rng: random.Random) -> "Faults":
        """Each life has its own hardship."""
        return Faults(
            drop=rng.choice((0, 0.02, 0.1)),
            duplicate=rng.choice((0, 0.04)),
            delay=rng.choice((2, 6, 20)),
            write=rng.choice((1, 4, 20)),
            cut=rng.choice((0, 0.01, 0.02)),
            heal=rng.choice((0.004, 0.01, 0.04)),
            crash=rng.choice((0, 0.002, 0.006)),
            restart=rng.choice((0.01, 0.04)),
            transfer=rng.choice((0, 0.004, 0.02)),
            change_members=rng.choice((0, 0.01, 0.03)),
            compact=rng.choice((0, 0.005, 0.04)),
            nudge=rng.choice((0, 0.01, 0.05)),
        )


QUIET = Faults(
    drop=0,
    duplicate=0,
    delay=3,
    write=2,
    cut=0,
    heal=1,
    crash=0,
    restart=1,
    transfer=0,
    change_members=0,
    nudge=0,
    propose=0.02,  # so that a group whose window is one entry can catch up
)


@dataclass(frozen=True)
class Machine:
    """A state machine's whole state: how far it has applied, what it has seen, who belongs to the group."""

    index: int = 0
    digest: int = 0
    conf: ConfState = field(default_factory=ConfState)


class Disk:
    """Storage whose unsynced writes die in a crash: a random prefix of them survives."""

    def __init__(self, first: Snapshot | ConfState) -> None:
        """A log that begins behind a snapshot, or at 1 with a configuration."""
        if isinstance(first, Snapshot):
            self.durable = MemoryStorage()
            self.durable.apply_snapshot(first)
        else:
            self.durable = MemoryStorage(first)
        self.storage = clone(self.durable)
        self._unsynced: list[tuple[str, tuple[Any, ...]]] = []

    def write(self, method: str, *arguments: Any) -> None:
        """Call a method of the storage; a crash may undo it until `sync`."""
        getattr(self.storage, method)(*arguments)
        self._unsynced.append((method, arguments))

    def sync(self) -> None:
        """What was written stays."""
        self._replay(len(self._unsynced))

    def crash(self, rng: random.Random) -> None:
        """Lose some of what wasn't synced."""
        self._replay(rng.randrange(len(self._unsynced) + 1))
        self.storage = clone(self.durable)

    def _replay(self, count: int) -> None:
        for method, arguments in self._unsynced[:count]:
            getattr(self.durable, method)(*arguments)
        self._unsynced = []


def clone(storage: MemoryStorage) -> MemoryStorage:
    """A copy that shares nothing that changes."""
    copy = MemoryStorage()
    copy.__dict__.update(storage.__dict__)
    copy._entries = list(storage._entries)
    return copy


class Host:
    """One node with its disk and its state machine, through crashes."""

    def __init__(self, simulation: "Simulation", node_id: int, first: Snapshot | ConfState) -> None:
        self.simulation = simulation
        self.id = node_id
        self.disk = Disk(first)
        self.flushed = Machine(conf=self.disk.storage.initial_state()[1])
        self.machine = self.flushed
        self.node: RawNode | None = None
        self.writing: Ready | None = None
        self.written_at = 0
        self.next_tick = 0
        self.term_sent = 0
        self.commit_seen = 0
        self.start()

    @property
    def running(self) -> RawNode:
        """The node, which must not be down."""
        assert self.node is not None
        return self.node

    def start(self) -> None:
        """Start, or start again, from what the disk and the database hold."""
        storage = self.disk.storage
        self.machine = self.flushed
        if storage.first_index() - 1 > self.machine.index:
            self.machine = self.flushed = restored(storage)
        for copy in (storage, self.disk.durable):
            copy.set_conf_state(self.machine.conf)
        rng = self.simulation.rng
        self.node = RawNode(
            Config(
                id=self.id,
                rng=rng,
                applied=self.machine.index,
                max_size_per_msg=rng.choice((0, 40, 1 << 20)),
                max_committed_size_per_ready=rng.choice((0, 40, 1 << 20)),
                max_inflight_msgs=rng.choice((1, 3, 256)),
                pre_vote=self.simulation.pre_vote,
                check_quorum=self.simulation.check_quorum,
            ),
            storage,
        )
        require(self.running.status().term >= self.term_sent, f"{self.id} forgot a term")
        self.commit_seen = self.machine.index

    def crash(self) -> None:
        """Lose the process, and some of what wasn't synced."""
        self.node = None
        self.writing = None
        self.disk.crash(self.simulation.rng)

    def work(self) -> None:
        """Begin a write, or finish the one that is due."""
        node = self.running
        if self.writing is None and node.has_ready():
            self._begin(node.ready())
        elif self.writing is not None and self.simulation.now >= self.written_at:
            self._finish(self.writing)

    def flush(self) -> None:
        """Let the database catch up with memory; what it holds is never lost."""
        self.flushed = self.machine

    def compact(self, margin: int) -> None:
        """Take a snapshot of what is flushed, and cut the log `margin` entries behind it."""
        self.disk.sync()
        index, conf = self.flushed.index, self.flushed.conf
        if index < self.disk.storage.first_index():
            return
        for storage in (self.disk.storage, self.disk.durable):
            storage.create_snapshot(index, conf, self.flushed.digest.to_bytes(4))
            if index - margin >= storage.first_index():
                storage.compact(index - margin)

    def _begin(self, ready: Ready) -> None:
        self.writing = ready
        rng = self.simulation.rng
        for state in ready.read_states:
            self.simulation.check_read(self, state)
        if ready.snapshot is not None:
            self.disk.write("apply_snapshot", ready.snapshot)
        half = rng.randrange(len(ready.entries) + 1)
        for entries in (ready.entries[:half], ready.entries[half:]):
            if entries:
                self.disk.write("append", entries)
        if ready.hard_state is not None:
            self.disk.write("set_hard_state", ready.hard_state)
        self.simulation.check_entries(ready.entries)
        self._send(m for m in ready.messages if m.type == MessageType.APPEND)
        self.written_at = self.simulation.now + rng.randrange(self.simulation.faults.write)

    def _finish(self, ready: Ready) -> None:
        if ready.must_sync:
            self.disk.sync()
        self._send(m for m in ready.messages if m.type != MessageType.APPEND)
        if ready.snapshot is not None:
            self.machine = self.flushed = restored(self.disk.storage)
        for entry in ready.committed_entries:
            self._apply(entry)
        self.writing = None
        self.running.advance(ready)

    def _send(self, messages: Iterator[Message]) -> None:
        for message in messages:
            self.simulation.check_promise(self, message)
            self.simulation.send(message)

    def _apply(self, entry: Entry) -> None:
        machine = self.machine
        require(entry.index == machine.index + 1, f"{self.id} applies {entry.index} out of order")
        digest = zlib.crc32(entry.data, machine.digest)
        self.machine = replace(machine, index=entry.index, digest=digest)
        if entry.type == EntryType.CONF_CHANGE:
            conf = self.running.apply_conf_change(ConfChange.decode(entry.data))
            self.machine = replace(self.machine, conf=conf)
            self.simulation.meet(conf)
            # A peer that this change added can only use a snapshot that names it.
            self.flush()
            self.compact(margin=1 << 30)
        self.simulation.check_applied(self)


def restored(storage: MemoryStorage) -> Machine:
    """The state machine that a snapshot stands for."""
    snapshot = storage.snapshot()
    metadata = snapshot.metadata
    return Machine(metadata.index, int.from_bytes(snapshot.data), metadata.conf_state)


class Simulation:
    """A group, its network, and what has been promised so far."""

    def __init__(
        self,
        seed: int,
        *,
        voters: int = 3,
        faults: Faults | None = None,
        pre_vote: bool | None = None,
        check_quorum: bool | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.faults = faults if faults is not None else Faults.drawn(self.rng)
        self.pre_vote = self.rng.random() < 0.7 if pre_vote is None else pre_vote
        self.check_quorum = self.rng.random() < 0.7 if check_quorum is None else check_quorum
        self.now = 0
        self.hosts: dict[int, Host] = {}
        self.proposed = 0
        self.reads_answered = 0
        self._in_flight: list[tuple[int, int, Message]] = []
        self._sent = 0
        self._cut: dict[tuple[int, int], bool] = {}
        self._gone: int | None = None

        self._leaders: dict[int, int] = {}
        self._votes: dict[tuple[int, int], int] = {}
        self._entries: dict[tuple[int, int], tuple[int, Entry]] = {}
        self._committed_terms: dict[int, int] = {0: 0}
        self._max_commit = 0
        self._digests: dict[int, int] = {}
        self._read_floor: dict[tuple[int, bytes], int] = {}

        conf = ConfState(voters=tuple(range(1, voters + 1)))
        # A node that joins begins with the configuration that the log begins with, or with none
        # where the log begins behind a snapshot: then the first thing it gets is a snapshot.
        self.joins_empty = self.rng.random() < 0.5
        self._first: Snapshot | ConfState = conf
        if self.joins_empty:
            self._first = Snapshot(SnapshotMetadata(1, 1, conf), bytes(4))
            self._committed_terms[1] = self._max_commit = 1
        for node_id in conf.voters:
            self.hosts[node_id] = Host(self, node_id, self._first)
        self.max_members = voters + 4

    # -- running

    def run(self, steps: int = 1500, recovery: int = 4000, *, lose_leader: bool = False) -> None:
        """Live through faults, then through quiet, without the last leader if so asked; raises Violation."""
        for _ in range(steps):
            self.step()
        leader = self.leader()
        if lose_leader and leader is not None and not self._needs(leader.id):
            self._gone = leader.id
        self.recover(recovery)

    def step(self) -> None:
        """One unit of time: deliver, tick, work, and whatever chance brings."""
        self.now += 1
        self._deliver()
        for host in list(self.hosts.values()):
            if host.node is None:
                continue
            if self.now >= host.next_tick:
                host.next_tick = self.now + self.rng.randrange(TICK // 2, TICK * 3 // 2)
                host.node.tick()
            host.work()
            self.check(host)
        self._hardship()
        self._clients()

    def recover(self, steps: int) -> None:
        """No faults from here on: the group must commit, and every member must catch up."""
        self.faults = QUIET
        self._cut.clear()
        term = target = 0
        for _ in range(steps):
            self.step()
            leader = self.leader()
            if leader is None:
                continue
            status = leader.running.status()
            if status.term != term and self._propose(leader):
                term, target = status.term, leader.running.status().last_index
            elif status.term == term and self._all_reached(leader, target):
                return
        if self._gone is not None and self._needs(self._gone):
            return  # a later change has made a group of it that can't spare it
        statuses = [host.node and host.node.status() for host in self.hosts.values()]
        raise Violation(f"no recovery by {self.now}: {statuses}")

    @property
    def committed(self) -> int:
        """The highest index that any node has known to be committed."""
        return self._max_commit

    @property
    def leaders_elected(self) -> int:
        """How many terms had a leader."""
        return len(self._leaders)

    def history(self) -> tuple[dict[int, int], int]:
        """What was applied, and how many messages it took: two runs of a seed have the same."""
        return self._digests, self._sent

    def leader(self) -> Host | None:
        """The leader of the highest term, if there is one."""
        leaders = [
            host
            for host in self.hosts.values()
            if host.node is not None and host.node.status().role is Role.LEADER
        ]
        return max(leaders, key=lambda host: host.running.status().term, default=None)

    def send(self, message: Message) -> None:
        """Put a message on the wire; it may arrive never, twice, late."""
        rng, faults = self.rng, self.faults
        copies = 2 if rng.random() < faults.duplicate else 1
        for _ in range(copies):
            if rng.random() < faults.drop:
                self._lost(message)
                continue
            due = self.now + 1 + rng.randrange(faults.delay)
            self._sent += 1
            heapq.heappush(self._in_flight, (due, self._sent, message))

    def meet(self, conf: ConfState) -> None:
        """Start the members that a change has added."""
        for node_id in conf.voters + conf.learners:
            if node_id not in self.hosts:
                first = ConfState() if self.joins_empty else self._first
                self.hosts[node_id] = Host(self, node_id, first)

    # -- what happens

    def _deliver(self) -> None:
        while self._in_flight and self._in_flight[0][0] <= self.now:
            _, _, message = heapq.heappop(self._in_flight)
            host = self.hosts.get(message.to)
            if host is None or host.node is None or (message.from_, message.to) in self._cut:
                self._lost(message)
                continue
            host.node.step(message)
            self.check(host)
            if message.type == MessageType.SNAPSHOT:
                self._report_snapshot(message, ok=self.rng.random() < 0.8)

    def _lost(self, message: Message) -> None:
        sender = self.hosts.get(message.from_)
        if sender is None or sender.node is None:
            return
        if message.type == MessageType.SNAPSHOT:
            self._report_snapshot(message, ok=False)
        elif self.rng.random() < 0.3:
            sender.node.report_unreachable(message.to)

    def _report_snapshot(self, message: Message, *, ok: bool) -> None:
        sender = self.hosts[message.from_].node
        if sender is not None:
            sender.report_snapshot(message.to, ok)

    def _hardship(self) -> None:
        rng, faults = self.rng, self.faults
        if rng.random() < faults.cut:
            self._cut_links()
        if rng.random() < faults.heal:
            self._cut.clear()
        for host in list(self.hosts.values()):
            if host.id == self._gone:
                if host.node is not None:
                    host.crash()
            elif host.node is None:
                if rng.random() < faults.restart:
                    host.start()
            elif rng.random() < faults.crash:
                host.crash()
            elif rng.random() < faults.compact:
                host.flush()
                host.compact(margin=rng.randrange(4))

    def _cut_links(self) -> None:
        """Cut one node, or one side of two, off from the rest: both ways, or one."""
        rng = self.rng
        ids = list(self.hosts)
        side = rng.sample(ids, rng.randrange((len(ids) + 1) // 2 + 1))
        direction = rng.randrange(3)
        for one in side:
            for other in ids:
                if other not in side:
                    if direction != 1:
                        self._cut[one, other] = True
                    if direction != 2:
                        self._cut[other, one] = True

    def _clients(self) -> None:
        rng, faults = self.rng, self.faults
        host = rng.choice(list(self.hosts.values()))
        if host.node is None:
            return
        if rng.random() < faults.propose:
            self._propose(host)
        if rng.random() < 0.1:
            self._read(host)
        if rng.random() < faults.nudge:
            rng.choice((host.node.campaign, host.node.forget_leader))()
        if host.node.status().role is Role.LEADER:
            self._bother_leader(host)
        self.check(host)

    def _propose(self, host: Host) -> bool:
        self.proposed += 1
        try:
            host.running.propose(b"%d" % self.proposed * self.rng.randrange(1, 8))
        except (NotLeader, ProposalDropped):
            return False
        return True

    def _read(self, host: Host) -> None:
        context = self.rng.choice(CONTEXTS)
        self._read_floor[host.id, context] = self._max_commit
        host.running.read_index(context)

    def _bother_leader(self, host: Host) -> None:
        rng, node = self.rng, host.running
        conf = node.status().conf_state
        if rng.random() < 0.2:
            self._read(host)
        try:
            if rng.random() < self.faults.transfer * len(self.hosts):
                node.transfer_leader(rng.choice(list(self.hosts)))
            if conf.voters_outgoing and not conf.auto_leave and rng.random() < 0.2:
                node.propose_conf_change(ConfChange())
            elif rng.random() < self.faults.change_members * len(self.hosts):
                node.propose_conf_change(self._random_change(host, conf))
        except ProposalDropped:
            pass

    def _random_change(self, leader: Host, conf: ConfState) -> ConfChange:
        """Members come under new ids, change their part, and go; the leader isn't one of them."""
        rng = self.rng
        changes = []
        others = [node for node in conf.voters + conf.learners if node != leader.id]
        newcomer = len(self.hosts) + 1
        for _ in range(rng.randrange(1, 4)):
            kind = rng.choice(list(ConfChangeType))
            node_id = rng.choice(others) if others else 0
            if kind is not ConfChangeType.REMOVE_NODE and newcomer <= self.max_members:
                node_id, newcomer = rng.choice(
                    ((node_id or newcomer, newcomer), (newcomer, newcomer + 1))
                )
            if kind is not ConfChangeType.ADD_NODE and len(conf.voters) < 3:
                kind = ConfChangeType.ADD_NODE
            if node_id:
                changes.append(ConfChangeSingle(kind, node_id))
        if not changes:
            return ConfChange((ConfChangeSingle(ConfChangeType.ADD_NODE, leader.id),))
        return ConfChange(tuple(changes), rng.choice(list(ConfChangeTransition)))

    def _all_reached(self, leader: Host, index: int) -> bool:
        status = leader.running.status()
        conf = status.conf_state
        if conf.voters_outgoing:
            return False
        members = (node for node in conf.voters + conf.learners if node != self._gone)
        return all(self.hosts[node].machine.index >= index for node in members)

    def _needs(self, node_id: int) -> bool:
        """Whether the newest configuration that anybody has applied has no quorum without this node."""
        conf = max(self.hosts.values(), key=lambda host: host.machine.index).machine.conf
        alive = {node: node != node_id for node in self.hosts}
        return joint_vote(conf.voters, conf.voters_outgoing, alive) is not VoteResult.WON

    # -- what must hold

    def check(self, host: Host) -> None:
        """Everything that can be seen in one node after an event."""
        core = host.running._core
        log = core.log
        if core.role is Role.LEADER:
            elected = self._leaders.setdefault(core.term, host.id)
            require(elected == host.id, f"term {core.term} has leaders {elected} and {host.id}")
            if log.committed < self._max_commit:
                self._check_complete(host)
        if core.role in (Role.PRE_CANDIDATE, Role.CANDIDATE) and log.committed > log.applied:
            waiting = log.slice(log.applied + 1, log.committed + 1)
            require(
                all(entry.type != EntryType.CONF_CHANGE for entry in waiting),
                f"{host.id} campaigns over an unapplied configuration change",
            )
        require(log.committed >= host.commit_seen, f"{host.id}'s commit went back")
        if core.role is Role.LEADER and log.committed > host.commit_seen:
            own = log.matches(log.committed, core.term)
            require(own, f"{host.id} commits {log.committed} of an earlier term by counting")
        for index in range(host.commit_seen + 1, log.committed + 1):
            self._check_committed(host, index)
        host.commit_seen = log.committed

    def _check_complete(self, leader: Host) -> None:
        """Leader completeness: what any node knows to be committed in an earlier term is there."""
        core = leader.running._core
        index = self._max_commit
        while index and self._committed_terms[index] >= core.term:
            index -= 1
        holds = index < core.log.first_index or core.log.matches(
            index, self._committed_terms[index]
        )
        require(holds, f"leader {leader.id} of term {core.term} lacks committed entry {index}")

    def _check_committed(self, host: Host, index: int) -> None:
        log = host.running._core.log
        try:
            term = log.term(index)
        except Compacted:
            return
        known = self._committed_terms.setdefault(index, term)
        require(known == term, f"{index} is committed with terms {known} and {term}")
        if index > self._max_commit:
            self._max_commit = index
            self._check_durable(host, index, term)

    def _check_durable(self, host: Host, index: int, term: int) -> None:
        """What a leader commits is on the disks of a quorum."""
        core = host.running._core
        if core.role is not Role.LEADER:
            return
        held = {node: self._holds(node, index, term) for node in core._electors}
        result = joint_vote(core.conf.voters, core.conf.voters_outgoing, held)
        require(result is VoteResult.WON, f"{host.id} commits {index}, synced only by {held}")

    def _holds(self, node_id: int, index: int, term: int) -> bool:
        if node_id not in self.hosts:
            return False
        try:
            return self.hosts[node_id].disk.durable.term(index) == term
        except Compacted:
            return True
        except Unavailable:
            return False

    def check_entries(self, entries: Sequence[Entry]) -> None:
        """Log matching: an index and a term name one entry, with one entry before it."""
        before = 0
        for entry in entries:
            known_before, known = self._entries.setdefault(
                (entry.index, entry.term), (before, entry)
            )
            require(known == entry, f"two entries {entry.index} of term {entry.term}")
            if before and known_before:
                require(known_before == before, f"two entries before {entry.index}/{entry.term}")
            elif before:
                self._entries[entry.index, entry.term] = before, entry
            before = entry.term

    def check_promise(self, host: Host, message: Message) -> None:
        """What leaves a node is backed by its disk: its term, one vote a term, its acknowledgements."""
        durable = host.disk.durable
        kind = message.type
        if kind in (MessageType.VOTE, MessageType.VOTE_RESPONSE) and not message.reject:
            choice = host.id if kind == MessageType.VOTE else message.to
            given = self._votes.setdefault((host.id, message.term), choice)
            require(given == choice, f"{host.id} votes twice in term {message.term}")
        if kind == MessageType.APPEND:
            term = durable.initial_state()[0].term
            require(
                term >= message.term, f"{host.id} leads term {message.term}, which isn't synced"
            )
        if kind == MessageType.APPEND_RESPONSE and not message.reject:
            # What was acknowledged to a leader of the past may have been replaced since, as after a later write.
            held = message.index <= durable.last_index()
            past = message.term < durable.initial_state()[0].term
            require(held or past, f"{host.id} acknowledges {message.index} before it is synced")
        if kind not in (MessageType.PRE_VOTE, MessageType.PRE_VOTE_RESPONSE):
            host.term_sent = max(host.term_sent, message.term)

    def check_applied(self, host: Host) -> None:
        """State machine safety: who has applied the same index has the same state."""
        machine = host.machine
        digest = self._digests.setdefault(machine.index, machine.digest)
        require(digest == machine.digest, f"{host.id} has another state at {machine.index}")

    def check_read(self, host: Host, state: ReadState) -> None:
        """No read is older than what was committed anywhere when it was asked for."""
        self.reads_answered += 1
        floor = self._read_floor[host.id, state.context]
        require(state.index >= floor, f"{host.id} reads {state.index} where {floor} was committed")
