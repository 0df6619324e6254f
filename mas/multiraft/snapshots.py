"""Snapshots on their way: what sender and receiver tell each other, and what they write down.

    sender    Offer ─────►  receiver      the leader's core wants this follower to have a snapshot
              ◄────── Pull                so many bytes from this offset: several at a time
              Piece ─────►
              ◄────── Done                what became of it, and whose fault it was
              Gone  ─────►                that file isn't there any more
              ◄────── Request             a database that is behind its own log asks whoever has the state; and so does
                                          who couldn't take an offer in, and now can

The receiver pulls, so it sets the pace, resumes where a connection broke, and the sender keeps no place of it. What came
to nothing is tried again after pauses that grow, so that one who can't costs the others nothing.
"""

from enum import IntEnum
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import xxhash

from mas.decoding import msgpack_decoder
from mas.errors import CorruptData, NetworkError
from mas.limits import SNAPSHOT_CHUNK_BYTES
from mas.raft import SnapshotMetadata
from mas.raft.messages import Counter

_Name = Annotated[str, msgspec.Meta(max_length=256)]
_Why = Annotated[str, msgspec.Meta(max_length=512)]


class SnapshotReference(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One file, for ever: what a Raft snapshot's `data` holds instead of the state."""

    node: int
    """Who has it."""
    name: _Name
    """Its identity; never a path on the receiver's side."""
    size: Counter
    """Bytes."""
    digest: bytes
    """XXH3-128 of the bytes."""


class Offer(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Here is a snapshot of the group."""

    group: int
    file: SnapshotReference
    metadata: SnapshotMetadata


class Pull(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Send me the piece of this file at this offset."""

    group: int
    name: _Name
    offset: Counter


class Piece(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """A piece: SNAPSHOT_CHUNK_BYTES, or what is left."""

    group: int
    name: _Name
    offset: Counter
    data: Annotated[bytes, msgspec.Meta(max_length=SNAPSHOT_CHUNK_BYTES)]


class Verdict(IntEnum):
    """What became of an offer at its receiver."""

    HELD = 0
    """It holds the state: this snapshot is installed, or not needed any more."""
    BAD = 1
    """What came isn't what was offered, or no whole state: the file at its giver is damaged, or the rows that it is of."""
    TOO_OLD = 2
    """Only a later one helps."""
    NO_ROOM = 3
    """Its disk has no room: it asks again once it has."""
    FAILED = 4
    """Its disk has failed, or the replica is stopped: this file is as good as any."""
    WAITS = 5
    """It has the file, and its database doesn't take it yet: it goes on by itself."""
    BUSY = 6
    """It takes in enough others: offer it again soon."""

    @property
    def words(self) -> str:
        """What there is to say of the snapshot."""
        return _WORDS[self]


_WORDS = {
    Verdict.HELD: "is held",
    Verdict.BAD: "is no good",
    Verdict.TOO_OLD: "is too old",
    Verdict.NO_ROOM: "finds no room",
    Verdict.FAILED: "can't be taken in",
    Verdict.WAITS: "has come, and can't be installed yet",
    Verdict.BUSY: "has to wait for others",
}


class Done(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """The receiver needs nothing more of this file, for now."""

    group: int
    name: _Name
    verdict: Verdict
    why: _Why = ""
    """For people, where there is something to say."""


class Gone(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """The sender has no such file: wait for another offer."""

    group: int
    name: _Name


class Request(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """Offer me a snapshot of the group, of `least_index` or later."""

    group: int
    least_index: Counter


SnapshotMessage = Offer | Pull | Piece | Done | Gone | Request


class _SnapshotFrame(msgspec.Struct, frozen=True, array_like=True, gc=False):
    version: Literal[1]
    message: SnapshotMessage


class Note(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """In the log while a snapshot is being installed: a start that finds it finishes the work (rule 28, snapshots)."""

    metadata: SnapshotMetadata


_encoder = msgspec.msgpack.Encoder()
_decode_frame = msgpack_decoder(
    _SnapshotFrame, "a snapshot frame", NetworkError, "expected version 1"
)
decode_note = msgpack_decoder(Note, "the note of a snapshot in the log", CorruptData)
"""What `encode_note` encoded. Raises `CorruptData`."""


def encode_message(message: SnapshotMessage) -> bytes:
    """Return a frame of the SNAPSHOT channel."""
    return _encoder.encode((1, message))


def decode_message(payload: bytes) -> SnapshotMessage:
    """Return what a frame of the SNAPSHOT channel says. Raises `NetworkError`."""
    return _decode_frame(payload).message


def encode_reference(reference: SnapshotReference) -> bytes:
    """Return the bytes for a Raft snapshot's `data`."""
    return _encoder.encode(reference)


def encode_note(note: Note) -> bytes:
    """Return the bytes for `LogBatch.set_note`."""
    return _encoder.encode(note)


def incoming_path(folder: Path, group: int) -> Path:
    """Return where a group's snapshot is received: one at a time, and the only one that a note can mean."""
    return folder / f"bucket-{group}.incoming"


def read_digest(path: Path) -> bytes:
    """Return the XXH3-128 of a file. Blocks."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(4 * SNAPSHOT_CHUNK_BYTES):
            digest.update(block)
    return digest.digest()
