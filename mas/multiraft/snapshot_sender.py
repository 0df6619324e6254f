"""Gives out snapshots of this node's buckets: exports on need, offers, serves what is pulled, cleans up.

One file serves every follower that needs one, for as long as this node's log goes on from it. Files lie on the disk that
the log is on, so there are never more than a few, and one that nobody has asked for lately is deleted. The log isn't cut
behind a file on its way, but only for as long as a transfer that gets on takes: a follower that doesn't take it, or hardly,
is offered a newer one when it can. What fails, here or there, is tried again after pauses that grow.
"""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import msgspec

from mas.channels import Channel
from mas.errors import CorruptData, StorageError
from mas.limits import SNAPSHOT_CHUNK_BYTES
from mas.multiraft.config import HostConfig
from mas.multiraft.group import RaftGroup
from mas.multiraft.pauses import Pauses
from mas.multiraft.ports import Peers, SnapshotFiles, Spawn, Worker
from mas.multiraft.snapshots import (
    Done,
    Gone,
    Offer,
    Piece,
    Pull,
    Request,
    SnapshotMessage,
    SnapshotReference,
    Verdict,
    encode_message,
    encode_reference,
    read_digest,
)
from mas.raft import Role, Snapshot, SnapshotMetadata
from mas.runtime import Clock, Mailbox

_log = logging.getLogger(__name__)

_PULLS = 1_024
_FILES_MAX = 8
"""Snapshots that lie here, those being exported among them."""
_BYTES_PER_SECOND_LEAST = 1 << 20
"""Of a transfer that gets on."""
_EXPORT_PATIENCE = 6
"""The log waits for an export for so many times the patience with a receiver."""


class _File(msgspec.Struct, eq=False):
    path: Path
    reference: SnapshotReference
    metadata: SnapshotMetadata
    spared_until: float
    """So long the log isn't cut behind it: as long as a transfer takes that gets on."""
    asked: float
    """When somebody last wanted it."""


class _Offered(msgspec.Struct):
    file: _File
    heard: float
    """When the receiver was last heard of."""


class _Export(msgspec.Struct, frozen=True):
    index: int
    """What it holds at least."""
    spared_until: float


class SnapshotSender:
    """Exports, offers and sends the snapshots of a node's groups."""

    def __init__(
        self,
        config: HostConfig,
        groups: Mapping[int, RaftGroup],
        files: SnapshotFiles,
        thread: Worker,
        peers: Peers,
        clock: Clock,
        spawn: Spawn,
    ) -> None:
        self._config = config
        self._groups = groups
        self._source = files
        self._thread = thread
        self._peers = peers
        self._clock = clock
        self._spawn = spawn
        self._files: dict[int, _File] = {}
        self._replaced: list[_File] = []
        self._exports = 0
        self._exporting: dict[int, _Export] = {}
        self._requests: dict[int, dict[int, int]] = {}
        self._offers: dict[tuple[int, int], _Offered] = {}
        self._postponed: dict[tuple[int, int], None] = {}
        """The core waits for these to get its snapshot, and their pause isn't over."""
        idle = config.snapshot_idle_seconds
        self._offer_pauses: Pauses[tuple[int, int]] = Pauses(clock, idle / 10, 30 * idle)
        self._export_pauses: Pauses[int] = Pauses(clock, idle / 10, 30 * idle)
        self._pulls: Mailbox[tuple[int, Pull]] = Mailbox("snapshot pulls", _PULLS)

    def newest(self, group_id: int) -> Snapshot | None:
        """Return what the leader's core can send now. Where that is None an export begins, and the core asks again."""
        group = self._groups[group_id]
        file = self._usable(group, group.storage.first_index() - 1)
        if file is None:
            return None
        return Snapshot(file.metadata, encode_reference(file.reference))

    def offer(self, group_id: int, peer: int) -> None:
        """Send the file that the core's SNAPSHOT message stands for, and tell the core how it went."""
        if not self._offer_pauses.is_over((group_id, peer)):
            self._postponed[group_id, peer] = None
            return
        file = self._files.get(group_id)
        if file is None or not self._offer(group_id, peer, file):
            self._end(group_id, peer, ok=False)

    def spare(self, group_id: int, cut: int) -> int:
        """Return `cut`, or less: while a snapshot on its way gets on, the entries behind it must not be cut."""
        now = self._clock.monotonic()
        indexes = [cut]
        files = [offered.file for (group, _), offered in self._offers.items() if group == group_id]
        if group_id in self._files and self._files[group_id].asked > self._patience_began():
            files.append(self._files[group_id])
        indexes += [file.metadata.index for file in files if now < file.spared_until]
        export = self._exporting.get(group_id)
        if export is not None and now < export.spared_until:
            indexes.append(export.index)
        return min(indexes)

    def on_message(self, peer: int, message: Pull | Done | Request) -> None:
        """Take in what a receiver says."""
        match message:
            case Pull():
                self._pulls.offer((peer, message))  # no room: it is pulled again
            case Done():
                self._on_done(peer, message)
            case Request():
                self._on_request(peer, message)

    def on_peer_down(self, peer: int) -> None:
        """Give up what was on its way to a peer, for now: a peer that comes back may have been mended."""
        for group_id, offered_to in [*self._offers, *self._postponed]:
            if offered_to == peer:
                self._end(group_id, peer, ok=False)
        for key in self._offer_pauses.failing():
            if key[1] == peer:
                self._offer_pauses.end(key)

    def tick(self) -> None:
        """Go on with what was postponed, give up offers that nobody takes up, delete files that nobody needs."""
        for key in [key for key in self._postponed if self._offer_pauses.is_over(key)]:
            del self._postponed[key]
            self.offer(*key)
        now, since = self._clock.monotonic(), self._patience_began()
        is_full = self._lying() >= _FILES_MAX
        for (group_id, peer), offered in list(self._offers.items()):
            if offered.heard < since or (is_full and offered.file.spared_until < now):
                self._offer_pauses.failed((group_id, peer))
                self._end(group_id, peer, ok=False)
        wanted = {id(offered.file) for offered in self._offers.values()}
        for group_id, file in list(self._files.items()):
            is_behind = file.metadata.index < self._groups[group_id].storage.first_index() - 1
            if is_behind or (file.asked < since and id(file) not in wanted):
                self._replaced.append(self._files.pop(group_id))
        for file in self._replaced[:]:
            if id(file) not in wanted:
                self._replaced.remove(file)
                file.path.unlink(missing_ok=True)

    def forget(self, group_id: int) -> None:
        """Forget a group that leaves this node."""
        for key in [key for key in self._offers if key[0] == group_id]:
            del self._offers[key]
        for key in [key for key in self._postponed if key[0] == group_id]:
            del self._postponed[key]
        for key in [key for key in self._offer_pauses.failing() if key[0] == group_id]:
            self._offer_pauses.end(key)
        self._export_pauses.end(group_id)
        self._requests.pop(group_id, None)
        file = self._files.pop(group_id, None)
        if file is not None:
            self._replaced.append(file)

    async def run(self) -> None:
        """Serve pulls."""
        while True:
            for peer, pull in await self._pulls.drain():
                await self._serve(peer, pull)

    # -- exports -------------------------------------------------------------------------------

    def _patience_began(self) -> float:
        return self._clock.monotonic() - self._config.snapshot_idle_seconds

    def _usable(self, group: RaftGroup, least_index: int) -> _File | None:
        file = self._files.get(group.id)
        if file is not None and file.metadata.index >= least_index:
            file.asked = self._clock.monotonic()
            return file
        if group.id not in self._exporting and not group.awaiting_snapshot and group.error is None:
            self._begin_export(group)
        return None

    def _lying(self) -> int:
        return len(self._files) + len(self._replaced) + len(self._exporting)

    def _begin_export(self, group: RaftGroup) -> None:
        if self._lying() >= _FILES_MAX or not self._export_pauses.is_over(group.id):
            return  # whoever wants it asks again
        spared_until = (
            self._clock.monotonic() + _EXPORT_PATIENCE * self._config.snapshot_idle_seconds
        )
        self._exporting[group.id] = _Export(group.flushed, spared_until)
        self._spawn(f"raft.export.{group.id}", self._export(group))

    async def _export(self, group: RaftGroup) -> None:
        self._exports += 1
        path = self._config.snapshot_folder / f"bucket-{group.id}.{self._exports}.outgoing"
        # The log knows the membership at every index; the database need not. An installation meanwhile brings another.
        members = group.members
        try:
            metadata = await self._source.export(group.id, path)
            size, digest = await self._thread.run(lambda: (path.stat().st_size, read_digest(path)))
        except (StorageError, OSError) as error:
            path.unlink(missing_ok=True)
            if (
                self._groups.get(group.id) is group
            ):  # else: it has left meanwhile, and its rows are gone
                seconds = self._export_pauses.failed(group.id)
                _log.error(
                    "bucket %d: no snapshot could be exported, the next try is in %.1f s: %s",
                    group.id,
                    seconds,
                    error,
                )
            return
        finally:
            del self._exporting[group.id]
        has_left = self._groups.get(group.id) is not group
        if has_left or metadata.index < group.storage.first_index() - 1:
            path.unlink(missing_ok=True)
            return
        metadata = msgspec.structs.replace(metadata, conf_state=members.at(metadata.index))
        name = f"{self._config.node}-{metadata.index}-{metadata.term}-{digest.hex()}"
        reference = SnapshotReference(self._config.node, name, size, digest)
        now = self._clock.monotonic()
        allowed = self._config.snapshot_idle_seconds + size / _BYTES_PER_SECOND_LEAST
        file = _File(path, reference, metadata, now + allowed, now)
        if group.id in self._files:
            self._replaced.append(self._files[group.id])
        self._files[group.id] = file
        for peer, least_index in self._requests.pop(group.id, {}).items():
            if metadata.index >= least_index:
                self._offer(group.id, peer, file)

    async def _examine(self, group: RaftGroup, file: _File) -> None:
        """Check a file that a receiver has found bad. If it is bad here too, then so are the rows that it was made of."""
        try:
            await self._source.check(group.id, file.path)
        except CorruptData as error:
            _log.critical(
                "bucket %d: what this node's database holds of it is damaged: %s. Rebuild this replica from the others "
                "with `mas admin replica rebuild`",
                group.id,
                error,
            )
            if self._groups.get(group.id) is group:
                group.transfer_leadership()
        except StorageError as error:
            _log.error("bucket %d: a snapshot can't be read again: %s", group.id, error)

    # -- offers --------------------------------------------------------------------------------

    def _offer(self, group_id: int, peer: int, file: _File) -> bool:
        self._offers[group_id, peer] = _Offered(file, self._clock.monotonic())
        return self._send(peer, Offer(group_id, file.reference, file.metadata))

    def _on_done(self, peer: int, done: Done) -> None:
        key = done.group, peer
        match done.verdict:
            case Verdict.HELD:
                self._offer_pauses.end(key)
                self._export_pauses.end(done.group)
            case Verdict.BUSY:
                self._offer_pauses.end(key)
                self._offer_pauses.failed(key)
            case _:
                seconds = self._offer_pauses.failed(key)
                _log.warning(
                    "bucket %d: the snapshot %s at node %d, which is offered one again in %.1f s: %s",
                    done.group,
                    done.verdict.words,
                    peer,
                    seconds,
                    done.why,
                )
        if done.verdict in (Verdict.BAD, Verdict.TOO_OLD):
            self._replace(done)
        self._end(done.group, peer, ok=done.verdict is Verdict.HELD)

    def _replace(self, done: Done) -> None:
        """Have the next offer be of another file."""
        group, file = self._groups.get(done.group), self._files.get(done.group)
        if group is None or file is None or file.reference.name != done.name:
            return
        self._replaced.append(self._files.pop(done.group))
        if done.verdict is Verdict.BAD:
            self._export_pauses.failed(done.group)
            self._spawn(f"raft.examine.{done.group}", self._examine(group, file))

    def _end(self, group_id: int, peer: int, *, ok: bool) -> None:
        self._offers.pop((group_id, peer), None)
        self._postponed.pop((group_id, peer), None)
        group = self._groups.get(group_id)
        if group is not None and group.role is Role.LEADER:
            group.report_snapshot(peer, ok=ok)

    def _on_request(self, peer: int, request: Request) -> None:
        group = self._groups.get(request.group)
        if group is None or (request.group, peer) in self._offers:
            return
        self._offer_pauses.end((request.group, peer))
        file = self._usable(group, request.least_index)
        if file is not None:
            self._postponed.pop((request.group, peer), None)
            self._offer(group.id, peer, file)
        else:
            self._requests.setdefault(group.id, {})[peer] = request.least_index

    async def _serve(self, peer: int, pull: Pull) -> None:
        """Send a receiver what it pulls. It may go on where it was, though its offer has been given up meanwhile."""
        file = self._find(pull.group, pull.name)
        if file is None:
            self._send(peer, Gone(pull.group, pull.name))
            return
        now = self._clock.monotonic()
        offered = self._offers.setdefault((pull.group, peer), _Offered(file, now))
        try:
            data = await self._thread.run(partial(_read, file.path, pull.offset))
        except OSError as error:
            _log.error("bucket %d: a snapshot can't be read: %s", pull.group, error)
            if self._files.get(pull.group) is file:
                self._replaced.append(self._files.pop(pull.group))
                self._export_pauses.failed(pull.group)
            self._end(pull.group, peer, ok=False)
            self._send(peer, Gone(pull.group, pull.name))
            return
        if self._send(peer, Piece(pull.group, pull.name, pull.offset, data)):
            offered.heard = now

    def _find(self, group_id: int, name: str) -> _File | None:
        newest = self._files.get(group_id)
        kept = [newest, *self._replaced] if newest is not None else self._replaced
        return next((file for file in kept if file.reference.name == name), None)

    def _send(self, peer: int, message: SnapshotMessage) -> bool:
        return self._peers.send(peer, Channel.SNAPSHOT, encode_message(message))


def _read(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(SNAPSHOT_CHUNK_BYTES)
