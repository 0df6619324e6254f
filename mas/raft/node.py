"""RawNode: the door of the room. What changed in the core becomes a Ready, one at a time."""

from mas.raft.config import Config
from mas.raft.core import Raft
from mas.raft.messages import (
    ConfChange,
    ConfState,
    HardState,
    Message,
    MessageType,
    Ready,
    Snapshot,
    SoftState,
    Status,
)
from mas.raft.storage import Storage


class RawNode:
    """One node of a group, without threads, clock or disk: the host has those.

    The host calls `tick` at a steady pace, `step` for every message that arrives, and whenever
    `has_ready`: takes `ready`, does what it says in the order that `Ready` gives, and calls `advance`.
    """

    __slots__ = (
        "_accepted_campaign",
        "_core",
        "_deferred_snapshot",
        "_hard_state",
        "_max_committed_size",
        "_outstanding",
        "_soft_state",
    )

    def __init__(self, config: Config, storage: Storage) -> None:
        """Start from what `storage` holds; raises ConfigError, CorruptState.

        A first start is a storage whose conf_state names the voters; a restart is the storage as it
        was left. A node that joins starts with an empty conf_state, or with the one that its log
        begins with, and doesn't campaign.
        """
        self._core = Raft(config, storage)
        self._max_committed_size = config.max_committed_size_per_ready
        self._soft_state = SoftState(self._core.leader, self._core.role)
        self._hard_state = _persisted(storage)
        self._outstanding: Ready | None = None
        self._accepted_campaign = 0
        self._deferred_snapshot: Message | None = None

    def tick(self) -> None:
        """Let one tick pass."""
        self._core.tick()

    def campaign(self) -> None:
        """Campaign now, where this node may."""
        self._core.campaign()

    def step(self, message: Message) -> None:
        """Take in a peer's message; raises IllegalMessage.

        A response of an unknown peer is ignored. A SNAPSHOT that comes between `ready` and `advance`
        takes effect at `advance`: a change handed out before it must not meet its configuration.
        """
        if self._outstanding is not None and message.type == MessageType.SNAPSHOT:
            self._core.check(message)
            self._defer(message)
        else:
            self._core.step(message)

    def propose(self, data: bytes) -> None:
        """Append to the leader's log; raises NotLeader, ProposalDropped. b"" is always admitted."""
        self._core.propose(data)

    def propose_conf_change(self, change: ConfChange) -> None:
        """Propose a change of the configuration; raises NotLeader, ProposalDropped."""
        self._core.propose_conf_change(change)

    def apply_conf_change(self, change: ConfChange) -> ConfState:
        """Apply a CONF_CHANGE entry's change; a host that refuses it doesn't call this.

        Raises ConfigError where the configuration doesn't allow it; nothing changes then. A leader that is
        no longer a voter becomes follower at once.
        """
        return self._core.apply_conf_change(change)

    def read_index(self, context: bytes) -> None:
        """Ask for a linearizable read: a ReadState with this context answers it, or nothing ever.

        Contexts may repeat. An older read of a context waits for the newest one's proof, so a host
        that reads all the time gives each turn a context of its own.
        """
        self._core.read_index(context)

    def transfer_leader(self, transferee: int) -> None:
        """Begin to hand over leadership; to oneself, cancel that. Raises NotLeader."""
        self._core.transfer_leader(transferee)

    def forget_leader(self) -> None:
        """Let a follower vote at once; nothing on a leader, or with LEASE reads."""
        self._core.forget_leader()

    def report_unreachable(self, node_id: int) -> None:
        """Note that the last message to this peer wasn't delivered."""
        self._core.report_unreachable(node_id)

    def report_snapshot(self, node_id: int, ok: bool) -> None:  # noqa: FBT001  (etcd's signature)
        """Note that the snapshot sent to this peer has arrived, or has failed."""
        self._core.report_snapshot(node_id, ok=ok)

    @property
    def messages_waiting(self) -> int:
        """How many messages the next Ready has by now: they grow for as long as one is outstanding."""
        return len(self._core.messages)

    def has_ready(self) -> bool:
        """Tell whether there is something to do for the host; never while a Ready is outstanding."""
        core = self._core
        log = core.log
        return self._outstanding is None and (
            bool(core.messages)
            or log.has_unstable()
            or log.has_unapplied()
            or core.has_unsent_reads()
            or bool(core.read_answers)
            or log.snapshot is not None
            or core.own_vote_due
            or self._hard_state_changed()
            or self._soft_state_changed()
        )

    def ready(self) -> Ready:
        """Take what there is to do. Taken one at a time: `advance` comes before the next."""
        assert self._outstanding is None, "a Ready is outstanding: advance before the next"
        core = self._core
        if core.has_unsent_reads():
            core.begin_read_round()
        log = core.log
        entries = tuple(log.unstable())
        ready = Ready(
            soft_state=self._take_soft_state(),
            hard_state=core.hard_state if self._hard_state_changed() else None,
            entries=entries,
            snapshot=log.snapshot,
            committed_entries=tuple(log.unapplied(self._max_committed_size)),
            messages=tuple(core.messages),
            read_states=core.read_answers.take(),
            must_sync=self._must_sync(log.snapshot) or bool(entries),
        )
        core.messages = []
        if ready.hard_state is not None:
            self._hard_state = ready.hard_state
        self._accepted_campaign = core.campaign_number
        self._outstanding = ready
        return ready

    def advance(self, ready: Ready) -> None:
        """Note that the host has done what `ready` asked for."""
        assert ready is self._outstanding, "advance takes the Ready that ready gave last"
        self._outstanding = None
        core = self._core
        last = ready.entries[-1] if ready.entries else None
        core.persisted(last, snapshot=ready.snapshot is not None)
        core.count_own(self._accepted_campaign)
        core.applied(ready.committed_entries)
        deferred, self._deferred_snapshot = self._deferred_snapshot, None
        if deferred is not None:
            core.step(deferred)

    def status(self) -> Status:
        """Return this node's state at a glance."""
        return self._core.status()

    @property
    def randomized_election_timeout(self) -> int:
        """Ticks of silence after which this node campaigns, until it is drawn again."""
        return self._core.randomized_election_timeout

    def _defer(self, message: Message) -> None:
        """Keep the newest SNAPSHOT; an older one may be lost like any message."""
        kept = self._deferred_snapshot
        if kept is None or _age(message) >= _age(kept):
            self._deferred_snapshot = message

    def _take_soft_state(self) -> SoftState | None:
        if not self._soft_state_changed():
            return None
        self._soft_state = SoftState(self._core.leader, self._core.role)
        return self._soft_state

    def _soft_state_changed(self) -> bool:
        core, known = self._core, self._soft_state
        return known.leader != core.leader or known.role is not core.role

    def _hard_state_changed(self) -> bool:
        core, known = self._core, self._hard_state
        return (
            known.commit != core.log.committed or known.term != core.term or known.vote != core.vote
        )

    def _must_sync(self, snapshot: Snapshot | None) -> bool:
        core, known = self._core, self._hard_state
        return snapshot is not None or known.term != core.term or known.vote != core.vote


def _persisted(storage: Storage) -> HardState:
    """Return the hard state on the disk; a snapshot there says by itself that it is committed."""
    known = storage.initial_state()[0]
    return HardState(known.term, known.vote, max(known.commit, storage.first_index() - 1))


def _age(message: Message) -> tuple[int, int]:
    assert message.snapshot is not None
    return message.term, message.snapshot.metadata.index
