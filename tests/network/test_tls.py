"""Certificates that MAS makes are ones that TLS takes; files that won't do are refused by name."""

import asyncio
import ssl
import stat
from pathlib import Path
from random import Random

import grpc
import pytest
from cryptography import x509

from mas.errors import ConfigError
from mas.network.channels import Channel
from mas.network.handshake import Identity
from mas.network.tls import (
    TlsFiles,
    check_files,
    client_context,
    ensure_development_certificates,
    grpc_channel_credentials,
    grpc_server_credentials,
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


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    return ensure_development_certificates(tmp_path / "tls", ["bank.example"], CLOCK)


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
    again = ensure_development_certificates(files.key.parent, ["bank.example"], CLOCK)
    assert (again.certificate.read_bytes(), again.ca.read_bytes()) == before


def test_a_new_name_makes_a_new_certificate_of_the_same_ca(files: TlsFiles) -> None:
    ca = files.ca.read_bytes()
    ensure_development_certificates(files.key.parent, ["shop.example", "[fd00::1]"], CLOCK)
    assert {"shop.example", "fd00::1"} <= set(names_of(files))
    assert files.ca.read_bytes() == ca


def test_one_that_is_about_to_expire_is_renewed(files: TlsFiles) -> None:
    before = files.certificate.read_bytes()
    ensure_development_certificates(files.key.parent, ["bank.example"], LaterClock(800))
    assert files.certificate.read_bytes() != before


def test_files_that_will_not_do_are_refused_by_name(files: TlsFiles, tmp_path: Path) -> None:
    others = ensure_development_certificates(tmp_path / "others", [], CLOCK)
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
        ensure_development_certificates(tmp_path / "file" / "tls", [], CLOCK)


def transport(node: int, server: ssl.SSLContext, client: ssl.SSLContext) -> PeerTransport:
    return PeerTransport(
        Identity("bank", node, b"secret"),
        host="127.0.0.1",
        port=0,
        clock=CLOCK,
        dice=Random(node),
        server_tls=server,
        client_tls=client,
    )


@pytest.mark.asyncio
@pytest.mark.parametrize("shows_certificate", [True, False])
async def test_peers_meet_over_mutual_tls_and_only_with_a_certificate(
    files: TlsFiles, *, shows_certificate: bool
) -> None:
    server = server_context(files, mutual=True)
    one = transport(1, server, client_context(files, mutual=shows_certificate))
    two = transport(2, server, client_context(files, mutual=True))
    arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    two.on_frame(Channel.RAFT, lambda _, payload: arrived.set_result(payload))
    await one.start()
    await two.start()
    two.add_peer(1)
    one.add_peer(2, f"localhost:{two.port}")
    while not (one.is_connected(2) or one.statistics()[0].trouble):
        await asyncio.sleep(0.005)
    assert one.is_connected(2) == shows_certificate
    if shows_certificate:
        one.send(2, Channel.RAFT, b"sealed")
        assert await arrived == b"sealed"
    await one.stop()
    await two.stop()


@pytest.mark.asyncio
async def test_grpc_takes_the_credentials_and_the_options(files: TlsFiles) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    port = server.add_secure_port("localhost:0", grpc_server_credentials(files, mutual=True))
    await server.start()
    credentials = grpc_channel_credentials(files, mutual=True)
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
        await channel.channel_ready()
        occupied = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        with pytest.raises(RuntimeError):
            occupied.add_secure_port(f"localhost:{port}", grpc_server_credentials(files))
    await server.stop(None)
