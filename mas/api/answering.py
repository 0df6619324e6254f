"""How a handler ends: with its reply, or with a status that says what went wrong, in words and for programs."""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, TypeVar

import grpc

from mas.errors import MasError
from mas.wire.status import code_of, trailers_of

Servicer = TypeVar("Servicer")
Request = TypeVar("Request")
Reply = TypeVar("Reply")
Context = grpc.aio.ServicerContext[Any, Any]


def answering(
    handler: Callable[[Servicer, Request, Context], Awaitable[Reply]],
) -> Callable[[Servicer, Request, Context], Awaitable[Reply]]:
    """Turn the errors that a handler raises into statuses.

    What is no `MasError` is a bug of ours: gRPC logs it, and tells the caller UNKNOWN, which is the truth.
    """

    @wraps(handler)
    async def answer(servicer: Servicer, request: Request, context: Context) -> Reply:
        try:
            return await handler(servicer, request, context)
        except MasError as error:
            return await context.abort(code_of(error), str(error), trailers_of(error))

    return answer


def metadata_of(context: Context) -> tuple[tuple[str, str | bytes], ...]:
    """What the caller sent beside its request."""
    metadata: Any = context.invocation_metadata()
    return tuple(metadata or ())
