"""The TM store in Redis: hints and caches that several coordinators share, nothing that can't be rebuilt.

    mas:CLUSTER:epoch                   the name of the store's present life: a number and a word of chance
    mas:CLUSTER:EPOCH:calls             counts every call
    mas:CLUSTER:EPOCH:max_id
    mas:CLUSTER:EPOCH:directory         hash: a number's bucket
    mas:CLUSTER:EPOCH:transactions      hash: xid -> a transaction under way
    mas:CLUSTER:EPOCH:locks             hash: "epoch counter lock_id" -> a lock granted to an outsider

A call is one transaction of Redis, sent and answered at once. With what it is for, it reads the epoch and counts itself,
which shows what Redis may do behind our back: it was emptied if there is no epoch or the count starts again, and it went
back to an earlier state (a restart without the last second, a replica that lagged) if the count does. Then nothing of what
it holds is taken: a new epoch begins, empty, and fills from the buckets as accounts are asked for. The old keys are
deleted. Because every call writes, a replica answers none (`READONLY`).

Redis keeps what it was told a second ago, as far as its `appendonly` says; a power cut may take that, locks included.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Self, TypeVar, cast

import msgspec
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, WatchError

from mas.decoding import msgpack_decoder
from mas.errors import ConfigError, CorruptData, DatabaseUnavailable
from mas.ledger.instructions import Token
from mas.runtime import Dice, failpoint
from mas.storage.dsn import Dsn
from mas.transaction.stored import LockEntry, PendingEntry

_log = logging.getLogger(__name__)

_T = TypeVar("_T")
PORTS = {"redis": 6379, "rediss": 6379}
"""The schemes of its DSN, and their port; `rediss` is over TLS."""
_SECONDS = 1.0
"""For a connection, and for an answer: those who ask have other ways, and needn't wait."""
_VERSION_MIN = 6
_EPOCHS_MAX = 5
"""New epochs that one call goes through before it gives up."""

_encode = msgspec.msgpack.Encoder().encode
_decode_pending = msgpack_decoder(PendingEntry, "a transaction", CorruptData)
_decode_lock = msgpack_decoder(LockEntry, "a lock", CorruptData)


class _Unfit(RedisError):
    """The server can be reached, and must not be used."""


class _Epoch(msgspec.Struct, eq=False):
    """One life of the store, and the greatest count of calls that it has shown."""

    prefix: str
    name: bytes
    """A number, by which a later epoch is told from an earlier one, and a word of chance."""
    calls: int = 0

    @property
    def number(self) -> int:
        """Raises `ValueError` where nobody of ours has named it."""
        return int(self.name.partition(b".")[0])

    def key(self, kind: str) -> str:
        return f"{self.prefix}:{self.name.decode()}:{kind}"

    def keys(self) -> list[str]:
        return [
            self.key(each) for each in ("calls", "max_id", "directory", "transactions", "locks")
        ]


_Queue = Callable[[Pipeline, _Epoch], object]


class RedisTmStore:
    """The TM store of a cluster. Fits `mas.coordinator.ports.TransactionStore` and `mas.locks.ports.LockStore`."""

    def __init__(self, dsn: Dsn, cluster: str, dice: Dice, connections: int) -> None:
        """Use `connect`."""
        self._dsn = dsn
        self._prefix = f"mas:{cluster}"
        self._dice = dice
        self._epoch: _Epoch | None = None
        self._redis = Redis.from_pool(_make_pool(dsn, connections))

    @classmethod
    async def connect(cls, dsn: Dsn, cluster: str, dice: Dice, connections: int) -> Self:
        """Open the store with at most so many connections. A server that is away is asked again at each call.

        Raises:
            ConfigError: the server refuses us, is older than Redis 6, is a replica, or may evict keys.
        """
        store = cls(dsn, cluster, dice, connections)
        try:
            await store.find_buckets([""])
        except DatabaseUnavailable as error:
            if isinstance(error.__cause__, _Unfit | AuthenticationError):
                await store.close()
                raise ConfigError(str(error)) from error
            _log.warning("%s", error)
        return store

    # -- placement and directory ---------------------------------------------------------------

    async def incr_max_id(self, count: int = 1) -> int:
        """Reserve `count` ids; returns the greatest of them."""
        [greatest] = await self._call(lambda pipe, epoch: pipe.incrby(epoch.key("max_id"), count))
        return int(greatest)

    async def find_buckets(self, numbers: Sequence[str]) -> list[int]:
        """Look each number up in the directory; 0 where it isn't there."""
        if not numbers:
            return []
        fields = [number.encode() for number in numbers]
        [found] = await self._call(lambda pipe, epoch: pipe.hmget(epoch.key("directory"), fields))
        return [0 if bucket is None else self._read(int, bucket) for bucket in found]

    async def insert_buckets(self, placements: Mapping[str, int]) -> None:
        """Put the bucket of each number in the directory."""
        await self._put(
            "directory", {number.encode(): b"%d" % b for number, b in placements.items()}
        )

    # -- transactions --------------------------------------------------------------------------

    async def create_transaction_entries(self, entries: Sequence[PendingEntry]) -> None:
        """Note these as PENDING (rule 40, pending notes)."""
        await self._put("transactions", {entry.xid: _encode(entry) for entry in entries})

    async def close_transaction_entries(self, xids: Sequence[bytes]) -> None:
        """Delete the entries of these transactions."""
        await self._delete("transactions", xids)

    async def pending_entries(self) -> list[PendingEntry]:
        """Read the transactions under way, ascending by xid."""
        entries = await self._values("transactions")
        return sorted(
            (self._read(_decode_pending, entry) for entry in entries), key=lambda each: each.xid
        )

    # -- locks ---------------------------------------------------------------------------------

    async def put_locks(self, entries: Sequence[LockEntry]) -> None:
        """Store these locks, granted to outsiders (rule 36, lock tokens)."""
        await self._put(
            "locks", {_field(each.lock_id, each.token): _encode(each) for each in entries}
        )

    async def delete_locks(self, names: Sequence[tuple[str, Token]]) -> None:
        """Delete the locks of these ids and tokens."""
        await self._delete("locks", [_field(lock_id, token) for lock_id, token in names])

    async def locks(self) -> list[LockEntry]:
        """Read every lock that is stored."""
        return [self._read(_decode_lock, each) for each in await self._values("locks")]

    async def close(self) -> None:
        """Let the connections go."""
        await self._redis.aclose()

    # -- calls ---------------------------------------------------------------------------------

    async def _put(self, kind: str, rows: Mapping[bytes, bytes]) -> None:
        if rows:
            await self._call(
                lambda pipe, epoch: pipe.hset(epoch.key(kind), mapping=cast(Any, rows))
            )

    async def _delete(self, kind: str, fields: Sequence[bytes]) -> None:
        if fields:
            await self._call(lambda pipe, epoch: pipe.hdel(epoch.key(kind), *fields))

    async def _values(self, kind: str) -> list[bytes]:
        [values] = await self._call(lambda pipe, epoch: pipe.hvals(epoch.key(kind)))
        return cast(list[bytes], values)

    async def _call(self, queue: _Queue) -> list[Any]:
        """Do what `queue` queues, in the present epoch, and return its results. Raises `DatabaseUnavailable`."""
        try:
            for _ in range(_EPOCHS_MAX):
                epoch = self._epoch
                if epoch is not None and (results := await self._execute(epoch, queue)) is not None:
                    return results
                await self._enter_epoch(epoch)
        except (RedisError, OSError) as error:
            raise self._unavailable(str(error) or type(error).__name__) from error
        raise self._unavailable("it loses again and again what it was told")

    async def _execute(self, epoch: _Epoch, queue: _Queue) -> list[Any] | None:
        """The results, or None where the epoch is over: what was written then belongs to nothing."""
        before = epoch.calls
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.get(f"{self._prefix}:epoch")
            pipe.incr(epoch.key("calls"))
            queue(pipe, epoch)
            name, calls, *results = await pipe.execute()
        failpoint("tm_store.after_write")
        # Calls may overtake each other, but none that had ended before this one began.
        if name != epoch.name or calls <= before:
            return None
        epoch.calls = max(epoch.calls, calls)
        return results

    async def _enter_epoch(self, left: _Epoch | None) -> None:
        """Take the epoch that the server names, if it is another than the one left; else begin one, and say so."""
        if self._epoch is not left:
            return  # a call beside this one has done so
        key = f"{self._prefix}:epoch"
        async with self._redis.pipeline(transaction=True) as pipe:
            await cast(Awaitable[object], pipe.watch(key))
            name: bytes | None = await cast(Awaitable[bytes | None], pipe.get(key))
            epoch = self._later_epoch(name, left)
            pipe.multi()  # type: ignore[no-untyped-call]
            pipe.set(key, epoch.name)
            if left is not None:
                pipe.unlink(*left.keys())
            try:
                await pipe.execute()
            except WatchError:
                return  # another coordinator has; the caller looks again
        if left is not None and epoch.name != name:
            _log.error(
                "%s was emptied or went back to an earlier state: nothing that it held is taken, and it is filled "
                "anew from the buckets",
                self._name,
            )
        self._epoch = epoch

    def _later_epoch(self, name: bytes | None, left: _Epoch | None) -> _Epoch:
        """The epoch that the server names, where another coordinator has begun it; else a new one."""
        number = 0 if left is None else left.number
        if name is not None:
            named = _Epoch(self._prefix, name)
            try:
                if named.number > number:
                    return named
            except ValueError:
                _log.warning("%s names an epoch %r that isn't ours", self._name, name[:40])
        return _Epoch(self._prefix, f"{number + 1}.{self._dice.randbytes(8).hex()}".encode())

    @property
    def _name(self) -> str:
        return f"the TM store {self._dsn}"

    def _unavailable(self, why: str) -> DatabaseUnavailable:
        return DatabaseUnavailable(f"{self._name} failed: {why}. No money depends on it")

    def _read(self, decode: Callable[[bytes], _T], value: bytes) -> _T:
        try:
            return decode(value)
        except (CorruptData, ValueError) as error:
            raise CorruptData(
                f"{self._name} is damaged: {error}. Delete its keys {self._prefix}:*: they hold nothing that isn't "
                "rebuilt from the buckets"
            ) from error


def _field(lock_id: str, token: Token) -> bytes:
    return f"{token.epoch} {token.counter} {lock_id}".encode()


def _make_pool(dsn: Dsn, connections: int) -> BlockingConnectionPool:
    """Make a pool that checks each connection's server, since the next may be another one behind the same name.

    Raises:
        ConfigError: the DSN names no database, or its file can't be read.
    """
    if not (dsn.name or "0").isdecimal():
        raise ConfigError(
            f"storage.tm_store: {dsn} names the database {dsn.name!r}: expected a number"
        )
    options: dict[str, Any] = {"ssl_ca_certs": dsn.ssl_ca or None} if dsn.scheme == "rediss" else {}
    return BlockingConnectionPool(
        max_connections=connections,
        timeout=_SECONDS,
        connection_class=SSLConnection if dsn.scheme == "rediss" else Connection,
        host=dsn.host,
        port=dsn.port,
        db=int(dsn.name or 0),
        username=dsn.user or None,
        password=dsn.password or None,
        socket_timeout=_SECONDS,
        socket_connect_timeout=_SECONDS,
        retry=Retry(NoBackoff(), 0),
        redis_connect_func=_check_server,
        **options,
    )


async def _check_server(connection: AbstractConnection) -> None:
    """Refuse a server that may forget, or that isn't asked for its own word (rule 40, pending notes).

    Raises:
        _Unfit: with the reason, and what to do.
    """
    await connection.on_connect()
    await connection.send_command("INFO")
    info = _parse_info(await connection.read_response())
    version = info.get("redis_version", "")
    if not version.partition(".")[0].isdecimal() or int(version.partition(".")[0]) < _VERSION_MIN:
        raise _Unfit(f"it is Redis {version or 'of no version'}: expected {_VERSION_MIN} or later")
    if info.get("role") != "master":
        raise _Unfit("it is a replica: name the primary, or the address that follows it")
    if (policy := info.get("maxmemory_policy")) != "noeviction":
        raise _Unfit(
            f"its maxmemory-policy is {policy}: expected noeviction, else it deletes what it was told to keep"
        )


def _parse_info(reply: object) -> dict[str, str]:
    if not isinstance(reply, bytes | str):
        raise _Unfit(f"it answers INFO by {type(reply).__name__}")
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else reply
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
