"""How a handler ends: with its reply, or with a status that says what went wrong, in words and for programs."""

import logging
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, NoReturn, TypeVar

import grpc

from mas.errors import MasError, OutcomeUnknown
from mas.wire.status import code_of, trailers_of

_log = logging.getLogger(__name__)

Servicer = TypeVar("Servicer")
Request = TypeVar("Request")
Reply = TypeVar("Reply")
Context = grpc.aio.ServicerContext[Any, Any]


def answering(
    handler: Callable[[Servicer, Request, Context], Awaitable[Reply]],
) -> Callable[[Servicer, Request, Context], Awaitable[Reply]]:
    """Turn the errors that a handler raises into statuses.

    What is no `MasError` is a bug of ours: it is logged, and the caller is told UNKNOWN, which is the truth.
    """

    @wraps(handler)
    async def answer(servicer: Servicer, request: Request, context: Context) -> Reply:
        try:
            return await handler(servicer, request, context)
        except MasError as error:
            await _abort(context, error)
        except Exception:  # noqa: BLE001 - whatever it is, it ends this call alone
            _log.exception("%s failed", handler.__qualname__)
            await _abort(context, _FAULT)

    return answer


_FAULT = OutcomeUnknown(
    "the server failed on this request by a fault of its own: it may or may not have been carried out, "
    "ask by the same idempotency key"
)


async def _abort(context: Context, error: MasError) -> NoReturn:
    await context.abort(code_of(error), str(error), trailers_of(error))


def metadata_of(context: Context) -> tuple[tuple[str, str | bytes], ...]:
    """What the caller sent beside its request."""
    metadata: Any = context.invocation_metadata()
    return tuple(metadata or ())
