"""Files and their disk: what is private is whole, there for good, and refused where others can read it; what room is left."""

import os
import stat
import tempfile
from pathlib import Path

from mas.errors import ConfigError

SECRET_BYTES_MIN = 32
"""Of a secret's file: as long as the hashes that it keys (RFC 7518, section 3.2)."""

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def write_private(path: Path, data: str | bytes) -> None:
    """Replace the file by one that only this user can read; a crash leaves the old or the new, never a part.

    Raises:
        OSError: it can't be written, and nothing has changed.
    """
    # A file of its own name, made with O_EXCL and O_NOFOLLOW: no link laid there is written through, and two
    # processes at once don't write into each other's.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make what was created, renamed or removed in the directory last beyond a power cut. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(path: Path) -> int:
    """Return the bytes that the path's file system has left for this user. Raises `OSError`."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def is_open_to_others(path: Path) -> bool:
    """Tell whether the mode gives anything to the group or to others. Raises `OSError`."""
    return bool(path.stat().st_mode & _OTHERS)


def check_private(path: Path) -> None:
    """Refuse a secret or a key that others may read.

    Raises:
        ConfigError: the group or others may, or the file can't be looked at.
    """
    try:
        is_open = is_open_to_others(path)
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from error
    if is_open:
        raise ConfigError(
            f"{path} can be read by other users of this machine, and whoever has read it can act as this node or its "
            f"operators: `chmod 600 {path}`, and make a new one if somebody may have"
        )


def read_secret(path: Path) -> bytes:
    """The secret in a file, without the blanks and line ends around it.

    Raises:
        ConfigError: it can't be read, others can read it too, or it is too short to be a secret.
    """
    check_private(path)
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"secret {path} can't be read: {error.strerror}") from error
    if len(secret) < SECRET_BYTES_MIN:
        raise ConfigError(
            f"secret {path} has {len(secret)} bytes: expected {SECRET_BYTES_MIN} or more"
        )
    return secret
