"""Where a client finds its server, and whose tokens it holds: files that only their owner can read.

$MAS_HOME or ~/.config/mas
  client.toml        address, CA, and the token used unless another is asked for
  tokens/NUMBER      the token of an account opened here
"""

import os
from hashlib import blake2b
from pathlib import Path
from urllib.parse import quote

import msgspec

from mas.decoding import convert, parse_toml
from mas.errors import ConfigError
from mas.files import write_private

HOME_VARIABLE = "MAS_HOME"
_PROFILE_NAME = "client.toml"
_TOKENS_NAME = "tokens"
_NAME_CHARACTERS_MAX = 200


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


def home() -> Path:
    """The client directory of this user."""
    given = os.environ.get(HOME_VARIABLE)
    return Path(given) if given else Path.home() / ".config" / "mas"


def default_path() -> Path:
    """The profile that is used unless another is named."""
    return home() / _PROFILE_NAME


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
        ConfigError: it isn't there, or isn't one.
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

    return convert(parse_toml(text, wrong), Profile, wrong)


def keep_token(number: str, token: str) -> Path:
    """Keep an account's own token; the file that it is in.

    Raises:
        ConfigError: it can't be written.
    """
    path = _token_path(number)
    _write(path, token + "\n")
    return path


def find_token(number: str) -> str:
    """The token of an account, empty where none is kept here.

    Raises:
        ConfigError: it is there, and can't be read.
    """
    path = _token_path(number)
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"token {path} can't be read: {error}") from error


def _token_path(number: str) -> Path:
    # A number may hold what means something in a path, and be longer than a file's name.
    name = quote(number, safe="").replace(".", "%2E")
    if len(name) > _NAME_CHARACTERS_MAX:
        name = blake2b(number.encode(), digest_size=16).hexdigest()
    return home() / _TOKENS_NAME / name


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, text)
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}") from error
