"""Quiet groups rest: they cost nothing, and one beat a peer and tick stands for all that they would say.

    leader   ── quiet: the groups that I lead, and that have nothing for you ──►  follower
             ◄── resting: those of them that rest here under you ──

A follower rests once its leader calls the group quiet and it has nothing to do itself. The leader rests once every
member does; one that has been away for an election timeout is not waited for while the others are a quorum. A beat says
all of it anew, so a lost one does no harm.

Why that is safe: a group that rests isn't ticked, and that is all. Whatever reaches it wakes it first. What the peers have
said by their beats is stepped, a HEARTBEAT without a commit as a follower wakes, a HEARTBEAT_RESPONSE without a context
as a leader comes to rest, and a core may get those late, twice or never. Time decides nothing in Raft but when to
campaign, whether to hear a candidate, and when to step down (a host doesn't serve reads by the lease).

Why nobody sleeps on: a follower wakes when its leader no longer calls the group quiet, which a leader that lost its term,
its group or its life doesn't, and a leader wakes when a follower no longer rests. Both wake when the other's beats stay
out or its connection breaks. A follower then has waited since the last beat, to the tick, as if each had been a
heartbeat: so it campaigns, and votes, when it would have done without rest. A leader without its quorum steps down,
half an election timeout later than without rest at the most.

No term travels with a bit: a leader calls quiet only what the follower has acknowledged in that very term, so both are
in the same one.
"""

from collections.abc import Iterator, Mapping

from mas.multiraft.config import HostConfig
from mas.multiraft.frames import Beat
from mas.multiraft.group import RaftGroup
from mas.raft import Message, MessageType, ProgressState, Role, Status
from mas.raft.quorum import VoteResult, joint_vote

_LIKE_BEATS = (MessageType.HEARTBEAT, MessageType.HEARTBEAT_RESPONSE)


class _Peer:
    """What another node has said, and what rests with it. The sets are of groups: bit n stands for group n."""

    __slots__ = (
        "drains",
        "followed",
        "heard",
        "leads",
        "led",
        "missed",
        "quiet",
        "resting",
        "seen",
        "steady_since",
    )

    def __init__(self, now: int) -> None:
        self.seen = now
        """The tick of its last frame."""
        self.heard = now
        """The tick of its last beat."""
        self.steady_since = now
        """The tick since which its beats have come."""
        self.leads: int | None = None
        """How many groups it leads; None before its first beat."""
        self.drains = False
        self.quiet = 0
        """Its last beat: it leads these, and they are quiet towards this node."""
        self.resting = 0
        """Its last beat: these rest there under this node."""
        self.followed = 0
        """These rest here under its lead."""
        self.led = 0
        """These rest here, led by this node, and there."""
        self.missed = 0
        """These rest here, led by this node, while it is away."""


class Resting:
    """Which of a host's groups rest, and the beats that keep them so."""

    def __init__(self, config: HostConfig, groups: Mapping[int, RaftGroup]) -> None:
        self._node = config.node
        self._groups = groups
        self._election_tick = config.election_tick
        # Beats may be late for a moment without all groups waking.
        self._patience = max(2, config.election_tick // 2)
        self._now = 0
        self._peers: dict[int, _Peer] = {}
        self._led = 0
        """All that rest here, led by this node."""
        self.awake: dict[int, RaftGroup] = {}
        """The groups that have to be ticked."""
        self.leads = 0
        """How many groups this node led at the last tick."""

    # -- what happens --------------------------------------------------------------------------

    def add(self, group: RaftGroup) -> None:
        """A group begins awake."""
        self.awake[group.id] = group

    def drop(self, group_id: int) -> None:
        """The group leaves this node: nobody may rest under it."""
        self._forget(1 << group_id)
        self.awake.pop(group_id, None)

    def wake(self, group: RaftGroup) -> None:
        """Something has reached the group, or is about to."""
        if group.id in self.awake:
            return
        self.awake[group.id] = group
        bit = 1 << group.id
        for node, peer in self._peers.items():
            if peer.followed & bit:
                group.wake_following(node, self._now - peer.heard)
        self._forget(bit)

    def on_message(self, group: RaftGroup, message: Message) -> None:
        """Wake the group, but not for a heartbeat or answer that was on its way as it came to rest: it says what beats say."""
        if message.type not in _LIKE_BEATS or message.term != group.hard_state.term:
            self.wake(group)

    def on_frame(self, node: int, beat: Beat | None) -> None:
        """A peer's frame; what it wakes is dated by the beat before."""
        peer = self._peer(node)
        peer.seen = self._now
        self._wake_all(peer.missed)
        if beat is None:
            return
        peer.quiet = int.from_bytes(beat.quiet, "little")
        peer.resting = int.from_bytes(beat.resting, "little")
        self._wake_all(peer.followed & ~peer.quiet | peer.led & ~peer.resting)
        if self._is_silent(peer):
            peer.steady_since = self._now
        peer.heard = self._now
        peer.leads, peer.drains = beat.leads, beat.drains

    def on_peer_down(self, node: int) -> None:
        """The connection broke: what rests with it goes on by itself."""
        peer = self._peers.get(node)
        if peer is not None:
            self._wake_all(peer.followed | peer.led | peer.missed)
            del self._peers[node]

    # -- ticks ---------------------------------------------------------------------------------

    def tick(self, count: int) -> None:
        """Before the groups are ticked: those whose peer has fallen silent are awake for it."""
        for peer in self._peers.values():
            if self._now + count - peer.heard >= self._patience:
                self._wake_all(peer.followed | peer.led)
                peer.quiet = peer.resting = 0
        self._now += count

    def settle(self, *, drains: bool) -> dict[int, Beat]:
        """Behind a tick's work: let rest what can. The beat for each peer."""
        offered: dict[int, int] = {}
        for group in list(self.awake.values()):
            if group.role is Role.LEADER:
                self._settle_leader(group, offered)
            elif group.leader in self._peers:
                self._settle_follower(group, self._peers[group.leader])
        awake = sum(group.role is Role.LEADER for group in self.awake.values())
        self.leads = awake + self._led.bit_count()
        return {
            node: Beat(
                _bytes(peer.led | offered.get(node, 0)), _bytes(peer.followed), self.leads, drains
            )
            for node, peer in self._peers.items()
        }

    def _settle_follower(self, group: RaftGroup, peer: _Peer) -> None:
        bit = 1 << group.id
        if peer.quiet & bit and group.still() is not None:
            peer.followed |= bit
            del self.awake[group.id]

    def _settle_leader(self, group: RaftGroup, offered: dict[int, int]) -> None:
        status = group.still()
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
        if all(self._peers[node].resting & bit for node in quiet):
            self._rest_leader(group, quiet, away)

    def _rest_leader(self, group: RaftGroup, quiet: list[int], away: list[int]) -> None:
        bit = 1 << group.id
        group.hear(quiet)
        for node in quiet:
            self._peers[node].led |= bit
        for node in away:
            self._peers[node].missed |= bit
        self._led |= bit
        del self.awake[group.id]

    # -- what is known of the peers --------------------------------------------------------------

    def heirs(self, steady_for: int) -> dict[int, int]:
        """How many groups each peer leads that could lead more: its beats have come for so many ticks."""
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
            peer.resting &= ~bit


def _ids(groups: int) -> Iterator[int]:
    while groups:
        lowest = groups & -groups
        yield lowest.bit_length() - 1
        groups ^= lowest


def _bytes(groups: int) -> bytes:
    return groups.to_bytes((groups.bit_length() + 7) // 8, "little")
