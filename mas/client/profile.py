"""Where a client finds its server, and whose tokens it holds: files that only their owner can read.

$MAS_HOME or ~/.config/mas
  client.toml              address, CA, and the token used unless another is asked for
  tokens/CLUSTER/NUMBER    the token of an account opened here

A token belongs to its cluster: it is found only by a profile of that cluster, and no other cluster's server is sent it.
CLUSTER is a fingerprint of the cluster's name and of the CA that signs its certificates (without a CA, of its address),
so a server that shows a certificate of that CA is one that may see the token.
"""

import os
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import msgspec

from mas.decoding import convert, parse_toml
from mas.errors import ConfigError
from mas.files import is_open_to_others, write_private

HOME_VARIABLE = "MAS_HOME"
PROFILE_NAME = "client.toml"
_TOKENS_NAME = "tokens"
_NAME_CHARACTERS_MAX = 200
_HASHED_PREFIX = "="
"""Begins no number's own file name, in which it would be quoted."""
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_")


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to reach a server."""

    address: str
    """"host:port" of its API."""
    ca: str = ""
    """The file of the CA that signed its certificate; empty: those that this machine trusts."""
    token: str = ""
    """Who acts, unless another token is asked for."""
    plaintext: bool = False
    """The server has no TLS."""
    node_service: str = ""
    """"host:port" of its NodeService, for `mas admin`."""
    secret_file: str = ""
    """The cluster's secret, likewise."""
    cluster: str = ""
    """The cluster's name, which tells it from others of the same CA."""


def home() -> Path:
    """The client directory of this user."""
    given = os.environ.get(HOME_VARIABLE)
    return Path(given) if given else Path.home() / ".config" / "mas"


def default_path() -> Path:
    """The profile that is used unless another is named."""
    return home() / PROFILE_NAME


def write(profile: Profile, path: Path | None = None) -> Path:
    """Keep a profile; the file that it is in.

    Raises:
        ConfigError: it can't be written.
    """
    path = path or default_path()
    pairs = msgspec.structs.asdict(profile)
    # JSON's strings and booleans are TOML's too.
    text = "".join(
        f"{name} = {msgspec.json.encode(value).decode()}\n" for name, value in pairs.items()
    )
    _write(path, text)
    return path


def read(path: Path | None = None) -> Profile:
    """The profile in a file.

    Raises:
        ConfigError: it isn't there, or isn't one, or it holds a token that others may read.
    """
    path = path or default_path()
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise ConfigError(
            f"there is no client profile at {path}: start a server here with `mas serve --role all`, "
            "or name a profile with --profile"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"client profile {path} can't be read: {error}") from error

    def wrong(reason: str) -> ConfigError:
        return ConfigError(f"client profile {path} is not one: {reason}")

    profile = convert(parse_toml(text, wrong), Profile, wrong)
    if profile.token:
        _check_private(path)
    return profile


def leave(found: Profile, accepts: Callable[[str], bool], otherwise: Path) -> Path:
    """Keep what a server says of itself where clients look; in the file `otherwise` if another cluster's is there.

    A token that is there already and that the server accepts stays: it is its user's choice.

    Raises:
        ConfigError: it can't be written.
    """
    path = default_path()
    if not path.exists():
        return write(found, path)
    try:
        there = read(path)
        if cluster_of(there) != cluster_of(found):
            return write(found, otherwise)
    except ConfigError:
        return write(found, otherwise)
    if accepts(there.token):
        found = msgspec.structs.replace(found, token=there.token)
    return write(found, path)


def cluster_of(profile: Profile) -> str:
    """Compute what tells this profile's cluster from others.

    Raises:
        ConfigError: its CA can't be read.
    """
    try:
        mark = Path(profile.ca).read_bytes().strip() if profile.ca else profile.address.encode()
    except OSError as error:
        raise ConfigError(f"certificate {profile.ca} can't be read: {error.strerror}") from error
    name = msgspec.json.encode((profile.cluster, bool(profile.ca)))
    return blake2b(name + mark, digest_size=8).hexdigest()


def keep_token(profile: Profile, number: str, token: str) -> Path:
    """Keep an account's own token, in the place of an older one; the file that it is in.

    Raises:
        ConfigError: it can't be written.
    """
    path = token_path(profile, number)
    _write(path, token + "\n")
    return path


def find_token(profile: Profile, number: str) -> str:
    """The token of an account of the profile's cluster, empty where none is kept here.

    Raises:
        ConfigError: it is there, and can't be read, or others may read it.
    """
    path = token_path(profile, number)
    try:
        token = path.read_text().strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"token {path} can't be read: {error}") from error
    _check_private(path)
    return token


def token_path(profile: Profile, number: str) -> Path:
    """Return the file in which the token of an account is kept, if it is."""
    return home() / _TOKENS_NAME / cluster_of(profile) / _file_name(number)


def _file_name(number: str) -> str:
    """A name for each number, which may hold what means something in a path, be longer than a file's name, or differ
    from another number by capitals, which some file systems don't tell apart.
    """
    bytes_ = number.encode(errors="surrogatepass")
    name = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in bytes_)
    if len(name) > _NAME_CHARACTERS_MAX:
        return _HASHED_PREFIX + blake2b(bytes_, digest_size=16).hexdigest()
    return name


def _check_private(path: Path) -> None:
    if is_open_to_others(path):
        raise ConfigError(
            f"{path} can be read by other users of this machine, and whoever has read it can pay as its owner: "
            f"`chmod 600 {path}`"
        )


def _write(path: Path, text: str) -> None:
    try:
        _make_directory(path.parent)
        write_private(path, text)
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}") from error


def _make_directory(path: Path) -> None:
    """`parents=True` would leave it to the environment who may enter those in between."""
    if not path.is_dir():
        _make_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
