"""etcd beside us: three members on loopback, and as much of its API as a benchmark needs.

    KV.Put            PutRequest     key 1, value 2
    KV.Range          RangeRequest   key 1, range_end 2, serializable 7, count_only 9;  RangeResponse  count 4
    Maintenance.Status               StatusResponse  header 1 (member_id 2), leader 4

of etcd's rpc.proto, encoded here by hand: a length or a number is a varint, seven bits a byte.
"""

import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from mas.bench.processes import BenchFailed
from mas.bench.raft_client import open_channel
from mas.runtime import SystemClock
from mas.testing.local_cluster import free_ports
from mas.testing.program import Program

PUT = "/etcdserverpb.KV/Put"
_RANGE = "/etcdserverpb.KV/Range"
_STATUS = "/etcdserverpb.Maintenance/Status"

_START_SECONDS = 30.0
_SETTLE_SECONDS = 30.0
_POLL_SECONDS = 0.05
_MEMBERS = 3
# etcd 3.4 wants to be told so where it runs on ARM; elsewhere it doesn't look.
_ENVIRONMENT = {"ETCD_UNSUPPORTED_ARCH": "arm64"}
_VARINT, _BYTES = 0, 2

Fields = dict[int, int | bytes]


class EtcdCluster:
    """Three members with etcd's defaults (fsync, heartbeat 100 ms, election 1,000 ms), in plaintext; ended with the block."""

    def __init__(self, program: str, directory: Path) -> None:
        ports = free_ports(2 * _MEMBERS)
        self._clock = SystemClock()
        self._addresses = [f"127.0.0.1:{port}" for port in ports[:_MEMBERS]]
        peers = [f"http://127.0.0.1:{port}" for port in ports[_MEMBERS:]]
        cluster = ",".join(f"m{number}={url}" for number, url in enumerate(peers))
        self._members = [
            Program(
                _command(program, f"m{number}", directory, (f"http://{address}", url), cluster),
                directory / f"m{number}.log",
            )
            for number, (address, url) in enumerate(zip(self._addresses, peers, strict=True))
        ]

    async def __aenter__(self) -> Self:
        try:
            for member in self._members:
                member.start(_ENVIRONMENT)
        except BaseException:
            self._end()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        """Asked to end, each would first look for another leader, in vain."""
        for member in self._members:
            if member.is_running():
                member.kill()

    async def leader(self) -> str:
        """The leader's address, once there is one.

        Raises:
            BenchFailed: there is none in time, or a member ended; the message ends with its log.
        """
        deadline = self._clock.monotonic() + _START_SECONDS
        while True:
            for address in self._addresses:
                if await self._leads(address):
                    return address
            for member in self._members:
                if not member.is_running() or self._clock.monotonic() > deadline:
                    raise BenchFailed(f"etcd has no leader; a member's log:\n{member.log()}")
            await self._clock.sleep(_POLL_SECONDS)

    async def check(self, keys: int) -> None:
        """Tell whether every member itself says that it has so many keys.

        Raises:
            BenchFailed: one has not; the figures are worth nothing.
        """
        deadline = self._clock.monotonic() + _SETTLE_SECONDS
        while set(counts := await self._counts()) != {keys}:
            if self._clock.monotonic() > deadline:
                raise BenchFailed(f"{keys} puts were answered; etcd's members have {counts} keys")
            await self._clock.sleep(_POLL_SECONDS)

    async def _counts(self) -> list[int]:
        return [
            _number(decode(await _ask(address, _RANGE, count_request())), 4)
            for address in self._addresses
        ]

    async def _leads(self, address: str) -> bool:
        try:
            status = decode(await _ask(address, _STATUS, b""))
        except grpc.aio.AioRpcError:
            return False
        header = status.get(1, b"")
        assert isinstance(header, bytes)
        leader = _number(status, 4)
        return leader != 0 and leader == _number(decode(header), 2)


def find_etcd() -> str | None:
    """The program, if it is on the PATH."""
    return shutil.which("etcd")


async def _ask(address: str, method: str, request: bytes) -> bytes:
    async with open_channel(address) as channel:
        call = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
        response: bytes = await call(request, timeout=_START_SECONDS)
        return response


def _number(fields: Fields, number: int) -> int:
    value = fields.get(number, 0)
    assert isinstance(value, int)
    return value


def _command(
    program: str, name: str, directory: Path, urls: tuple[str, str], cluster: str
) -> list[str]:
    client, peer = urls
    options = {
        "name": name,
        "data-dir": str(directory / name),
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": cluster,
        "logger": "zap",
        "log-level": "error",
    }
    return [program, *(f"--{option}={value}" for option, value in options.items())]


def put_request(key: bytes, value: bytes) -> bytes:
    """A `PutRequest`."""
    return _field(1, key) + _field(2, value)


def count_request() -> bytes:
    """A `RangeRequest` for the number of all keys, as this member has them."""
    return _field(1, b"\0") + _field(2, b"\0") + _field(7, 1) + _field(9, 1)


def decode(message: bytes) -> Fields:
    """A message's fields, the last of each number.

    Raises:
        BenchFailed: it is no message of numbers and bytes alone.
    """
    fields: Fields = {}
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        value, at = _read_varint(message, at)
        match tag & 7:
            case 0:
                fields[tag >> 3] = value
            case 2:
                fields[tag >> 3] = message[at : at + value]
                at += value
            case kind:
                raise BenchFailed(f"etcd sent a field of wire type {kind}: expected 0 or 2")
    return fields


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3 | _VARINT) + _varint(value)
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """The number at this place, and the place behind it."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
