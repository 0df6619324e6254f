"""Certificates: who a node is on its ports, and the CA that MAS makes where there is no other.

A directory holds `ca.crt`, and of each node that finds its files there `node-ID.crt` and `node-ID.key`; where MAS made
the CA, `ca.key` too. A node's certificate names the node, as the URI urn:mas:node:ID among its alternative names: by that
its peers know it, wherever it is (`certified_nodes`). Clients know it by its host names and addresses. Keys are EC P-256
and readable by their owner only. Files that don't belong together, or are no longer valid, are refused at the start and by
name, not found out by the first handshake.
"""

import fcntl
import ipaddress
import os
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mas.addresses import bare_host
from mas.errors import ConfigError
from mas.files import check_private, write_private
from mas.runtime import Clock

_CA, _CA_KEY = "ca.crt", "ca.key"
_NODE_URI = "urn:mas:node:"
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_CA_LIFETIME = timedelta(days=3650)
_NODE_LIFETIME = timedelta(days=825)
_RENEW_BEFORE = timedelta(days=30)
_CLOCK_SKEW = timedelta(hours=1)
"""Between the machines of a cluster: a new certificate is valid at once everywhere."""


class TlsFiles(msgspec.Struct, frozen=True):
    """The PEM files of one node."""

    ca: Path
    """Who signs the certificates of nodes and clients."""
    certificate: Path
    key: Path

    @classmethod
    def within(cls, directory: Path, node: int) -> "TlsFiles":
        """Return a node's files in a directory, by their names."""
        return cls(
            directory / "ca.crt", directory / f"node-{node}.crt", directory / f"node-{node}.key"
        )


def make_ca(directory: Path, clock: Clock) -> None:
    """Make a CA in this directory, where there is none; processes that do so at once share one.

    Raises:
        ConfigError: the directory can't be written.
    """
    with _writing(directory):
        if not (directory / _CA).exists():
            _make_ca(directory / _CA, directory / _CA_KEY, _now(clock))


def ensure_certificate(directory: Path, node: int, names: Sequence[str], clock: Clock) -> TlsFiles:
    """Return a node's files in this directory; make its certificate where the CA's key lies there too.

    The certificate is for `names` (host names or addresses) and this machine's own; it is made anew where it lacks one
    of them or is about to expire.

    Raises:
        ConfigError: the directory can't be written, or holds files that don't belong together, or not those of this node.
    """
    files = TlsFiles.within(directory, node)
    ca_key = directory / _CA_KEY
    if not files.ca.exists():
        raise ConfigError(f"there is no {files.ca}: {_how_to_make(directory, node)}")
    if ca_key.exists():
        with _writing(directory):
            now = _now(clock)
            if _is_wanting(files, node, names, now):
                _make_node_certificate(files, ca_key, node, names, now)
    elif not files.certificate.exists():
        raise ConfigError(f"there is no {files.certificate}: {_how_to_make(directory, node)}")
    check_files(files, clock)
    return files


def _how_to_make(directory: Path, node: int) -> str:
    return (
        f"make the certificates of all nodes in one place (`mas certs {directory} --node {node} --address HOST`), and give "
        f"each node {_CA} and its own two files"
    )


def check_files(files: TlsFiles, clock: Clock) -> None:
    """Check that these files can be read, belong together and are valid now.

    Raises:
        ConfigError: naming the file, and what is wrong with it.
    """
    now = _now(clock)
    ca, certificate = _read_certificate(files.ca), _read_certificate(files.certificate)
    key = _read_key(files.key)
    if key.public_key() != certificate.public_key():
        raise ConfigError(f"{files.key} isn't the key of {files.certificate}: they were mixed up")
    for path, each in ((files.ca, ca), (files.certificate, certificate)):
        if now >= each.not_valid_after_utc:
            raise ConfigError(f"{path} expired on {each.not_valid_after_utc:%Y-%m-%d}: renew it")
        if now < each.not_valid_before_utc:
            raise ConfigError(
                f"{path} is valid from {each.not_valid_before_utc:%Y-%m-%d %H:%M} UTC only: is the clock right?"
            )
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise ConfigError(f"{files.certificate} wasn't signed by {files.ca}: {error}") from error


def check_node(files: TlsFiles, node: int) -> None:
    """Check that peers will know this node by its certificate.

    Raises:
        ConfigError: it names another node, or none.
    """
    certificate = _read_certificate(files.certificate)
    if _node_name(node) not in _alternative_names(certificate):
        raise ConfigError(
            f"{files.certificate} isn't node {node}'s: expected {_node_uri(node)} among its alternative names "
            "(`mas certs` makes such)"
        )


def certified_nodes(certificate: Mapping[str, Any] | None) -> frozenset[int]:
    """Return which nodes a peer may be by its certificate, as `getpeercert` gives it; none where it has shown none."""
    names = certificate.get("subjectAltName", ()) if certificate else ()
    uris = [value for kind, value in names if kind == "URI" and value.startswith(_NODE_URI)]
    numbers = [uri.removeprefix(_NODE_URI) for uri in uris]
    return frozenset(int(text) for text in numbers if text.isdecimal() and text.isascii())


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Return the context of the peer port: callers show a certificate of the CA."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files.ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(files.certificate, files.key)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Return the context of a connection to a peer, known by its node's name and not by its host's (`certified_nodes`)."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(files.ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_cert_chain(files.certificate, files.key)
    return context


# -- making -------------------------------------------------------------------------------------------


def _make_ca(path: Path, key_path: Path, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("MAS CA")
    certificate = (
        _builder(name, name, key, now, _CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    write_private(key_path, _key_pem(key))
    write_private(path, certificate.public_bytes(serialization.Encoding.PEM))


def _make_node_certificate(
    files: TlsFiles, ca_key_path: Path, node: int, names: Sequence[str], now: datetime
) -> None:
    ca, ca_key = _read_certificate(files.ca), _read_key(ca_key_path)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    certificate = (
        _builder(_name(f"MAS node {node}"), ca.subject, key, now, _NODE_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(
            x509.SubjectAlternativeName(_all_names(node, names)),
            critical=False,
        )
        .add_extension(authority, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    write_private(files.key, _key_pem(key))
    write_private(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _all_names(node: int, names: Sequence[str]) -> list[x509.GeneralName]:
    """Return the node's name, the given hosts' and this machine's own, each once."""
    hosts = dict.fromkeys([*_LOCAL_NAMES, os.uname().nodename, *filter(None, names)])
    return [_node_name(node), *(_general_name(host) for host in hosts)]


def _node_uri(node: int) -> str:
    return f"{_NODE_URI}{node}"


def _node_name(node: int) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(_node_uri(node))


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(bare_host(name)))
    except ValueError:
        return x509.DNSName(name)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


# -- looking ------------------------------------------------------------------------------------------


def _is_wanting(files: TlsFiles, node: int, names: Sequence[str], now: datetime) -> bool:
    """Return whether there is no certificate yet, or one that won't do."""
    if not files.certificate.exists() or not files.key.exists():
        return True
    certificate = _read_certificate(files.certificate)
    if now + _RENEW_BEFORE >= certificate.not_valid_after_utc:
        return True
    if _read_key(files.key).public_key() != certificate.public_key():
        return True  # a crash between the writing of the two
    covered = _alternative_names(certificate)
    return any(name not in covered for name in _all_names(node, names))


def _alternative_names(certificate: x509.Certificate) -> list[x509.GeneralName]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return list(extension.value)


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"certificate {path} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} isn't a PEM certificate: {error}") from error


def _read_key(path: Path) -> PrivateKeyTypes:
    check_private(path)
    try:
        return serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ConfigError(f"private key {path} can't be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} isn't a PEM key without a password: {error}") from error


def _now(clock: Clock) -> datetime:
    return datetime.fromtimestamp(clock.now_us() / 1e6, UTC)


# -- files --------------------------------------------------------------------------------------------


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    try:
        with _locked(directory):
            yield
    except OSError as error:
        raise ConfigError(
            f"certificates can't be written to {directory} ({error.strerror}): name another tls.directory"
        ) from error


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Let one process at a time make files in this directory."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
