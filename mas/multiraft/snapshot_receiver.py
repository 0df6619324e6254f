"""Takes a snapshot in: fetches the file, checks it, and brings database and log to it, in the order of rule 28.

    file complete ─ checked ─► note synced ─► rows swapped ─► log restored, note cleared ─► core told
                 snapshot.received  snapshot.noted  snapshot.installed   snapshot.restored

If the process dies at any step, a start finds either the old state or the note, and then finishes the work. A failure on
the way delays or stops this replica, but never the process, whose other replicas have nothing to do with it. The sender
hears the reason, so that it neither keeps its log for this replica meanwhile nor takes its file for a damaged one.
"""

import errno
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from mas.channels import Channel
from mas.errors import CorruptData, DatabaseUnavailable, StorageError
from mas.files import sync_directory
from mas.limits import SNAPSHOT_CHUNK_BYTES
from mas.multiraft.config import HostConfig
from mas.multiraft.events import Restored
from mas.multiraft.group import RaftGroup
from mas.multiraft.members import Members
from mas.multiraft.pauses import Pauses
from mas.multiraft.ports import (
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
    Verdict,
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

T = TypeVar("T")

_WINDOW_BYTES = 8 * SNAPSHOT_CHUNK_BYTES
_PIECES = 256
_TRANSFERS_MAX = 4
_GONE_PATIENCE = 6
"""A transfer of which nothing has come for so many times the patience is given up, and its file deleted."""
_RETRY_SECONDS = 1.0
_RETRY_SECONDS_MAX = 30.0
_WHY_CHARACTERS = 512


class _Transfer(msgspec.Struct):
    """Tracks a file on its way here: written <= arrived <= asked."""

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


class _Refused(msgspec.Struct, frozen=True):
    """Remembers an offer that couldn't be taken in here, to ask for it again."""

    peer: int
    needs: int
    """Bytes that must be free first."""


class SnapshotReceiver:
    """Receives and installs the snapshots of a node's groups."""

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
        self._refused: dict[int, _Refused] = {}
        self._pauses: Pauses[int] = Pauses(clock, _RETRY_SECONDS, _RETRY_SECONDS_MAX)

    def on_message(self, peer: int, message: Offer | Piece | Gone) -> None:
        """Take in what a sender says."""
        match message:
            case Offer():
                self._on_offer(peer, message)
            case Piece():
                self._on_piece(message)
            case Gone():
                transfer = self._transfers.get(message.group)
                if transfer and not transfer.is_complete and _name(transfer) == message.name:
                    self._remove(transfer)

    def tick(self) -> None:
        """Pull again what doesn't come, and ask for what nobody offers, or has offered and doesn't send."""
        now = self._clock.monotonic()
        patience = self._config.snapshot_idle_seconds / 5
        for transfer in list(self._transfers.values()):
            if transfer.is_complete:
                continue
            if now - max(transfer.heard, transfer.pulled) > patience:
                transfer.pulled = now
                transfer.asked = transfer.arrived
                self._pull(transfer)
            if now - transfer.heard > _GONE_PATIENCE * self._config.snapshot_idle_seconds:
                self._remove(transfer)
        for group_id in list(self._refused):
            self._ask_again(group_id)
        for group in self._groups.values():
            if (
                not group.awaiting_snapshot
                or group.id in self._refused
                or self._is_served(group.id, now)
            ):
                continue
            asked, turn = self._asked.get(group.id, (float("-inf"), 0))
            if now - asked > patience:
                self._asked[group.id] = now, turn + 1
                self._request(group, turn)

    def progress(self, group_id: int) -> tuple[int, int] | None:
        """Return the bytes that have come and the file's size; None where nothing is on its way."""
        transfer = self._transfers.get(group_id)
        return None if transfer is None else (transfer.written, transfer.offer.file.size)

    def is_installing(self, group_id: int) -> bool:
        """Return whether a file is complete, and on its way into database and log."""
        transfer = self._transfers.get(group_id)
        return transfer is not None and transfer.is_complete

    def forget(self, group_id: int) -> None:
        """Forget a group that leaves this node."""
        self._asked.pop(group_id, None)
        self._refused.pop(group_id, None)
        self._pauses.end(group_id)
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

    def _ask_again(self, group_id: int) -> None:
        """Ask for the snapshot again once what was in the way is gone, since whoever offered it can't know."""
        refused, group = self._refused[group_id], self._groups[group_id]
        if (
            group.error is None
            and self._pauses.is_over(group_id)
            and self._files.room_for(refused.needs)
        ):
            del self._refused[group_id]
            self._send(refused.peer, Request(group_id, group.storage.first_index() - 1))

    def _on_offer(self, peer: int, offer: Offer) -> None:
        group = self._groups.get(offer.group)
        if group is None:
            return
        transfer = self._transfers.get(offer.group)
        verdict, why = self._judge(group, offer, transfer)
        if verdict is not None:
            self._answer(peer, offer, verdict, why)
            return
        self._refused.pop(offer.group, None)
        if transfer is None or _name(transfer) != offer.file.name:
            now = self._clock.monotonic()
            transfer = _Transfer(peer, offer, heard=now, pulled=now)
            self._transfers[offer.group] = transfer
        transfer.peer = peer
        transfer.asked = transfer.arrived
        self._pull(transfer)

    def _judge(
        self, group: RaftGroup, offer: Offer, transfer: _Transfer | None
    ) -> tuple[Verdict | None, str]:
        """Return why an offer isn't taken in; None where it is to be."""
        index = offer.metadata.index
        if group.error is not None:
            return Verdict.FAILED, f"the replica is stopped: {group.error}"
        if not group.awaiting_snapshot and index <= group.apply_queue.committed:
            return Verdict.HELD, ""
        if group.awaiting_snapshot and index < group.storage.first_index() - 1:
            return (
                Verdict.TOO_OLD,
                f"index {index}, and the log begins at {group.storage.first_index()}",
            )
        if transfer is not None:
            return (
                (Verdict.WAITS, "another is being installed")
                if transfer.is_complete
                else (None, "")
            )
        now = self._clock.monotonic()
        if sum(self._is_served(each, now) for each in self._transfers) >= _TRANSFERS_MAX:
            return Verdict.BUSY, f"it takes in {_TRANSFERS_MAX} others"
        needs = offer.file.size + sum(each.offer.file.size for each in self._transfers.values())
        if not self._files.room_for(needs):
            return (
                Verdict.NO_ROOM,
                f"a snapshot of {offer.file.size:,} bytes, and what its installation takes",
            )
        return None, ""

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
            if self._transfers.get(piece.group) is transfer:
                is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                verdict = Verdict.NO_ROOM if is_full else Verdict.FAILED
                self._drop(transfer, verdict, f"it can't be received: {error}")
            return
        if self._transfers.get(piece.group) is not transfer:
            if piece.group not in self._transfers:
                path.unlink(missing_ok=True)
            return  # the group has left meanwhile, or another file is on its way
        transfer.written = piece.offset + len(piece.data)
        if not self._files.room_for(0):
            self._drop(transfer, Verdict.NO_ROOM, "what is left of the disk is the Raft log's")
            return
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
            self._drop(transfer, Verdict.BAD, str(error))
            return
        except (OSError, StorageError) as error:
            self._drop(transfer, Verdict.FAILED, f"it can't be checked: {error}")
            return
        failpoint("snapshot.received")
        # From here on nothing more is handed out, so that no flush of older state meets the new rows.
        group.apply_queue.paused = True
        await group.wait_flushed()
        if group.error is not None:
            self._drop(transfer, Verdict.FAILED, f"the replica is stopped: {group.error}")
            return
        metadata = transfer.offer.metadata
        if group.awaiting_snapshot or metadata.index > group.apply_queue.committed:
            try:
                await self._install(group, transfer)
            except StorageError as error:
                # The file was whole: it is this node's disk or database, and the note says how far this has come.
                group.isolate(error)
                self._drop(transfer, Verdict.FAILED, f"it can't be installed: {error}")
                return
        else:
            group.apply_queue.paused = False  # others have brought the entries meanwhile
            group.apply_queue.resume()
        self._pauses.end(group.id)
        self._drop(transfer, Verdict.HELD)

    async def _check(self, transfer: _Transfer) -> None:
        offer, path = transfer.offer, self._path(transfer.offer.group)
        digest = await self._thread.run(partial(_sync_and_digest, path))
        if digest != offer.file.digest:
            raise CorruptData(f"{path} isn't the file that node {transfer.peer} offered")
        held = await self._persist(transfer, lambda: self._files.check(offer.group, path))
        if (held.index, held.term) != (offer.metadata.index, offer.metadata.term):
            raise CorruptData(
                f"{path} holds index {held.index} of term {held.term}: node {transfer.peer} "
                f"offered {offer.metadata.index} of term {offer.metadata.term}"
            )

    async def _install(self, group: RaftGroup, transfer: _Transfer) -> None:
        metadata = transfer.offer.metadata
        _log.info("bucket %d: installing a snapshot of index %d", group.id, metadata.index)
        note = encode_note(Note(metadata))
        await self._writer.write(lambda: self._writer.batch.set_note(group.id, note))
        failpoint("snapshot.noted")
        await self._persist(transfer, lambda: self._files.install(group.id, self._path(group.id)))
        failpoint("snapshot.installed")
        group.is_frozen = True
        await self._writer.write(lambda: None)  # what was in flight is finished now
        await self._writer.write(lambda: _restore_log(self._writer.batch, group.id, metadata))
        failpoint("snapshot.restored")
        members = Members(metadata.index, metadata.conf_state)
        group.restart(members, Restored(metadata.index, metadata.term, metadata.conf_state))

    async def _persist(self, transfer: _Transfer, work: Callable[[], Awaitable[T]]) -> T:
        """Try until the database is there. The sender hears that it takes long, and needn't keep its log for it."""
        offer = transfer.offer
        while True:
            try:
                return await work()
            except DatabaseUnavailable as error:
                seconds = self._pauses.failed(offer.group)
                _log.error(
                    "bucket %d: a snapshot waits for the database: %s; the next try is in %.0f s",
                    offer.group,
                    error,
                    seconds,
                )
                self._answer(transfer.peer, offer, Verdict.WAITS, str(error))
                await self._clock.sleep(seconds)

    def _drop(self, transfer: _Transfer, verdict: Verdict, why: str = "") -> None:
        self._remove(transfer)
        if verdict is not Verdict.HELD:
            self._pauses.failed(transfer.offer.group)
        self._answer(transfer.peer, transfer.offer, verdict, why)

    def _remove(self, transfer: _Transfer) -> None:
        del self._transfers[transfer.offer.group]
        self._path(transfer.offer.group).unlink(missing_ok=True)

    def _answer(self, peer: int, offer: Offer, verdict: Verdict, why: str = "") -> None:
        if verdict in (Verdict.NO_ROOM, Verdict.FAILED):
            needs = offer.file.size if verdict is Verdict.NO_ROOM else 0
            self._refused[offer.group] = _Refused(peer, needs)
        if verdict not in (Verdict.HELD, Verdict.BUSY, Verdict.WAITS):
            _log.warning(
                "bucket %d: the snapshot of node %d %s here: %s",
                offer.group,
                peer,
                verdict.words,
                why,
            )
        self._send(peer, Done(offer.group, offer.file.name, verdict, why[:_WHY_CHARACTERS]))

    def _path(self, group_id: int) -> Path:
        return incoming_path(self._config.snapshot_folder, group_id)

    def _send(self, peer: int, message: SnapshotMessage) -> bool:
        return self._peers.send(peer, Channel.SNAPSHOT, encode_message(message))


async def finish_installs(log: RaftLog, files: SnapshotFiles, folder: Path) -> None:
    """Swap the rows of every snapshot that the log has a note of; at a start, before anybody reads the databases.

    Where that can't be done the rows stay as they were, and whole: the replica waits for another offer, and no other one for it.
    """
    for group_id in log.groups():
        path = incoming_path(folder, group_id)
        try:
            note = log.note(group_id)
        except CorruptData:
            continue  # this replica is stopped, as whoever starts it will hear
        if note is not None and path.exists():
            _log.info("bucket %d: finishing the installation of a snapshot", group_id)
            try:
                await _finish_install(files, group_id, path, decode_note(note).metadata)
            except StorageError as error:
                _log.error(
                    "bucket %d: a snapshot isn't installed, the next offer is awaited: %s",
                    group_id,
                    error,
                )
        path.unlink(missing_ok=True)


async def _finish_install(
    files: SnapshotFiles, group_id: int, path: Path, noted: SnapshotMetadata
) -> None:
    held = await files.check(group_id, path)
    if (held.index, held.term) != (noted.index, noted.term):
        raise CorruptData(
            f"{path} holds index {held.index} of term {held.term}, and the note in the log is of {noted.index} of "
            f"term {noted.term}"
        )
    await files.install(group_id, path)


def settle_note(log: RaftLog, group_id: int, applied: int) -> None:
    """Bring the log to the snapshot that the database holds at a start, being at `applied`, and clear the note."""
    note = log.note(group_id)
    if note is None:
        return
    metadata = decode_note(note).metadata
    batch = log.batch()
    if applied >= metadata.index >= log.storage(group_id).first_index() - 1:
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
    sync_directory(path.parent)  # the note that comes next means this file
    return read_digest(path)
