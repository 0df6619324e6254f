"""One Raft group of this node: drives its core, and stands between the host and whoever keeps the group's state.

    propose ──► propose_c ──► core ──► Ready ──► the host's writes and frames
                                         │
    commit_c ◄── entries, leadership, reads, in order
    error_c  ◄── what the group did not take

The users' methods come first; those behind them are the host's, which calls them in its turns only. What users ask waits
in `group_intake`; `reconfiguration` says which members and leaders a group may get.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import msgspec

from mas.errors import CorruptData, NotLeading, Unavailable
from mas.limits import TURN_BYTES_MAX, check_message_size
from mas.multiraft import reconfiguration
from mas.multiraft.apply_queue import ApplyQueue
from mas.multiraft.clocks import PeerClocks
from mas.multiraft.compaction import LogMargin
from mas.multiraft.config import HostConfig
from mas.multiraft.events import CommitEvent, Leadership, ReadReady, Restored
from mas.multiraft.group_intake import GroupIntake, Proposal
from mas.multiraft.group_log import GroupLog, lost_acknowledged
from mas.multiraft.members import Members, adds, is_member_behind, members_of
from mas.raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    Config,
    ConfigError,
    Entry,
    EntryType,
    HardState,
    IllegalMessage,
    LostAcknowledged,
    Message,
    MessageType,
    NotLeader,
    ProposalDropped,
    RaftError,
    RawNode,
    Ready,
    Role,
    Snapshot,
    Status,
    Storage,
)
from mas.runtime import Clock, Dice, Mailbox, Promise

_log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_EVENTS = 64
_COMMITTED_BYTES = 1 << 20
_INFLIGHT_APPENDS = 64
_MESSAGES_WAITING = 256
"""What the core may have to say while a write is in flight: behind a disk that hangs, nothing more is taken in."""
_COMPLAINT_SECONDS = 60.0
"""Between two lines of the log about one peer."""
_OF_ELECTIONS = frozenset({MessageType.VOTE, MessageType.PRE_VOTE, MessageType.TIMEOUT_NOW})


class GroupStatus(msgspec.Struct, frozen=True):
    """Shows a group at a glance."""

    group: int
    raft: Status
    leading: bool
    """Leads, and its term's first entry has been handed out."""
    pushed: int
    """The last index that commit_c has got."""
    applied: int
    flushed: int
    """How far the state is applied in memory, and durably."""
    first_index: int
    """Of the log."""
    awaiting_snapshot: bool
    """The database lacks entries that the log no longer holds: it waits for a snapshot."""
    error: str
    """Why this replica is stopped; empty while it runs."""


class GroupContext(msgspec.Struct, frozen=True):
    """Holds what all groups of a host share."""

    config: HostConfig
    clock: Clock
    dice: Dice
    clocks: PeerClocks
    wake: Callable[["RaftGroup"], None]
    """Called where the group has something to do."""
    newest_snapshot: Callable[[int], Snapshot | None]
    members_changed: Callable[["RaftGroup"], None]
    """Called where `members` has another newest membership, and not only this node knows."""
    write_lost: Callable[[int, str], None]
    """Writes down that the group's log has lost what this node had acknowledged."""


def _isolates(
    method: Callable[Concatenate["RaftGroup", P], R],
) -> Callable[Concatenate["RaftGroup", P], R | None]:
    """If the group reaches an impossible state, stop this replica; the node and its other groups keep running."""

    @wraps(method)
    def guarded(self: "RaftGroup", /, *args: P.args, **kwargs: P.kwargs) -> R | None:
        if self.error is not None:
            return None
        try:
            return method(self, *args, **kwargs)
        except (RaftError, CorruptData, AssertionError) as error:
            self.isolate(error)
            return None

    return guarded


class RaftGroup:
    """Drives one group, and is its `resource.ports.Group`. `RaftHost.add_group` makes it."""

    def __init__(
        self,
        group: int,
        storage: Storage,
        members: Members,
        applied: int,
        context: GroupContext,
        removed_at: int = 0,
    ) -> None:
        self.id = group
        self.storage = storage
        self._removed_at = removed_at
        self.commit_c: Mailbox[CommitEvent] = Mailbox(f"commit_c {group}", _EVENTS)
        self.error: BaseException | None = None
        """Why this replica is stopped."""
        self.in_flight = False
        """A Ready has been taken and isn't finished."""
        self.is_frozen = False
        """No Ready is taken: the log is being brought to a snapshot."""
        self.awaiting_snapshot = applied < storage.first_index() - 1
        self._context = context
        self._intake = GroupIntake(group)
        self.error_c = self._intake.error_c
        self._flush_waiters: list[tuple[int, Promise[None]]] = []
        self._margin = LogMargin(
            context.config.log_margin_entries, context.config.log_margin_seconds, context.clock
        )
        self.applied = self.flushed = applied
        # A replica whose database is behind takes part in consensus all the same, and waits for a snapshot.
        start = max(applied, storage.first_index() - 1)
        self.apply_queue = ApplyQueue(self.commit_c, storage, start)
        self.apply_queue.paused = self.awaiting_snapshot
        self.members = members
        self._announced = Leadership(0, 0, leading=False)
        self._committed_a_tick_ago: int | None = None
        self._introduced: frozenset[int] = frozenset()
        self._complained: dict[int, float] = {}
        self._start_core(start)

    def _start_core(self, applied: int) -> None:
        config = self._context.config
        log = GroupLog(
            self.storage, self.members.at(applied), lambda: self._context.newest_snapshot(self.id)
        )
        self._core = RawNode(
            Config(
                id=config.node,
                rng=self._context.dice,
                election_tick=config.election_tick,
                heartbeat_tick=config.heartbeat_tick,
                applied=applied,
                max_size_per_msg=TURN_BYTES_MAX,
                max_committed_size_per_ready=_COMMITTED_BYTES,
                max_inflight_msgs=_INFLIGHT_APPENDS,
                life=self._removed_at,
            ),
            log,
        )
        self.votes_suspended = self._removed_at > 0 and not is_member_behind(
            self.storage, self._removed_at, config.node
        )
        """An erased replica neither votes nor campaigns before its log has made it a member again: what it knew is gone, so
        it could elect a candidate that lacks what it had acknowledged."""
        self.hard_state = self.storage.initial_state()[0]
        self._unwritten: HardState | None = None
        self.role = Role.FOLLOWER
        self.leader = 0
        self._committed_term = 0

    # -- for whoever keeps the state (`resource.ports.Group`) ----------------------------------

    def propose(self, number: int, data: bytes) -> None:
        """Put a proposal on propose_c. `number` comes back over error_c if the group doesn't take it.

        Raises:
            Overloaded: propose_c is full.
            InvalidRequest: no frame has room for it.
        """
        check_message_size(len(data), "proposal")
        self._intake.propose_c.put(Proposal(number, data))
        self._wake_to_take()

    def read_index(self, number: int) -> None:
        """Ask for a linearizable read. `number` comes back in a `ReadReady`, or over error_c. Raises `Overloaded`."""
        self._intake.reads.put(number)
        self._wake_to_take()

    def set_applied(self, applied: int, flushed: int) -> None:
        """Note how far the state is applied in memory, and durably (rule 26, durably applied): the log is cut up to the
        latter.
        """
        self.applied, self.flushed = applied, flushed
        self._release_flush_waiters()
        if self.apply_queue.is_waiting or self._intake.is_refusing:
            self._context.wake(self)

    def stamp_us(self) -> int:
        """Return the time to stamp a proposal with, in microseconds: this node's clock, or its peers' median where that is off
        by a second (rule 12, time decides no outcome).
        """
        return self._context.clocks.stamp_us(self.members.newest.voters)

    @property
    def messages_waiting(self) -> int:
        """The number of messages that the core sends once its Ready is finished."""
        return self._core.messages_waiting

    def status(self) -> GroupStatus:
        """Return the group's state at a glance."""
        return GroupStatus(
            group=self.id,
            raft=self._core.status(),
            leading=self._announced.leading,
            pushed=self.apply_queue.pushed,
            applied=self.applied,
            flushed=self.flushed,
            first_index=self.storage.first_index(),
            awaiting_snapshot=self.awaiting_snapshot,
            error="" if self.error is None else f"{type(self.error).__name__}: {self.error}",
        )

    # -- for operators: membership and leadership ----------------------------------------------

    def change_members(self, change: ConfChange) -> None:
        """Propose another membership; `status` shows it once it is applied.

        Raises:
            NotLeading: ask the leader.
            Unavailable: another change is on its way, this one doesn't fit, would leave the group without
                a quorum that answers, or leadership moves first.
        """
        node = self._context.config.node
        try:
            if reconfiguration.removes(change, node):
                self.transfer_leadership()
                raise Unavailable(
                    f"node {node} leads bucket {self.id} and is to be removed: "
                    "leadership moves to another node first, ask again there"
                )
            reconfiguration.check_quorum_after(self.id, self._core.status(), change)
            self._core.propose_conf_change(change)
        except NotLeader as error:
            raise NotLeading(str(error), error.leader) from error
        except ProposalDropped as error:
            raise Unavailable(str(error)) from error
        self._context.wake(self)

    def transfer_leader(self, node: int) -> None:
        """Begin to transfer leadership to the voter that an operator has named.

        `status` shows when that node leads, or that the transfer has failed.

        Raises:
            NotLeading: ask the leader.
            InvalidRequest: the node isn't a voter of the group.
        """
        reconfiguration.check_voter(self.id, self.members.newest.voters, node)
        try:
            self._core.transfer_leader(node)
        except NotLeader as error:
            raise NotLeading(str(error), error.leader) from error
        self._context.wake(self)

    def transfer_candidates(self) -> tuple[int, ...]:
        """Return the voters that can take over at once; nobody where this node doesn't lead or transfers already."""
        if not self._announced.leading:
            return ()
        return reconfiguration.transfer_candidates(self._core.status())

    def transfer_leadership(self, target: int = 0) -> None:
        """Begin to transfer leadership to `target`, or to the voter with the longest log.

        Does nothing where this node doesn't lead, transfers already or finds nobody: whoever wants it asks again later.
        """
        self._context.wake(self)
        status = self._core.status()
        if status.role is not Role.LEADER or status.lead_transferee:
            return
        target = target or reconfiguration.longest_log(status)
        if target:
            self._core.transfer_leader(target)

    # -- the host's: what comes in -------------------------------------------------------------

    @_isolates
    def step(self, peer: int, message: Message) -> None:
        """Step a peer's message; drop one of a stranger, or one that no correct peer sends.

        A message that proves that this replica has lost what it had acknowledged stops it for good, because with what it
        lost it would have voted otherwise. While its votes are suspended the message proves nothing, since it may speak
        of the replica's life before: then it is stepped without the commit that says so.
        """
        if self._is_full:
            return  # it comes again
        try:
            self._check_sender(peer, message)
            if not self.votes_suspended or message.type not in _OF_ELECTIONS:
                self._core.step(message)
        except LostAcknowledged as error:
            if self.votes_suspended:
                self._core.step(msgspec.structs.replace(message, commit=0))
                return
            proof = f"node {peer} proves it: {error}"
            self._context.write_lost(self.id, proof)
            raise lost_acknowledged(self.id, self._context.config.node, proof) from error
        except IllegalMessage as error:
            self._complain(peer, error)

    def introduce(self, holders: Iterable[int]) -> None:
        """Hear these nodes too, which hold the group as the cluster says: a log that is far behind doesn't know them all."""
        self._introduced = frozenset(holders)

    def _check_sender(self, peer: int, message: Message) -> None:
        """Raise `IllegalMessage` for what comes from a node that has no say in this group."""
        if peer not in self._introduced and peer not in members_of(self.members.newest):
            raise IllegalMessage(f"{message.type.name} of a node that isn't a member")
        if message.from_ != peer and message.type is not MessageType.READ_INDEX:
            raise IllegalMessage(f"a message of node {message.from_}")
        if message.type is MessageType.SNAPSHOT:
            raise IllegalMessage("a SNAPSHOT that wasn't offered as a file first")

    def _complain(self, peer: int, error: IllegalMessage) -> None:
        """Log what a peer did wrong, once a minute at most."""
        now = self._context.clock.monotonic()
        last = self._complained.get(peer)
        if last is None or now - last >= _COMPLAINT_SECONDS:
            self._complained[peer] = now
            _log.warning("bucket %d: from node %d: %s; dropped", self.id, peer, error)

    @_isolates
    def tick(self, count: int) -> None:
        """Let `count` ticks pass."""
        for _ in range(0 if self.votes_suspended or self._is_full else count):
            self._core.tick()
        if self.role is Role.LEADER:
            if self.awaiting_snapshot:
                self.transfer_leadership()  # without its state it can serve nobody
            self._promote_learner()
        # A new leader knows how much is committed only behind its term's first entry.
        leading = self._announced.leading
        self._committed_a_tick_ago = self.apply_queue.committed if leading else None

    def _promote_learner(self) -> None:
        """Make a voter of a learner that holds all that was committed a tick ago (dissertation, 4.2.1).

        The leader does it by itself, so that an added replica becomes a voter even if the operator who added it is gone.
        The learner must hold the change that added it too: what it acknowledged before that may be of an earlier life of
        its, and be gone.
        """
        learners, committed = self.members.newest.learners, self._committed_a_tick_ago
        if not learners or committed is None:
            return
        promised = max(committed, self.members.changed_at)
        node = reconfiguration.caught_up_learner(self._core.status(), learners, promised)
        if not node:
            return
        change = ConfChange((ConfChangeSingle(ConfChangeType.ADD_NODE, node),))
        try:
            self._core.propose_conf_change(change)
        except ProposalDropped:
            return  # another change is on its way, or leadership: the next tick looks again
        _log.info("bucket %d: node %d has caught up and becomes a voter", self.id, node)

    @_isolates
    def campaign(self) -> None:
        """Campaign now: for a group of one, and tests."""
        self._context.wake(self)
        self._core.campaign()

    @_isolates
    def report_unreachable(self, peer: int) -> None:
        """Tell the core that what was sent to this peer is probably lost."""
        self._core.report_unreachable(peer)

    @_isolates
    def report_snapshot(self, peer: int, *, ok: bool) -> None:
        """Tell the core that a follower has its snapshot, or has to be offered it anew."""
        self._core.report_snapshot(peer, ok)

    # -- the host's: quiescence ----------------------------------------------------------------

    @_isolates
    def quiescent_status(self) -> Status | None:
        """Return the core's status if the group may quiesce, else None.

        It may where nothing waits or is under way, a learner's promotion included, and all its log is applied.
        """
        if (
            self.in_flight
            or self.is_frozen
            or self.apply_queue.paused
            or self.apply_queue.is_waiting
            or not self._intake.is_idle
            or self.members.newest.learners
            or self._core.has_ready()
        ):
            return None
        status = self._core.status()
        return status if status.last_index == status.applied else None

    @_isolates
    def wake_following(self, leader: int, silence: int) -> None:
        """Go on as if the leader's last heartbeat had come `silence` ticks ago."""
        term = self.hard_state.term
        self._core.step(Message(MessageType.HEARTBEAT, self._context.config.node, leader, term))
        self.tick(silence)

    @_isolates
    def assume_responses(self, members: Sequence[int]) -> None:
        """Step a HEARTBEAT_RESPONSE of each of these members, whose host heartbeats have said that they are quiescent.

        Called as the leader quiesces: it answers the leader's heartbeats until the group wakes.
        """
        node, term = self._context.config.node, self.hard_state.term
        for member in members:
            self._core.step(Message(MessageType.HEARTBEAT_RESPONSE, node, member, term))

    # -- the host's: what goes out -------------------------------------------------------------

    def take(self) -> Ready | None:
        """Return the next Ready, with what was proposed and asked by now; None where there is none."""
        self._intake.send_refusals()
        if self.error is not None:
            self.apply_queue.resume()
            self._intake.refuse_all(f"bucket {self.id} is stopped on this node: {self.error}")
            return None
        return None if self.in_flight or self.is_frozen else self._take()

    @_isolates
    def _take(self) -> Ready | None:
        self.apply_queue.resume()
        if not self._intake.is_refusing:
            self._intake.take_proposals(self._core)
            if self.role is Role.LEADER:
                self._intake.take_reads(self._core)
            else:
                self._intake.refuse_waiting_reads(self.leader)
        if not self._core.has_ready():
            return None
        ready = self._core.ready()
        self.in_flight = True
        return ready

    @_isolates
    def finish(self, ready: Ready) -> None:
        """Hand out what is committed and let the core go on, once all that the Ready had to write is durable."""
        self.in_flight = False
        if self.votes_suspended:
            node, since = self._context.config.node, self._removed_at
            self.votes_suspended = not any(
                entry.index > since and adds(entry, node) for entry in ready.entries
            )
        if ready.hard_state is not None:
            self.hard_state = ready.hard_state
            self._unwritten = None if self.must_write(ready) else ready.hard_state
        if ready.soft_state is not None:
            self.role, self.leader = ready.soft_state.role, ready.soft_state.leader
        if ready.committed_entries:
            self._commit(ready.committed_entries)
        self._announce()
        for state in ready.read_states:
            numbers = self._intake.finish_round(state.context)
            if numbers:
                self.apply_queue.push(ReadReady(numbers, state.index))
        self._core.advance(ready)

    def must_write(self, ready: Ready) -> bool:
        """Return whether something is to be synced before the Ready is done: entries, term or vote, or the commit of a
        change of the membership, since other nodes rely on this node's having applied it (`membership.removal`), also
        after a restart.
        """
        return ready.must_sync or any(
            entry.type is EntryType.CONF_CHANGE for entry in ready.committed_entries
        )

    def hard_state_to_write(self, ready: Ready) -> HardState | None:
        """Return the hard state to write where a write is due anyway: a commit index alone isn't worth one (rule 27,
        commits and members).
        """
        return ready.hard_state or self._unwritten

    def may_send_before_write(self, ready: Ready) -> bool:
        """Return whether APPENDs may leave while the write is in flight: not before the vote that made this leader is durable."""
        after, before = ready.hard_state, self.hard_state
        return after is None or (after.term == before.term and after.vote == before.vote)

    def may_cut(self) -> int:
        """Return the index up to which the log can be cut now, 0 where it isn't worth a write."""
        if self.error is not None or self.apply_queue.paused or self.is_frozen:
            return 0
        flushed = min(self.flushed, self.apply_queue.pushed)
        cut = self._margin.allows(self.storage.first_index(), flushed)
        if cut and self.role is Role.LEADER:
            progress = self._core.status().progress.values()
            needed = min((one.match for one in progress), default=cut)
            cut = self._margin.spare(cut, flushed, needed)
        return cut

    # -- the host's: snapshots and stops -------------------------------------------------------

    async def wait_flushed(self) -> None:
        """Return once the database durably holds all that was handed out, or the group has stopped."""
        if (
            self.awaiting_snapshot
            or self.error is not None
            or self.flushed >= self.apply_queue.pushed
        ):
            return
        waiter: Promise[None] = Promise()
        self._flush_waiters.append((self.apply_queue.pushed, waiter))
        await waiter
        self._flush_waiters = [item for item in self._flush_waiters if not item[1].done()]

    @_isolates
    def restart(self, members: Members, restored: Restored) -> None:
        """Go on from the snapshot that database and log hold now, as a start would: nothing else was promised."""
        assert not self.in_flight
        self.awaiting_snapshot = self.is_frozen = False
        self.members = members
        self.applied = self.flushed = restored.index
        self._intake.refuse_rounds(self.leader)
        self._start_core(restored.index)
        self.apply_queue.restart(restored)
        self._committed_a_tick_ago = None
        self._context.members_changed(self)
        self._announce()
        self._context.wake(self)

    def isolate(self, error: BaseException) -> None:
        """Stop this replica, and say so. Whoever keeps its state hears that it leads no more, and nothing else."""
        if self.error is not None:
            return
        self.error = error
        _log.critical("bucket %d is stopped on this node: %s", self.id, error, exc_info=error)
        self.role, self.leader = Role.FOLLOWER, 0
        for event in self.apply_queue.end():
            if isinstance(event, ReadReady):
                self._intake.refuse_reads(event.numbers, self.leader)
        self._announce()
        self._release_flush_waiters()
        self._context.wake(self)

    # -- inside --------------------------------------------------------------------------------

    @property
    def _is_full(self) -> bool:
        """Whether nothing can be sent now, and too much waits to be sent already."""
        held = self.in_flight or self.is_frozen
        return held and self.messages_waiting >= _MESSAGES_WAITING

    def _release_flush_waiters(self) -> None:
        for index, waiter in self._flush_waiters:
            if self.flushed >= index or self.error is not None:
                waiter.set(None)

    def _wake_to_take(self) -> None:
        """Wake the host, but not while a Ready is in flight: nothing is taken then, and its end wakes the host anyway."""
        if not self.in_flight or self.error is not None:
            self._context.wake(self)

    def _commit(self, entries: tuple[Entry, ...]) -> None:
        for entry in entries:
            if entry.type is EntryType.CONF_CHANGE:
                self._apply_conf_change(entry)
        self._committed_term = entries[-1].term
        self.apply_queue.commit(entries)

    def _apply_conf_change(self, entry: Entry) -> None:
        try:
            conf_state = self._core.apply_conf_change(ConfChange.decode(entry.data))
        except ConfigError as error:
            _log.warning("bucket %d: entry %d changes nothing: %s", self.id, entry.index, error)
        else:
            self.members.changed(entry.index, conf_state)
            if self.role is not Role.LEADER or conf_state.voters == (self._context.config.node,):
                self._context.members_changed(self)
            # Else the followers tell, a tick later: by then more than one knows.

    def _announce(self) -> None:
        """Say who leads, where that has changed; `leading` is true only behind the first entry of the leader's own term."""
        term, is_leader = self.hard_state.term, self.role is Role.LEADER
        leading = is_leader and self._committed_term == term
        last = self._announced
        if (last.term, last.leader, last.leading) == (term, self.leader, leading):
            return
        if not is_leader or last.term != term:
            self._intake.refuse_rounds(self.leader)
        self._announced = Leadership(term, self.leader, leading)
        self.apply_queue.push(self._announced)
