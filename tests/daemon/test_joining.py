"""How a process comes to its first roster, and that a second start goes on with what the first one kept."""

import asyncio
import socket
from pathlib import Path
from random import Random
from typing import Self

import msgspec
import pytest

from mas.client.operator import Cluster
from mas.config import BucketConfig, Config, ListenConfig, NodeConfig, PeerConfig, Role, TlsConfig
from mas.daemon import joining
from mas.daemon.data_directory import DataDirectory, Identity
from mas.daemon.joining import find_roster
from mas.errors import ConfigError, DataDirectoryError, NetworkError, Unavailable
from mas.files import write_private
from mas.ledger.rows import NodeRow
from mas.membership import BucketMembers, Roster
from mas.membership.roster import founding_roster

pytestmark = pytest.mark.asyncio

FOUNDED = Config(
    node=NodeConfig(id=2, role=Role.RM),
    peers=(
        PeerConfig(id=1, address="a:1", roles=(Role.TM,)),
        PeerConfig(id=2, address="b:1", roles=(Role.RM,)),
    ),
    buckets=(BucketConfig(id=1, voters=(2,)),),
)
CLUSTER = founding_roster((NodeRow(1, "a:1", ("tm",)), NodeRow(2, "b:1", ("rm",))), {1: (2,)})


def opened(path: Path, node: int) -> DataDirectory:
    return DataDirectory(path, Identity("mas", node), Random(node))


class Operator:
    """Stands for `OperatorClient`: registers whoever comes, and says what it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, NodeRow, tuple[int, ...]]] = []
        self.opened: list[tuple[str, dict]] = []
        self.fail: Exception | None = None
        self.roster: bytes | None = None

    def __call__(self, address: str, **options: object) -> "Operator":
        self.opened.append((address, options))
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)

    async def add_node(self, cluster: str, node: NodeRow, buckets: tuple[int, ...]) -> Cluster:
        self.asked.append((cluster, node, buckets))
        if self.fail is not None:
            raise self.fail
        roster = CLUSTER.merge(Roster(register_index=3, register=(node,)))[0]
        return Cluster("mas", (), (), self.roster or msgspec.msgpack.encode(roster))


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch) -> Operator:
    made = Operator()
    monkeypatch.setattr(joining, "OperatorClient", made)
    return made


@pytest.fixture
def joiner(tmp_path: Path) -> Config:
    write_private(tmp_path / "secret", "s" * 64)
    return Config(
        node=NodeConfig(
            id=7,
            role=Role.RM,
            join="tm:8008",
            address="me:5",
            host="rack",
            hold=(1,),
            secret_file=str(tmp_path / "secret"),
        ),
        listen=ListenConfig(peer=0),
    )


async def test_the_first_nodes_start_from_their_configuration_and_keep_it(tmp_path: Path) -> None:
    with opened(tmp_path, 2) as directory:
        assert await find_roster(FOUNDED, directory) == CLUSTER
        assert directory.read_roster() == CLUSTER, "from now on its absence is a loss"
        (tmp_path / "raft").mkdir()
        assert await find_roster(FOUNDED, directory) == CLUSTER
        (tmp_path / "roster.json").unlink()
        with pytest.raises(DataDirectoryError, match="put it back"):
            await find_roster(FOUNDED, directory)


async def test_what_was_kept_is_newer_than_the_configuration_but_for_where_its_nodes_are(
    tmp_path: Path,
) -> None:
    removed = BucketMembers(1, (2,), 9, (3,))
    kept = founding_roster((NodeRow(1, "old:1"),), {1: (2,)}).merge(Roster(buckets=(removed,)))[0]
    with opened(tmp_path, 2) as directory:
        directory.write(kept)
        roster = await find_roster(FOUNDED, directory)
    assert roster.holders()[1] == removed
    assert roster.nodes()[1].address == "a:1"


@pytest.mark.parametrize(
    ("buckets", "said"),
    [
        ((BucketConfig(id=1, voters=(1,)),), r"bucket 1: .*the voters \[1\].*the voters \[2\]"),
        ((BucketConfig(id=1, voters=(1, 2)),), r"bucket 1: .*\[1, 2\].*\[2\]"),
        (
            (BucketConfig(id=1, voters=(2,)), BucketConfig(id=2, voters=(2,))),
            r"bucket 2: .*\[2\].*no such bucket",
        ),
    ],
    ids=["others", "one more", "a bucket more"],
)
@pytest.mark.parametrize("moved_on", [False, True])
async def test_a_file_that_names_other_founders_is_refused(
    tmp_path: Path, buckets: tuple[BucketConfig, ...], said: str, *, moved_on: bool
) -> None:
    """It was taken for the bucket's own word that this node had been removed, and rows and log were erased."""
    edited = msgspec.structs.replace(FOUNDED, buckets=buckets)
    with opened(tmp_path, 2) as directory:
        kept = await find_roster(FOUNDED, directory)
        if moved_on:
            kept = kept.merge(Roster(buckets=(BucketMembers(1, (2,), 9, (3,)),)))[0]
            directory.write(kept)
        with pytest.raises(ConfigError, match=said):
            await find_roster(edited, directory)
        assert directory.read_roster() == kept
        assert await find_roster(FOUNDED, directory) == kept, "and as it was it is taken"


async def test_a_bucket_that_is_left_out_is_missed(tmp_path: Path) -> None:
    two = (BucketConfig(id=1, voters=(2,)), BucketConfig(id=2, voters=(2,)))
    with opened(tmp_path, 2) as directory:
        await find_roster(msgspec.structs.replace(FOUNDED, buckets=two), directory)
        with pytest.raises(ConfigError, match=r"bucket 2: .*no such bucket.*\[2\]"):
            await find_roster(FOUNDED, directory)


async def test_a_node_alone_is_its_own_cluster(tmp_path: Path) -> None:
    with opened(tmp_path, 1) as directory:
        roster = await find_roster(Config(), directory)
    assert list(roster.nodes()) == [1]
    assert roster.holders()[2].voters == (1,)


async def test_a_node_joins_once(tmp_path: Path, operator: Operator, joiner: Config) -> None:
    with opened(tmp_path / "data", 7) as directory:
        roster = await find_roster(joiner, directory)
        row = NodeRow(7, "me:5", ("rm",), "rack", directory.store)
        assert operator.asked == [("mas", row, (1,))]
        assert roster.nodes()[7] == row
        assert directory.read_roster() == roster
        assert await find_roster(joiner, directory) == roster
    assert len(operator.asked) == 1
    [(address, options)] = operator.opened
    assert address == "tm:8008"
    assert options["ca"] == tmp_path / "data" / "tls" / "ca.crt"
    assert options["plaintext"] is False


async def test_a_join_that_died_is_asked_for_again(
    tmp_path: Path, operator: Operator, joiner: Config
) -> None:
    with opened(tmp_path / "data", 7) as directory:
        operator.fail = Unavailable("no leader")
        with pytest.raises(Unavailable):
            await find_roster(joiner, directory)
        operator.fail, operator.roster = None, b"\xc1"
        with pytest.raises(NetworkError, match="roster of 1 bytes can't be read"):
            await find_roster(joiner, directory)
        operator.roster = None
        assert 7 in (await find_roster(joiner, directory)).nodes()
    first, *others = operator.asked
    assert others == [first, first], "with the same store, so that it is known again"


async def test_a_join_without_a_secret_or_without_tls(
    tmp_path: Path, operator: Operator, joiner: Config
) -> None:
    plain = msgspec.structs.replace(joiner, tls=TlsConfig(enabled=False))
    with opened(tmp_path / "data", 7) as directory:
        nameless = msgspec.structs.replace(joiner.node, secret_file="")
        with pytest.raises(ConfigError, match=r"node\.secret_file is empty"):
            await find_roster(msgspec.structs.replace(joiner, node=nameless), directory)
        await find_roster(plain, directory)
    assert operator.opened[0][1]["ca"] is None
    assert operator.opened[0][1]["plaintext"] is True


async def test_nobody_is_told_of_a_node_whose_port_is_taken(
    tmp_path: Path, joiner: Config, operator: Operator
) -> None:
    """Its id was registered first, and burnt."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = ListenConfig(peer=taken.getsockname()[1])
        config = msgspec.structs.replace(joiner, listen=listen)
        with opened(tmp_path / "data", 7) as directory:
            with pytest.raises(ConfigError, match="can't be listened on"):
                await find_roster(config, directory)
            assert not operator.asked
