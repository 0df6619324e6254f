"""What a leader knows of one peer's log, and how much it may send there.

PROBE: where the logs agree is a guess, so one message goes out and the answer is awaited. REPLICATE: they
agree up to `next - 1`, and a window of messages is on its way. SNAPSHOT: the peer needs entries
that are compacted; nothing is sent until the snapshot is in.
"""

from collections import deque

from mas.raft.messages import ProgressState, ProgressStatus


class Progress:
    """One peer's replication, or the leader's own.

    `match` is the highest index known to be equal and persisted there, `next` the one to send next,
    `sent_commit` the highest commit index told, `read_round` the last round of reads confirmed, `life`
    the newest life of the peer that was heard of: all else is of that one.
    """

    __slots__ = (
        "flow_paused",
        "inflight",
        "is_learner",
        "life",
        "match",
        "max_inflight",
        "next",
        "pending_snapshot",
        "read_round",
        "recent_active",
        "sent_commit",
        "state",
    )

    def __init__(
        self, next_index: int, max_inflight: int, *, is_learner: bool, life: int = 0
    ) -> None:
        self.life = life
        self.match = 0
        self.next = next_index
        self.state = ProgressState.PROBE
        self.is_learner = is_learner
        self.recent_active = False
        self.flow_paused = False
        self.pending_snapshot = 0
        self.sent_commit = 0
        self.read_round = 0
        self.max_inflight = max_inflight
        self.inflight: deque[int] = deque()  # the last index of each APPEND on its way

    @property
    def paused(self) -> bool:
        """Whether nothing may be sent until the peer is heard of."""
        return self.flow_paused or self.state is ProgressState.SNAPSHOT

    @property
    def window_full(self) -> bool:
        """Whether as many APPENDs are on their way as may be."""
        return len(self.inflight) >= self.max_inflight

    def lacks_commit(self, commit: int) -> bool:
        """Tell whether the peer could commit more than it was told of."""
        return self.sent_commit < commit and self.sent_commit < self.next - 1

    def become_probe(self) -> None:
        """Begin again from what is known to match, or behind the snapshot that was sent."""
        self.next = max(self.match, self.pending_snapshot) + 1
        self._become(ProgressState.PROBE)
        self.sent_commit = min(self.sent_commit, self.next - 1)

    def become_replicate(self) -> None:
        """Send ahead of the answers, because the logs agree up to `match`."""
        self._become(ProgressState.REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        """Wait for a snapshot of `index` that is on its way."""
        self._become(ProgressState.SNAPSHOT)
        self.pending_snapshot = index
        self.next = index + 1
        self.sent_commit = index

    def sent(self, count: int, commit: int) -> None:
        """Note that an APPEND of `count` entries that tells `commit` is on its way."""
        if self.state is ProgressState.REPLICATE:
            if count:
                self.next += count
                self.inflight.append(self.next - 1)
            self.flow_paused = self.window_full
        elif count:
            self.flow_paused = True
        self.sent_commit = commit

    def acknowledged(self, index: int) -> bool:
        """Note that the peer holds everything up to `index`; return whether that is news."""
        if index <= self.match:
            return False
        self.match = index
        self.next = max(self.next, index + 1)
        self.flow_paused = False
        return True

    def free_window(self, index: int) -> None:
        """Note that what was sent up to `index` has arrived."""
        inflight = self.inflight
        while inflight and inflight[0] <= index:
            inflight.popleft()

    def rejected(self, index: int, hint: int) -> bool:
        """Step back to `hint`, because the peer refused an APPEND behind `index`; return False for stale news.

        What it has acknowledged it can't refuse, unless it has lost it: to send that again at once would go on for ever.
        """
        if index <= self.match:
            return False
        if self.state is ProgressState.REPLICATE:
            self.become_probe()
            return True
        if self.next - 1 != index:
            return False
        self.next = max(min(index, hint + 1), self.match + 1)
        self.sent_commit = min(self.sent_commit, self.next - 1)
        self.flow_paused = False
        return True

    def status(self) -> ProgressStatus:
        """Return a copy for people and tests."""
        return ProgressStatus(
            match=self.match,
            next=self.next,
            state=self.state,
            paused=self.paused,
            recent_active=self.recent_active,
            is_learner=self.is_learner,
            pending_snapshot=self.pending_snapshot,
        )

    def _become(self, state: ProgressState) -> None:
        self.state = state
        self.flow_paused = False
        self.pending_snapshot = 0
        self.inflight.clear()
