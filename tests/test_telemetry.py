"""A log line is one line, its fields can be read by a program, and no secret is in it."""

import json
import logging
from collections.abc import Iterator

import pytest

from mas.telemetry import Seldom, redact, setup_logging

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(
    "text",
    [
        f"got {TOKEN} from a client",
        "authorization: hunter2",
        "Authorization: Bearer hunter2",
        "bearer hunter2",
        "password=hunter2",
        "jwt token = hunter2",
        '{"secret": "hunter2"}',
        "{'password': 'hunter2 hunter2'}",
        "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----",
        "-----BEGIN EC PRIVATE KEY-----\nhunter2 cut off",
    ],
)
def test_secrets_are_taken_out(text: str) -> None:
    clean = redact(text)
    assert "hunter2" not in clean
    assert "eyJ" not in clean
    assert "[" in clean


@pytest.mark.parametrize(
    "text", ["secret_file is /etc/mas/secret", "fencing token (1, 2)", "no token was given"]
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_text_lines(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("info")
    log = logging.getLogger("mas.test")
    log.debug("unseen")
    log.info("two words", extra={"role": "all", "note": 'say "a"\nb', "count": 3})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("time=")
    assert lines[0].endswith(
        r'level=info logger=mas.test message="two words" role=all note="say \"a\"\nb" count=3'
    )


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("DEBUG", "json")
    try:
        raise ValueError("password=hunter2")
    except ValueError:
        logging.getLogger("mas.test").exception("failed %s", "here", extra={"token": "hunter2"})
    line = capsys.readouterr().err
    record = json.loads(line)
    assert (record["level"], record["message"]) == ("error", "failed here")
    assert "ValueError" in record["exception"]
    assert "hunter2" not in line


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="LOUD"):
        setup_logging("loud")


def test_security_b11_what_happens_often_is_said_seldom(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = 0.0
    seldom = Seldom(logging.getLogger("mas.test"), lambda: now)
    for _ in range(1_000):
        seldom.warning("one", "a caller from %s was refused", "10.0.0.1")
        seldom.info("two", "a caller went away")
    assert len(caplog.records) == 2
    now = 59.9
    seldom.warning("one", "a caller from %s was refused", "10.0.0.2")
    now = 60.0
    seldom.warning("one", "a caller from %s was refused", "10.0.0.3")
    assert [each.getMessage() for each in caplog.records][2:] == [
        "a caller from 10.0.0.3 was refused (1000 more were left out)"
    ]


def test_security_b11_kinds_that_strangers_name_take_no_memory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    seldom = Seldom(logging.getLogger("mas.test"), lambda: now)
    for i in range(10_000):
        seldom.warning(str(i), "a kind of its own")
    said = len(caplog.records)
    assert said == len(seldom._kinds) < 1_000
    now = 60.0
    seldom.warning("a new one", "there is room again")
    assert len(caplog.records) == said + 1
    assert len(seldom._kinds) == 1


def test_security_b11_what_callers_do_to_grpc_is_logged_once_a_minute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    setup_logging()
    for number in range(100):
        logging.getLogger("grpc._cython.cygrpc").error("%s raised in core by call %d", "It", number)
        logging.getLogger("mas.test").error("said %d", number)
    lines = capsys.readouterr().err.splitlines()
    assert sum("raised in core" in line for line in lines) == 1
    assert sum("said" in line for line in lines) == 100
