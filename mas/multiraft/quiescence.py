"""Quiescence: a quiet group isn't ticked and sends nothing; one host heartbeat a peer and tick speaks for all of them.

    leader   ── quiet: the groups that I lead, and that have nothing for you ──►  follower
             ◄── quiescent: those of them that I have stopped ticking ──

A follower quiesces a group once its leader calls the group quiet and the follower itself has nothing to do. The leader
quiesces it once every member has; it doesn't wait for members that have been away for an election timeout while the
others are a quorum. Each host heartbeat repeats both sets whole, so that a lost one does no harm.

Why this is safe: a quiescent group differs from another only in that its core isn't ticked, and whatever reaches the
group wakes it first.

1. What a peer has said by host heartbeats is stepped as messages. A follower that wakes steps a HEARTBEAT without a
   commit, and a leader that quiesces steps a HEARTBEAT_RESPONSE without a context. A core may get those late, twice or
   never, since they neither commit an entry nor confirm a read.
2. Ticks are missing. Time decides only three things in Raft: when a node campaigns, whether it listens to a candidate,
   and when a leader steps down (hosts don't serve reads by a lease). Case 6 keeps all three on time.
3. No term travels with the sets. A leader calls a group quiet only towards a follower that has acknowledged its whole
   log in its own term, so both are in the same term.

Why no group stays quiescent that has to act:

4. A follower wakes when its leader no longer calls the group quiet. A leader that has lost its term, its group or its
   life doesn't call it so.
5. A leader wakes when a follower no longer says that the group is quiescent there.
6. Both wake when the other's host heartbeats stay out for half an election timeout, or when the connection breaks. The
   follower then has waited since the last host heartbeat, to the tick, as if each had been a HEARTBEAT. So it campaigns,
   and listens to candidates, when it would have done so without quiescence. A leader that has lost its quorum steps
   down at most half an election timeout later.
"""

from collections.abc import Iterator, Mapping

from mas.multiraft.config import HostConfig
from mas.multiraft.frames import HostHeartbeat
from mas.multiraft.group import RaftGroup
from mas.raft import Message, MessageType, ProgressState, Role, Status
from mas.raft.quorum import VoteResult, joint_vote

_SAID_BY_HOST_HEARTBEATS = (MessageType.HEARTBEAT, MessageType.HEARTBEAT_RESPONSE)


class _Peer:
    """What another node has said, and which groups quiesce with it. The sets are of groups: bit n stands for group n."""

    __slots__ = (
        "drains",
        "followed",
        "heard",
        "leads",
        "led",
        "missed",
        "quiescent",
        "quiet",
        "seen",
        "steady_since",
    )

    def __init__(self, now: int) -> None:
        self.seen = now
        """The tick of its last frame."""
        self.heard = now
        """The tick of its last host heartbeat."""
        self.steady_since = now
        """The tick since which its host heartbeats have come without a gap."""
        self.leads: int | None = None
        """How many groups it leads; None before its first host heartbeat."""
        self.drains = False
        self.quiet = 0
        """By its last host heartbeat: it leads these, and they are quiet towards this node."""
        self.quiescent = 0
        """By its last host heartbeat: these are quiescent there, led by this node."""
        self.followed = 0
        """These are quiescent here, led by it."""
        self.led = 0
        """These are quiescent here, led by this node, and there."""
        self.missed = 0
        """These are quiescent here, led by this node, while the peer is away."""


class Quiescence:
    """Decides which of a host's groups are quiescent, and makes the host heartbeats that keep them so."""

    def __init__(self, config: HostConfig, groups: Mapping[int, RaftGroup]) -> None:
        self._node = config.node
        self._groups = groups
        self._election_tick = config.election_tick
        # Host heartbeats may be late for a moment without all groups waking.
        self._patience = max(2, config.election_tick // 2)
        self._now = 0
        self._peers: dict[int, _Peer] = {}
        self._led = 0
        """All that are quiescent here, led by this node."""
        self.awake: dict[int, RaftGroup] = {}
        """The groups that have to be ticked."""
        self.leads = 0
        """How many groups this node led at the last tick."""

    # -- what happens --------------------------------------------------------------------------

    def add(self, group: RaftGroup) -> None:
        """Begin with a group, awake."""
        self.awake[group.id] = group

    def drop(self, group_id: int) -> None:
        """Forget a group that leaves this node, so that no follower stays quiescent under it."""
        self._forget(1 << group_id)
        self.awake.pop(group_id, None)

    def wake(self, group: RaftGroup) -> None:
        """Tick the group again, because something has reached it or is about to."""
        if group.id in self.awake:
            return
        self.awake[group.id] = group
        bit = 1 << group.id
        for node, peer in self._peers.items():
            if peer.followed & bit:
                group.wake_following(node, self._now - peer.heard)
        self._forget(bit)

    def on_message(self, group: RaftGroup, message: Message) -> None:
        """Wake the group, but not for a heartbeat or its answer that was on its way as the group quiesced.

        Such a message says only what host heartbeats say.
        """
        if message.type not in _SAID_BY_HOST_HEARTBEATS or message.term != group.hard_state.term:
            self.wake(group)

    def on_frame(self, node: int, heartbeat: HostHeartbeat | None) -> None:
        """Take note of a peer's frame. Groups that it wakes count their silence from the host heartbeat before."""
        peer = self._peer(node)
        peer.seen = self._now
        self._wake_all(peer.missed)
        if heartbeat is None:
            return
        peer.quiet = int.from_bytes(heartbeat.quiet, "little")
        peer.quiescent = int.from_bytes(heartbeat.quiescent, "little")
        self._wake_all(peer.followed & ~peer.quiet | peer.led & ~peer.quiescent)
        if self._is_silent(peer):
            peer.steady_since = self._now
        peer.heard = self._now
        peer.leads, peer.drains = heartbeat.leads, heartbeat.drains

    def on_peer_down(self, node: int) -> None:
        """Wake what quiesces with a peer whose connection broke: each group goes on by itself."""
        peer = self._peers.get(node)
        if peer is not None:
            self._wake_all(peer.followed | peer.led | peer.missed)
            del self._peers[node]

    # -- ticks ---------------------------------------------------------------------------------

    def tick(self, count: int) -> None:
        """Wake the groups whose peer has fallen silent. Call it before ticking the groups, so that these are ticked too."""
        for peer in self._peers.values():
            if self._now + count - peer.heard >= self._patience:
                self._wake_all(peer.followed | peer.led)
                peer.quiet = peer.quiescent = 0
        self._now += count

    def settle(self, *, drains: bool) -> dict[int, HostHeartbeat]:
        """Quiesce what can be, behind a tick's work. Return the host heartbeat for each peer."""
        offered: dict[int, int] = {}
        for group in list(self.awake.values()):
            if group.role is Role.LEADER:
                self._settle_leader(group, offered)
            elif group.leader in self._peers:
                self._settle_follower(group, self._peers[group.leader])
        awake = sum(group.role is Role.LEADER for group in self.awake.values())
        self.leads = awake + self._led.bit_count()
        return {
            node: HostHeartbeat(
                _bytes(peer.led | offered.get(node, 0)), _bytes(peer.followed), self.leads, drains
            )
            for node, peer in self._peers.items()
        }

    def _settle_follower(self, group: RaftGroup, peer: _Peer) -> None:
        bit = 1 << group.id
        if peer.quiet & bit and group.quiescent_status() is not None:
            peer.followed |= bit
            del self.awake[group.id]

    def _settle_leader(self, group: RaftGroup, offered: dict[int, int]) -> None:
        status = group.quiescent_status()
        if status is None or status.lead_transferee:
            return
        quiet, away = [], []
        for node, progress in status.progress.items():
            if node == self._node:
                continue
            peer = self._peer(node)
            holds_all = progress.match == status.last_index
            if (
                holds_all
                and progress.state is ProgressState.REPLICATE
                and not self._is_silent(peer)
            ):
                quiet.append(node)
            elif self._now - peer.seen >= self._election_tick:
                away.append(node)
            else:
                return
        if not self._is_quorum(status, quiet):
            return
        bit = 1 << group.id
        for node in quiet:
            offered[node] = offered.get(node, 0) | bit
        if all(self._peers[node].quiescent & bit for node in quiet):
            self._quiesce_leader(group, quiet, away)

    def _quiesce_leader(self, group: RaftGroup, quiet: list[int], away: list[int]) -> None:
        bit = 1 << group.id
        group.assume_responses(quiet)
        for node in quiet:
            self._peers[node].led |= bit
        for node in away:
            self._peers[node].missed |= bit
        self._led |= bit
        del self.awake[group.id]

    # -- what is known of the peers --------------------------------------------------------------

    def candidate_loads(self, steady_for: int) -> dict[int, int]:
        """Return, for each peer that could lead more groups, how many it leads.

        Such a peer's host heartbeats have come for `steady_for` ticks, and it isn't about to stop.
        """
        return {
            node: peer.leads
            for node, peer in self._peers.items()
            if peer.leads is not None
            and not peer.drains
            and not self._is_silent(peer)
            and self._now - peer.steady_since >= steady_for
        }

    def _peer(self, node: int) -> _Peer:
        peer = self._peers.get(node)
        if peer is None:
            peer = self._peers[node] = _Peer(self._now)
        return peer

    def _is_silent(self, peer: _Peer) -> bool:
        return self._now - peer.heard >= self._patience

    def _is_quorum(self, status: Status, quiet: list[int]) -> bool:
        conf = status.conf_state
        votes = dict.fromkeys([self._node, *quiet], True)
        return joint_vote(conf.voters, conf.voters_outgoing, votes) is VoteResult.WON

    # -- sets of groups ------------------------------------------------------------------------

    def _wake_all(self, groups: int) -> None:
        for group_id in _ids(groups):
            self.wake(self._groups[group_id])

    def _forget(self, bit: int) -> None:
        self._led &= ~bit
        for peer in self._peers.values():
            peer.followed &= ~bit
            peer.led &= ~bit
            peer.missed &= ~bit
            # Said before the group woke: what is said next counts.
            peer.quiescent &= ~bit


def _ids(groups: int) -> Iterator[int]:
    while groups:
        lowest = groups & -groups
        yield lowest.bit_length() - 1
        groups ^= lowest


def _bytes(groups: int) -> bytes:
    return groups.to_bytes((groups.bit_length() + 7) // 8, "little")
