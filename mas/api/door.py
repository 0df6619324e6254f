"""The door that every call of a server goes through before a handler hears of it, those of health and reflection too.

Who calls is known first, from the metadata alone; then the call is counted in its caller's share; then its request is
read, within a time, and decoded. gRPC by itself does it the other way round: it waits for a request for ever, counts all
callers in one pot, and tells a request that can't be decoded UNKNOWN. So every method is registered as a stream of
bytes, which is the same on the wire, and what comes in is read here.
"""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from ipaddress import IPv6Address, ip_network
from typing import Any, NoReturn, Protocol
from urllib.parse import unquote

import grpc

from mas.api.auth import Metadata
from mas.api.shares import Caller, Held, Rank, Share, Shares
from mas.errors import DeadlineExceeded, InvalidRequest, MasError, OutcomeUnknown, Unauthenticated
from mas.limits import REQUEST_FIELDS_MAX, STRANGER_REQUEST_BYTES_MAX
from mas.runtime import Clock
from mas.telemetry import Seldom
from mas.wire.fields import has_more_fields
from mas.wire.status import code_of, trailers_of

REQUEST_SECONDS = 10.0
"""How long the request of a call may take to come."""

_COUNTED_FROM_BYTES = 128 * 1024
"""Below that, a request takes little room decoded, whatever is in it."""

_log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Decode = Callable[[bytes], Any]


class Known(Protocol):
    """A service that knows its callers."""

    name: str
    """As the .proto files name it."""

    def identify(self, metadata: Metadata) -> Caller:
        """Return who sent this metadata. Raises `Unauthenticated`."""


class Door(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic only in the published types
    """Lets calls in to some services, and strangers to the others: health and reflection."""

    def __init__(self, services: Sequence[Known], shares: Shares, clock: Clock) -> None:
        self._services = {service.name: service for service in services}
        self._shares = shares
        self._handlers: dict[str, Any] = {}
        self._seldom = Seldom(_log, clock.monotonic)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401 - a handler, or None
        """The handler that gRPC calls as soon as the metadata of a call is here."""
        method = handler_call_details.method
        handler = self._handlers.get(method)
        if handler is None:
            found = await continuation(handler_call_details)
            if found is None:
                return None  # gRPC says that there is no such method
            handler = self._handlers[method] = self._guard(method, found)
        return handler

    def _guard(self, method: str, handler: "grpc.RpcMethodHandler[Any, Any]") -> Any:  # noqa: ANN401 - a handler as gRPC makes it
        service = self._services.get(method.split("/")[1])
        serve = _server(method, handler)
        streaming = handler.request_streaming or handler.response_streaming

        async def answer(_: object, context: Context) -> Any:  # noqa: ANN401 - any reply
            try:
                caller = self._identify(service, context)
                share = self._shares.enter(caller, streaming=streaming)
                # Once the call is over, not the handler: a caller that doesn't read its reply holds it.
                leave = partial(self._shares.leave, share, streaming=streaming)
                context.add_done_callback(lambda _: leave())  # type: ignore[arg-type]  # published as a class
                if caller.rank is Rank.STRANGER:
                    return await self._in_time(serve(share, context))
                return await serve(share, context)
            except InvalidRequest as error:
                self._seldom.info("refused", "a call of %s is refused: %s", method, error)
                await _abort(context, error)
            except MasError as error:
                await _abort(context, error)
            except grpc.aio.AbortError:
                raise
            except grpc.aio.BaseError:
                return None  # the client has gone while it was written to: there is nobody to tell
            except Exception:  # noqa: BLE001 - whatever it is, it ends this call alone
                self._seldom.exception(method, "a call of %s failed", method)
                await _abort(context, _FAULT)

        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return make(answer, response_serializer=handler.response_serializer)

    def _identify(self, service: Known | None, context: Context) -> Caller:
        metadata = metadata_of(context)
        if service is not None:
            return service.identify(metadata)
        for known in self._services.values():
            try:
                return known.identify(metadata)
            except Unauthenticated:
                continue
        return Caller(_address(context.peer()), Rank.STRANGER)

    async def _in_time(self, serving: Awaitable[Any]) -> Any:  # noqa: ANN401 - any reply
        seconds = self._shares.stranger_seconds
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await serving
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineExceeded(
                f"the call has lasted {seconds:g} s, the most for one without a token: begin again, or come with a token"
            ) from None


def metadata_of(context: Context) -> tuple[tuple[str, str | bytes], ...]:
    """Return what the caller sent beside its request."""
    metadata: Any = context.invocation_metadata()
    return tuple(metadata or ())


_FAULT = OutcomeUnknown(
    "the server failed on this request by a fault of its own: it may or may not have been carried out, "
    "ask by the same idempotency key"
)


async def _abort(context: Context, error: MasError) -> NoReturn:
    """End the call with a status that says what went wrong, in words and for programs."""
    await context.abort(code_of(error), str(error), trailers_of(error))


def _server(
    method: str, handler: "grpc.RpcMethodHandler[Any, Any]"
) -> Callable[[Share, Context], Awaitable[Any]]:
    """What reads a call's request, or requests, and has them handled; a stream's replies are written."""
    assert handler.request_deserializer is not None, "generated code has one"
    decode = _decoder(method, handler.request_deserializer)
    kinds = handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream
    act: Callable[[Any, Any], Any] = next(kind for kind in kinds if kind is not None)

    async def serve(share: Share, context: Context) -> Any:  # noqa: ANN401 - any reply
        if handler.request_streaming:
            reply = act(_messages(context, share, decode), context)
        else:
            reply = act(await _request(context, share, decode), context)
        if not inspect.isasyncgen(reply):
            return await reply
        async for message in reply:
            await context.write(message)
        return None

    return serve


async def _request(context: Context, share: Share, decode: Decode) -> Any:  # noqa: ANN401 - any message
    """The one request of a call."""
    try:
        async with asyncio.timeout(REQUEST_SECONDS), share.turn(Held.RECEIVING):
            data = await context.read()
    except TimeoutError:
        raise DeadlineExceeded(f"no request came within {REQUEST_SECONDS:g} s") from None
    if not isinstance(data, bytes):
        raise InvalidRequest("the call ended without a request: expected one")
    return decode(_checked(data, share))


async def _messages(context: Context, share: Share, decode: Decode) -> AsyncIterator[Any]:
    """The requests of a stream, until its client ends it."""
    while isinstance(data := await context.read(), bytes):
        yield decode(_checked(data, share))


def _checked(data: bytes, share: Share) -> bytes:
    """A stranger has nothing to say that is long, and what it says may be kept as long as it stays."""
    if share.caller.rank is Rank.STRANGER and len(data) > STRANGER_REQUEST_BYTES_MAX:
        raise InvalidRequest(
            f"the request has {len(data)} bytes: expected at most {STRANGER_REQUEST_BYTES_MAX} without a token"
        )
    return data


def _decoder(method: str, deserialize: Decode) -> Decode:
    """Bytes from outside become ours here, or an error that says what is wrong with them."""

    def decode(data: bytes) -> Any:  # noqa: ANN401 - any message
        if len(data) > _COUNTED_FROM_BYTES and has_more_fields(data, REQUEST_FIELDS_MAX):
            raise InvalidRequest(
                f"the request has more than {REQUEST_FIELDS_MAX} fields: send several with less in each"
            )
        try:
            return deserialize(data)
        except Exception as error:
            raise InvalidRequest(
                f"the request of {len(data)} bytes is no message of {method}: expected what the .proto files say"
            ) from error

    return decode


def _address(peer: str) -> str:
    """An address without its port, as gRPC names peers; of IPv6 the network, since one host has many addresses there."""
    kind, _, rest = unquote(peer).partition(":")
    host = rest.rpartition(":")[0].strip("[]")
    if kind != "ipv6":
        return host or peer
    return str(ip_network((int(IPv6Address(host.partition("%")[0])), 64), strict=False))
