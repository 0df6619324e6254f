"""Errors cross the wire by their class name, and a stranger's status promises nothing."""

import grpc
import pytest

from mas import errors
from mas.wire.gen.mas.v1 import errors_pb2 as pb
from mas.wire.status import (
    DETAILS_KEY,
    code_of,
    detail_of,
    error_from_detail,
    error_from_rpc,
    trailers_of,
)


def all_errors() -> list[type[errors.MasError]]:
    found, left = [], [errors.MasError]
    while left:
        kind = left.pop()
        found.append(kind)
        left.extend(kind.__subclasses__())
    return [kind for kind in found if kind.__module__ == "mas.errors"]


def rpc_error(code: grpc.StatusCode, *trailers: tuple[str, str | bytes]) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), "words")


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_every_error_comes_back_with_its_sentence_and_its_promise(
    kind: type[errors.MasError],
) -> None:
    error = kind.__new__(kind, "the sentence")
    back = error_from_rpc(rpc_error(code_of(error), *trailers_of(error)))
    assert isinstance(error, type(back))
    assert str(back) == "the sentence"
    assert detail_of(error).retryable == kind.retryable


@pytest.mark.parametrize(
    ("raised", "received"),
    [
        (errors.NotFound("x"), errors.NotFound),
        (errors.MailboxFull("x"), errors.Overloaded),
        (errors.NotLeading("x", leader=3), errors.Unavailable),
        (errors.DeadlineExceeded("x"), errors.DeadlineExceeded),
    ],
)
def test_a_client_raises_what_the_server_raised(
    raised: errors.MasError, received: type[errors.MasError]
) -> None:
    back = error_from_rpc(rpc_error(code_of(raised), *trailers_of(raised)))
    assert type(back) is received


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT),
        (errors.Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
        (errors.PermissionDenied, grpc.StatusCode.PERMISSION_DENIED),
        (errors.NotFound, grpc.StatusCode.NOT_FOUND),
        (errors.NotSupported, grpc.StatusCode.UNIMPLEMENTED),
        (errors.MailboxFull, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.NotLeading, grpc.StatusCode.UNAVAILABLE),
        (errors.DatabaseUnavailable, grpc.StatusCode.UNAVAILABLE),
        (errors.DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED),
        (errors.OutcomeUnknown, grpc.StatusCode.UNKNOWN),
        (errors.CorruptData, grpc.StatusCode.INTERNAL),
    ],
)
def test_code_is_that_of_the_nearest_ancestor(
    error: type[errors.MasError], code: grpc.StatusCode
) -> None:
    assert code_of(error("x")) is code


def test_a_broken_connection_promises_nothing() -> None:
    error = error_from_rpc(rpc_error(grpc.StatusCode.UNAVAILABLE))
    assert type(error) is errors.NetworkError
    assert not isinstance(error, errors.Unavailable)
    assert error.retryable


def test_an_unexpected_exception_of_a_server_is_an_unknown_outcome() -> None:
    assert type(error_from_rpc(rpc_error(grpc.StatusCode.UNKNOWN))) is errors.OutcomeUnknown
    assert type(error_from_rpc(rpc_error(grpc.StatusCode.INTERNAL))) is errors.OutcomeUnknown


def test_details_of_another_program_are_passed_over() -> None:
    for data in (b"\xff\xff\xff", pb.Status(code=5).SerializeToString()):
        error = error_from_rpc(rpc_error(grpc.StatusCode.NOT_FOUND, (DETAILS_KEY, data)))
        assert type(error) is errors.NotFound


@pytest.mark.parametrize("name", ["InventedLater", "annotations", "__doc__", "ClassVar"])
def test_a_class_that_we_do_not_know_keeps_its_promise_about_retries(name: str) -> None:
    assert error_from_detail(pb.ErrorDetail(name=name, retryable=True)).retryable
    assert not error_from_detail(pb.ErrorDetail(name=name)).retryable
