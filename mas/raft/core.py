"""The Raft state machine of one node: everything that can change a role, a term, a vote or the commit index.

Messages, ticks and proposals come in; what is to be sent, persisted and applied waits here until the
host takes it (`mas.raft.node`). Sections are those of the Raft paper (extended version) and of Ongaro's
dissertation; the protocol is etcd's, with these differences:

- all reads of a Ready share one round of heartbeats, which begins when the Ready is taken;
- a node's own vote counts once it is persisted, for the campaign in which it was given, and not otherwise;
- who asks for a vote and who refuses it tell each other what is committed, so that a change that only one
  of them knows to be committed can't leave the group without a leader (TiKV's);
- a read is answered only where no newer read of its context waits (`mas.raft.read_only`).
"""

from collections.abc import Callable
from typing import ClassVar

from mas.raft import confchange
from mas.raft.config import Config, ReadOnlyOption
from mas.raft.errors import (
    Compacted,
    ConfigError,
    IllegalMessage,
    LostAcknowledged,
    NotLeader,
    ProposalDropped,
    Unavailable,
)
from mas.raft.log import Log
from mas.raft.messages import (
    ConfChange,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    ProgressState,
    Role,
    Snapshot,
    Status,
)
from mas.raft.progress import Progress
from mas.raft.quorum import VoteResult, joint_index, joint_vote
from mas.raft.read_only import ForwardedReads, PendingRead, ReadAnswers, ReadRounds
from mas.raft.storage import Storage
from mas.raft.validation import check_message, check_persisted

NOBODY = 0
FIRST_TERM = 1
TRANSFER = b"transfer"  # the context of a VOTE that the leader itself asked for

_RESPONSES = frozenset(
    {
        MessageType.APPEND_RESPONSE,
        MessageType.VOTE_RESPONSE,
        MessageType.PRE_VOTE_RESPONSE,
        MessageType.HEARTBEAT_RESPONSE,
        MessageType.READ_INDEX_RESPONSE,
    }
)
_ANSWER = {
    MessageType.VOTE: MessageType.VOTE_RESPONSE,
    MessageType.PRE_VOTE: MessageType.PRE_VOTE_RESPONSE,
}
_FROM_A_LEADER = frozenset({MessageType.APPEND, MessageType.HEARTBEAT, MessageType.SNAPSHOT})


class Raft:
    """One node of one group. Only `RawNode` and tests look inside."""

    __slots__ = (
        "_batch",
        "_batch_key",
        "_config",
        "_election_elapsed",
        "_electors",
        "_first_life",
        "_first_of_term",
        "_forwarded",
        "_heartbeat_elapsed",
        "_lease_given_away",
        "_log",
        "_members",
        "_peers",
        "_pending_conf_index",
        "_postponed_reads",
        "_progress",
        "_reads",
        "_transferee",
        "_uncommitted_size",
        "_votes",
        "campaign_number",
        "conf",
        "id",
        "leader",
        "messages",
        "own_vote_due",
        "randomized_election_timeout",
        "read_answers",
        "role",
        "term",
        "vote",
    )

    # What `_reset` sets.
    leader: int
    campaign_number: int
    own_vote_due: bool
    randomized_election_timeout: int
    _votes: dict[int, bool]
    _election_elapsed: int
    _heartbeat_elapsed: int
    _progress: dict[int, Progress]
    _first_of_term: int
    _transferee: int
    _lease_given_away: bool
    _pending_conf_index: int
    _uncommitted_size: int
    _reads: ReadRounds
    _postponed_reads: list[PendingRead]
    _batch_key: tuple[int, int]
    _batch: tuple[Entry, ...]

    def __init__(self, config: Config, storage: Storage) -> None:
        config.validate()
        hard_state, conf_state = storage.initial_state()
        check_persisted(config, storage, hard_state, conf_state)

        self.id = config.id
        self._config = config
        self._log = log = Log(storage)
        log.applied = max(log.applied, config.applied)
        log.committed = max(log.applied, hard_state.commit)
        self.term, self.vote = hard_state.term, hard_state.vote
        # Entries are written before the hard state that comes with them: a crash between the two leaves
        # a term in the log that the node has been in, and can't have voted in. To stand for it could give
        # it two leaders. But a group may begin with a log of the first term, and then stands for that.
        if log.last_term > max(self.term, FIRST_TERM):
            self.term, self.vote = log.last_term, NOBODY

        self.role = Role.FOLLOWER
        self.messages: list[Message] = []
        self.read_answers = ReadAnswers()
        self._forwarded: ForwardedReads | None = None
        self._first_life = hard_state == HardState()
        self.campaign_number = 0
        self._adopt(conf_state)
        self._reset()

    # -- what the host asks ------------------------------------------------------------------

    def tick(self) -> None:
        """Let a tick pass: campaign after silence, or lead on."""
        if self.role is Role.LEADER:
            self._tick_leader()
            return
        self._election_elapsed += 1
        if self._election_elapsed >= self.randomized_election_timeout and self._may_campaign():
            self._election_elapsed = 0
            self.campaign()

    def campaign(self) -> None:
        """Ask for votes, where this node may; by a pre-vote first, if so configured."""
        if self.role is Role.LEADER or self._blocks_campaign():
            return
        if self._config.pre_vote:
            self._begin_pre_vote()
        else:
            self._begin_election(context=b"")

    def step(self, message: Message) -> None:
        """Take a message in. Raises IllegalMessage, and then nothing has changed."""
        self.check(message)
        is_response = message.type in _RESPONSES
        if is_response and message.from_ not in self._members:
            return
        if message.reject and message.commit and message.type != MessageType.APPEND_RESPONSE:
            self._learn_commit(message.commit, message.commit, message.log_term)
        # READ_INDEX has no term: what it asks for is proved in whatever term the leader is in.
        if message.term and message.term != self.term:
            if not self._settle_term(message):
                return
        elif message.term == FIRST_TERM and self._may_have_been_led(message):
            self._refuse_vote(message, _ANSWER[message.type])
            return
        if is_response and message.from_ == self.id:
            return  # one's own vote and log count once they are persisted, and need no message
        self._HANDLERS[message.type](self, message)

    def check(self, message: Message) -> None:
        """Raise IllegalMessage for what no correct peer would send."""
        check_message(message, self.id, self.term, self._log.last_index)
        if self.role is not Role.LEADER or message.term != self.term:
            return
        if message.type in _FROM_A_LEADER and message.from_ != self.id:
            raise IllegalMessage(
                f"node {message.from_} leads term {self.term} too: a voter has forgotten its vote"
            )
        if (
            message.type == MessageType.APPEND_RESPONSE
            and not message.reject
            and message.index > self._log.last_index
        ):
            raise LostAcknowledged(
                f"node {message.from_} acknowledges {message.index} of this leader's log, "
                f"which ends at {self._log.last_index}"
            )

    def propose(self, data: bytes) -> None:
        """Append an entry to the leader's log."""
        self._check_takes_proposals()
        self._reserve(len(data))
        self._append_own(EntryType.NORMAL, data)

    def propose_conf_change(self, change: ConfChange) -> None:
        """Append a change of the configuration, one at a time (dissertation, 4.1)."""
        self._check_takes_proposals()
        if self._pending_conf_index > self._log.applied:
            raise ProposalDropped(
                f"entry {self._pending_conf_index} may change the configuration and isn't applied "
                f"(applied is {self._log.applied}): propose again once it is"
            )
        try:
            confchange.apply(self.conf, change)
        except ConfigError as error:
            raise ProposalDropped(f"the change doesn't fit the configuration: {error}") from error
        data = change.encode()
        self._reserve(len(data))
        self._append_conf_change(data)

    def apply_conf_change(self, change: ConfChange) -> ConfState:
        """Change the configuration; raises ConfigError, and then nothing has changed."""
        self._switch(confchange.apply(self.conf, change))
        return self.conf

    def read_index(self, context: bytes) -> None:
        """Ask for an index that a linearizable read may be served at (dissertation, 6.4)."""
        count = 1 + self.read_answers.withdraw(context)
        if self.role is Role.LEADER:
            if self._forwarded is not None:
                self._forwarded.forget(context)
            self._read(PendingRead(self.id, 0, context, count))
            return
        number = self._forwarded_reads().add(context, count)
        if self.leader != NOBODY:
            self._forward_read(self.id, number, context)

    def transfer_leader(self, transferee: int) -> None:
        """Hand leadership to a voter once its log has caught up (dissertation, 3.10)."""
        self._check_leader()
        if transferee == self.id:
            self._transferee = NOBODY
            return
        progress = self._progress.get(transferee)
        if progress is None or progress.is_learner or transferee == self._transferee:
            return
        self._election_elapsed = 0  # the transfer has one election timeout
        self._transferee = transferee
        if progress.match == self._log.last_index:
            self._send_timeout_now(transferee)
        else:
            self._send_append(transferee, progress, if_empty=True)

    def forget_leader(self) -> None:
        """Become free to vote, the leader being known to be gone; nothing where a lease counts on it."""
        if self.role is Role.FOLLOWER and self._config.read_only is not ReadOnlyOption.LEASE:
            self.leader = NOBODY

    def report_unreachable(self, node_id: int) -> None:
        """Probe the peer again: what was sent there last is probably lost."""
        progress = self._progress.get(node_id)
        if progress is not None and progress.state is ProgressState.REPLICATE:
            progress.become_probe()

    def report_snapshot(self, node_id: int, *, ok: bool) -> None:
        """Note that the snapshot sent there has arrived, or has failed; either way wait for a sign of life."""
        progress = self._progress.get(node_id)
        if progress is None or progress.state is not ProgressState.SNAPSHOT:
            return
        if not ok:
            progress.pending_snapshot = 0
        progress.become_probe()
        progress.flow_paused = True

    def status(self) -> Status:
        """Return this node's state at a glance."""
        return Status(
            id=self.id,
            role=self.role,
            leader=self.leader,
            term=self.term,
            vote=self.vote,
            commit=self._log.committed,
            applied=self._log.applied,
            last_index=self._log.last_index,
            conf_state=self.conf,
            lead_transferee=self._transferee,
            progress={node: progress.status() for node, progress in self._progress.items()},
        )

    # -- what the host takes and brings back -------------------------------------------------

    @property
    def log(self) -> Log:
        """The log, for reading."""
        return self._log

    @property
    def hard_state(self) -> HardState:
        """What is to be persisted of term, vote and commit."""
        return HardState(self.term, self.vote, self._log.committed)

    def has_unsent_reads(self) -> bool:
        """Tell whether reads wait for their round to begin."""
        return self._reads.unsent

    def begin_read_round(self) -> None:
        """Ask a quorum, once for all reads since the last round; alone, this node is the quorum."""
        self._reads.begin_round()
        self._answer_confirmed_reads()
        if self._reads:
            self._broadcast_heartbeat()

    def persisted(self, last: Entry | None, *, snapshot: bool) -> None:
        """Note that a Ready's entries up to `last`, its hard state and its snapshot are on disk."""
        if snapshot:
            self._log.snapshot_persisted()
        if last is not None:
            self._log.persisted(last)

    def applied(self, entries: tuple[Entry, ...]) -> None:
        """Note that the state machine has applied these entries."""
        if entries:
            self._log.applied_to(entries[-1].index)
            if self._uncommitted_size:
                term = self.term
                self._uncommitted_size -= sum(len(e.data) for e in entries if e.term == term)
        self._leave_joint_if_due()
        self._log.trim_memory()

    def count_own(self, campaign_number: int) -> None:
        """Count this node's own vote of that campaign, and its own log as far as it is persisted."""
        if campaign_number == self.campaign_number and self.own_vote_due:
            self.own_vote_due = False
            self._poll(self.id, granted=True)
        if (
            self.role is Role.LEADER
            and self._progress[self.id].acknowledged(self._log.stable)
            and self._commit_if_possible()
        ):
            self._broadcast_append()

    # -- terms and roles (Raft, 5.1 and 5.2) -------------------------------------------------

    def _settle_term(self, message: Message) -> bool:
        """Bring the terms of message and node together; return False where the message ends here."""
        if message.term < self.term:
            self._answer_the_past(message)
            return False
        if message.type == MessageType.PRE_VOTE or message.type == MessageType.VOTE:
            transfer = message.type == MessageType.VOTE and bool(message.context)
            if self._in_lease() and not transfer:
                return False
        if message.type == MessageType.PRE_VOTE:
            return True
        if message.type == MessageType.PRE_VOTE_RESPONSE and not message.reject:
            return True
        leads = message.type in _FROM_A_LEADER
        self._become_follower(message.term, message.from_ if leads else NOBODY)
        return True

    def _answer_the_past(self, message: Message) -> None:
        """Tell a sender that its term is over, where silence could leave it or us stuck.

        With check-quorum or pre-vote our own vote requests may go unheard, so a leader of an earlier
        term would never learn of ours but by such an answer.
        """
        if message.type == MessageType.PRE_VOTE:
            self._refuse_vote(message, MessageType.PRE_VOTE_RESPONSE)
        elif (self._config.check_quorum or self._config.pre_vote) and (
            message.type == MessageType.APPEND or message.type == MessageType.HEARTBEAT
        ):
            self._send(Message(MessageType.APPEND_RESPONSE, message.from_, self.id, self.term))

    def _in_lease(self) -> bool:
        """Tell whether a leader was heard of within the least election timeout (Raft, end of 6)."""
        return (
            self._config.check_quorum
            and self.leader != NOBODY
            and self._election_elapsed < self._config.election_tick
        )

    def _become_follower(self, term: int, leader: int) -> None:
        if term != self.term:
            self.term = term
            self.vote = NOBODY
        self.role = Role.FOLLOWER
        self._reset()
        self.leader = leader

    def _reset(self) -> None:
        """Forget what belonged to the role before; elections start from a fresh timeout (5.2)."""
        config = self._config
        self.leader = NOBODY
        self.campaign_number += 1
        self.own_vote_due = False
        self._votes = {}
        self._election_elapsed = 0
        self._heartbeat_elapsed = 0
        self.randomized_election_timeout = config.election_tick + config.rng.randrange(
            config.election_tick
        )
        self._progress = {}
        self._first_of_term = 0
        self._transferee = NOBODY
        self._lease_given_away = False
        self._pending_conf_index = 0
        self._uncommitted_size = 0
        self._reads = ReadRounds()
        self._postponed_reads = []
        self._batch_key = (0, 0)
        self._batch = ()

    def _begin_pre_vote(self) -> None:
        """Ask whether an election could be won, disturbing nobody's term (dissertation, 9.6)."""
        self.role = Role.PRE_CANDIDATE
        self.leader = NOBODY
        self._votes = {}
        self._ask_for_votes(MessageType.PRE_VOTE, self.term + 1, b"")

    def _begin_election(self, *, context: bytes) -> None:
        self.term += 1
        self.vote = self.id
        self.role = Role.CANDIDATE
        self._reset()
        self._ask_for_votes(MessageType.VOTE, self.term, context)

    def _ask_for_votes(self, kind: MessageType, term: int, context: bytes) -> None:
        self.campaign_number += 1
        self.own_vote_due = True
        log = self._log
        for node in self._electors:
            if node != self.id:
                self._send(
                    Message(
                        kind,
                        node,
                        self.id,
                        term,
                        log_term=log.last_term,
                        index=log.last_index,
                        commit=log.committed,
                        context=context,
                    )
                )

    def _may_campaign(self) -> bool:
        return self.id in self._electors and self._log.snapshot is None

    def _blocks_campaign(self) -> bool:
        return not self._may_campaign() or self._has_unapplied_conf_change()

    def _has_unapplied_conf_change(self) -> bool:
        """Tell whether a committed change waits: to campaign by the old configuration could elect two."""
        log = self._log
        next_index, end = log.applied + 1, log.committed + 1
        while next_index < end:
            page = log.slice(next_index, end, self._config.max_committed_size_per_ready)
            if any(entry.type == EntryType.CONF_CHANGE for entry in page):
                return True
            next_index += len(page)
        return False

    def _on_vote_request(self, message: Message) -> None:
        """Grant or refuse a vote (5.2, 5.4.1), whatever this node believes its own part to be.

        A learner answers too: it may have been made a voter by an entry that it hasn't seen, and without its
        vote nobody could bring it that entry.
        """
        pre_vote = message.type == MessageType.PRE_VOTE
        response = _ANSWER[message.type]
        if self._may_vote_for(message) and self._log.is_up_to_date(message.log_term, message.index):
            self._send(Message(response, message.from_, self.id, message.term or self.term))
            if not pre_vote:
                self._election_elapsed = 0
                self.vote = message.from_
        else:
            self._refuse_vote(message, response)

    def _refuse_vote(self, request: Message, response: MessageType) -> None:
        """Refuse, say what is committed here, and learn what the candidate knows to be committed.

        A leader that has left the group by its own entry may be the only one that knows this entry to be
        committed: the others can't win by the old configuration without its vote, and it can't lead. Or a node
        has been made a voter and doesn't know it: the others can't win without its vote, which its longer log
        refuses, and it doesn't stand.
        """
        committed = self._log.committed
        self._send(
            Message(
                response,
                request.from_,
                self.id,
                self.term,
                log_term=self._log.term(committed),
                commit=committed,
                reject=True,
            )
        )
        self._learn_commit(request.commit, request.index, request.log_term)

    def _learn_commit(self, commit: int, index: int, term: int) -> None:
        """Commit what a peer knows to be committed, if its log and this one agree up to `index`: true in every term."""
        log = self._log
        if self.role is Role.LEADER or not log.matches(index, term):
            return
        news = log.commit_to(min(commit, index))
        if news and self.role is not Role.FOLLOWER and self._has_unapplied_conf_change():
            self._become_follower(self.term, NOBODY)

    def _may_have_been_led(self, request: Message) -> bool:
        """Tell whether a candidate's log ends in the very term that it stands for, in which this node is already.

        The group may begin so; or the term has a leader, whose entries the candidate has kept, and lost the term.
        """
        return request.type in _ANSWER and request.log_term == request.term and self.vote == NOBODY

    def _may_vote_for(self, message: Message) -> bool:
        """Return whether this node may grant its vote: it has one a term, and a pre-vote for a later term is none."""
        if message.type == MessageType.PRE_VOTE and message.term > self.term:
            return True
        return self.vote == message.from_ or (self.vote == NOBODY and self.leader == NOBODY)

    def _on_vote_response(self, message: Message) -> None:
        if self._answers_campaign(message):
            self._poll(message.from_, granted=not message.reject)

    def _answers_campaign(self, message: Message) -> bool:
        if message.type == MessageType.VOTE_RESPONSE:
            return self.role is Role.CANDIDATE
        # A grant names the term it is for: one for an earlier campaign is none for this.
        return self.role is Role.PRE_CANDIDATE and (
            message.reject or message.term in (0, self.term + 1)
        )

    def _poll(self, node: int, *, granted: bool) -> None:
        self._votes.setdefault(node, granted)
        result = joint_vote(self.conf.voters, self.conf.voters_outgoing, self._votes)
        if result is VoteResult.LOST:
            self._become_follower(self.term, NOBODY)
        elif result is VoteResult.WON and self.role is Role.PRE_CANDIDATE:
            self._begin_election(context=b"")
        elif result is VoteResult.WON:
            self._become_leader()

    def _become_leader(self) -> None:
        self._reset()
        self.role = Role.LEADER
        self.leader = self.id
        log = self._log
        for node in self._members:
            self._progress[node] = self._new_progress(node, log.last_index + 1)
        own = self._progress[self.id]
        own.acknowledged(log.stable)
        own.become_replicate()
        own.recent_active = True
        # Whether the log ends in a change of the configuration isn't looked up: until what it holds
        # is applied, no other change is taken.
        self._pending_conf_index = log.last_index
        self._first_of_term = log.last_index + 1
        self._append_own(EntryType.NORMAL, b"")

    def _new_progress(self, node: int, next_index: int, *, life: int = 0) -> Progress:
        is_learner = node not in self._electors
        return Progress(
            next_index, self._config.max_inflight_msgs, is_learner=is_learner, life=life
        )

    def _on_timeout_now(self, message: Message) -> None:
        """Campaign because the leader transfers leadership: without a pre-vote, since it wants to be disturbed (3.10)."""
        if self.role is Role.FOLLOWER and not self._blocks_campaign():
            self._begin_election(context=TRANSFER)

    # -- leading: time -----------------------------------------------------------------------

    def _tick_leader(self) -> None:
        self._heartbeat_elapsed += 1
        self._election_elapsed += 1
        if self._election_elapsed >= self._config.election_tick:
            self._election_elapsed = 0
            if self._config.check_quorum and not self._quorum_is_active():
                self._become_follower(self.term, NOBODY)
                return
            self._transferee = NOBODY
        if self._heartbeat_elapsed >= self._config.heartbeat_tick:
            self._heartbeat_elapsed = 0
            self._broadcast_heartbeat()

    def _quorum_is_active(self) -> bool:
        """Tell whether a quorum was heard of since the last look; who leads nobody steps down (6.2)."""
        active = {node: progress.recent_active for node, progress in self._progress.items()}
        for node in self._peers:
            self._progress[node].recent_active = False
        result = joint_vote(self.conf.voters, self.conf.voters_outgoing, active)
        return result is VoteResult.WON

    def _send_timeout_now(self, node: int) -> None:
        # From here on the lease no longer keeps the others from electing somebody (6.4.1).
        self._lease_given_away = True
        self._send(Message(MessageType.TIMEOUT_NOW, node, self.id, self.term))

    # -- leading: replication (5.3) ----------------------------------------------------------

    def _check_leader(self) -> None:
        if self.role is not Role.LEADER:
            hint = f"node {self.leader} leads" if self.leader else "nobody is known to lead"
            raise NotLeader(
                f"node {self.id} isn't the leader of term {self.term}; {hint}: ask there",
                self.leader,
            )

    def _check_takes_proposals(self) -> None:
        self._check_leader()
        if self._transferee != NOBODY:
            raise ProposalDropped(
                f"leadership is being transferred to node {self._transferee}: propose there, soon"
            )

    def _reserve(self, size: int) -> None:
        """Count a proposal against what may be uncommitted; the first always fits, and so does b""."""
        limit, used = self._config.max_uncommitted_size, self._uncommitted_size
        if limit and size and used and used + size > limit:
            raise ProposalDropped(
                f"{used} bytes are uncommitted, and {size} more exceed {limit}: wait for commits"
            )
        self._uncommitted_size = used + size

    def _append_own(self, kind: EntryType, data: bytes) -> None:
        log = self._log
        log.append_own(Entry(log.last_index + 1, self.term, kind, data))
        self._broadcast_append()

    def _append_conf_change(self, data: bytes) -> None:
        self._append_own(EntryType.CONF_CHANGE, data)
        self._pending_conf_index = self._log.last_index

    def _leave_joint_if_due(self) -> None:
        """Leave a joint configuration that leaves by itself, once it is applied (dissertation, 4.3).

        Asked at every advance, so that a transfer that comes to nothing only delays it. A new leader first applies an
        entry of its own term.
        """
        if (
            self.conf.auto_leave
            and self.role is Role.LEADER
            and self._transferee == NOBODY
            and self._log.applied >= max(self._pending_conf_index, self._first_of_term)
        ):
            data = ConfChange().encode()
            self._uncommitted_size += len(data)
            self._append_conf_change(data)

    def _broadcast_append(self) -> None:
        """Send every peer that isn't paused one APPEND: what comes next for it, and what is committed."""
        for node in self._peers:
            self._send_append(node, self._progress[node], if_empty=True)

    def _send_append(self, node: int, progress: Progress, *, if_empty: bool) -> bool:
        """Send one APPEND, or a snapshot where entries are compacted; whether anything was sent."""
        if progress.paused:
            return False
        log = self._log
        before = progress.next - 1
        try:
            log_term = log.term(before)
            entries = self._next_entries(progress)
        except Compacted:
            return self._send_snapshot(node, progress)
        if not entries and not if_empty:
            return False
        self._send(
            Message(
                MessageType.APPEND,
                node,
                self.id,
                self.term,
                log_term=log_term,
                index=before,
                commit=log.committed,
                entries=entries,
            )
        )
        progress.sent(len(entries), log.committed)
        return True

    def _next_entries(self, progress: Progress) -> tuple[Entry, ...]:
        """Collect what goes into the next APPEND; nothing into a full window, which an empty one may free.

        Peers that have kept up get the same entries, so the last batch is kept: a leader's own
        log only grows.
        """
        last_index = self._log.last_index
        if progress.next > last_index:
            return ()
        if progress.state is ProgressState.REPLICATE and progress.window_full:
            return ()
        key = progress.next, last_index
        if key != self._batch_key:
            entries = self._log.slice(progress.next, last_index + 1, self._config.max_size_per_msg)
            self._batch_key, self._batch = key, tuple(entries)
        return self._batch

    def _send_snapshot(self, node: int, progress: Progress) -> bool:
        """Send the newest snapshot (7), unless nobody is there to take it or there is none yet."""
        if not progress.recent_active:
            return False
        try:
            snapshot = self._log.storage.snapshot()
        except Unavailable:
            return False
        if snapshot.metadata.index < 1:
            return False
        progress.become_snapshot(snapshot.metadata.index)
        self._send(Message(MessageType.SNAPSHOT, node, self.id, self.term, snapshot=snapshot))
        return True

    def _broadcast_heartbeat(self) -> None:
        """Tell every peer that this node leads, and what of its log is committed.

        The newest round of reads goes along, so that a round whose heartbeats were lost is confirmed.
        """
        context = self._reads.last_round.to_bytes(8) if self._reads else b""
        committed = self._log.committed
        for node in self._peers:
            progress = self._progress[node]
            commit = min(progress.match, committed)  # never more than the peer is known to hold
            self._send(
                Message(
                    MessageType.HEARTBEAT, node, self.id, self.term, commit=commit, context=context
                )
            )
            progress.sent_commit = commit

    def _on_append_response(self, message: Message) -> None:
        progress = self._progress.get(message.from_)
        if progress is None or message.life < progress.life:
            return
        if message.life > progress.life:
            progress = self._begin_anew(message.from_, message.life)
        progress.recent_active = True
        if message.reject:
            self._step_back(message, progress)
        else:
            self._count_acknowledgement(message.from_, message.index, progress)

    def _begin_anew(self, node: int, life: int) -> Progress:
        """Begin a peer's progress anew: it was erased and added again, and no longer holds what it acknowledged before."""
        progress = self._new_progress(node, max(self._log.last_index, 1), life=life)
        self._progress[node] = progress
        return progress

    def _step_back(self, message: Message, progress: Progress) -> None:
        """Go back to where a peer's log may match, skipping what can't (end of 5.3).

        The peer holds `log_term` at the hint, so it agrees with nothing of ours of a later term up to there.
        """
        hint = message.reject_hint
        if message.log_term:
            hint, _ = self._log.agreement_at_most(hint, message.log_term)
        if progress.rejected(message.index, hint):
            self._send_append(message.from_, progress, if_empty=True)

    def _count_acknowledgement(self, node: int, index: int, progress: Progress) -> None:
        # A probe is answered even where that is no news: the peer is there, so feed it again.
        answered_probe = progress.state is ProgressState.PROBE and index == progress.match
        if not progress.acknowledged(index) and not answered_probe:
            return
        match progress.state:
            case ProgressState.PROBE:
                progress.become_replicate()
            case ProgressState.SNAPSHOT:
                # Whatever snapshot it has applied: what counts is that the log can go on from there.
                if progress.match + 1 >= self._log.first_index:
                    progress.become_replicate()
            case ProgressState.REPLICATE:
                progress.free_window(index)
        if self._commit_if_possible():
            self._broadcast_append()
        elif progress.lacks_commit(self._log.committed):
            self._send_append(node, progress, if_empty=True)
        while self._send_append(node, progress, if_empty=False):
            pass  # as much as the window takes, now that there may be more room
        if node == self._transferee and progress.match == self._log.last_index:
            self._send_timeout_now(node)

    def _on_heartbeat_response(self, message: Message) -> None:
        progress = self._progress.get(message.from_)
        if progress is None:
            return
        progress.recent_active = True
        progress.flow_paused = False
        if progress.match < self._log.last_index or progress.state is ProgressState.PROBE:
            # An empty APPEND where the window is full: if all in it was lost, this finds out.
            self._send_append(message.from_, progress, if_empty=True)
        if message.context and self._reads:
            confirmed = int.from_bytes(message.context)
            if progress.read_round < confirmed <= self._reads.last_round:
                progress.read_round = confirmed
                self._answer_confirmed_reads()

    def _commit_if_possible(self) -> bool:
        """Commit what a quorum holds, if it is of this term (5.4.2); return whether that is news."""
        progress = self._progress
        index = joint_index(
            [progress[node].match for node in self.conf.voters],
            [progress[node].match for node in self.conf.voters_outgoing],
        )
        if not self._may_commit(index) or not self._log.commit_to(index):
            return False
        if self._postponed_reads:
            self._release_postponed_reads()
        return True

    def _may_commit(self, index: int) -> bool:
        """Return whether counting copies may commit up to `index`: never entries of earlier terms (5.4.2, figure 8).

        A leader's own come behind its first; a group that begins with entries of term 1 has some before it.
        """
        return index >= self._first_of_term or self._log.matches(index, self.term)

    # -- following (5.3, 7) ------------------------------------------------------------------

    def _follow(self, leader: int) -> bool:
        """Note that the term's leader is alive; False on a leader, which follows nobody."""
        if self.role is Role.FOLLOWER:
            self._election_elapsed = 0
            self.leader = leader
        elif self.role is Role.LEADER:
            return False
        else:
            self._become_follower(self.term, leader)
        return True

    def _on_append(self, message: Message) -> None:
        if not self._follow(message.from_):
            return
        log = self._log
        if message.index < log.committed:
            self._acknowledge(message.from_, log.committed)
        elif log.matches(message.index, message.log_term):
            reached = log.append_after(message.index, message.entries)
            log.commit_to(min(message.commit, reached))
            self._acknowledge(message.from_, reached)
        else:
            self._reject(message)

    def _acknowledge(self, leader: int, index: int) -> None:
        self._send(
            Message(
                MessageType.APPEND_RESPONSE,
                leader,
                self.id,
                self.term,
                index=index,
                life=self._config.life,
            )
        )

    def _reject(self, message: Message) -> None:
        """Refuse what doesn't follow the log, and say where the logs may agree (end of 5.3)."""
        hint = min(message.index, self._log.last_index)
        hint, hint_term = self._log.agreement_at_most(hint, message.log_term)
        self._send(
            Message(
                MessageType.APPEND_RESPONSE,
                message.from_,
                self.id,
                self.term,
                log_term=hint_term,
                index=message.index,
                reject=True,
                reject_hint=hint,
                life=self._config.life,
            )
        )

    def _on_heartbeat(self, message: Message) -> None:
        if not self._follow(message.from_):
            return
        self._log.commit_to(message.commit)
        self._send(
            Message(
                MessageType.HEARTBEAT_RESPONSE,
                message.from_,
                self.id,
                self.term,
                context=message.context,
            )
        )

    def _on_snapshot(self, message: Message) -> None:
        if not self._follow(message.from_):
            return
        assert message.snapshot is not None
        if self._restore(message.snapshot):
            self._acknowledge(message.from_, self._log.last_index)
        else:
            self._acknowledge(message.from_, self._log.committed)

    def _restore(self, snapshot: Snapshot) -> bool:
        """Begin again from a snapshot (7); False where the log holds what it stands for, or is ahead.

        A log that holds the snapshot's last entry keeps everything behind it: it was acknowledged.
        """
        metadata, log = snapshot.metadata, self._log
        conf = metadata.conf_state
        if metadata.index <= log.committed:
            return False
        if self.id not in conf.voters + conf.voters_outgoing + conf.learners:
            return False
        if log.matches(metadata.index, metadata.term):
            log.commit_to(metadata.index)
            return False
        log.restore(snapshot)
        self._switch(conf)
        return True

    # -- membership (6; dissertation, 4) -----------------------------------------------------

    def _adopt(self, conf: ConfState) -> None:
        self.conf = conf
        self._electors = tuple(sorted({*conf.voters, *conf.voters_outgoing}))
        self._members = tuple(sorted({*self._electors, *conf.learners}))
        self._peers = tuple(node for node in self._members if node != self.id)

    def _switch(self, conf: ConfState) -> None:
        """Go on with another configuration: what was short of a quorum may have one now."""
        self._adopt(conf)
        if self.role is not Role.LEADER:
            return
        if self.id not in self._electors:
            self._become_follower(self.term, NOBODY)
            return
        self._switch_progress()
        if self._transferee not in self._electors:
            self._transferee = NOBODY
        committed = self._commit_if_possible()
        for node in self._peers:
            self._send_append(node, self._progress[node], if_empty=committed)
        self._answer_confirmed_reads()

    def _switch_progress(self) -> None:
        """Keep what is known of members that stay; a new one counts as heard of, not to lose the quorum by it."""
        known, self._progress = self._progress, {}
        for node in self._members:
            progress = known.get(node)
            if progress is None:
                progress = self._new_progress(node, max(self._log.last_index, 1))
                progress.recent_active = True
            progress.is_learner = node not in self._electors
            self._progress[node] = progress

    # -- reads (dissertation, 6.4) -----------------------------------------------------------

    def _on_read_index(self, message: Message) -> None:
        if self.role is Role.LEADER:
            self._read(PendingRead(message.from_, message.reject_hint, message.context))
        elif self.leader != NOBODY:
            self._forward_read(message.from_, message.reject_hint, message.context)

    def _forward_read(self, reader: int, number: int, context: bytes) -> None:
        kind = MessageType.READ_INDEX
        self._send(Message(kind, self.leader, reader, reject_hint=number, context=context))

    def _read(self, read: PendingRead) -> None:
        """Fix a read's index, but only once the leader has committed in its term: before that it doesn't know its commit."""
        if self._log.committed < self._first_of_term:
            self._postponed_reads.append(read)
            return
        read.index = self._log.committed
        if self._config.read_only is ReadOnlyOption.LEASE and not self._lease_given_away:
            self._answer_read(read)
        else:
            self._reads.add(read)

    def _release_postponed_reads(self) -> None:
        reads, self._postponed_reads = self._postponed_reads, []
        for read in reads:
            self._read(read)

    def _answer_confirmed_reads(self) -> None:
        if not self._reads:
            return
        progress = self._progress
        progress[self.id].read_round = self._reads.last_round
        confirmed = joint_index(
            [progress[node].read_round for node in self.conf.voters],
            [progress[node].read_round for node in self.conf.voters_outgoing],
        )
        for read in self._reads.confirmed(confirmed):
            self._answer_read(read)

    def _answer_read(self, read: PendingRead) -> None:
        if read.reader == self.id:
            self.read_answers.add(read.context, read.index, read.count)
            return
        self._send(
            Message(
                MessageType.READ_INDEX_RESPONSE,
                read.reader,
                self.id,
                self.term,
                index=read.index,
                reject_hint=read.number,
                context=read.context,
            )
        )

    def _on_read_index_response(self, message: Message) -> None:
        if self.role is not Role.FOLLOWER:
            return
        count = self._forwarded_reads().answered(message.context, message.reject_hint)
        if count:
            self.read_answers.add(message.context, message.index, count)
        # The index was the leader's commit, with an entry of its term there: the same here is committed.
        if self._log.matches(message.index, message.term):
            self._log.commit_to(message.index)

    def _forwarded_reads(self) -> ForwardedReads:
        """Return the reads sent to a leader, numbered from 0 on in a node's first life, anywhere in others."""
        if self._forwarded is None:
            first_number = 0 if self._first_life else self._config.rng.randrange(1 << 61)
            self._forwarded = ForwardedReads(first_number)
        return self._forwarded

    def _send(self, message: Message) -> None:
        self.messages.append(message)

    _HANDLERS: ClassVar[dict[MessageType, Callable[["Raft", Message], None]]] = {
        MessageType.APPEND: _on_append,
        MessageType.APPEND_RESPONSE: _on_append_response,
        MessageType.VOTE: _on_vote_request,
        MessageType.VOTE_RESPONSE: _on_vote_response,
        MessageType.PRE_VOTE: _on_vote_request,
        MessageType.PRE_VOTE_RESPONSE: _on_vote_response,
        MessageType.HEARTBEAT: _on_heartbeat,
        MessageType.HEARTBEAT_RESPONSE: _on_heartbeat_response,
        MessageType.SNAPSHOT: _on_snapshot,
        MessageType.TIMEOUT_NOW: _on_timeout_now,
        MessageType.READ_INDEX: _on_read_index,
        MessageType.READ_INDEX_RESPONSE: _on_read_index_response,
    }
