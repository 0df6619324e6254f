"""Gives out snapshots of this node's buckets: exports on need, offers, serves what is pulled, cleans up.

One file serves every follower that needs one, for as long as this node's log goes on from it.
"""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import msgspec

from mas.errors import DatabaseUnavailable, StorageError
from mas.limits import SNAPSHOT_CHUNK_BYTES
from mas.multiraft.config import HostConfig
from mas.multiraft.group import RaftGroup
from mas.multiraft.ports import SNAPSHOT_CHANNEL, Peers, SnapshotFiles, Spawn, Worker
from mas.multiraft.snapshots import (
    Done,
    Gone,
    Offer,
    Piece,
    Pull,
    Request,
    SnapshotMessage,
    SnapshotReference,
    encode_message,
    encode_reference,
    read_digest,
)
from mas.raft import Role, Snapshot, SnapshotMetadata
from mas.runtime import Clock, Mailbox

_log = logging.getLogger(__name__)

_PULLS = 1_024


class _File(msgspec.Struct, frozen=True):
    path: Path
    reference: SnapshotReference
    metadata: SnapshotMetadata
    made: float


class _Offered(msgspec.Struct):
    file: _File
    heard: float
    """When the receiver was last heard of."""


class SnapshotSender:
    """The giving side of a node's snapshots."""

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
        self._exporting: dict[int, int] = {}
        self._requests: dict[int, dict[int, int]] = {}
        self._offers: dict[tuple[int, int], _Offered] = {}
        self._pulls: Mailbox[tuple[int, Pull]] = Mailbox("snapshot pulls", _PULLS)

    def newest(self, group_id: int) -> Snapshot | None:
        """What the leader's core can send now; None begins an export, and the core asks again."""
        group = self._groups[group_id]
        file = self._usable(group, group.storage.first_index() - 1)
        if file is None:
            return None
        return Snapshot(file.metadata, encode_reference(file.reference))

    def offer(self, group_id: int, peer: int) -> None:
        """The core's SNAPSHOT message: the file goes first, and the core hears how it went."""
        file = self._files.get(group_id)
        if file is None or not self._offer(group_id, peer, file):
            self._end(group_id, peer, ok=False)

    def spare(self, group_id: int, cut: int) -> int:
        """`cut`, or less: the entries that follow a snapshot on its way must not be cut away."""
        indexes = [cut]
        indexes += [
            offered.file.metadata.index
            for (group, _), offered in self._offers.items()
            if group == group_id
        ]
        if group_id in self._exporting:
            indexes.append(self._exporting[group_id])
        file = self._files.get(group_id)
        if file is not None and file.made > self._patience_began():
            indexes.append(file.metadata.index)
        return min(indexes)

    def on_message(self, peer: int, message: Pull | Done | Request) -> None:
        """What a receiver says."""
        match message:
            case Pull():
                self._pulls.offer((peer, message))  # no room: it is pulled again
            case Done():
                if not message.ok:
                    self._replace(message.group, message.name)
                self._end(message.group, peer, ok=message.ok)
            case Request():
                self._on_request(peer, message)

    def on_peer_down(self, peer: int) -> None:
        """The offers of a peer that is gone have failed, for now."""
        for group_id, offered_to in list(self._offers):
            if offered_to == peer:
                self._end(group_id, peer, ok=False)

    def tick(self) -> None:
        """Give up offers that nobody takes up, and delete files that nobody needs."""
        since = self._patience_began()
        for (group_id, peer), offered in list(self._offers.items()):
            if offered.heard < since:
                self._end(group_id, peer, ok=False)
        for group_id, file in list(self._files.items()):
            if file.metadata.index < self._groups[group_id].storage.first_index() - 1:
                self._replaced.append(self._files.pop(group_id))
        for file in self._replaced[:]:
            if all(offered.file is not file for offered in self._offers.values()):
                self._replaced.remove(file)
                file.path.unlink(missing_ok=True)

    def forget(self, group_id: int) -> None:
        """The group leaves this node."""
        for offered in [key for key in self._offers if key[0] == group_id]:
            del self._offers[offered]
        self._requests.pop(group_id, None)
        file = self._files.pop(group_id, None)
        if file is not None:
            self._replaced.append(file)

    async def run(self) -> None:
        """Serve pulls."""
        while True:
            for peer, pull in await self._pulls.drain():
                await self._serve(peer, pull)

    # -- inside --------------------------------------------------------------------------------

    def _patience_began(self) -> float:
        return self._clock.monotonic() - self._config.snapshot_idle_seconds

    def _usable(self, group: RaftGroup, least_index: int) -> _File | None:
        file = self._files.get(group.id)
        if file is not None and file.metadata.index >= least_index:
            return file
        if group.id not in self._exporting and not group.behind and group.error is None:
            self._exporting[group.id] = group.flushed
            self._spawn(f"raft.export.{group.id}", self._export(group))
        return None

    async def _export(self, group: RaftGroup) -> None:
        self._exports += 1
        path = self._config.snapshot_folder / f"bucket-{group.id}.{self._exports}.outgoing"
        try:
            metadata = await self._source.export(group.id, path)
            size, digest = await self._thread.run(lambda: (path.stat().st_size, read_digest(path)))
        except (DatabaseUnavailable, OSError) as error:
            _log.error("bucket %d: no snapshot could be exported: %s", group.id, error)
            path.unlink(missing_ok=True)
            return
        except StorageError:
            if self._groups.get(group.id) is group:
                raise
            return  # it has left meanwhile, and its rows are gone
        finally:
            del self._exporting[group.id]
        if self._groups.get(group.id) is not group:  # it has left meanwhile
            path.unlink(missing_ok=True)
            return
        # The log knows the membership at every index; the database need not.
        metadata = msgspec.structs.replace(metadata, conf_state=group.members.at(metadata.index))
        name = f"{self._config.node}-{metadata.index}-{metadata.term}-{digest.hex()}"
        reference = SnapshotReference(self._config.node, name, size, digest)
        file = _File(path, reference, metadata, self._clock.monotonic())
        if group.id in self._files:
            self._replaced.append(self._files[group.id])
        self._files[group.id] = file
        for peer, least_index in self._requests.pop(group.id, {}).items():
            if metadata.index >= least_index:
                self._offer(group.id, peer, file)

    def _offer(self, group_id: int, peer: int, file: _File) -> bool:
        self._offers[group_id, peer] = _Offered(file, self._clock.monotonic())
        return self._send(peer, Offer(group_id, file.reference, file.metadata))

    def _replace(self, group_id: int, name: str) -> None:
        """The file was no good there: it may have been damaged here, so the next offer is another."""
        file = self._files.get(group_id)
        if file is not None and file.reference.name == name:
            self._replaced.append(self._files.pop(group_id))

    def _end(self, group_id: int, peer: int, *, ok: bool) -> None:
        self._offers.pop((group_id, peer), None)
        group = self._groups.get(group_id)
        if group is not None and group.role is Role.LEADER:
            group.report_snapshot(peer, ok=ok)

    def _on_request(self, peer: int, request: Request) -> None:
        group = self._groups.get(request.group)
        if group is None or (request.group, peer) in self._offers:
            return
        file = self._usable(group, request.least_index)
        if file is not None:
            self._offer(group.id, peer, file)
        else:
            self._requests.setdefault(group.id, {})[peer] = request.least_index

    async def _serve(self, peer: int, pull: Pull) -> None:
        """A receiver may go on where it was, though its offer has been given up meanwhile."""
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
            return
        if self._send(peer, Piece(pull.group, pull.name, pull.offset, data)):
            offered.heard = now

    def _find(self, group_id: int, name: str) -> _File | None:
        newest = self._files.get(group_id)
        kept = [newest, *self._replaced] if newest is not None else self._replaced
        return next((file for file in kept if file.reference.name == name), None)

    def _send(self, peer: int, message: SnapshotMessage) -> bool:
        return self._peers.send(peer, SNAPSHOT_CHANNEL, encode_message(message))


def _read(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(SNAPSHOT_CHUNK_BYTES)
