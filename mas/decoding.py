"""Where bytes from outside, or from a disk, become ours: whatever is wrong with them is one of our own errors.

A library documents one exception for bytes that it can't read, and raises others too: msgspec a RecursionError for what
is nested too deep, a UnicodeDecodeError for a damaged string, an OverflowError for a number. A decoder made here turns
each of them into the error that its room has for such bytes, so that no caller has to know the list.
"""

import tomllib
from collections.abc import Callable
from typing import Any, TypeVar, overload

import msgspec

from mas.errors import MasError

T = TypeVar("T")
Buffer = bytes | bytearray | memoryview | msgspec.Raw
ErrorOf = Callable[[str], MasError]
"""Makes an error of its message; usually a class of `mas.errors`."""

_REASON_CHARACTERS_MAX = 200
"""Of what a library says about bytes that it can't read: it may quote them."""


@overload
def msgpack_decoder(
    kind: type[T], what: str, error_of: ErrorOf, advice: str = ""
) -> Callable[[Buffer], T]: ...
@overload
def msgpack_decoder(
    kind: Any, what: str, error_of: ErrorOf, advice: str = ""
) -> Callable[[Buffer], Any]: ...
def msgpack_decoder(
    kind: Any, what: str, error_of: ErrorOf, advice: str = ""
) -> Callable[[Buffer], Any]:
    """A function that reads MessagePack as `kind`, and raises `error_of`'s error for all that it isn't.

    The error says `what` couldn't be read, why, and the advice.
    """
    return _guarded(msgspec.msgpack.Decoder(kind).decode, what, error_of, advice)


@overload
def json_decoder(
    kind: type[T], what: str, error_of: ErrorOf, advice: str = ""
) -> Callable[[Buffer | str], T]: ...
@overload
def json_decoder(
    kind: Any, what: str, error_of: ErrorOf, advice: str = ""
) -> Callable[[Buffer | str], Any]: ...
def json_decoder(
    kind: Any, what: str, error_of: ErrorOf, advice: str = ""
) -> Callable[[Buffer | str], Any]:
    """The same for JSON."""
    return _guarded(msgspec.json.Decoder(kind).decode, what, error_of, advice)


def parse_toml(text: str, error_of: ErrorOf) -> dict[str, Any]:
    """The tables of a TOML text, which an operator has written. Raises `error_of`'s error."""
    try:
        return tomllib.loads(text)
    except Exception as error:
        raise error_of(f"not a TOML file: {_reason(error)}") from error


def convert(tree: Any, kind: type[T], error_of: ErrorOf) -> T:
    """Convert such tables to `kind`. Raises `error_of`'s error."""
    try:
        return msgspec.convert(tree, kind)
    except Exception as error:
        raise error_of(_reason(error)) from error


def _guarded(
    decode: Callable[[Any], Any], what: str, error_of: ErrorOf, advice: str
) -> Callable[[Any], Any]:
    def guarded(data: Any) -> Any:
        try:
            return decode(data)
        except Exception as error:
            raise error_of(_message(data, what, error, advice)) from error

    return guarded


def _message(data: Any, what: str, error: Exception, advice: str) -> str:
    text = f"{what} of {len(data)} bytes can't be read ({_reason(error)})"
    return f"{text}: {advice}" if advice else text


def _reason(error: Exception) -> str:
    return str(error)[:_REASON_CHARACTERS_MAX] or type(error).__name__
