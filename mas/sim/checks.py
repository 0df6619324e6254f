"""Raft's promises, held against everything that leaves a node, reaches a disk or is handed to a state machine.

Only ports are watched, so that nothing here rests on how the actors keep their state. From the Raft paper's figure 3:
election safety, log matching, leader completeness, state-machine safety. From the rules: what is said is on disk first
(21), no database is ahead of its log without a note (28), no log is cut beyond what is flushed (26), and a follower
that has heard of its leader elects nobody (`sim.leases`).
"""

from collections.abc import Callable, Sequence

from mas.multiraft import Leadership, Restored
from mas.raft import (
    ConfChange,
    ConfigError,
    ConfState,
    Entry,
    EntryType,
    Message,
    MessageType,
    SnapshotMetadata,
    confchange,
)
from mas.sim.disk import Disk
from mas.sim.history import Operation
from mas.sim.leases import Leases
from mas.sim.machine import State, decode_command
from mas.sim.trace import Trace
from mas.storage.raft_log.value import Append, Change, GroupLog, Restore

_FROM_A_LEADER = frozenset({MessageType.APPEND, MessageType.HEARTBEAT})
_PRE_VOTES = frozenset({MessageType.PRE_VOTE, MessageType.PRE_VOTE_RESPONSE})


class GroupChecks:
    """One group's past, as far as any node has made it known."""

    def __init__(
        self, group: int, conf: ConfState, disks: dict[int, Disk], trace: Trace, leases: Leases
    ) -> None:
        self.group = group
        self.committed: list[Entry] = []
        """Every entry that a state machine was handed, from index 1 on."""
        self.states = [State()]
        """By index: what every state machine must be."""
        self.digests = [0]
        """By length of the list: what every read of it must see."""
        self.places: dict[int, int] = {}
        """Where in the list each write is, by its operation's number."""
        self.confs = [(0, conf)]
        """Every membership, and the index that made it."""
        self.leaders: dict[int, int] = {}
        self.isolated: dict[int, None] = {}
        """Nodes whose replica has found its log damaged, and is out of service."""
        self._disks = disks
        self._trace = trace
        self.leases = leases
        self._entries: dict[tuple[int, int], tuple[Entry, int]] = {}
        self._votes: dict[tuple[int, int], int] = {}
        self._terms: dict[int, int] = {}
        self._told = 0
        """The highest commit that any message has told of."""

    @property
    def conf(self) -> ConfState:
        """The newest membership that is known to be committed."""
        return self.confs[-1][1]

    # -- what a node says ----------------------------------------------------------------------

    def on_message(self, node: int, message: Message) -> None:
        """It leaves the node now."""
        log = self._disks[node].durable.get(self.group, GroupLog())
        kind = message.type
        self.leases.on_sent(node, message)
        if kind not in _PRE_VOTES and message.term:
            self._check_term(node, message, log)
        if kind in _FROM_A_LEADER:
            self._check_leader(node, message.term, log)
            self._check_counted(node, message, log)
        elif kind is MessageType.VOTE or (kind is MessageType.VOTE_RESPONSE and not message.reject):
            choice = node if kind is MessageType.VOTE else message.to
            given = self._votes.setdefault((node, message.term), choice)
            self._require(
                node, given == choice, "votes for {} and {} in term {}", given, choice, message.term
            )
        elif (
            kind is MessageType.APPEND_RESPONSE
            and not message.reject
            # What it held in a term that is over, the next leader may have replaced before it was synced. That leader
            # lacks it, so whoever voted for it never held it, and no quorum did: the word is worth nothing, as in etcd.
            and message.term >= log.hard_state.term
        ):
            self._require(
                node,
                message.index <= log.last,
                "acknowledges index {}, and its synced log ends at {}",
                message.index,
                log.last,
            )
        self._told = max(self._told, message.commit)

    def _check_term(self, node: int, message: Message, log: GroupLog) -> None:
        term = max(log.hard_state.term, log.term(log.last))
        self._require(
            node,
            message.term <= term,
            "speaks in term {}, and term {} is synced",
            message.term,
            term,
        )
        said = self._terms.get(node, 0)
        if message.term > said:
            self._terms[node] = message.term

    def _check_leader(self, node: int, term: int, log: GroupLog) -> None:
        """Election safety, and at a leader's first word leader completeness."""
        known = self.leaders.get(term)
        if known is None:
            self.leaders[term] = node
            self._check_complete(node, term, log)
        else:
            self._require(node, known == node, "leads term {}, which node {} leads", term, known)

    def _check_complete(self, node: int, term: int, log: GroupLog) -> None:
        for entry in reversed(self.committed):
            if entry.index <= log.start:
                return
            if entry.term < term:
                self._require(
                    node,
                    log.holds(entry.index, entry.term),
                    "leads term {} without entry {} of term {}, which is committed",
                    term,
                    entry.index,
                    entry.term,
                )

    def _check_counted(self, node: int, message: Message, log: GroupLog) -> None:
        """Check that a node that tells of a new commit has counted entries of its own term, and no others (5.4.2)."""
        commit = message.commit
        if max(self._told, len(self.committed)) < commit <= log.last:
            term = log.term(commit)
            self._require(
                node,
                term == message.term,
                "leads term {} and commits entry {} of term {} by counting",
                message.term,
                commit,
                term,
            )

    # -- what it writes ------------------------------------------------------------------------

    def on_write(self, disk: Disk, before: GroupLog, after: GroupLog, change: Change) -> None:
        """A change of the node's log, on its way to the disk."""
        old, new = before.hard_state, after.hard_state
        goes_on = new.term > old.term or (new.term == old.term and old.vote in (0, new.vote))
        self._require(
            disk.node, goes_on and new.commit >= old.commit, "goes back from {} to {}", old, new
        )
        if isinstance(change, Append):
            self._check_entries(disk.node, change.entries, before)
        elif isinstance(change, Restore):
            self.leases.end(disk.node)
            self._check_restore(disk.node, before, after, change.metadata)

    def _check_restore(
        self, node: int, before: GroupLog, after: GroupLog, metadata: SnapshotMetadata
    ) -> None:
        """A voter never forgets what it acknowledged (rule 28, snapshots)."""
        self._require(
            node,
            after.last == before.last or not before.holds(metadata.index, metadata.term),
            "drops entries up to {} for a snapshot of {} that its log goes on from",
            before.last,
            metadata.index,
        )

    def _check_entries(self, node: int, entries: Sequence[Entry], before: GroupLog) -> None:
        """Log matching: an index and a term name one entry, with one entry before it."""
        first = entries[0].index
        term_before = before.term(first - 1)
        for entry in entries:
            known, known_before = self._entries.setdefault(
                (entry.index, entry.term), (entry, term_before)
            )
            self._require(
                node,
                known == entry and known_before == term_before,
                "has another entry {} of term {}, or another before it",
                entry.index,
                entry.term,
            )
            term_before = entry.term

    def on_stored(self, disk: Disk) -> None:
        """Log or database of the node are other ones now."""
        log = disk.durable.get(self.group)
        if log is None:
            return
        applied = disk.databases.get(self.group, State()).applied
        self._require(
            disk.node,
            applied <= log.last or log.note is not None,
            "has a database at {}, a log that ends at {}, and no note of a snapshot",
            applied,
            log.last,
        )
        start = disk.written[self.group].start
        self._require(
            disk.node,
            start <= applied,
            "has a log that begins behind {}, and a database at {}",
            start,
            applied,
        )

    # -- what its state machine gets -----------------------------------------------------------

    def on_committed(self, node: int, entries: tuple[Entry, ...]) -> None:
        """The entries were handed out."""
        log = self._disks[node].durable[self.group]
        for entry in entries:
            self._require(
                node,
                entry.index <= log.start or log.holds(entry.index, entry.term),
                "is handed entry {} of term {}, which isn't in its synced log",
                entry.index,
                entry.term,
            )
            if entry.index <= len(self.committed):
                known = self.committed[entry.index - 1]
                self._require(
                    node,
                    known == entry,
                    "is handed entry {} of term {}, where others got one of term {}",
                    entry.index,
                    entry.term,
                    known.term,
                )
            else:
                self._commit(node, entry)

    def _commit(self, node: int, entry: Entry) -> None:
        """The first that anybody sees of it."""
        expected = len(self.committed) + 1
        self._require(
            node, entry.index == expected, "is handed entry {} before {}", entry.index, expected
        )
        self._require(
            node,
            any(self._is_held(conf, entry) for _, conf in self.confs[-2:]),
            "is handed entry {} of term {}, which no quorum holds",
            entry.index,
            entry.term,
        )
        self.committed.append(entry)
        state = self.states[-1].apply(entry)
        self.states.append(state)
        if state.length > self.states[-2].length:
            operation = decode_command(entry.data).operation
            self._require(
                node,
                operation not in self.places,
                "is handed write {} for the second time",
                operation,
            )
            self.places[operation] = state.length
            self.digests.append(state.digest)
        if entry.type is EntryType.CONF_CHANGE:
            try:
                conf = confchange.apply(self.conf, ConfChange.decode(entry.data))
            except ConfigError:
                return
            self.confs.append((entry.index, conf))

    def _is_held(self, conf: ConfState, entry: Entry) -> bool:
        """Tell whether a quorum's disks have it, of a membership that a leader may have counted by."""
        halves = [half for half in (conf.voters, conf.voters_outgoing) if half]
        return all(
            2 * sum(self._holds(node, entry) for node in half) > len(half) for half in halves
        )

    def _holds(self, node: int, entry: Entry) -> bool:
        disk = self._disks.get(node)
        log = disk.durable.get(self.group) if disk is not None else None
        return log is not None and (entry.index <= log.start or log.holds(entry.index, entry.term))

    def on_state(self, node: int, state: State) -> None:
        """A state machine is at this state: all are, who have applied as much."""
        self._require(
            node,
            state.applied < len(self.states) and state == self.states[state.applied],
            "has a state at {} that no other replica has",
            state.applied,
        )

    # -- what comes back from a crash ----------------------------------------------------------

    def on_start(self, node: int, log: GroupLog, state: State) -> None:
        """A node starts from this."""
        term = max(log.hard_state.term, log.term(log.last))
        said = self._terms.get(node, 0)
        self._require(node, term >= said, "comes back in term {}, and was in term {}", term, said)
        self.leases.forget(node, term)
        self.on_state(node, state)

    def _require(self, node: int, holds: bool, promise: str, *details: object) -> None:  # noqa: FBT001  (an assertion's condition)
        if not holds:
            self._trace.violate(node, f"group {self.group}: {promise.format(*details)}")


class Checks:
    """All groups' promises: the watcher of disks, networks and state machines."""

    def __init__(
        self,
        groups: dict[int, ConfState],
        disks: dict[int, Disk],
        trace: Trace,
        leases: Callable[[int], Leases],
        now: Callable[[], float],
    ) -> None:
        self._now = now
        self.restored = 0
        """How many snapshots have reached a state machine."""
        self.groups = {
            group: GroupChecks(group, conf, disks, trace, leases(group))
            for group, conf in groups.items()
        }
        self._trace = trace

    def on_sent(self, node: int, messages: list[tuple[int, Message]]) -> None:
        """A frame leaves a node."""
        for group, message in messages:
            self.groups[group].on_message(node, message)

    def on_received(self, node: int, messages: list[tuple[int, Message]]) -> None:
        """A frame reaches a node's host."""
        for group, message in messages:
            self.groups[group].leases.on_received(node, message)

    def on_write(
        self, disk: Disk, group: int, before: GroupLog | None, after: GroupLog, change: Change
    ) -> None:
        """See `DiskWatcher`."""
        if before is not None:
            self.groups[group].on_write(disk, before, after, change)

    def on_stored(self, disk: Disk) -> None:
        """See `DiskWatcher`."""
        for group in self.groups.values():
            group.on_stored(disk)

    def on_committed(self, node: int, group: int, entries: tuple[Entry, ...]) -> None:
        """See `sim.machine.Watcher`."""
        self._trace.add(
            node, f"is handed {entries[0].index} to {entries[-1].index} of group {group}"
        )
        self.groups[group].on_committed(node, entries)

    def on_applied(self, node: int, group: int, state: State) -> None:
        """See `sim.machine.Watcher`."""
        self.groups[group].on_state(node, state)

    def on_leadership(self, node: int, group: int, leadership: Leadership) -> None:
        """See `sim.machine.Watcher`."""
        what = "leads" if leadership.leading else f"follows node {leadership.leader} in"
        self._trace.add(node, f"{what} group {group}, term {leadership.term}")

    def on_restored(self, node: int, group: int, state: State, restored: Restored) -> None:
        """See `sim.machine.Watcher`."""
        self._trace.add(node, f"has group {group} restored at {restored.index}")
        self.restored += 1
        self.groups[group].leases.forget(node, restored.term)
        self._trace.require(
            node,
            (state.applied, state.term) == (restored.index, restored.term),
            "is told of a snapshot at {}, and its database is at {}",
            restored.index,
            state.applied,
        )
        self.groups[group].on_state(node, state)

    def on_question(self, operation: Operation) -> None:
        """A client asks a node."""
        operation.floor = len(self.groups[operation.group].digests) - 1
        what = f"is asked to {operation.kind} in group {operation.group}"
        self._trace.add(operation.node, what, f"({operation.number})")

    def on_answer(self, operation: Operation) -> None:
        """See `sim.machine.Watcher`."""
        operation.answered = self._now()
        if operation.kind == "read" and not operation.refused:
            self._trace.require(
                operation.node,
                operation.length >= operation.floor,
                "reads {} items, and {} were committed when it was asked",
                operation.length,
                operation.floor,
            )
        what = "refuses to" if operation.refused else f"answers {operation.length} to"
        self._trace.add(operation.node, f"{what} {operation.kind} ({operation.number})")
