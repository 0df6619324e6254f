"""What a caller asks for as messages: the one place where a caller's values become the wire's.

A value that a server would refuse, or that no message can hold, is refused here, before anything is sent or shared
with other callers. Every function raises `InvalidRequest` naming the field.
"""

from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from mas import limits
from mas.errors import InvalidRequest
from mas.ledger.instructions import EXTERNAL, Kind
from mas.limits import shorten
from mas.money import check_currency, parse_amount
from mas.rpc.messages import ReadLevel
from mas.wire.gen.mas.v1 import account_pb2 as pb

_UNFIT = (TypeError, ValueError, OverflowError)
"""What protobuf raises for a value that a field doesn't take."""

M = TypeVar("M", bound=Message)

_EXPECTED = {
    FieldDescriptor.CPPTYPE_INT32: f"from {-(2**31)} to {2**31 - 1}",
    FieldDescriptor.CPPTYPE_INT64: f"from {-(2**63)} to {2**63 - 1}",
    FieldDescriptor.CPPTYPE_UINT32: f"from 0 to {2**32 - 1}",
    FieldDescriptor.CPPTYPE_UINT64: f"from 0 to {2**64 - 1}",
    FieldDescriptor.CPPTYPE_ENUM: "one of its names",
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
}


def to_message(type_: type[M], /, **fields: object) -> M:
    """A message of these fields; None leaves a field out."""
    try:
        return type_(**fields)
    except _UNFIT:
        # protobuf says neither which field it was nor what it takes.
        for name, value in fields.items():
            _check_field(type_, name, value)
        raise


def _check_field(type_: type[Message], name: str, value: object) -> None:
    try:
        type_(**{name: value})
    except _UNFIT:
        field = type_.DESCRIPTOR.fields_by_name[name]
        text = "bytes" if field.type == FieldDescriptor.TYPE_BYTES else "a text"
        expected = _EXPECTED.get(field.cpp_type, text)
        raise InvalidRequest(
            f"{name} {shorten(value)} is not allowed: expected {expected}"
        ) from None


def to_units(amount: str | int, currency: str, field: str = "amount", *, least: int = 0) -> int:
    """An amount as it travels: a text is read, a whole number is minor units, a float is neither."""
    check_currency(currency)
    if isinstance(amount, str):
        return parse_amount(amount, currency, field, zero_allowed=not least)
    if type(amount) is not int:
        raise InvalidRequest(
            f'{field} {shorten(amount)} is not allowed: expected minor units, or a text such as "12.50"'
        )
    limits.check_amount(amount, field, zero_allowed=not least)
    return amount


def to_payment(
    payer: str, payee: str, amount: str | int, currency: str, key: str, reference: str
) -> pb.Payment:
    """A payment, deposit or withdrawal."""
    if payer != EXTERNAL:
        limits.check_account_number(payer, "payer")
    if payee != EXTERNAL:
        limits.check_account_number(payee, "payee")
    units = to_units(amount, currency, least=1)
    limits.check_idempotency_key(key, "key")
    limits.check_reference(reference)
    return pb.Payment(
        from_account=payer,
        to_account=payee,
        amount=units,
        currency=currency,
        idempotency_key=key,
        reference=reference,
    )


def to_creation(
    number: str, balance: str | int, currency: str, overdraft_limit: str | int, key: str
) -> pb.CreateAccountRequest:
    """A new account."""
    limits.check_account_number(number)
    limits.check_idempotency_key(key, "key")
    return pb.CreateAccountRequest(
        account_number=number,
        currency=currency,
        opening_balance=to_units(balance, currency, "balance"),
        overdraft_limit=to_units(overdraft_limit, currency, "overdraft_limit"),
        idempotency_key=key,
    )


def to_payment_name(payer: str, key: str, payment_id: bytes, kind: Kind) -> pb.PaymentName:
    """A payment by its key or its id."""
    limits.check_account_number(payer, "payer")
    if key:
        limits.check_idempotency_key(key, "key")
    return to_message(
        pb.PaymentName, payer=payer, kind=kind, idempotency_key=key, payment_id=payment_id
    )


def to_reads(numbers: object, level: ReadLevel) -> pb.GetAccountRequest:
    """Accounts to read."""
    if (
        not isinstance(numbers, Sequence)
        or isinstance(numbers, str | bytes)
        or not 1 <= len(numbers) <= limits.PAGE_ITEMS_MAX
    ):
        raise InvalidRequest(
            f"numbers {shorten(numbers)} is not allowed: expected 1 to {limits.PAGE_ITEMS_MAX} of them"
        )
    for number in numbers:
        limits.check_account_number(number)
    return to_message(pb.GetAccountRequest, account_numbers=numbers, level=level)


def to_page(number: str, before: int, limit: int) -> pb.ListPostingsRequest:
    """A page of a statement."""
    limits.check_account_number(number)
    limits.check_sequence(before, "before")
    limits.check_page_items(limit)
    return to_message(pb.ListPostingsRequest, account_number=number, before=before, limit=limit)


def to_change(
    number: str, key: str, *, frozen: bool | None, closed: bool | None, overdraft_limit: int | None
) -> pb.SetAccountRequest:
    """A change of an account's properties."""
    limits.check_account_number(number)
    limits.check_idempotency_key(key, "key")
    if overdraft_limit is not None:
        limits.check_amount(overdraft_limit, "overdraft_limit", zero_allowed=True)
    return to_message(
        pb.SetAccountRequest,
        account_number=number,
        frozen=frozen,
        closed=closed,
        overdraft_limit=overdraft_limit,
        idempotency_key=key,
    )
