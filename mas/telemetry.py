"""How MAS logs: one line of `key=value` or JSON an event, on stderr, with secrets taken out.

    time=2026-01-31T12:00:00.123Z level=info logger=mas.daemon message="serving" role=all

A record's fields come from `extra`: `log.info("serving", extra={"role": role})`.
"""

import logging
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

import msgspec

_STANDARD_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "taskName",
}
_GRPC_SECONDS = 60.0
_KIND_CHARACTERS_MAX = 40
_KINDS_MAX = 256
"""Of lines that one `Seldom` tells apart."""
_PLAIN_VALUE = re.compile(r"[^\s\"=]+")

_SECRETS = (
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), "[token]"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), "[key]"),
    (re.compile(r"(?i)\b(bearer) +[^\s\"',]+"), r"\1 [secret]"),
    (re.compile(r"""(?i)\b((?:authorization|password|secret|token)["']?\s*[=:]\s*)(?:(["']).*?\2|(?!\[)[^\s"',]+)"""), r"\1[secret]"),
)  # fmt: skip


def redact(text: str) -> str:
    """The text without what looks like a token, a private key, or a named secret."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def setup_logging(level: str = "INFO", style: Literal["text", "json"] = "text") -> None:
    """Send every record from `level` up to stderr; replaces what was configured before.

    Raises:
        ValueError: an unknown level.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if style == "json" else _TextFormatter())
    handler.addFilter(_SeldomGrpc())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


class _FieldsFormatter(logging.Formatter):
    """Collects a record's fields; how they are written is the subclass's."""

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        created = datetime.fromtimestamp(record.created, UTC)
        fields: dict[str, object] = {
            "time": created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        for name, value in record.__dict__.items():
            if name not in _STANDARD_FIELDS:
                # Name and value together, so that a field called "token" is known for one.
                fields[name] = redact(f"{name}={value}").removeprefix(f"{name}=")
        if record.exc_info:
            fields["exception"] = redact(self.formatException(record.exc_info))
        return fields


class _TextFormatter(_FieldsFormatter):
    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{name}={_quoted(value)}" for name, value in self.fields(record).items())


class _JsonFormatter(_FieldsFormatter):
    def format(self, record: logging.LogRecord) -> str:
        return msgspec.json.encode(self.fields(record)).decode()


def _quoted(value: object) -> str:
    text = str(value)
    return text if _PLAIN_VALUE.fullmatch(text) else msgspec.json.encode(text).decode()


class _SeldomGrpc(logging.Filter):
    """gRPC logs with a traceback what its callers do to it: each of its messages is let pass once a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._until: dict[str, float] = {}
        """By message, before its arguments are put in: there are few."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("grpc"):
            return True
        kind = str(record.msg)[:_KIND_CHARACTERS_MAX]
        if record.created < self._until.get(kind, 0.0):
            return False
        if len(self._until) >= _KINDS_MAX:
            self._until.clear()
        self._until[kind] = record.created + _GRPC_SECONDS
        return True


class Seldom:
    """A log for what strangers can cause: at most a line a minute for each kind, so that nobody can fill the disk.

    The next line of a kind says how many were left out meanwhile.
    """

    def __init__(
        self, log: logging.Logger, monotonic: Callable[[], float], seconds: float = 60.0
    ) -> None:
        """`monotonic` is a clock's; `seconds` lie between two lines of a kind."""
        self._log = log
        self._monotonic = monotonic
        self._seconds = seconds
        self._kinds: dict[str, _Said] = {}

    def info(self, kind: str, message: str, *arguments: object) -> None:
        """As a logger's `info`."""
        self._say(logging.INFO, kind, message, arguments)

    def warning(self, kind: str, message: str, *arguments: object) -> None:
        """As a logger's `warning`."""
        self._say(logging.WARNING, kind, message, arguments)

    def exception(self, kind: str, message: str, *arguments: object) -> None:
        """As a logger's `exception`: with the traceback of the one that is being handled."""
        self._say(logging.ERROR, kind, message, arguments, with_traceback=True)

    def _say(
        self,
        level: int,
        kind: str,
        message: str,
        arguments: tuple[object, ...],
        *,
        with_traceback: bool = False,
    ) -> None:
        now = self._monotonic()
        said = self._kinds.get(kind)
        if said is not None and now < said.until:
            said.left_out += 1
            return
        if said is None and len(self._kinds) >= _KINDS_MAX:
            self._kinds = {each: that for each, that in self._kinds.items() if now < that.until}
            if len(self._kinds) >= _KINDS_MAX:
                return
        if said is not None and said.left_out:
            message, arguments = message + " (%d more were left out)", (*arguments, said.left_out)
        self._kinds[kind] = _Said(now + self._seconds)
        self._log.log(level, message, *arguments, exc_info=with_traceback)


class _Said(msgspec.Struct):
    until: float
    """No second line before then."""
    left_out: int = 0
