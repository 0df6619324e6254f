"""Reads where a server is, and who asks it: `scheme://user:password@host:port/name?ssl_ca=FILE`."""

from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from mas.addresses import join_address
from mas.errors import ConfigError


class Dsn(msgspec.Struct, frozen=True):
    """One server, and one database on it. Its text leaves out the password."""

    scheme: str
    host: str
    port: int
    name: str
    """Of the database there."""
    user: str = ""
    password: str = ""
    ssl_ca: str = ""
    """The file of who signs the server's certificate; empty: whom this machine trusts."""

    def __str__(self) -> str:
        return f"{self.scheme}://{join_address(self.host, self.port)}/{self.name}"

    def __repr__(self) -> str:
        return str(self)


def parse_dsn(setting: str, text: str, ports: Mapping[str, int]) -> Dsn:
    """Read the DSN of a setting; `ports` has the default port of each scheme that is allowed.

    Raises:
        ConfigError: naming the setting and what is expected. It doesn't repeat the text, which holds a password.
    """
    expected = (
        f"{setting}: expected {' or '.join(f'{scheme}://' for scheme in ports)}"
        "user:password@host:port/name, with `?ssl_ca=FILE` where TLS needs it"
    )
    try:
        parts = urlsplit(text)
        port = parts.port
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True))
    except ValueError:
        raise ConfigError(f"{expected}; it can't be read") from None
    if parts.scheme not in ports:
        raise ConfigError(f"{expected}; the scheme is another")
    if not parts.hostname:
        raise ConfigError(f"{expected}; there is no host")
    if unknown := sorted(options.keys() - {"ssl_ca"}):
        raise ConfigError(f"{expected}; {unknown[0]!r} is no option of it")
    return Dsn(
        parts.scheme,
        parts.hostname,
        ports[parts.scheme] if port is None else port,
        unquote(parts.path.removeprefix("/")),
        unquote(parts.username or ""),
        unquote(parts.password or ""),
        options.get("ssl_ca", ""),
    )
