"""Faults of the Redis under a TM store (crash matrix, R1 to R9), each with a server of its own to harm."""

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from mas.errors import ConfigError, CorruptData, DatabaseUnavailable
from mas.ledger import Token
from mas.network.tls import ensure_certificate, make_ca
from mas.runtime import SystemClock, SystemDice
from mas.storage.dsn import Dsn, parse_dsn
from mas.storage.tm_store import redis as redis_engine
from mas.storage.tm_store.redis import PORTS, RedisTmStore
from mas.testing import RedisServer
from mas.transaction.stored import LockEntry

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

LOCK = LockEntry("printer", b"me", Token(1, 1), 0)


def dsn_of(server: RedisServer) -> Dsn:
    return parse_dsn("storage.tm_store", server.url, PORTS)


async def connect(server: RedisServer, connections: int = 4) -> RedisTmStore:
    return await RedisTmStore.connect(dsn_of(server), "test", SystemDice(), connections)


@contextlib.asynccontextmanager
async def admin_of(server: RedisServer) -> AsyncIterator[Any]:
    async with Redis(port=server.port, password=server.password, protocol=2) as admin:
        yield admin


async def answers_again(store: RedisTmStore) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await store.find_buckets(["alice"])
                return
            except DatabaseUnavailable:
                await asyncio.sleep(0.02)


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest_asyncio.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisTmStore]:
    store = await connect(server)
    yield store
    await store.close()


# -- what it loses -------------------------------------------------------------------------------


async def test_r3_an_emptied_store_is_noticed_by_all_and_filled_anew(
    server: RedisServer, store: RedisTmStore, caplog: pytest.LogCaptureFixture
) -> None:
    other = await connect(server)
    await store.insert_buckets({"alice": 1})
    await store.put_locks([LOCK])
    assert await other.find_buckets(["alice"]) == [1]

    async with admin_of(server) as admin:
        await admin.flushall()
    await store.insert_buckets({"bob": 2})

    assert "was emptied or went back" in caplog.text
    for each in (store, other):
        assert await each.find_buckets(["alice", "bob"]) == [0, 2]
        assert await each.locks() == []
    assert caplog.text.count("was emptied or went back") == 1  # the other one takes the new epoch
    await other.close()


async def test_r1_a_store_that_went_back_is_noticed_and_nothing_of_it_is_taken(
    server: RedisServer, store: RedisTmStore, caplog: pytest.LogCaptureFixture
) -> None:
    await store.insert_buckets({"alice": 1})
    await store.put_locks([LOCK])
    async with admin_of(server) as admin:
        await admin.bgrewriteaof()
        async with asyncio.timeout(20):
            while (await admin.info("persistence"))["aof_rewrite_in_progress"]:
                await asyncio.sleep(0.02)
    kept, before = server.directory / "appendonlydir", server.directory / "before"
    shutil.copytree(kept, before)
    await store.delete_locks([("printer", LOCK.token)])
    await store.insert_buckets({"bob": 2})

    server.kill()
    shutil.rmtree(kept)
    before.rename(kept)
    await server.restart()
    await answers_again(store)

    assert "was emptied or went back" in caplog.text
    assert await store.locks() == []  # the lock that was released isn't granted again
    assert await store.find_buckets(["alice", "bob"]) == [0, 0]
    async with admin_of(server) as admin:
        names = {name.decode().rpartition(":")[2] for name in await admin.keys("*")}
        assert names == {"epoch", "calls"}  # what it held before is deleted


async def test_r1_a_kill_loses_nothing_that_was_answered(
    server: RedisServer, store: RedisTmStore, caplog: pytest.LogCaptureFixture
) -> None:
    answered: list[str] = []

    async def insert() -> None:
        for number in range(100_000):
            await store.insert_buckets({f"a{number}": 7})
            answered.append(f"a{number}")
            if number == 50:
                server.kill()

    with pytest.raises(DatabaseUnavailable, match="No money depends on it"):
        await insert()
    await server.restart()
    await answers_again(store)
    assert await store.find_buckets(answered) == [7] * 51
    assert "was emptied" not in caplog.text


async def test_a_later_epoch_is_taken_and_an_earlier_one_is_not(
    server: RedisServer, store: RedisTmStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Another coordinator begins one; or the server is put back to one of before."""
    async with admin_of(server) as admin:
        await admin.hset("mas:test:9.abc:directory", "alice", "4")
        await admin.set("mas:test:epoch", "9.abc")
        assert await store.find_buckets(["alice"]) == [4]
        assert "went back" not in caplog.text

        for earlier in ("8.def", "9.def", "no number"):
            await admin.hset(f"mas:test:{earlier}:directory", "alice", "5")
            await admin.set("mas:test:epoch", earlier)
            assert await store.find_buckets(["alice"]) == [0]
    assert caplog.text.count("went back") == 3


async def test_r5_nothing_is_lost_silently_where_memory_is_full(
    server: RedisServer, store: RedisTmStore
) -> None:
    await store.insert_buckets({"alice": 1})
    async with admin_of(server) as admin:
        await admin.config_set("maxmemory", 1)
        with pytest.raises(DatabaseUnavailable, match=r"(?i)maxmemory|OOM"):
            await store.insert_buckets({"bob": 2})
        await admin.config_set("maxmemory", 0)
    assert await store.find_buckets(["alice", "bob"]) == [1, 0]


async def test_a_damaged_row_is_an_error_and_not_an_answer(
    server: RedisServer, store: RedisTmStore
) -> None:
    await store.insert_buckets({"alice": 1})
    async with admin_of(server) as admin:
        [directory] = await admin.keys("*:directory")
        await admin.hset(directory, "alice", "one")
    with pytest.raises(CorruptData, match="rebuilt from the buckets"):
        await store.find_buckets(["alice"])


# -- when it doesn't answer ----------------------------------------------------------------------


async def test_r6_a_paused_server_costs_a_bounded_time(
    server: RedisServer, store: RedisTmStore
) -> None:
    server.pause()
    started = time.monotonic()
    with pytest.raises(DatabaseUnavailable):
        await store.incr_max_id()
    assert time.monotonic() - started < 5 * redis_engine._SECONDS
    server.resume()
    await answers_again(store)
    assert await store.incr_max_id() >= 1


async def test_r6_cut_connections_are_made_anew(server: RedisServer, store: RedisTmStore) -> None:
    await asyncio.gather(*(store.insert_buckets({f"a{n}": 1}) for n in range(20)))
    async with admin_of(server) as admin:
        await admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await answers_again(store)
    assert await store.find_buckets([f"a{n}" for n in range(20)]) == [1] * 20


async def test_a_slow_server_is_slow_and_right(
    server: RedisServer, store: RedisTmStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands still for nine tenths of the time."""

    async def hinder() -> None:
        while True:
            server.pause()
            await asyncio.sleep(0.09)
            server.resume()
            await asyncio.sleep(0.01)

    hindrance = asyncio.ensure_future(hinder())
    ids = await asyncio.gather(*(store.incr_max_id() for _ in range(40)))
    hindrance.cancel()
    server.resume()
    assert sorted(ids) == list(range(1, 41))


async def test_too_many_connections_are_an_outage_that_passes(
    server: RedisServer, store: RedisTmStore
) -> None:
    other = RedisTmStore(dsn_of(server), "test", SystemDice(), 1)
    async with admin_of(server) as admin:
        await admin.config_set("maxclients", 2)  # ours and the administrator's
        with pytest.raises(DatabaseUnavailable, match="max number of clients"):
            await other.incr_max_id()
        await admin.config_set("maxclients", 100)
    assert await other.incr_max_id() == 1
    await other.close()


async def test_calls_share_the_connections_there_are(server: RedisServer) -> None:
    store = await connect(server, connections=2)
    await asyncio.gather(*(store.incr_max_id() for _ in range(100)))
    async with admin_of(server) as admin:
        assert len(await admin.client_list()) <= 3
    await store.close()


async def test_r7_a_replica_answers_nothing(server: RedisServer, store: RedisTmStore) -> None:
    """Promoted back, it is taken again."""
    await store.insert_buckets({"alice": 1})
    async with RedisServer(server.directory / "second", password=server.password) as second:
        async with admin_of(server) as admin:
            await admin.replicaof("127.0.0.1", second.port)
            with pytest.raises(DatabaseUnavailable, match=r"(?i)read only|replica"):
                await store.find_buckets(["alice"])
            with pytest.raises(ConfigError, match="it is a replica: name the primary"):
                await connect(server)
            await admin.replicaof("no", "one")
        await answers_again(store)
        assert await store.find_buckets(["alice"]) in ([0], [1])


async def test_r4_what_an_old_primary_took_is_nothing_where_another_rules(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Two coordinators, one of which writes to the old primary, which then follows the new one."""
    async with RedisServer(server.directory / "second", password=server.password) as second:
        async with admin_of(second) as admin:
            await admin.replicaof("127.0.0.1", server.port)
            async with asyncio.timeout(20):
                while (await admin.info("replication"))["master_link_status"] != "up":
                    await asyncio.sleep(0.02)
        first = await connect(server)
        await first.insert_buckets({"alice": 1})
        async with admin_of(second) as admin:
            await admin.replicaof("no", "one")
        await first.insert_buckets({"mallory": 9})
        await first.incr_max_id(5)

        # The name now leads to the second.
        first._redis.connection_pool.connection_kwargs["port"] = second.port
        await first._redis.connection_pool.disconnect()
        first._redis.connection_pool.reset()
        server.kill()
        await answers_again(first)

        assert await first.find_buckets(["mallory"]) == [0]
        assert "was emptied or went back" in caplog.text
        await first.close()


# -- what is refused at the start ----------------------------------------------------------------


async def test_r5_a_server_that_may_evict_is_refused(server: RedisServer) -> None:
    async with admin_of(server) as admin:
        await admin.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(ConfigError, match="maxmemory-policy is allkeys-lru: expected noeviction"):
        await connect(server)


@pytest.mark.parametrize("version", ["5.0.14", "", "new"])
async def test_an_old_server_is_refused(version: str) -> None:
    class Old:
        async def on_connect(self) -> None: ...

        async def send_command(self, _: str) -> None: ...

        async def read_response(self) -> bytes:
            return f"redis_version:{version}\r\nrole:master\r\n".encode()

    old: Any = Old()
    with pytest.raises(redis_engine._Unfit, match="expected 6 or later"):
        await redis_engine._check_server(old)


async def test_r9_a_wrong_password_is_refused_and_not_shown(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = msgspec.structs.replace(dsn_of(server), password="Tr0ub4dor")
    with pytest.raises(ConfigError, match=f"redis://127.0.0.1:{server.port}/0 failed") as refused:
        await RedisTmStore.connect(wrong, "test", SystemDice(), 1)
    assert "Tr0ub4dor" not in str(refused.value) + caplog.text


async def test_a_server_that_is_away_at_the_start_is_waited_for(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.kill()
    with caplog.at_level(logging.WARNING):
        store = await connect(server)
    assert "the TM store redis://" in caplog.text
    await server.restart()
    await answers_again(store)
    await store.close()


async def test_tls_is_spoken_and_a_stranger_is_refused(tmp_path: Path) -> None:
    clock = SystemClock()
    make_ca(tmp_path / "tls", clock)
    make_ca(tmp_path / "other", clock)
    files = ensure_certificate(tmp_path / "tls", 1, ("127.0.0.1",), clock)
    server = RedisServer(tmp_path / "redis")
    options = (
        "port 0",
        f"tls-port {server.port}",
        f"tls-cert-file {files.certificate}",
        f"tls-key-file {files.key}",
        f"tls-ca-cert-file {files.ca}",
        "tls-auth-clients no",
    )
    with (tmp_path / "redis" / "redis.conf").open("a") as config:
        config.writelines(f"{line}\n" for line in options)
    async with server:
        url = server.url.replace("redis:", "rediss:")
        dsn = parse_dsn("tm_store", f"{url}?ssl_ca={files.ca}", PORTS)
        store = await RedisTmStore.connect(dsn, "test", SystemDice(), 1)
        await store.insert_buckets({"alice": 3})
        assert await store.find_buckets(["alice"]) == [3]
        await store.close()

        stranger = msgspec.structs.replace(dsn, ssl_ca=str(tmp_path / "other" / "ca.crt"))
        store = RedisTmStore(stranger, "test", SystemDice(), 1)
        with pytest.raises(DatabaseUnavailable, match=r"(?i)certificate"):
            await store.find_buckets(["alice"])
        await store.close()
