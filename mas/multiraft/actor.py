"""The Raft host: one actor drives all groups of a node, turn by turn.

    frames, proposals, reads, ticks ──► step the groups that got something
                                        take their Readies ─► a leader's APPENDs leave at once
                                        one write for all, in the log's thread, while turns go on
                                        then: acknowledgements and votes, entries to commit_c, advance
                                        one frame a peer

A group's Ready is never taken before the one before is finished; groups that have nothing to write
don't wait for those that have. A tick costs what is awake: quiet groups aren't ticked (`quiescence`).
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from mas.errors import CorruptData, NetworkError, Unavailable
from mas.limits import TURN_INSTRUCTIONS_MAX
from mas.multiraft.clocks import PeerClocks
from mas.multiraft.config import HostConfig
from mas.multiraft.frames import HostHeartbeat, Outbox, decode_frame
from mas.multiraft.group import GroupContext, RaftGroup
from mas.multiraft.group_log import (
    check_database,
    check_founders,
    lost_acknowledged,
    lost_log,
)
from mas.multiraft.leader_balancer import LeaderBalancer
from mas.multiraft.members import is_member_behind, read_members
from mas.multiraft.ports import Peers, RaftLog, SnapshotFiles, Worker
from mas.multiraft.quiescence import Quiescence
from mas.multiraft.snapshot_receiver import SnapshotReceiver, finish_installs, settle_note
from mas.multiraft.snapshot_sender import SnapshotSender
from mas.multiraft.snapshots import Done, Gone, Offer, Piece, Pull, Request, decode_message
from mas.multiraft.writer import LogWriter
from mas.raft import ConfState, HardState, MessageType, Ready
from mas.runtime import Actor, Clock, Dice, Mailbox, Supervisor

_log = logging.getLogger(__name__)

_FRAMES = 4_096
_FRAMES_BYTES = 32 << 20
# What a turn takes on, so that it is about 10 ms (rule 38). A frame has at most a turn's messages.
_FRAMES_PER_TURN = 64
_GROUPS_PER_TURN = 128
# Readies of one group in one turn, where none of them needs a write.
_READIES_PER_TURN = 4
# Every group is looked at in so many ticks, or in as many as there are groups.
_COMPACTION_TICKS = 32
# A loop that was late by more ticks than this was paused: the peers' frames that wait say more than the clock.
_LATE_TICKS_MAX = 2


class HostStatistics(msgspec.Struct, frozen=True):
    """What a host has done since its start."""

    groups: int
    awake: int
    """Groups that aren't quiescent."""
    leads: int
    """Groups that this node leads."""
    turns: int
    writes: int
    """Batches committed to the log, whatever the number of groups in them."""
    frames_dropped: int
    """Frames that found no room, or couldn't be read."""


class RaftHost(Actor):
    """All Raft groups of a node.

    A start: `finish_snapshots`, open the databases, `add_group` for each bucket, then `run`.
    """

    name = "raft"

    def __init__(
        self,
        config: HostConfig,
        *,
        log: RaftLog,
        log_thread: Worker,
        peers: Peers,
        snapshots: SnapshotFiles,
        file_thread: Worker,
        clock: Clock,
        dice: Dice,
    ) -> None:
        self._config = config
        self._log = log
        self._snapshot_files = snapshots
        self._clock = clock
        self._clocks = PeerClocks(config.node, clock)
        self._tasks = Supervisor()
        self._wake = asyncio.Event()
        self._frames: Mailbox[tuple[int, bytes]] = Mailbox("raft frames", _FRAMES)
        self._frames_bytes = 0
        self._frames_dropped = 0
        self._turns = 0
        self._ticks = 0
        self._groups: dict[int, RaftGroup] = {}
        self._busy: dict[int, RaftGroup] = {}
        self._members_handlers: list[Callable[[RaftGroup], None]] = []
        self._quiescence = Quiescence(config, self._groups)
        self._balancer = LeaderBalancer(config, self._groups, self._quiescence, dice)
        self._to_compact: list[int] = []
        self._outbox = Outbox(peers)
        self._writer = LogWriter(log, log_thread, config.log_write_seconds)
        self._sender = SnapshotSender(
            config, self._groups, snapshots, file_thread, peers, clock, self._spawn
        )
        self._receiver = SnapshotReceiver(
            config, self._groups, snapshots, file_thread, peers, self._writer, clock, self._spawn
        )
        self._context = GroupContext(
            config=config,
            clock=clock,
            dice=dice,
            clocks=self._clocks,
            wake=self._mark,
            newest_snapshot=self._sender.newest,
            members_changed=self._tell_members,
            write_lost=self._write_lost,
        )

    # -- the start -----------------------------------------------------------------------------

    async def finish_snapshots(self) -> None:
        """Finish the installations that the last run was stopped in (rule 28); before the databases are opened."""
        folder = self._config.snapshot_folder
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.outgoing*")):  # those that were being written too
            path.unlink()
        await finish_installs(self._log, self._snapshot_files, folder)

    def add_group(
        self, group_id: int, voters: Sequence[int], *, applied: int = 0, applied_term: int = 0
    ) -> RaftGroup:
        """Take part in a group.

        `voters` are those that the group began with, on a node that joins later too: its log tells of
        the changes since. `applied` is what the AccountDB holds, and `applied_term` the term of that entry (rule 27).
        Writes to the log, where a snapshot's installation is to be finished, and blocks for it.

        Raises:
            LostLog: the database is ahead of the log.
            CorruptData: database and log don't belong together, the log is damaged, or is known to have lost what this
                node had acknowledged.
            CorruptState: what the log holds can't be a state of Raft.
        """
        if group_id not in self._log.groups():
            if applied:
                raise lost_log(group_id, applied, 0)
            self._create(group_id, voters)
        proof = self._log.lost(group_id)
        if proof:
            raise lost_acknowledged(group_id, self._config.node, proof)
        settle_note(self._log, group_id, applied)
        storage = self._log.storage(group_id)
        check_founders(group_id, storage, _first_members(group_id, voters))
        check_database(group_id, storage, applied, applied_term)
        members = read_members(storage, applied)
        removed_at = self._log.removed_at(group_id)
        group = RaftGroup(group_id, storage, members, applied, self._context, removed_at)
        self._groups[group_id] = group
        self._quiescence.add(group)
        self._tell_members(group)
        self._mark(group)
        return group

    def _create(self, group_id: int, voters: Sequence[int]) -> None:
        batch = self._log.batch()
        batch.create(group_id, _first_members(group_id, voters))
        # Durable with the group's first vote or entry: until then nobody has heard of it, and it can be made anew.
        batch.commit(sync=False)

    # -- groups that come and go ---------------------------------------------------------------

    async def create_group(self, group_id: int, voters: Sequence[int], *, applied: int) -> None:
        """Before an `add_group` while the host runs: what that would write to the log itself, and block for."""
        if group_id not in self._log.groups() and not applied:
            conf_state = _first_members(group_id, voters)
            await self._writer.write(lambda: self._writer.batch.create(group_id, conf_state))

    def is_member_behind(self, group_id: int, index: int) -> bool:
        """Whether this node's log of the group makes it a member again behind `index`, where it was removed.

        Then it may have acknowledged what counts, before it has heard that it may: it must not leave. Of a log that is
        damaged nobody knows.
        """
        if group_id not in self._log.groups():
            return False
        try:
            return is_member_behind(self._log.storage(group_id), index, self._config.node)
        except CorruptData:
            return False

    def holds_log(self, group_id: int) -> bool:
        """Whether the log holds more of the group than the term and vote that its erasure leaves behind."""
        if group_id not in self._log.groups():
            return False
        try:
            return (
                not self._log.removed_at(group_id) or self._log.storage(group_id).last_index() > 0
            )
        except CorruptData:
            return True

    def leave_group(self, group_id: int) -> None:
        """Take part in a group no more: whatever it has under way is dropped, and nothing more is said for it.

        Raises:
            Unavailable: a snapshot is being installed: try again.
        """
        if self._receiver.is_installing(group_id):
            raise Unavailable(f"bucket {group_id}: a snapshot is being installed, try again")
        if self._groups.pop(group_id, None) is not None:
            self._quiescence.drop(group_id)
        self._busy.pop(group_id, None)
        self._receiver.forget(group_id)
        self._sender.forget(group_id)

    async def erase_group(self, group_id: int, voters: Sequence[int], *, removed_at: int) -> None:
        """Forget the log of a group that this node has left, be it damaged, but its term and vote.

        Should the node become a member again, its log begins anew, and what it has promised in votes still holds:
        so its id needn't be another. What it has acknowledged may still count, for members that don't know of its
        removal at `removed_at`: so it has no part in elections before its log says that it was added again, by when it
        holds all that again. Its removal must be committed before this is called, and the AccountDB must have lost
        the bucket's rows: a database ahead of its log would be a lost log.

        Raises:
            CorruptData: term and vote can't be read: this node can't hold the group again under its id.
        """
        assert removed_at > 0, (
            "a log is erased behind the entry that removed its node, and for nothing else"
        )
        assert group_id not in self._groups, f"group {group_id} hasn't left"
        await self._writer.write(lambda: None)  # what was in flight is in the log now
        hard_state = self._log.hard_state(group_id)
        conf_state = _first_members(group_id, voters)

        def erase() -> None:
            batch = self._writer.batch
            batch.drop(group_id)
            batch.create(group_id, conf_state, removed_at=removed_at)
            batch.set_hard_state(group_id, HardState(hard_state.term, hard_state.vote))

        await self._writer.write(erase)

    def introduce(self, group_id: int, holders: Iterable[int]) -> None:
        """These nodes hold the group too, as the cluster says: what they say for it is heard, besides its own members.

        A log that is far behind knows the members of long ago, who may all have left.
        """
        group = self._groups.get(group_id)
        if group is not None:
            group.introduce(holders)

    def receiving(self, group_id: int) -> tuple[int, int] | None:
        """Bytes that have come of a snapshot on its way here, and its size; None where there is none."""
        return self._receiver.progress(group_id)

    # -- doors, called on the loop -------------------------------------------------------------

    def on_members(self, handler: Callable[[RaftGroup], None]) -> None:
        """Have `handler(group)` called when a group comes, and when its `members` have changed: on the followers, whose
        word goes round, and on a leader that has none.
        """
        self._members_handlers.append(handler)

    def on_frame(self, peer: int, payload: bytes) -> None:
        """A frame of the RAFT channel. Where too much waits it is dropped: Raft sends again."""
        if self._frames_bytes + len(payload) > _FRAMES_BYTES or not self._frames.offer(
            (peer, payload)
        ):
            self._frames_dropped += 1
            return
        self._frames_bytes += len(payload)
        self._wake.set()

    def on_snapshot_frame(self, peer: int, payload: bytes) -> None:
        """A frame of the SNAPSHOT channel."""
        try:
            message = decode_message(payload)
        except NetworkError as error:
            self._drop_frame(peer, error)
            return
        match message:
            case Pull() | Done() | Request():
                self._sender.on_message(peer, message)
            case Offer() | Piece() | Gone():
                self._receiver.on_message(peer, message)
        self._wake.set()

    def on_peer(self, peer: int, up: bool) -> None:  # noqa: FBT001  (the transport's callback)
        """A connection is there, or is gone and with it what was on its way."""
        if up:
            return
        self._sender.on_peer_down(peer)
        self._quiescence.on_peer_down(peer)
        for group in self._groups.values():
            group.report_unreachable(peer)

    def transfer_leadership(self) -> None:
        """Before a stop: have other nodes lead what this one leads. `status` of the groups shows when."""
        self._balancer.drain()

    @property
    def groups(self) -> dict[int, RaftGroup]:
        """All groups by id."""
        return dict(self._groups)

    @property
    def stored_groups(self) -> list[int]:
        """All groups that the log holds anything of, if only the term and vote of one that was left."""
        return self._log.groups()

    def statistics(self) -> HostStatistics:
        """What it has done so far."""
        return HostStatistics(
            groups=len(self._groups),
            awake=len(self._quiescence.awake),
            leads=self._quiescence.leads,
            turns=self._turns,
            writes=self._writer.commits,
            frames_dropped=self._frames_dropped,
        )

    async def run(self) -> None:
        """Drive the groups until cancelled.

        Raises:
            StorageError: the log failed; the process must stop. `WriteHangs`: and not wait for the log's thread.
        """
        async with self._tasks as tasks:
            tasks.spawn("raft.writes", self._writer.run())
            tasks.spawn("raft.writes.watch", self._writer.watch())
            tasks.spawn("raft.turns", self._run_turns())
            tasks.spawn("raft.ticks", self._run_ticks())
            tasks.spawn("raft.snapshots.out", self._sender.run())
            tasks.spawn("raft.snapshots.in", self._receiver.run())
            await tasks.wait()

    # -- turns ---------------------------------------------------------------------------------

    async def _run_turns(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._turns += 1
            self._step_frames()
            ticked = self._tick()
            self._serve_groups()
            heartbeats = self._quiescence.settle(drains=self._balancer.drains) if ticked else {}
            self._send(heartbeats, with_riders=ticked)
            await asyncio.sleep(0)

    async def _run_ticks(self) -> None:
        period = self._config.tick_ms / 1000
        due = self._clock.monotonic() + period
        while True:
            await self._clock.sleep(max(0.0, due - self._clock.monotonic()))
            late = max(0, int((self._clock.monotonic() - due) / period))
            self._ticks = min(self._ticks + 1 + late, _LATE_TICKS_MAX)
            self._wake.set()
            due += (1 + late) * period

    def _step_frames(self) -> None:
        messages = 0
        for _ in range(_FRAMES_PER_TURN):
            if messages >= TURN_INSTRUCTIONS_MAX or not len(self._frames):
                break
            [(peer, payload)] = self._frames.drain_nowait(1)
            self._frames_bytes -= len(payload)
            messages += self._step_frame(peer, payload)
        if len(self._frames):
            self._wake.set()

    def _step_frame(self, peer: int, payload: bytes) -> int:
        """How many messages it had."""
        try:
            frame = decode_frame(payload)
        except NetworkError as error:
            self._drop_frame(peer, error)
            return 0
        self._clocks.heard(peer, frame.clock_us)
        for group_id, message in frame.messages:
            group = self._groups.get(group_id)
            if group is not None:  # else: it has left this node, or isn't here yet
                self._quiescence.on_message(group, message)
                group.step(peer, message)
                self._busy[group_id] = group
        self._quiescence.on_frame(peer, frame.heartbeat)
        return len(frame.messages)

    def _tick(self) -> bool:
        """Behind the frames: what peers have said in the meantime comes first. Whether there was a tick."""
        ticks, self._ticks = self._ticks, 0
        if not ticks:
            return False
        self._quiescence.tick(ticks)
        for group in self._quiescence.awake.values():
            group.tick(ticks)
            self._busy[group.id] = group
        self._balancer.tick(ticks)
        self._compact_some()
        self._sender.tick()
        self._receiver.tick()
        return True

    def _compact_some(self) -> None:
        """Cut the logs of some groups, quiescent ones too, since their databases may have flushed meanwhile."""
        if not self._to_compact:
            self._to_compact = list(self._groups)
        count = 1 + len(self._groups) // _COMPACTION_TICKS
        next_ones, self._to_compact = self._to_compact[:count], self._to_compact[count:]
        for group_id in next_ones:
            if group_id in self._groups:  # else: it has left this node
                self._compact(self._groups[group_id])

    def _compact(self, group: RaftGroup) -> None:
        index = group.may_cut()
        if not index:
            return
        index = self._sender.spare(group.id, index)
        if index >= group.storage.first_index():
            self._writer.batch.compact(group.id, index)
            self._writer.batch.set_conf_state(group.id, group.members.at(index))
            group.members.forget_before(index)
            self._writer.submit(sync=False)

    def _serve_groups(self) -> None:
        for group_id in list(islice(self._busy, _GROUPS_PER_TURN)):
            self._serve(self._busy.pop(group_id))
        if self._busy:
            self._wake.set()

    def _serve(self, group: RaftGroup) -> None:
        """Readies without anything to write are finished at once, and may make room for the next."""
        for _ in range(_READIES_PER_TURN):
            ready = group.take()
            if ready is None:
                return
            if group.must_write(ready):
                self._write(group, ready)
                return
            self._finish(group, ready, sent_appends=False)
        self._mark(group)

    def _write(self, group: RaftGroup, ready: Ready) -> None:
        batch = self._writer.batch
        batch.append(group.id, ready.entries)
        hard_state = group.hard_state_to_write(ready)
        if hard_state is not None:
            batch.set_hard_state(group.id, hard_state)
        sends_appends = group.may_send_before_write(ready)
        if sends_appends:
            for message in ready.messages:
                if message.type is MessageType.APPEND:
                    self._outbox.add(group.id, message)

        def finish() -> None:
            self._finish(group, ready, sent_appends=sends_appends)
            self._mark(group)

        self._writer.submit(finish, sync=True)

    def _finish(self, group: RaftGroup, ready: Ready, *, sent_appends: bool) -> None:
        """What had to be durable is: everything else may be said, and done."""
        if self._groups.get(group.id) is not group or group.error is not None:
            return  # it has left meanwhile, or takes no part any more
        for message in ready.messages:
            if message.type is MessageType.SNAPSHOT:
                self._sender.offer(group.id, message.to)
            elif message.type is not MessageType.APPEND or not sent_appends:
                self._outbox.add(group.id, message)
        group.finish(ready)

    def _send(self, heartbeats: Mapping[int, HostHeartbeat], *, with_riders: bool) -> None:
        now_us = self._clock.now_us()
        for group_id, message in self._outbox.send(now_us, heartbeats, with_riders=with_riders):
            group = self._groups.get(group_id)
            if message.type is MessageType.APPEND and group is not None:
                group.report_unreachable(message.to)

    # -- small things --------------------------------------------------------------------------

    def _write_lost(self, group: RaftGroup, proof: str) -> None:
        self._writer.batch.set_lost(group.id, proof)
        self._writer.submit(sync=True)

    def _tell_members(self, group: RaftGroup) -> None:
        for handler in self._members_handlers:
            handler(group)

    def _mark(self, group: RaftGroup) -> None:
        if self._groups.get(group.id) is not group:
            return  # it has left
        self._quiescence.wake(group)
        self._busy[group.id] = group
        self._wake.set()

    def _spawn(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        self._tasks.spawn(name, coroutine)

    def _drop_frame(self, peer: int, error: NetworkError) -> None:
        self._frames_dropped += 1
        _log.warning("from node %d: %s; dropped", peer, error)


def _first_members(group_id: int, voters: Sequence[int]) -> ConfState:
    assert voters, f"bucket {group_id} began with nobody"
    return ConfState(voters=tuple(sorted(voters)))
