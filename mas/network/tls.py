"""Certificates: who a node is on its ports, and the development CA that signs them where nobody else does.

A directory holds `ca.crt`, `node.crt` and `node.key`; where MAS made the CA itself, `ca.key` too. Keys are EC P-256 and
readable by their owner only. Files that don't belong together, or are no longer valid, are refused at the start and
by name, not found out by the first handshake.
"""

import fcntl
import ipaddress
import os
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mas.errors import ConfigError
from mas.files import check_private, write_private
from mas.runtime import Clock

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
    def within(cls, directory: Path) -> "TlsFiles":
        """The files of a directory, by their names."""
        return cls(directory / "ca.crt", directory / "node.crt", directory / "node.key")


def ensure_development_certificates(
    directory: Path, names: Sequence[str], clock: Clock
) -> TlsFiles:
    """The files of this directory; what isn't there yet is made.

    The certificate is for `names` (host names or addresses) and this machine's own; it is made anew by the CA of the
    directory where it lacks one of them or is about to expire. Processes that start at once share one CA.

    Raises:
        ConfigError: the directory can't be written, or holds files that don't belong together.
    """
    files = TlsFiles.within(directory)
    ca_key = directory / "ca.key"
    now = _now(clock)
    try:
        with _locked(directory):
            if not files.ca.exists():
                _make_ca(files.ca, ca_key, now)
            if ca_key.exists() and _is_wanting(files, names, now):
                _make_node_certificate(files, ca_key, names, now)
    except OSError as error:
        raise ConfigError(
            f"certificates can't be written to {directory} ({error.strerror}): name another tls.directory"
        ) from error
    check_files(files, clock)
    return files


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


def server_context(files: TlsFiles, *, mutual: bool = False) -> ssl.SSLContext:
    """For a port that listens. With `mutual`, callers must show a certificate of the CA."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files.ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(files.certificate, files.key)
    context.verify_mode = ssl.CERT_REQUIRED if mutual else ssl.CERT_NONE
    return context


def client_context(files: TlsFiles, *, mutual: bool = False) -> ssl.SSLContext:
    """For a connection to a node. With `mutual`, this node shows its own certificate."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(files.ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if mutual:
        context.load_cert_chain(files.certificate, files.key)
    return context


def grpc_server_credentials(files: TlsFiles, *, mutual: bool = False) -> grpc.ServerCredentials:
    """The same for a gRPC server."""
    pair = (files.key.read_bytes(), files.certificate.read_bytes())
    ca = files.ca.read_bytes() if mutual else None
    return grpc.ssl_server_credentials([pair], ca, require_client_auth=mutual)


def grpc_channel_credentials(files: TlsFiles, *, mutual: bool = False) -> grpc.ChannelCredentials:
    """The same for a gRPC client."""
    if not mutual:
        return grpc.ssl_channel_credentials(files.ca.read_bytes())
    return grpc.ssl_channel_credentials(
        files.ca.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
    )


# -- making -------------------------------------------------------------------------------------------


def _make_ca(path: Path, key_path: Path, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("MAS development CA")
    certificate = (
        _builder(name, name, key, now, _CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    write_private(key_path, _key_pem(key))
    write_private(path, certificate.public_bytes(serialization.Encoding.PEM))


def _make_node_certificate(
    files: TlsFiles, ca_key_path: Path, names: Sequence[str], now: datetime
) -> None:
    ca, ca_key = _read_certificate(files.ca), _read_key(ca_key_path)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    certificate = (
        _builder(_name("MAS node"), ca.subject, key, now, _NODE_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(
            x509.SubjectAlternativeName([_general_name(each) for each in _all_names(names)]),
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


def _all_names(names: Sequence[str]) -> list[str]:
    """Those given and this machine's own, each once."""
    return list(dict.fromkeys([*_LOCAL_NAMES, os.uname().nodename, *filter(None, names)]))


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name.strip("[]")))
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


def _is_wanting(files: TlsFiles, names: Sequence[str], now: datetime) -> bool:
    """Whether there is no certificate yet, or one that won't do."""
    if not files.certificate.exists() or not files.key.exists():
        return True
    certificate = _read_certificate(files.certificate)
    if now + _RENEW_BEFORE >= certificate.not_valid_after_utc:
        return True
    if _read_key(files.key).public_key() != certificate.public_key():
        return True  # a crash between the writing of the two
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    covered = list(extension.value)
    return any(_general_name(name) not in covered for name in _all_names(names))


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
def _locked(directory: Path) -> Iterator[None]:
    """One process at a time makes files in this directory."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
