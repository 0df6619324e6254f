"""How the DSN of a server is read, and that its password is never shown."""

import pytest

from mas.errors import ConfigError
from mas.storage.dsn import Dsn, parse_dsn

PORTS = {"redis": 6379, "rediss": 6380}


@pytest.mark.parametrize(
    ("text", "dsn"),
    [
        ("redis://here", Dsn("redis", "here", 6379, "")),
        ("rediss://u:p%40:x@[::1]/2", Dsn("rediss", "::1", 6380, "2", "u", "p@:x")),
        ("redis://:p@h:1/0?ssl_ca=/a%20b", Dsn("redis", "h", 1, "0", "", "p", "/a b")),
    ],
)
def test_a_dsn_is_read(text: str, dsn: Dsn) -> None:
    assert parse_dsn("tm_store", text, PORTS) == dsn


@pytest.mark.parametrize(
    "text",
    [
        "",
        "here",
        "mysql://u:hush@here",
        "redis://u:hush@:1",
        "redis://u:hush@here:port",
        "redis://u:hush@here:65536",
        "redis://u:hush@here/0?password=hush",
        "redis://u:hush@here/0?hush",
        "redis://u:hush@[::1",
    ],
)
def test_what_is_no_dsn_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^storage\.tm_store: expected redis:// or rediss://"
    ) as refused:
        parse_dsn("storage.tm_store", text, PORTS)
    assert "hush" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_the_password_is_in_no_text_of_it() -> None:
    dsn = parse_dsn("tm_store", "redis://user:hush@here:1/0", PORTS)
    assert f"{dsn} {dsn!r}" == "redis://here:1/0 redis://here:1/0"
