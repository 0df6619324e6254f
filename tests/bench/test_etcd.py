"""As much of etcd's protocol as the benchmark speaks."""

from pathlib import Path

import pytest

from mas.bench.etcd import EtcdCluster, count_request, decode, find_etcd, put_request
from mas.bench.processes import BenchFailed


def test_requests_are_the_bytes_that_a_protobuf_library_writes() -> None:
    assert put_request(b"key", b"value") == b"\x0a\x03key\x12\x05value"
    # A length of 300 takes two bytes.
    assert put_request(b"k", bytes(300)) == b"\x0a\x01k\x12\xac\x02" + bytes(300)
    assert count_request() == b"\x0a\x01\x00\x12\x01\x00\x38\x01\x48\x01"


def test_a_message_is_read_by_its_fields() -> None:
    assert decode(b"") == {}
    assert decode(b"\x0a\x03key\x20\xac\x02") == {1: b"key", 4: 300}
    member = 0x8E9E05C52164694D  # ids of etcd's take all 64 bits
    assert decode(b"\x10\xcd\xd2\x91\x8b\xd2\xb8\x81\xcf\x8e\x01") == {2: member}
    assert decode(put_request(bytes(200), b"")) == {1: bytes(200), 2: b""}


def test_what_is_neither_number_nor_bytes_is_refused() -> None:
    with pytest.raises(BenchFailed, match="wire type 5"):
        decode(b"\x0d\x00\x00\x00\x00")


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.asyncio
@pytest.mark.timeout(60)
async def test_three_members_have_a_leader_and_count_their_keys(tmp_path: Path) -> None:
    program = find_etcd()
    if program is None:
        pytest.skip("no etcd on the PATH: scripts/bench raft fetches one")
    async with EtcdCluster(program, tmp_path) as cluster:
        assert (await cluster.leader()).startswith("127.0.0.1:")
        await cluster.check(0)
