"""`mas certs`: what each node of a cluster needs, from one CA; without it a node of several says what to do."""

import stat
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from cryptography import x509

from mas.cli.main import cli
from mas.config import BucketConfig, PeerConfig, load_config
from mas.network.tls import TlsFiles, check_files, check_node
from mas.runtime import SystemClock
from tests.integration.processes import Server


def names_of(files: TlsFiles) -> set[str]:
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return {str(each.value) for each in extension.value}


def test_security_b13_each_node_gets_its_own_of_one_ca(tmp_path: Path) -> None:
    for node, address in ((1, "10.0.0.1"), (2, "[2001:db8::2]")):
        done = CliRunner().invoke(
            cli, ["certs", str(tmp_path / "tls"), "--node", str(node), "--address", address]
        )
        assert done.exit_code == 0, done.output
        assert f"node-{node}.crt" in done.output
    one, two = (TlsFiles.within(tmp_path / "tls", node) for node in (1, 2))
    for node, files in ((1, one), (2, two)):
        check_files(files, SystemClock())
        check_node(files, node)
    assert {"urn:mas:node:1", "10.0.0.1"} <= names_of(one)
    assert {"urn:mas:node:2", "2001:db8::2"} <= names_of(two)
    for path in (tmp_path / "tls").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_node_without_an_id_gets_none(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["certs", str(tmp_path / "tls"), "--node", "0"])
    assert done.exit_code == 2
    assert not (tmp_path / "tls").exists()


@pytest.mark.integration
@pytest.mark.timeout(60)
def test_security_b13_a_node_of_several_without_certificates_says_how_to_make_them(
    tmp_path: Path,
) -> None:
    """A CA of its own would only be found out by the others, which don't trust it."""
    server = Server(tmp_path)
    config = load_config(server.config)
    peers = tuple(PeerConfig(id=node, address=f"10.0.0.{node}:12379") for node in (1, 2))
    buckets = (BucketConfig(id=1, voters=(1,)),)
    server.write_config(msgspec.structs.replace(config, peers=peers, buckets=buckets))
    failed = server.fails()
    assert failed.returncode == 2, failed.stderr
    assert f"mas certs {server.data / 'tls'} --node 1" in failed.stderr
    assert "Traceback" not in failed.stderr
