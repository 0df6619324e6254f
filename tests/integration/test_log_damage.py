"""Real nodes whose raft log is damaged or can't be synced (crash matrix F14, F15): what stops, what goes on, what it says."""

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from mas.api.tokens import Role
from mas.client import Client, Receipt
from mas.config import Config, NodeConfig, RaftConfig, StorageConfig
from mas.errors import MasError
from mas.storage.raft_log.records import entry_key
from mas.testing import LocalCluster
from mas.testing.audit import audit
from mas.testing.local_cluster import Node
from tests.integration.processes import MAS, Server
from tests.preload.build import build
from tests.storage.raft_log_writer import cut_back_to_what_was_synced, pieces_of, wal_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

OPENING = 1_000_000
ACCOUNTS = [f"a{i}" for i in range(6)]
QUICK = RaftConfig(tick_ms=50)
END_SECONDS = 20


def raft_directory(cluster: LocalCluster, node: Node) -> Path:
    return cluster.directory / f"node{node.id}" / "raft"


async def open_accounts(client: Client) -> None:
    for number in ACCOUNTS:
        assert (await client.create_account(number, OPENING)).receipt.committed


async def pay_each_other(client: Client, name: str, count: int) -> None:
    """Until each is certain."""
    receipts = await asyncio.gather(
        *(
            client.pay(
                ACCOUNTS[i % 6], ACCOUNTS[(i + 1 + i // 6 % 5) % 6], 3, key=f"{name}{i}", timeout=60
            )
            for i in range(count)
        )
    )
    assert all(receipt.committed for receipt in receipts)


@contextmanager
def flipped(file: Path, at: int) -> Iterator[None]:
    """One bit of a file, for a while."""
    good = file.read_bytes()
    file.write_bytes(good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :])
    yield
    file.write_bytes(good)


def refuses_to_start(node: Node) -> str:
    """What it says."""
    node.start()
    assert node.wait(END_SECONDS) != 0
    assert not node.is_ready()
    assert "Traceback" not in node.log()
    return node.log()


@pytest.mark.asyncio
async def test_f14_a_node_with_a_damaged_database_does_not_start_and_says_what_to_do() -> None:
    """A synced record is damaged in the middle: of the write-ahead log, then of a table file."""
    async with (
        LocalCluster(raft=QUICK) as cluster,
        cluster.client("operator:x", Role.GATEWAY) as client,
    ):
        await open_accounts(client)
        await pay_each_other(client, "before", 60)
        node = cluster.resource_managers[0]
        cluster.kill(node)
        directory = raft_directory(cluster, node)

        wal = wal_of(directory)
        records = pieces_of(wal.read_bytes())
        start, end = records[len(records) // 2]
        with flipped(wal, (start + end) // 2):
            said = refuses_to_start(node)
            assert f"{directory} is damaged, and not only at its tail" in said
            assert "mas admin replica remove" in said
            await pay_each_other(client, "without it", 30)

        await cluster.restart(node)  # which brings the records into a table file
        cluster.kill(node)
        table = max(directory.glob("*.sst"), key=lambda file: file.stat().st_size)
        with flipped(table, 300):
            assert "mas admin replica remove" in refuses_to_start(node)

        await cluster.restart(node)
        await pay_each_other(client, "after", 30)
        async with cluster.client() as operator:
            assert (await audit(operator)).payments == 6 + 120


@pytest.mark.asyncio
async def test_f14_a_damaged_record_stops_its_replica_and_the_nodes_other_buckets_go_on() -> None:
    async with (
        LocalCluster(raft=QUICK, buckets=2) as cluster,
        cluster.client("operator:x", Role.GATEWAY) as client,
        cluster.client() as operator,
    ):
        await open_accounts(client)
        await pay_each_other(client, "before", 60)
        node = cluster.resource_managers[0]
        cluster.kill(node)
        damage_entry(raft_directory(cluster, node), bucket=1)

        await cluster.restart(node)

        said = node.log()
        assert "level=critical" in said
        assert "bucket 1 is not served on this node" in said
        assert "mas admin replica rebuild" in said
        assert "bucket 2 is not served" not in said
        await pay_each_other(client, "after", 60)
        with pytest.raises(MasError):
            await operator.bucket(1, node.id, timeout=1)
        applied = (await operator.bucket(2, cluster.resource_managers[1].id)).applied
        async with asyncio.timeout(END_SECONDS):
            while (await operator.bucket(2, node.id)).applied < applied:
                await asyncio.sleep(0.02)


def damage_entry(directory: Path, bucket: int) -> None:
    """A flipped bit in an entry, of which RocksDB knows nothing."""
    database = Rdict(str(directory), Options(raw_mode=True))
    scan = database.iter()
    scan.seek(entry_key(bucket, 2))
    key, record = scan.key(), bytearray(scan.value())
    assert key.startswith(bucket.to_bytes(8, "big"))
    record[-1] ^= 1
    database[key] = bytes(record)
    database.close()


@pytest.mark.asyncio
async def test_f15_a_failed_fsync_under_load_stops_the_process_and_loses_nothing(
    tmp_path: Path,
) -> None:
    """Whatever was acknowledged is there on a disk that has lost all that wasn't synced."""
    home, trigger = tmp_path / "cluster", tmp_path / "trigger"
    faults = pytest.MonkeyPatch()
    faults.setenv("LD_PRELOAD", str(build("fsync_fails", tmp_path)))
    faults.setenv("FSYNC_FAILS_FOR", "/node1/raft/")
    faults.setenv("FSYNC_FAILS_WHEN", str(trigger))
    async with LocalCluster(resource_managers=1, buckets=2, directory=home) as cluster:
        faults.undo()
        node = cluster.resource_managers[0]
        async with cluster.client("operator:x", Role.GATEWAY) as client:
            await open_accounts(client)
            acknowledged: dict[str, bytes] = {}
            asked: set[str] = set()
            stop = asyncio.Event()
            payers = [
                asyncio.ensure_future(pay_until(stop, client, payer, asked, acknowledged))
                for payer in range(6)
            ]
            await until(lambda: len(acknowledged) > 60)

            trigger.touch()
            await until(lambda: not node.is_running())
            at_its_end = len(acknowledged)
            stop.set()
            await asyncio.gather(*payers)

            assert node.wait(1) != 0
            said = node.log()
            assert "level=critical" in said
            assert "the Raft log can't be written, this process must stop" in said
            assert "While fdatasync" in said
            assert said.splitlines()[-1].startswith("Error: writing the raft log")
            assert len(acknowledged) <= at_its_end + len(payers)  # answers on their way
            assert cut_back_to_what_was_synced(raft_directory(cluster, node))

        await cluster.restart(node)
        async with cluster.client("operator:x", Role.GATEWAY) as client:
            for key in asked:
                payer = int(key.split(" ")[0])
                outcome = await pay(client, payer, key, repeat=True, timeout=60)
                assert outcome.committed
                assert outcome.payment_id == acknowledged.get(key, outcome.payment_id)
        async with cluster.client() as operator:
            money = await audit(operator)
        assert money.total == {"USD": 6 * OPENING}
        assert money.payments == 6 + len(asked)


async def pay(client: Client, payer: int, key: str, *, repeat: bool, timeout: float) -> Receipt:
    return await client.pay(
        ACCOUNTS[payer], ACCOUNTS[payer - 1], 1, key=key, repeat=repeat, timeout=timeout
    )


async def pay_until(
    stop: asyncio.Event,
    client: Client,
    payer: int,
    asked: set[str],
    acknowledged: dict[str, bytes],
) -> None:
    """One payment after the other, none asked again."""
    count = 0
    while not stop.is_set():
        count += 1
        key = f"{payer} {count}"
        asked.add(key)
        receipt = await pay(client, payer, key, repeat=False, timeout=2)
        if receipt.committed:
            acknowledged[key] = receipt.payment_id


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(END_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


def test_a_process_whose_disk_hangs_ends_and_says_so(tmp_path: Path) -> None:
    """An orderly end would wait for the thread that hangs, and so would the interpreter's own."""
    server, trigger = Server(tmp_path), tmp_path / "hangs"
    server.write_config(
        Config(
            node=NodeConfig(cluster_id="test"),
            listen=server.listen,
            storage=StorageConfig(log_write_seconds=0.5),
        )
    )
    server.environment |= {
        "LD_PRELOAD": str(build("fsync_fails", tmp_path)),
        "FSYNC_FAILS_FOR": str(server.data / "raft"),
        "FSYNC_HANGS_WHEN": str(trigger),
    }
    with server.running() as process:
        trigger.touch()
        asking = subprocess.Popen(
            (*MAS, "account", "create", "alice"),
            env=server.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert process.wait(timeout=END_SECONDS) == 1
        finally:
            asking.kill()
            asking.wait()
    said = (tmp_path / "serve.log").read_text()
    assert "hasn't returned for 0.5 seconds: the disk hangs" in said
    trigger.unlink()
    with server.running():
        assert server.run("account", "create", "bob").returncode == 0
