"""Certificates that MAS makes are ones that TLS takes; files that won't do are refused by name."""

import asyncio
import ssl
import stat
from pathlib import Path
from random import Random

import pytest
from cryptography import x509

from mas.channels import Channel
from mas.errors import ConfigError
from mas.network.handshake import Identity, Refusal
from mas.network.settings import TransportSettings
from mas.network.tls import (
    TlsFiles,
    certified_nodes,
    check_files,
    check_node,
    client_context,
    ensure_certificate,
    make_ca,
    server_context,
)
from mas.network.transport import PeerTransport
from mas.runtime import SystemClock

DAY_US = 24 * 3600 * 1_000_000
CLOCK = SystemClock()


class LaterClock(SystemClock):
    def __init__(self, days: int) -> None:
        self._days = days

    def now_us(self) -> int:
        return super().now_us() + self._days * DAY_US


def make(directory: Path, node: int = 1, *names: str, clock: SystemClock = CLOCK) -> TlsFiles:
    make_ca(directory, clock)
    return ensure_certificate(directory, node, names, clock)


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    return make(tmp_path / "tls", 1, "bank.example")


def names_of(files: TlsFiles) -> list[str]:
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return [str(each.value) for each in extension.value]


def test_it_is_for_this_machine_and_the_names_given(files: TlsFiles) -> None:
    assert {"localhost", "127.0.0.1", "::1", "bank.example"} <= set(names_of(files))


def test_keys_are_their_owners_only(files: TlsFiles) -> None:
    for path in files.key.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_is_there_is_kept(files: TlsFiles) -> None:
    before = files.certificate.read_bytes(), files.ca.read_bytes()
    again = make(files.key.parent, 1, "bank.example")
    assert (again.certificate.read_bytes(), again.ca.read_bytes()) == before


def test_a_new_name_makes_a_new_certificate_of_the_same_ca(files: TlsFiles) -> None:
    ca = files.ca.read_bytes()
    make(files.key.parent, 1, "shop.example", "[fd00::1]")
    assert {"shop.example", "fd00::1"} <= set(names_of(files))
    assert files.ca.read_bytes() == ca


def test_one_that_is_about_to_expire_is_renewed(files: TlsFiles) -> None:
    before = files.certificate.read_bytes()
    make(files.key.parent, 1, "bank.example", clock=LaterClock(800))
    assert files.certificate.read_bytes() != before


def test_files_that_will_not_do_are_refused_by_name(files: TlsFiles, tmp_path: Path) -> None:
    others = make(tmp_path / "others")
    with pytest.raises(ConfigError, match="isn't the key of"):
        check_files(TlsFiles(files.ca, files.certificate, others.key), CLOCK)
    with pytest.raises(ConfigError, match="wasn't signed by"):
        check_files(TlsFiles(others.ca, files.certificate, files.key), CLOCK)
    with pytest.raises(ConfigError, match="expired on"):
        check_files(files, LaterClock(900))
    with pytest.raises(ConfigError, match="is the clock right"):
        check_files(files, LaterClock(-1))
    with pytest.raises(ConfigError, match=r"nowhere\.crt can't be read"):
        check_files(TlsFiles(files.ca, tmp_path / "nowhere.crt", files.key), CLOCK)
    files.key.chmod(0o640)
    with pytest.raises(ConfigError, match=f"chmod 600 {files.key}"):
        check_files(files, CLOCK)
    files.key.chmod(0o600)
    with pytest.raises(ConfigError, match="isn't a PEM certificate"):
        check_files(TlsFiles(files.ca, files.key, files.key), CLOCK)


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"tls\.directory"):
        make(tmp_path / "file" / "tls")


def test_security_b13_each_node_has_a_certificate_of_its_own(tmp_path: Path) -> None:
    one, two = make(tmp_path, 1), make(tmp_path, 2)
    assert one.ca == two.ca
    assert one.certificate != two.certificate
    check_node(one, 1)
    with pytest.raises(ConfigError, match="isn't node 2's: expected urn:mas:node:2"):
        check_node(one, 2)


def test_security_b13_without_the_cas_key_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mas certs"):
        ensure_certificate(tmp_path, 1, (), CLOCK)
    make(tmp_path, 1)
    (tmp_path / "ca.key").unlink()
    ensure_certificate(tmp_path, 1, ("another.example",), CLOCK)
    with pytest.raises(ConfigError, match=r"no .*node-2\.crt: .*mas certs"):
        ensure_certificate(tmp_path, 2, (), CLOCK)


@pytest.mark.parametrize(
    ("names", "nodes"),
    [
        ((("URI", "urn:mas:node:3"), ("DNS", "localhost")), {3}),
        ((("URI", "urn:mas:node:3"), ("URI", "urn:mas:node:4")), {3, 4}),
        ((("DNS", "urn:mas:node:3"), ("DNS", "node-3")), set()),
        (
            (("URI", "urn:mas:node:"), ("URI", "urn:mas:node:-3"), ("URI", "urn:mas:node:\u0663")),
            set(),
        ),
        ((("URI", "https://urn:mas:node:3"),), set()),
    ],
)
def test_security_b13_what_a_certificate_names(names: object, nodes: set[int]) -> None:
    assert certified_nodes({"subjectAltName": names}) == nodes
    assert certified_nodes(None) == certified_nodes({}) == set()


def transport(
    node: int, files: TlsFiles, *, shows_certificate: bool = True, tls: bool = True
) -> PeerTransport:
    client = client_context(files)
    if not shows_certificate:
        client = ssl.create_default_context(cafile=str(files.ca))
    return PeerTransport(
        Identity("bank", node, b"secret"),
        host="127.0.0.1",
        port=0,
        clock=CLOCK,
        dice=Random(node),
        server_tls=server_context(files) if tls else None,
        client_tls=client if tls else None,
        settings=TransportSettings(backoff_refused=0.05),
    )


async def trouble(dialler: PeerTransport, listener: PeerTransport) -> str:
    """Why the one can't talk to the other; empty where it can, and then a frame arrives."""
    arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    listener.on_frame(Channel.RAFT, lambda _, payload: arrived.set_result(payload))
    await dialler.start()
    await listener.start()
    listener.add_peer(dialler.node)
    dialler.add_peer(listener.node, f"localhost:{listener.port}")
    while not (dialler.is_connected(listener.node) or dialler.statistics()[0].trouble):
        await asyncio.sleep(0.005)
    found = dialler.statistics()[0].trouble
    if not found:
        dialler.send(listener.node, Channel.RAFT, b"sealed")
        assert await arrived == b"sealed"
    assert listener.is_connected(dialler.node) == (not found)
    await dialler.stop()
    await listener.stop()
    return found


@pytest.mark.asyncio
async def test_security_b13_peers_meet_over_mutual_tls(tmp_path: Path) -> None:
    one, two = make(tmp_path, 1), make(tmp_path, 2)
    assert await trouble(transport(1, one), transport(2, two)) == ""


@pytest.mark.asyncio
async def test_security_b13_nothing_can_be_read_on_the_way(tmp_path: Path) -> None:
    """With TLS, and without: in neither case does what goes out of the process hold what was said."""
    make(tmp_path, 1)
    make(tmp_path, 2)
    heard = bytearray()

    async def overhear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", two.port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                heard.extend(data)
                sink.write(data)
            sink.close()

        await asyncio.gather(pump(reader, back), pump(there, writer), return_exceptions=True)

    for tls in (True, False):
        one = transport(1, TlsFiles.within(tmp_path, 1), tls=tls)
        two = transport(2, TlsFiles.within(tmp_path, 2), tls=tls)
        arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        two.on_frame(Channel.RAFT, lambda _, payload, to=arrived: to.set_result(payload))
        await one.start()
        await two.start()
        relay = await asyncio.start_server(overhear, "127.0.0.1", 0)
        two.add_peer(1)
        one.add_peer(2, f"127.0.0.1:{relay.sockets[0].getsockname()[1]}")
        while not one.is_connected(2):
            await asyncio.sleep(0.005)
        one.send(2, Channel.RAFT, b"clinic bill")
        assert await arrived == b"clinic bill"
        assert len(heard) > 500
        assert b"clinic" not in heard
        await one.stop()
        await two.stop()
        relay.close()
        heard.clear()


@pytest.mark.asyncio
async def test_security_b13_without_a_certificate_of_the_ca_nobody_is_let_in(
    tmp_path: Path,
) -> None:
    one, two, other = make(tmp_path, 1), make(tmp_path, 2), make(tmp_path / "other", 1)
    bare = transport(1, one, shows_certificate=False)
    assert await trouble(bare, transport(2, two)) == "unreachable"
    assert await trouble(transport(1, other), transport(2, two)) == "unreachable"


@pytest.mark.asyncio
async def test_security_b13_a_certificate_is_good_for_its_own_node_only(tmp_path: Path) -> None:
    """Whoever has node 3's files, and the secret of all, can't be node 1: neither calling nor called."""
    one, two, three = make(tmp_path, 1), make(tmp_path, 2), make(tmp_path, 3)
    assert await trouble(transport(1, three), transport(2, two)) == Refusal.CERTIFICATE
    assert await trouble(transport(1, one), transport(2, three)) == Refusal.CERTIFICATE
