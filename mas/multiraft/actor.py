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
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

import msgspec

from mas.errors import NetworkError, Unavailable
from mas.limits import TURN_INSTRUCTIONS_MAX
from mas.multiraft.clocks import PeerClocks
from mas.multiraft.config import HostConfig
from mas.multiraft.frames import HostHeartbeat, Outbox, decode_frame
from mas.multiraft.group import GroupContext, RaftGroup
from mas.multiraft.leader_balancer import LeaderBalancer
from mas.multiraft.log_compactor import LogCompactor
from mas.multiraft.ports import Peers, RaftLog, SnapshotFiles, Worker
from mas.multiraft.quiescence import Quiescence
from mas.multiraft.replica_logs import ReplicaLogs
from mas.multiraft.snapshot_receiver import SnapshotReceiver, finish_installs
from mas.multiraft.snapshot_sender import SnapshotSender
from mas.multiraft.snapshots import Done, Gone, Offer, Piece, Pull, Request, decode_message
from mas.multiraft.writer import LogWriter
from mas.raft import MessageType, Ready
from mas.runtime import Actor, Clock, Dice, Mailbox, Supervisor

_log = logging.getLogger(__name__)

_FRAMES = 4_096
_FRAMES_BYTES = 32 << 20
# What a turn takes on, so that it is about 10 ms (rule 38). A frame has at most a turn's messages.
_FRAMES_PER_TURN = 64
_GROUPS_PER_TURN = 128
# Readies of one group in one turn, where none of them needs a write.
_READIES_PER_TURN = 4
# A loop that was late by more ticks than this was paused: the peers' frames that wait say more than the clock.
_LATE_TICKS_MAX = 2


class HostStatistics(msgspec.Struct, frozen=True):
    """Counts what a host has done since its start."""

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
    """Drives all Raft groups of a node.

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
        self._outbox = Outbox(peers)
        self._writer = LogWriter(log, log_thread, config.log_write_seconds)
        self.logs = ReplicaLogs(config.node, log, self._writer, self._groups)
        self._sender = SnapshotSender(
            config, self._groups, snapshots, file_thread, peers, clock, self._tasks.spawn
        )
        self._compactor = LogCompactor(self._groups, self._writer, self._sender.spare)
        self._receiver = SnapshotReceiver(
            config,
            self._groups,
            snapshots,
            file_thread,
            peers,
            self._writer,
            clock,
            self._tasks.spawn,
        )
        self._context = GroupContext(
            config=config,
            clock=clock,
            dice=dice,
            clocks=self._clocks,
            wake=self._mark,
            newest_snapshot=self._sender.newest,
            members_changed=self._tell_members,
            write_lost=self.logs.write_lost,
        )

    # -- the start -----------------------------------------------------------------------------

    async def finish_snapshots(self) -> None:
        """Finish the installations that the last run was stopped in (rule 28, snapshots); before the databases are
        opened.
        """
        folder = self._config.snapshot_folder
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.outgoing*")):  # those that were being written too
            path.unlink()
        await finish_installs(self._log, self._snapshot_files, folder)

    def add_group(
        self, group_id: int, voters: Sequence[int], *, applied: int = 0, applied_term: int = 0
    ) -> RaftGroup:
        """Take part in a group.

        `voters` are those that the group began with, on a node that joins later too, since its log tells of the changes.
        `applied` is what the AccountDB holds, and `applied_term` the term of that entry (rule 27, commits and members).
        Where the log is to be made or a snapshot's installation finished, the call blocks for a write (`logs.create`
        makes it beforehand).

        Raises:
            LostLog: the database is ahead of the log.
            CorruptData: database and log don't belong together, the log is damaged, or is known to have lost what this
                node had acknowledged.
            CorruptState: what the log holds can't be a state of Raft.
        """
        opened = self.logs.open(group_id, voters, applied=applied, applied_term=applied_term)
        group = RaftGroup(
            group_id, opened.storage, opened.members, applied, self._context, opened.removed_at
        )
        self._groups[group_id] = group
        self._quiescence.add(group)
        self._tell_members(group)
        self._mark(group)
        return group

    # -- groups that come and go ---------------------------------------------------------------

    def leave_group(self, group_id: int) -> None:
        """Take part in a group no more: drop what it has under way, and send nothing more for it.

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

    def introduce(self, group_id: int, holders: Iterable[int]) -> None:
        """Hear these nodes too, which hold the group as the cluster says.

        A log that is far behind knows the members of long ago, who may all have left.
        """
        group = self._groups.get(group_id)
        if group is not None:
            group.introduce(holders)

    def receiving(self, group_id: int) -> tuple[int, int] | None:
        """Return how many bytes of a snapshot have come, and its size; None where none is on its way here."""
        return self._receiver.progress(group_id)

    # -- what comes in, on the loop ------------------------------------------------------------

    def on_members(self, handler: Callable[[RaftGroup], None]) -> None:
        """Have `handler(group)` called when a group comes, and when its `members` have changed.

        After a change the followers call it, so that more than the leader know by then; a leader without followers does.
        """
        self._members_handlers.append(handler)

    def on_frame(self, peer: int, payload: bytes) -> None:
        """Queue a frame of the RAFT channel, or drop it where too much waits: Raft sends again."""
        if self._frames_bytes + len(payload) > _FRAMES_BYTES or not self._frames.offer(
            (peer, payload)
        ):
            self._frames_dropped += 1
            return
        self._frames_bytes += len(payload)
        self._wake.set()

    def on_snapshot_frame(self, peer: int, payload: bytes) -> None:
        """Take in a frame of the SNAPSHOT channel."""
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
        """Note that a connection stands, or is gone and with it what was on its way."""
        if up:
            return
        self._sender.on_peer_down(peer)
        self._quiescence.on_peer_down(peer)
        for group in self._groups.values():
            group.report_unreachable(peer)

    def transfer_leadership(self) -> None:
        """Have other nodes lead what this one leads, before a stop. `status` of the groups shows when they do."""
        self._balancer.drain()

    @property
    def groups(self) -> dict[int, RaftGroup]:
        """All groups by id."""
        return dict(self._groups)

    def statistics(self) -> HostStatistics:
        """Return what it has done so far."""
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
        """Step a frame's messages, and return how many there were."""
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
        """Let the ticks pass that are due, and return whether any was.

        Called behind the frames, so that what peers have said in the meantime comes first.
        """
        ticks, self._ticks = self._ticks, 0
        if not ticks:
            return False
        self._quiescence.tick(ticks)
        for group in self._quiescence.awake.values():
            group.tick(ticks)
            self._busy[group.id] = group
        self._balancer.tick(ticks)
        self._compactor.tick()
        self._sender.tick()
        self._receiver.tick()
        return True

    def _serve_groups(self) -> None:
        for group_id in list(islice(self._busy, _GROUPS_PER_TURN)):
            self._serve(self._busy.pop(group_id))
        if self._busy:
            self._wake.set()

    def _serve(self, group: RaftGroup) -> None:
        """Do what the group's Readies ask. Those without anything to write are finished at once, and make room for the next."""
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
        """Do the rest of a Ready, once what had to be durable is."""
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

    def _tell_members(self, group: RaftGroup) -> None:
        for handler in self._members_handlers:
            handler(group)

    def _mark(self, group: RaftGroup) -> None:
        if self._groups.get(group.id) is not group:
            return  # it has left
        self._quiescence.wake(group)
        self._busy[group.id] = group
        self._wake.set()

    def _drop_frame(self, peer: int, error: NetworkError) -> None:
        self._frames_dropped += 1
        _log.warning("from node %d: %s; dropped", peer, error)
