"""A gRPC channel to one server: always TLS, unless a loopback asks for none."""

import asyncio
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

import grpc

from mas.addresses import is_loopback
from mas.errors import ConfigError, InvalidRequest, MasError, NetworkError, Unavailable
from mas.limits import MESSAGE_BYTES_MAX, shorten
from mas.wire.status import error_from_rpc

T = TypeVar("T")

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # Notice a server that has gone without a word.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC's own patience is made for the internet: it tries again after a second, then after minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Two clients of one process are two connections: each has its own flow control.
    ("grpc.use_local_subchannel_pool", 1),
)


def open_channel(address: object, ca: Path | bytes | None, *, plaintext: bool) -> grpc.aio.Channel:
    """A channel that checks the server against `ca` (PEM, or a file of it; None: what the machine trusts).

    Raises:
        InvalidRequest: the address can't be one.
        ConfigError: the file can't be read.
    """
    if not isinstance(address, str) or not (address.isascii() and address.isprintable()):
        raise InvalidRequest(f'address {shorten(address)} is not one: expected "host:port"')
    options = channel_options(address)
    if plaintext:
        return grpc.aio.insecure_channel(address, options=options)
    roots = _read(ca) if isinstance(ca, Path) else ca
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(roots), options=options)


def channel_options(address: str) -> tuple[tuple[str, int], ...]:
    """Return the options of a channel to this address; a server on this machine is never reached through a proxy."""
    if _is_here(address):
        return (*CHANNEL_OPTIONS, ("grpc.enable_http_proxy", 0))
    return CHANNEL_OPTIONS


def error_of(failure: grpc.aio.AioRpcError) -> MasError:
    """Translate a failed call; of a proxy that didn't connect the error says that it is one."""
    error = error_from_rpc(failure)
    proxy = _proxy()
    port = proxy.rstrip("/").rpartition(":")[2]
    if proxy and isinstance(error, NetworkError) and f":{port}" in (failure.details() or ""):
        return type(error)(f"{error}{_through(proxy)}")
    return error


def _proxy() -> str:
    """The proxy that gRPC takes, as the environment names it, without a password; empty where there is none."""
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        if value := os.environ.get(name):
            return f"{name}={value.rpartition('@')[2]}"
    return ""


def _through(proxy: str) -> str:
    return f"; the way there is the proxy {proxy}: name the server in no_proxy where it needs none"


def check_bearer(value: object, what: str) -> None:
    """A token or a secret, which travels with every call as metadata.

    Raises:
        InvalidRequest: it holds what no metadata can.
    """
    if not isinstance(value, str) or not (value.isascii() and value.isprintable()):
        raise InvalidRequest(f"{what} is not one: expected printable ASCII characters")


async def connected(channel: grpc.aio.Channel, address: str, timeout: float) -> None:
    """Wait for the connection, where there is none.

    Raises:
        Unavailable: there is none in time, and nothing has been sent.
    """
    if channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
        return
    try:
        async with asyncio.timeout(timeout):
            await channel.channel_ready()
    except TimeoutError:
        proxy = "" if _is_here(address) else _proxy()
        raise Unavailable(
            f"there is no connection to {address}: check that the server runs there, and that the CA is "
            f"the one that signed its certificate{_through(proxy) if proxy else ''}"
        ) from None


async def answered(call: Awaitable[T]) -> T:
    """The reply to a call.

    Raises:
        MasError: what the server raised, or what the connection's end means.
    """
    try:
        return readable(await call)
    except grpc.aio.AioRpcError as error:
        raise error_of(error) from None


def readable(message: T | None) -> T:
    """A message that has come; gRPC puts None for one that it can't decode.

    Raises:
        NetworkError: it is no message of ours.
    """
    if message is None:
        raise NetworkError("the server's answer can't be read: is it a MAS of this version?")
    return message


def _is_here(address: str) -> bool:
    return is_loopback(address.rpartition(":")[0])


def _read(ca: Path) -> bytes:
    try:
        return ca.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"certificate {ca} can't be read ({error.strerror}): expected the CA that signed the "
            "server's certificate"
        ) from error
