"""Our structs as protobuf messages, and back. Enumerations have the same numbers on both sides.

Requests come in through `mas.api.requests`, which checks while it translates.
"""

from mas.errors import MasError
from mas.ledger.instructions import Reason
from mas.rpc.messages import AccountView, BucketView, PostingView
from mas.transaction.outcome import PaymentResult, Status
from mas.wire.gen.mas.v1 import account_pb2 as pb
from mas.wire.status import detail_of, error_from_detail

_OUTCOMES = {status: pb.Outcome.ValueType(status) for status in Status}
_REASONS = {reason: pb.Reason.ValueType(reason) for reason in Reason}
_STATUSES = {int(status): status for status in Status}


def result_to_wire(result: PaymentResult) -> pb.PaymentResult:
    """One result, as the reply to a call of its own."""
    message = pb.PaymentResults()
    add_result(message, 0, 0, result)
    return message.results[0]


def add_result(
    message: pb.PaymentResults, batch: int, position: int, result: PaymentResult
) -> None:
    """Append the result of one payment of a batch."""
    if result.status is Status.COMMITTED:
        message.results.add(
            outcome=pb.OUTCOME_COMMITTED,
            payment_id=result.payment_id,
            time_us=result.time_us,
            bucket=result.account_bucket,
            batch=batch,
            position=position,
        )
        return
    message.results.add(
        outcome=_OUTCOMES[result.status],
        reason=_REASONS[result.reason],
        detail=result.detail,
        payment_id=result.payment_id,
        batch=batch,
        position=position,
    )


def add_error(message: pb.PaymentResults, batch: int, position: int, error: MasError) -> None:
    """Append what would have been the status of a call: this payment was never begun."""
    message.results.add(
        outcome=pb.OUTCOME_REJECTED, error=detail_of(error), batch=batch, position=position
    )


def result_from_wire(message: pb.PaymentResult) -> PaymentResult:
    """A result as a server sent it; an outcome or a reason that we don't know is UNKNOWN or NONE."""
    return PaymentResult(
        status=_STATUSES.get(message.outcome, Status.UNKNOWN),
        payment_id=message.payment_id,
        reason=reason_from_wire(message.reason),
        detail=message.detail,
        time_us=message.time_us,
        account_bucket=message.bucket,
    )


def reason_from_wire(value: int) -> Reason:
    """A reason by its number; one of a newer server's is NONE, and its `detail` still says why."""
    try:
        return Reason(value)
    except ValueError:
        return Reason.NONE


def account_to_wire(number: str, view: AccountView | MasError | None) -> pb.Account:
    """An account as a reader sees it, that there is none, or why it can't be read now."""
    if view is None:
        return pb.Account(number=number)
    if isinstance(view, MasError):
        return pb.Account(number=number, error=detail_of(view))
    return pb.Account(
        number=view.number,
        found=True,
        id=view.id,
        currency=view.currency,
        balance=view.balance,
        held=view.debits_pending,
        overdraft_limit=view.overdraft_limit,
        frozen=view.frozen,
        closed=view.closed,
        version=view.version,
        sequence=view.sequence,
        bucket=view.bucket,
    )


def account_from_wire(message: pb.Account) -> AccountView | MasError | None:
    """Read what `account_to_wire` was given."""
    if message.HasField("error"):
        return error_from_detail(message.error)
    if not message.found:
        return None
    return AccountView(
        number=message.number,
        id=message.id,
        currency=message.currency,
        balance=message.balance,
        debits_pending=message.held,
        overdraft_limit=message.overdraft_limit,
        frozen=message.frozen,
        closed=message.closed,
        version=message.version,
        sequence=message.sequence,
        bucket=message.bucket,
    )


def posting_to_wire(view: PostingView) -> pb.Posting:
    """One line of a statement."""
    return pb.Posting(
        sequence=view.sequence,
        payment_id=view.payment_id,
        amount=view.amount,
        balance=view.balance,
        time_us=view.time_us,
        counterparty=view.counterparty,
        reference=view.reference,
    )


def posting_from_wire(message: pb.Posting) -> PostingView:
    """Read what `posting_to_wire` was given."""
    return PostingView(
        sequence=message.sequence,
        payment_id=message.payment_id,
        amount=message.amount,
        balance=message.balance,
        time_us=message.time_us,
        counterparty=message.counterparty,
        reference=message.reference,
    )


_BUCKET_FIELDS = tuple(name for name in BucketView.__struct_fields__ if name != "request")


def bucket_to_wire(view: BucketView) -> pb.BucketState:
    """Write what one replica says of its bucket; the fields have the same names on both sides."""
    return pb.BucketState(**{name: getattr(view, name) for name in _BUCKET_FIELDS})


def bucket_from_wire(message: pb.BucketState) -> BucketView:
    """Read what `bucket_to_wire` was given."""
    fields = {name: getattr(message, name) for name in _BUCKET_FIELDS}
    fields |= {"balances": dict(message.balances), "external": dict(message.external)}
    return BucketView(request=0, **fields)
