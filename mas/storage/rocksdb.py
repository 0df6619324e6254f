"""What the raft log and the TM store share of RocksDB: its options, its errors, checksums, and whose directory it is.

A record is crc32(key, payload) and payload: a flipped bit is noticed, and so is a record that stands at another's key.
"""

from pathlib import Path
from zlib import crc32

import msgspec
from rocksdict import DBCompressionType, DBRecoveryMode, Options, Rdict

from mas.decoding import msgpack_decoder
from mas.errors import CorruptData, DataDirectoryError, StorageError
from mas.storage.rocksdb_files import check_files

_IDENTITY_KEY = b"\0"
"""Before all other keys."""
_FORMAT = 1
_CRC_BYTES = 4


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """Whose database it is, and in which format."""

    format: int
    kind: str
    cluster: str
    node: int


def open_database(
    path: Path,
    *,
    kind: str,
    cluster: str,
    node: int,
    remedy: str,
    version: int = _FORMAT,
    options: Options | None = None,
) -> Rdict:
    """Open or create the database of this node, whose records are of this version.

    `remedy` says what to do without it where it is damaged; `options` are the `common_options` and more.

    Raises:
        DataDirectoryError: it can't be written, another process uses it, or it belongs to another cluster or node.
        CorruptData: there is damage that isn't a torn tail.
    """
    wanted = Identity(version, kind, cluster, node)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_files(path)
        database = Rdict(str(path), options or common_options())
        try:
            _check_identity(path, database, wanted)
        except BaseException:
            database.close()
            raise
    except DataDirectoryError:
        raise
    except CorruptData as error:
        raise damaged(path, str(error), remedy) from error
    except OSError as error:
        raise DataDirectoryError(f"{path} can't be used: {error.strerror}") from error
    except Exception as error:
        raise _opening_error(path, error, remedy) from error
    return database


def seal(key: bytes, payload: bytes) -> bytes:
    """The record to store at `key`."""
    return crc32(payload, crc32(key)).to_bytes(_CRC_BYTES, "big") + payload


def unseal(key: bytes, record: bytes) -> bytes:
    """The payload of a record read at `key`. Raises `CorruptData`."""
    payload = record[_CRC_BYTES:]
    if crc32(payload, crc32(key)) != int.from_bytes(record[:_CRC_BYTES], "big"):
        raise CorruptData(f"the record at {key.hex()} has a wrong checksum")
    return payload


def storage_error(path: Path, doing: str, error: Exception, remedy: str) -> StorageError:
    """Translate what RocksDB raised: damage or a fault of the disk; both stop the process."""
    if "Corruption" in str(error):
        return damaged(path, str(error), remedy)
    return StorageError(
        f"{doing} {path} failed: {error}. This process must stop; look at the disk first"
    )


def damaged(path: Path, what: str, remedy: str) -> CorruptData:
    """The whole database can't be trusted, and `remedy` says what to do without it."""
    return CorruptData(
        f"{path} is damaged, and not only at its tail: {what}. What was synced may be missing, so nothing is read "
        f"from it: restore the disk; or, if it can't be restored, {remedy}"
    )


def common_options() -> Options:
    """Return the options that all databases here have in common."""
    options = Options(raw_mode=True)
    options.create_if_missing(create_if_missing=True)
    # The default mode silently drops synced records behind a damaged one; this one forgives a torn tail, and what
    # looks like one to it (see `rocksdb_files`).
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_paranoid_checks(enabled=True)
    # Instructions are small and short-lived here: compressing them costs more than it saves.
    options.set_compression_type(DBCompressionType.none())
    options.set_max_background_jobs(2)
    options.set_keep_log_file_num(4)
    options.set_max_log_file_size(16 * 1024 * 1024)
    return options


_decode_identity = msgpack_decoder(Identity, "an identity", CorruptData)


def _check_identity(path: Path, database: Rdict, wanted: Identity) -> None:
    record = database.get(_IDENTITY_KEY)
    if record is None:
        _take_ownership(database, wanted)
        return
    found = _decode_identity(unseal(_IDENTITY_KEY, record))
    if found != wanted:
        raise DataDirectoryError(
            f"{path} holds the {found.kind} of node {found.node} of cluster {found.cluster!r} (format {found.format}); "
            f"this is the {wanted.kind} of node {wanted.node} of cluster {wanted.cluster!r} (format {wanted.format}). "
            "Give this node its own data directory"
        )


def _take_ownership(database: Rdict, wanted: Identity) -> None:
    scan = database.iter()
    scan.seek_to_first()
    if scan.valid():
        raise CorruptData(
            "it holds records, and doesn't say whose they are: its identity was lost, or another program wrote it"
        )
    database.put(_IDENTITY_KEY, seal(_IDENTITY_KEY, msgspec.msgpack.encode(wanted)))
    database.flush_wal(sync=True)


def _opening_error(path: Path, error: Exception, remedy: str) -> StorageError | DataDirectoryError:
    text = str(error)
    if "Corruption" in text:
        return damaged(path, text, remedy)
    if "lock" in text.lower():
        return DataDirectoryError(
            f"{path} is in use by another process: {text}. Stop it, or give this node its own data directory"
        )
    return DataDirectoryError(f"{path} can't be opened: {text}")
