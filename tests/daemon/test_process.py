"""A process of several roles: what they are joined by, and that nothing stays open behind one that can't start."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from mas.config import Config, ListenConfig, NodeConfig, Role, TlsConfig
from mas.daemon.data_directory import DataDirectory, Identity
from mas.daemon.process import Process
from mas.errors import ConfigError, Unavailable
from mas.ids import home_bucket
from mas.ledger.instructions import Answer, Batch, Code
from mas.ledger.rows import NodeRow
from mas.membership import Roster
from mas.membership.roster import founding_roster
from mas.multiraft import RaftHost
from mas.rpc.messages import ReadClaims, ReadLevel
from mas.runtime import Supervisor, SystemDice
from mas.storage.open import open_account_db, open_raft_log, open_tm_store

pytestmark = pytest.mark.asyncio

FIVE_BUCKETS = founding_roster(
    (NodeRow(1, "127.0.0.1:1", ("tm",)), NodeRow(2, "127.0.0.1:2", ("rm",))),
    dict.fromkeys(range(1, 6), (2,)),
)
LOCAL = ListenConfig(api=0, gls=0, node_service=0, rm=0, peer=0)


def config(role: Role, listen: ListenConfig = LOCAL) -> Config:
    """Names no buckets, as that of a node that joins."""
    return Config(
        node=NodeConfig(id=1, role=role, address="127.0.0.1:1"),
        listen=listen,
        tls=TlsConfig(enabled=False, mutual=False),
    )


@asynccontextmanager
async def process_of(
    config: Config, path: Path, roster: Roster = FIVE_BUCKETS
) -> AsyncIterator[Process]:
    identity = Identity(config.node.cluster_id, config.node.id)
    with DataDirectory(path, identity, Random(4)) as directory:
        async with Supervisor() as supervisor:
            process = Process(config, directory, roster, supervisor, Random(4))
            try:
                yield process
            finally:
                await process.stop()
                await process.stop()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program has, until the test is over."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def test_rule_20_homes_are_counted_over_the_roster_s_buckets(tmp_path: Path) -> None:
    """Over the two of a configuration that names none, these accounts would be sought elsewhere, and be created twice."""
    settings = config(Role.TM)
    number = next(
        each for each in map(str, range(100)) if home_bucket(each, 5) != home_bucket(each, 2)
    )
    asked: list[int] = []

    async def query(bucket: int, request: object, *_: object, **__: object) -> None:
        if isinstance(request, ReadClaims):
            asked.append(bucket)
        await asyncio.sleep(0)
        raise Unavailable("nobody is there")

    def submit(bucket: int, batch: Batch, on_answer: Callable[[int, Answer], None]) -> None:
        on_answer(0, Answer(Code.DONE, value=1))

    async with process_of(settings, tmp_path) as process:
        process.parts.buckets.query = query  # type: ignore[method-assign]
        process.parts.buckets.submit = submit  # type: ignore[method-assign, assignment]
        await process.start()
        assert process._transaction is not None
        coordinator = process._transaction.coordinator
        [answer] = await coordinator.reads.accounts([number], ReadLevel.LINEARIZABLE, 0.2)
        assert isinstance(answer, Unavailable)
        by_reads, asked = set(asked), []
        with pytest.raises(Unavailable):
            await coordinator._locks.hold(b"o" * 16, number, 0.2)
    home = home_bucket(number, 5)
    assert by_reads == {home}
    assert set(asked) == {home}


@pytest.mark.parametrize("port", ["gls", "api", "node_service"])
async def test_a_manager_that_cannot_start_leaves_nothing_open(
    tmp_path: Path, taken: int, port: str
) -> None:
    listen = ListenConfig(**{**dict.fromkeys(LOCAL.__struct_fields__[1:], 0), port: taken})
    settings = config(Role.TM, listen)
    async with process_of(settings, tmp_path) as process:
        with pytest.raises(ConfigError, match=f"can't listen on 127.0.0.1:{taken}"):
            await process.start()
    assert len(asyncio.all_tasks()) == 1
    await (await open_tm_store(settings, tmp_path, SystemDice())).close()


async def test_a_resource_manager_that_cannot_start_leaves_nothing_open(
    tmp_path: Path, taken: int
) -> None:
    listen = ListenConfig(api=0, gls=0, node_service=0, rm=taken, peer=0)
    settings = config(Role.RM, listen)
    async with process_of(settings, tmp_path) as process:
        with pytest.raises(ConfigError, match=f"can't listen on 127.0.0.1:{taken}"):
            await process.start()
    assert len(asyncio.all_tasks()) == 1
    open_raft_log(settings, tmp_path).close()
    await (await open_account_db(settings, tmp_path)).close()


async def test_a_role_whose_part_fails_fails_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: RaftHost) -> None:
        await asyncio.sleep(0)
        raise ConnectionError("the disk is gone")

    async def serve() -> None:
        async with process_of(config(Role.RM), tmp_path) as process:
            await process.start()
            await process.parts.supervisor.wait()

    monkeypatch.setattr(RaftHost, "run", fail)
    with pytest.raises(ConnectionError, match="the disk is gone"):
        await serve()


async def test_a_process_of_all_roles_says_what_runs_and_stops(tmp_path: Path) -> None:
    alone = founding_roster((NodeRow(1, "127.0.0.1:1", ("all",)),), {1: (1,), 2: (1,)})
    async with process_of(config(Role.ALL), tmp_path, alone) as process:
        await process.start()
        assert process.view().roles == ("all",)
        assert process.view().buckets == (1, 2)
        assert "mas account create alice" in process.greeting()
    assert len(asyncio.all_tasks()) == 1
