"""Structs survive the way through protobuf, and the numbers of both sides are the same."""

from enum import IntEnum

import pytest
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from mas.errors import Overloaded
from mas.ledger.instructions import Kind, LockMode, Reason
from mas.rpc.messages import AccountView, BucketView, PostingView, ReadLevel
from mas.transaction.outcome import PaymentResult, Status
from mas.wire import messages
from mas.wire.gen.mas.v1 import account_pb2 as pb
from mas.wire.gen.mas.v1 import lock_pb2

RESULTS = [
    PaymentResult(Status.COMMITTED, b"i" * 16, time_us=17, account_bucket=3),
    PaymentResult(Status.REFUSED, b"i" * 16, Reason.INSUFFICIENT_FUNDS, "short by 3"),
    PaymentResult(Status.UNKNOWN, b"", Reason.TIMED_OUT),
]


@pytest.mark.parametrize(
    ("enum", "wire"),
    [
        (Status, pb.Outcome),
        (Reason, pb.Reason),
        (Kind, pb.Kind),
        (ReadLevel, pb.ReadLevel),
        (LockMode, lock_pb2.LockMode),
    ],
)
def test_enumerations_have_the_same_names_and_numbers(
    enum: type[IntEnum], wire: EnumTypeWrapper
) -> None:
    prefix = wire.Name(0).removesuffix("UNSPECIFIED")
    ours = {prefix + item.name: int(item) for item in enum if item}
    theirs = dict(wire.items())
    assert ours.items() <= theirs.items()


@pytest.mark.parametrize("result", RESULTS)
def test_result(result: PaymentResult) -> None:
    wire = messages.result_to_wire(result)
    again = pb.PaymentResult.FromString(wire.SerializeToString())
    assert messages.result_from_wire(again) == result


def test_results_of_a_batch_name_it_and_their_place() -> None:
    message = pb.PaymentResults()
    for position, result in enumerate(RESULTS):
        messages.add_result(message, 9, position, result)
    messages.add_error(message, 9, 3, Overloaded("full"))
    assert [(r.batch, r.position) for r in message.results] == [(9, 0), (9, 1), (9, 2), (9, 3)]
    error = message.results[3]
    assert error.outcome == pb.OUTCOME_REJECTED
    assert (error.error.name, error.error.message, error.error.retryable) == (
        "Overloaded",
        "full",
        True,
    )


def test_words_of_a_newer_server_are_never_taken_for_an_outcome() -> None:
    message = pb.PaymentResult.FromString(bytes((8, 99, 16, 99)))
    result = messages.result_from_wire(message)
    assert (result.status, result.reason) == (Status.UNKNOWN, Reason.NONE)


def test_account_posting_and_bucket() -> None:
    account = AccountView("alice", "1-2-3", "USD", -5, 2, 10, True, False, 7, 8, 1)
    assert messages.account_from_wire(messages.account_to_wire("alice", account)) == account
    assert messages.account_from_wire(messages.account_to_wire("alice", None)) is None
    posting = PostingView(4, b"p" * 16, -3, 9, 1_000)
    assert messages.posting_from_wire(messages.posting_to_wire(posting)) == posting
    bucket = BucketView(
        0, 1, 2, 3, 4, 5, 6, 7, {"USD": 1}, {"USD": -1, "EUR": 0}, 8, 9, 10, "ab", 11
    )
    assert messages.bucket_from_wire(messages.bucket_to_wire(bucket)) == bucket
