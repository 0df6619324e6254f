"""Takes a snapshot in: fetches the file, checks it, and brings database and log to it, in the order of rule 28.

    file complete ─ checked ─► note synced ─► rows swapped ─► log restored, note cleared ─► core told
                 snapshot.received  snapshot.noted  snapshot.installed   snapshot.restored

Whatever it dies between, a start finds either the old state or the note, and then finishes the work.
"""

import logging
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import msgspec

from mas.errors import CorruptData, DatabaseUnavailable
from mas.limits import SNAPSHOT_CHUNK_BYTES
from mas.multiraft.config import HostConfig
from mas.multiraft.events import Restored
from mas.multiraft.group import RaftGroup
from mas.multiraft.members import Members
from mas.multiraft.ports import (
    SNAPSHOT_CHANNEL,
    LogBatch,
    Peers,
    RaftLog,
    SnapshotFiles,
    Spawn,
    Worker,
)
from mas.multiraft.snapshots import (
    Done,
    Gone,
    Note,
    Offer,
    Piece,
    Pull,
    Request,
    SnapshotMessage,
    decode_note,
    encode_message,
    encode_note,
    incoming_path,
    read_digest,
)
from mas.multiraft.writer import LogWriter
from mas.raft import SnapshotMetadata
from mas.runtime import Clock, Mailbox, failpoint

_log = logging.getLogger(__name__)

_WINDOW_BYTES = 8 * SNAPSHOT_CHUNK_BYTES
_PIECES = 256
_RETRY_SECONDS = 1.0


class _Transfer(msgspec.Struct):
    """A file on its way here: written <= arrived <= asked."""

    peer: int
    offer: Offer
    heard: float
    """When the last piece came, or the offer."""
    pulled: float
    """When what doesn't come was last asked for again, or the offer came."""
    asked: int = 0
    arrived: int = 0
    written: int = 0
    is_complete: bool = False


class SnapshotReceiver:
    """The taking side of a node's snapshots."""

    def __init__(
        self,
        config: HostConfig,
        groups: Mapping[int, RaftGroup],
        files: SnapshotFiles,
        thread: Worker,
        peers: Peers,
        writer: LogWriter,
        clock: Clock,
        spawn: Spawn,
    ) -> None:
        self._config = config
        self._groups = groups
        self._files = files
        self._thread = thread
        self._peers = peers
        self._writer = writer
        self._clock = clock
        self._spawn = spawn
        self._transfers: dict[int, _Transfer] = {}
        self._pieces: Mailbox[tuple[_Transfer, Piece]] = Mailbox("snapshot pieces", _PIECES)
        self._asked: dict[int, tuple[float, int]] = {}

    def on_message(self, peer: int, message: Offer | Piece | Gone) -> None:
        """What a sender says."""
        match message:
            case Offer():
                self._on_offer(peer, message)
            case Piece():
                self._on_piece(message)
            case Gone():
                transfer = self._transfers.get(message.group)
                if transfer and not transfer.is_complete and _name(transfer) == message.name:
                    del self._transfers[message.group]

    def tick(self) -> None:
        """Pull again what doesn't come, and ask for what nobody offers, or has offered and doesn't send."""
        now = self._clock.monotonic()
        patience = self._config.snapshot_idle_seconds / 5
        for transfer in self._transfers.values():
            if not transfer.is_complete and now - max(transfer.heard, transfer.pulled) > patience:
                transfer.pulled = now
                transfer.asked = transfer.arrived
                self._pull(transfer)
        for group in self._groups.values():
            if not group.behind or self._is_served(group.id, now):
                continue
            asked, turn = self._asked.get(group.id, (float("-inf"), 0))
            if now - asked > patience:
                self._asked[group.id] = now, turn + 1
                self._request(group, turn)

    def progress(self, group_id: int) -> tuple[int, int] | None:
        """Bytes that have come, and the file's size; None where nothing is on its way."""
        transfer = self._transfers.get(group_id)
        return None if transfer is None else (transfer.written, transfer.offer.file.size)

    def is_installing(self, group_id: int) -> bool:
        """Whether a file is complete, and on its way into database and log."""
        transfer = self._transfers.get(group_id)
        return transfer is not None and transfer.is_complete

    def forget(self, group_id: int) -> None:
        """The group leaves this node."""
        self._asked.pop(group_id, None)
        if self._transfers.pop(group_id, None) is not None:
            self._path(group_id).unlink(missing_ok=True)

    async def run(self) -> None:
        """Write the pieces that come."""
        while True:
            for transfer, piece in await self._pieces.drain():
                if self._transfers.get(piece.group) is transfer:
                    await self._write_piece(transfer, piece)

    def _is_served(self, group_id: int, now: float) -> bool:
        transfer = self._transfers.get(group_id)
        return transfer is not None and (
            transfer.is_complete or now - transfer.heard <= self._config.snapshot_idle_seconds
        )

    # -- fetching ------------------------------------------------------------------------------

    def _request(self, group: RaftGroup, turn: int) -> None:
        """Ask the others, one after the other: any replica may have the state."""
        others = [node for node in group.members.newest.voters if node != self._config.node]
        if others:
            least_index = group.storage.first_index() - 1
            self._send(others[turn % len(others)], Request(group.id, least_index))

    def _on_offer(self, peer: int, offer: Offer) -> None:
        group = self._groups.get(offer.group)
        if group is None or group.error is not None:
            return
        index = offer.metadata.index
        if not group.behind and index <= group.delivery.committed:
            self._send(peer, Done(offer.group, offer.file.name, ok=True))
            return
        if group.behind and index < group.storage.first_index() - 1:
            self._send(peer, Done(offer.group, offer.file.name, ok=False))
            return
        transfer = self._transfers.get(offer.group)
        if transfer is not None and transfer.is_complete:
            return
        if transfer is None or _name(transfer) != offer.file.name:
            now = self._clock.monotonic()
            transfer = _Transfer(peer, offer, heard=now, pulled=now)
            self._transfers[offer.group] = transfer
        transfer.peer = peer
        transfer.asked = transfer.arrived
        self._pull(transfer)

    def _on_piece(self, piece: Piece) -> None:
        """Take the piece that is next; any other has been asked for again, or will be."""
        transfer = self._transfers.get(piece.group)
        if (
            transfer is not None
            and _name(transfer) == piece.name
            and piece.offset == transfer.arrived
            and piece.data
            and self._pieces.offer((transfer, piece))
        ):
            transfer.heard = self._clock.monotonic()
            transfer.arrived += len(piece.data)

    def _pull(self, transfer: _Transfer) -> None:
        end = min(transfer.written + _WINDOW_BYTES, transfer.offer.file.size)
        while transfer.asked < end:
            pull = Pull(transfer.offer.group, _name(transfer), transfer.asked)
            if not self._send(transfer.peer, pull):
                return
            transfer.asked += SNAPSHOT_CHUNK_BYTES

    async def _write_piece(self, transfer: _Transfer, piece: Piece) -> None:
        path = self._path(piece.group)
        try:
            await self._thread.run(partial(_write, path, piece.offset, piece.data))
        except OSError as error:
            _log.error("bucket %d: the snapshot can't be received: %s", piece.group, error)
            if self._transfers.get(piece.group) is transfer:
                self._drop(transfer, ok=False)
            return
        if self._transfers.get(piece.group) is not transfer:
            return  # the group has left meanwhile, or another file is on its way
        transfer.written = piece.offset + len(piece.data)
        if transfer.written >= transfer.offer.file.size:
            transfer.is_complete = True
            self._spawn(f"raft.install.{piece.group}", self._take_in(transfer))
        else:
            self._pull(transfer)

    # -- installing (rule 28) ------------------------------------------------------------------

    async def _take_in(self, transfer: _Transfer) -> None:
        group = self._groups[transfer.offer.group]
        try:
            await self._check(transfer)
        except CorruptData as error:
            _log.error("bucket %d: a snapshot is no good: %s", group.id, error)
            self._drop(transfer, ok=False)
            return
        failpoint("snapshot.received")
        # From here on nothing more is handed out, so that no flush of older state meets the new rows.
        group.delivery.paused = True
        await group.wait_flushed()
        if group.error is not None:
            self._drop(transfer, ok=False)
            return
        metadata = transfer.offer.metadata
        if group.behind or metadata.index > group.delivery.committed:
            await self._install(group, transfer.offer)
        else:
            group.delivery.paused = False  # others have brought the entries meanwhile
            group.delivery.resume()
        self._drop(transfer, ok=True)

    async def _check(self, transfer: _Transfer) -> None:
        offer, path = transfer.offer, self._path(transfer.offer.group)
        digest = await self._thread.run(partial(_sync_and_digest, path))
        if digest != offer.file.digest:
            raise CorruptData(f"{path} isn't the file that node {transfer.peer} offered")
        held = await self._check_rows(offer.group)
        if (held.index, held.term) != (offer.metadata.index, offer.metadata.term):
            raise CorruptData(
                f"{path} holds index {held.index} of term {held.term}: node {transfer.peer} "
                f"offered {offer.metadata.index} of term {offer.metadata.term}"
            )

    async def _check_rows(self, group_id: int) -> SnapshotMetadata:
        while True:
            try:
                return await self._files.check(group_id, self._path(group_id))
            except DatabaseUnavailable as error:
                await self._wait(group_id, error)

    async def _install(self, group: RaftGroup, offer: Offer) -> None:
        metadata = offer.metadata
        _log.info("bucket %d: installing a snapshot of index %d", group.id, metadata.index)
        note = encode_note(Note(metadata))
        await self._writer.write(lambda: self._writer.batch.set_note(group.id, note))
        failpoint("snapshot.noted")
        await self._install_rows(group.id)
        failpoint("snapshot.installed")
        group.is_frozen = True
        await self._writer.write(lambda: None)  # what was in flight is finished now
        await self._writer.write(lambda: _restore_log(self._writer.batch, group.id, metadata))
        failpoint("snapshot.restored")
        members = Members(metadata.index, metadata.conf_state)
        group.restart(members, Restored(metadata.index, metadata.term, metadata.conf_state))

    async def _install_rows(self, group_id: int) -> None:
        while True:
            try:
                await self._files.install(group_id, self._path(group_id))
                return
            except DatabaseUnavailable as error:
                await self._wait(group_id, error)

    async def _wait(self, group_id: int, error: DatabaseUnavailable) -> None:
        _log.error("bucket %d: a snapshot waits for the database: %s", group_id, error)
        await self._clock.sleep(_RETRY_SECONDS)

    def _drop(self, transfer: _Transfer, *, ok: bool) -> None:
        group_id = transfer.offer.group
        del self._transfers[group_id]
        self._path(group_id).unlink(missing_ok=True)
        self._send(transfer.peer, Done(group_id, _name(transfer), ok))

    def _path(self, group_id: int) -> Path:
        return incoming_path(self._config.snapshot_folder, group_id)

    def _send(self, peer: int, message: SnapshotMessage) -> bool:
        return self._peers.send(peer, SNAPSHOT_CHANNEL, encode_message(message))


async def finish_installs(log: RaftLog, files: SnapshotFiles, folder: Path) -> None:
    """At a start, before anybody reads the databases: swap the rows of every snapshot that the log has a note of.

    Raises:
        DatabaseUnavailable: nothing has changed; start again once the database is there.
    """
    for group_id in log.groups():
        path = incoming_path(folder, group_id)
        try:
            note = log.note(group_id)
        except CorruptData:
            continue  # this replica is stopped, as whoever starts it will hear
        if note is None:
            path.unlink(missing_ok=True)
        elif path.exists():
            _log.info("bucket %d: finishing the installation of a snapshot", group_id)
            try:
                await files.check(group_id, path)
            except CorruptData as error:
                # It was whole when the note was written, and is only read since: if the rows aren't swapped
                # they stay as they were, and the leader offers another.
                _log.error("bucket %d: the snapshot is damaged: %s", group_id, error)
            else:
                await files.install(group_id, path)


def settle_note(log: RaftLog, group_id: int, applied: int) -> None:
    """At a start, the database being at `applied`: bring the log to the snapshot that it holds, and clear the note."""
    note = log.note(group_id)
    if note is None:
        return
    metadata = decode_note(note).metadata
    batch = log.batch()
    if applied >= metadata.index:
        _restore_log(batch, group_id, metadata)
    else:
        batch.set_note(group_id, None)
    batch.commit(sync=True)


def _restore_log(batch: LogBatch, group_id: int, metadata: SnapshotMetadata) -> None:
    batch.restore(group_id, metadata)
    batch.set_note(group_id, None)


def _name(transfer: _Transfer) -> str:
    return transfer.offer.file.name


def _write(path: Path, offset: int, data: bytes) -> None:
    with path.open("wb" if offset == 0 else "r+b") as file:
        file.seek(offset)
        file.write(data)


def _sync_and_digest(path: Path) -> bytes:
    with path.open("r+b") as file:
        os.fsync(file.fileno())
    return read_digest(path)
