"""Errors on the wire: a `MasError` as a gRPC status with details, and back.

What a server raises, a client raises: the class, or the nearest ancestor that
has a status code of its own, travels by its name. A status without our details comes from
gRPC itself or from something between, and says nothing about what a server has done.
"""

from collections.abc import Iterable
from typing import cast

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from mas import errors
from mas.errors import MasError
from mas.wire.gen.mas.v1 import errors_pb2 as pb

DETAILS_KEY = "grpc-status-details-bin"

_CODES: dict[type[MasError], grpc.StatusCode] = {
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.NotSupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.OutcomeUnknown: grpc.StatusCode.UNKNOWN,
    errors.RequestFailed: grpc.StatusCode.INTERNAL,
    errors.NetworkError: grpc.StatusCode.UNAVAILABLE,
    errors.DatabaseUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.MasError: grpc.StatusCode.INTERNAL,
}

_CLASSES_BY_NAME = {kind.__name__: kind for kind in _CODES}

_CLASSES_BY_CODE: dict[grpc.StatusCode, type[MasError]] = {
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.UNIMPLEMENTED: errors.NotSupported,
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    # Not errors.Unavailable, which promises that nothing has happened: the connection may have
    # broken behind a request that was carried out.
    grpc.StatusCode.UNAVAILABLE: errors.NetworkError,
    grpc.StatusCode.CANCELLED: errors.NetworkError,
}


def _public_class(error: MasError) -> type[MasError]:
    # What a mailbox or a peer is called is nobody's business out there.
    return next(kind for kind in type(error).__mro__ if kind in _CODES)


def code_of(error: MasError) -> grpc.StatusCode:
    """The status code of an error: that of its nearest ancestor that has one."""
    return _CODES[_public_class(error)]


def detail_of(error: MasError) -> pb.ErrorDetail:
    """Write what a program is told of an error."""
    return pb.ErrorDetail(
        name=_public_class(error).__name__, message=str(error), retryable=error.retryable
    )


def trailers_of(error: MasError) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata of a call that fails with this error."""
    code: int = code_of(error).value[0]
    detail = Any()
    detail.Pack(detail_of(error))
    status = pb.Status(code=code, message=str(error), details=[detail])
    return ((DETAILS_KEY, status.SerializeToString()),)


def error_from_detail(detail: pb.ErrorDetail) -> MasError:
    """The error that a server described; of a class that we don't know, the nearest that we do."""
    kind = _CLASSES_BY_NAME.get(detail.name)
    if kind is not None:
        return kind(detail.message)
    # A newer server's: only the promise that it makes is sure.
    return (errors.OutcomeUnknown if detail.retryable else MasError)(detail.message)


def told_by_server(error: grpc.aio.AioRpcError) -> bool:
    """A server of ours has said how the call ended: what its error promises is true of the call."""
    return _detail_of(error) is not None


def error_from_rpc(error: grpc.aio.AioRpcError) -> MasError:
    """The error behind a failed call."""
    detail = _detail_of(error)
    if detail is not None:
        return error_from_detail(detail)
    kind = _CLASSES_BY_CODE.get(error.code(), errors.OutcomeUnknown)
    if kind is errors.NetworkError:
        return kind(
            f"the server can't be reached, or the connection to it broke: {error.details()}"
        )
    return kind(f"the call failed with {error.code().name}: {error.details()}")


def _detail_of(error: grpc.aio.AioRpcError) -> pb.ErrorDetail | None:
    # The published types name another class than what comes: a Metadata of pairs.
    trailers = cast(Iterable[tuple[str, str | bytes]] | None, error.trailing_metadata())
    for key, value in trailers or ():
        if key != DETAILS_KEY:
            continue
        assert isinstance(value, bytes), "gRPC hands out -bin metadata as bytes"
        return _unpack(value)
    return None


def _unpack(data: bytes) -> pb.ErrorDetail | None:
    detail = pb.ErrorDetail()
    try:
        for packed in pb.Status.FromString(data).details:
            if packed.Unpack(detail):
                return detail
    except DecodeError:
        # A proxy's or another program's details: the status code still says what it says.
        return None
    return None
