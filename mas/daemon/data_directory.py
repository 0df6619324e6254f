"""The directory in which a node keeps everything: made, locked and known as this node's before anything opens a file in it.

identity.json      cluster and node that it belongs to, and the store that it is
roster.json        the cluster's members, as this node knows them
lock               held by the process that uses it
cluster.secret     what nodes prove to each other
jwt.secret         what signs and verifies clients' tokens (HS256)
tls/               certificates
raft/ tm/ snapshots/ NAME.rocksdb/

Nobody else may enter it: it holds every balance, and the keys. So it is this user's own, with mode 0700.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from mas.decoding import json_decoder
from mas.errors import DataDirectoryError
from mas.files import is_open_to_others, read_secret, sync_directory, write_private
from mas.membership import Roster
from mas.runtime import Dice

_SECRET_BYTES = 32
_STORE_BYTES = 16
_BEFORE_THE_FIRST_START = frozenset(("lock", "tls", "cluster.secret", "jwt.secret", "lost+found"))
"""What a directory may hold that no node has used yet: what operators lay there, and what a start left that failed."""


class Identity(msgspec.Struct, frozen=True):
    """Whose data this is."""

    cluster: str
    node: int


class _Kept(msgspec.Struct, frozen=True):
    cluster: str
    node: int
    store: bytes
    has_log: bool = False
    """A raft log has been opened here."""


_decode_kept = json_decoder(_Kept, "an identity", DataDirectoryError)
_decode_roster = json_decoder(Roster, "a roster", DataDirectoryError)


class DataDirectory:
    """An opened data directory. Only one process has it at a time.

    Raises:
        DataDirectoryError: it can't be written, another process uses it, it belongs to another user, cluster or node, or
            it isn't a data directory at all.
    """

    def __init__(self, path: Path, identity: Identity, dice: Dice) -> None:
        self.path = path
        self.store = b""
        self._kept = _Kept("", 0, b"")
        """Drawn when the directory was made: whoever has another isn't who it was (`mas.network.handshake`)."""
        try:
            _take(path)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataDirectoryError(
                f"data directory {path} can't be written ({error.strerror}): name another with --data-dir, "
                "or give this user the right to write there"
            ) from error
        try:
            self._take_lock()
            self._take_identity(identity, dice)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have it."""
        os.close(self._lock)

    @property
    def roster_path(self) -> Path:
        """Where the roster is kept."""
        return self.path / "roster.json"

    def read_roster(self) -> Roster:
        """The cluster's members as this node last knew them; empty at its first start.

        Raises:
            DataDirectoryError: it can't be read, or isn't there though a Raft log is.
        """
        path = self.roster_path
        try:
            return _decode_roster(path.read_bytes())
        except FileNotFoundError:
            if not (self.path / "raft").exists():
                return Roster()
            trouble = "is gone, and the Raft log is there"
        except (OSError, DataDirectoryError) as error:
            trouble = f"can't be read: {error}"
        # Which buckets this node was removed from stands only there: without it, it would vote with an erased log.
        raise DataDirectoryError(
            f"{path} {trouble}. What it says is as much this node's word as its log: put it back, or retire this "
            "node and join a new one under a new id. Where this node never held a bucket it may be removed"
        )

    def write(self, roster: Roster) -> None:
        """Keep the roster. Raises `DataDirectoryError`."""
        _write(self.roster_path, msgspec.json.encode(roster).decode())

    def check_log(self) -> None:
        """Before the raft log is opened, and made where there is none.

        Raises:
            DataDirectoryError: there was one.
        """
        path = self.path / "raft"
        # Not the directory alone: a file system that wasn't mounted leaves an empty one.
        if self._kept.has_log and not (path / "CURRENT").exists():
            raise DataDirectoryError(
                f"{path} is gone or empty, and with it what this node has promised: put it back, or retire this node and join a "
                "new one under a new id"
            )

    def note_log(self) -> None:
        """The raft log is there: should it be gone one day, it was lost. Raises `DataDirectoryError`."""
        if not self._kept.has_log:
            self._kept = msgspec.structs.replace(self._kept, has_log=True)
            _write(self.path / "identity.json", msgspec.json.encode(self._kept).decode())

    def secret(self, name: str, dice: Dice) -> bytes:
        """The secret in the file of this name, made at the first start."""
        path = self.path / name
        if not path.exists():
            _write(path, dice.randbytes(_SECRET_BYTES).hex())
        return read_secret(path)

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataDirectoryError(
                f"data directory {self.path} is in use by another process: stop it, or name another with --data-dir"
            ) from error

    def _take_identity(self, identity: Identity, dice: Dice) -> None:
        path = self.path / "identity.json"
        if not path.exists():
            kept = _Kept(identity.cluster, identity.node, dice.randbytes(_STORE_BYTES))
            _write(path, msgspec.json.encode(kept).decode())
        try:
            found = _decode_kept(path.read_bytes())
        except (OSError, DataDirectoryError) as error:
            raise DataDirectoryError(f"{path} can't be read: {error}") from error
        self.store, self._kept = found.store, found
        if (found.cluster, found.node) != (identity.cluster, identity.node):
            raise DataDirectoryError(
                f"data directory {self.path} belongs to node {found.node} of cluster {found.cluster!r}, and this is node "
                f"{identity.node} of cluster {identity.cluster!r}: name another with --data-dir, or mend `node` in the configuration"
            )


def _take(path: Path) -> None:
    """Make the directory, or take the one that is there; whatever it is by then, nobody else can enter it.

    Raises:
        DataDirectoryError: it is another user's, lacks what says whose it is, or can't be shut.
        OSError: it can't be made or looked at.
    """
    missing = [each for each in (path.absolute(), *path.absolute().parents) if not each.exists()]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for each in missing:
        sync_directory(each.parent)
    owner, user = path.stat().st_uid, os.geteuid()
    if owner != user:
        raise DataDirectoryError(
            f"data directory {path} belongs to user {owner}, and this process runs as user {user}: run it as that user, "
            "give the directory to this one (chown), or name another with --data-dir"
        )
    if not (path / "identity.json").exists():
        _check_unused(path)
    if is_open_to_others(path):
        path.chmod(0o700)
    if is_open_to_others(path):
        raise DataDirectoryError(
            f"data directory {path} can be entered by other users, and its file system doesn't let this be changed: it "
            "holds every balance and the keys, so name another with --data-dir"
        )


def _check_unused(path: Path) -> None:
    """A node that lost its identity is no new one; and nobody is shut out of a directory that holds something else."""
    strange = sorted({each.name for each in path.iterdir()} - _BEFORE_THE_FIRST_START)
    if "raft" in strange:
        raise DataDirectoryError(
            f"{path} holds a Raft log, and identity.json, which says whose it is, is gone: put it back, or retire this "
            "node and join a new one under a new id"
        )
    if strange and is_open_to_others(path):
        raise DataDirectoryError(
            f"{path} is no data directory, holds other things ({', '.join(strange[:3])}), and other users may enter it: "
            "name another with --data-dir, which is made where it isn't there"
        )


def read_file(path: Path) -> bytes:
    """Read what the file holds.

    Raises:
        DataDirectoryError: it can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataDirectoryError(f"{path} can't be read: {error.strerror}") from error


def _write(path: Path, text: str) -> None:
    try:
        write_private(path, text)
    except OSError as error:
        raise DataDirectoryError(f"{path} can't be written: {error.strerror}") from error
