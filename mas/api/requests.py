"""Requests from outside, checked while they are translated: what leaves here is valid, and authorised.

Every function raises `InvalidRequest` naming the field, or `PermissionDenied`.
"""

from functools import lru_cache

from mas import limits
from mas.api.authorise import check_may_operate, check_may_pay
from mas.api.tokens import Principal
from mas.errors import InvalidRequest, NotSupported
from mas.ids import PAYMENT_ID_BYTES, payment_id
from mas.ledger.instructions import EXTERNAL, Body, Kind, LockMode, SetAccount
from mas.money import DEFAULT_CURRENCY, check_currency
from mas.rpc.messages import ReadLevel
from mas.transaction.outcome import PaymentRequest, change_id_of
from mas.wire.gen.mas.v1 import account_pb2 as pb

DEFAULT_TIMEOUT_SECONDS = 10.0
TIMEOUT_SECONDS_MAX = 60.0
DEFAULT_PAGE_ITEMS = 100

_KINDS = frozenset(map(int, Kind))

# The same few numbers come again and again; only those that pass are remembered.
_check_number = lru_cache(maxsize=65_536)(limits.check_account_number)


def to_payment(message: pb.Payment, principal: Principal, timeout: float) -> PaymentRequest:
    """A payment, deposit or withdrawal. The key must be there: who may leave it out is the caller's matter."""
    payer, payee, amount = message.from_account, message.to_account, message.amount
    kind = _kind_of(payer, payee)
    check_may_pay(principal, payer, payee)
    limits.check_amount(amount)
    currency = message.currency or DEFAULT_CURRENCY
    check_currency(currency)
    reference = message.reference
    if reference:
        limits.check_reference(reference)
    key = message.idempotency_key
    limits.check_idempotency_key(key)
    return PaymentRequest(
        key_space=principal.key_space,
        key=key,
        body=Body(kind, currency, ((payer, -amount), (payee, amount)), 0, reference),
        repeat=message.repeat,
        timeout=timeout,
    )


def _kind_of(payer: str, payee: str) -> Kind:
    if payer == payee:
        raise InvalidRequest(
            f"to_account {limits.shorten(payee)} is from_account too: expected another account"
        )
    kind = Kind.PAYMENT
    if payer == EXTERNAL:
        kind = Kind.DEPOSIT
    else:
        _check_number(payer, "from_account")
    if payee == EXTERNAL:
        kind = Kind.WITHDRAWAL
    else:
        _check_number(payee, "to_account")
    return kind


def to_creation(
    message: pb.CreateAccountRequest, principal: Principal, key: str, timeout: float
) -> PaymentRequest:
    """A new account, with its opening balance."""
    check_may_operate(principal, "open accounts")
    limits.check_account_number(message.account_number)
    limits.check_amount(message.opening_balance, "opening_balance", zero_allowed=True)
    limits.check_amount(message.overdraft_limit, "overdraft_limit", zero_allowed=True)
    limits.check_idempotency_key(key)
    currency = message.currency or DEFAULT_CURRENCY
    check_currency(currency)
    legs = ((message.account_number, message.opening_balance),)
    return PaymentRequest(
        key_space=principal.key_space,
        key=key,
        body=Body(Kind.CREATION, currency, legs, message.overdraft_limit),
        repeat=message.repeat,
        timeout=timeout,
    )


def to_payment_name(message: pb.PaymentName, principal: Principal) -> tuple[bytes, Kind, str]:
    """A payment's id, kind and payer, as its anchor knows it."""
    limits.check_account_number(message.payer, "payer")
    kind = _to_kind(message.kind)
    given = message.payment_id
    if bool(given) == bool(message.idempotency_key):
        raise InvalidRequest("a payment is named by idempotency_key or payment_id: expected one")
    if not given:
        limits.check_idempotency_key(message.idempotency_key)
        given = payment_id(kind, principal.key_space, message.payer, message.idempotency_key)
    if len(given) != PAYMENT_ID_BYTES:
        raise InvalidRequest(
            f"payment_id has {len(given)} bytes: expected {PAYMENT_ID_BYTES}, as a result names it"
        )
    return given, kind, message.payer


def _to_kind(value: int) -> Kind:
    """As far as it is part of a payment's id: a creation, or any other."""
    if value and value not in _KINDS:
        known = ", ".join(kind.name for kind in Kind)
        raise InvalidRequest(f"kind {value} is not known: expected one of {known}")
    return Kind.CREATION if value == Kind.CREATION else Kind.PAYMENT


def to_numbers(message: pb.GetAccountRequest) -> list[str]:
    """The accounts to read."""
    numbers = list(message.account_numbers)
    if not 1 <= len(numbers) <= limits.PAGE_ITEMS_MAX:
        raise InvalidRequest(
            f"account_numbers has {len(numbers)}: expected 1 to {limits.PAGE_ITEMS_MAX}"
        )
    for number in numbers:
        _check_number(number, "account_numbers")
    return numbers


def to_read_level(value: int) -> ReadLevel:
    """Read from a request how fresh and how firm a read shall be."""
    if value == pb.READ_LEVEL_UNSPECIFIED:
        return ReadLevel.LINEARIZABLE
    try:
        return ReadLevel(value)
    except ValueError:
        known = ", ".join(level.name for level in ReadLevel)
        raise NotSupported(f"level {value} is not supported: expected one of {known}") from None


def to_page(message: pb.ListPostingsRequest) -> tuple[str, int, int]:
    """Read from a request whose statement is asked for, below which sequence (0: from the newest), and how many postings."""
    _check_number(message.account_number, "account_number")
    limits.check_sequence(message.before, "before")
    limits.check_page_items(message.limit)
    return message.account_number, message.before, message.limit or DEFAULT_PAGE_ITEMS


def to_replica(message: pb.CheckBucketRequest) -> tuple[int, int]:
    """A bucket, and the node of the replica that is meant."""
    limits.check_bucket_id(message.bucket)
    limits.check_node_id(message.replica, "replica")
    return message.bucket, message.replica


def to_set_account(message: pb.SetAccountRequest, principal: Principal) -> SetAccount:
    """An administrator's change of one account, under the name that its key gives it."""
    limits.check_account_number(message.account_number)
    overdraft_limit = message.overdraft_limit if message.HasField("overdraft_limit") else None
    if overdraft_limit is not None:
        limits.check_amount(overdraft_limit, "overdraft_limit", zero_allowed=True)
    change_id = b""
    if key := message.idempotency_key:
        limits.check_idempotency_key(key)
        change_id = change_id_of(principal.key_space, message.account_number, key)
    return SetAccount(
        account=message.account_number,
        frozen=message.frozen if message.HasField("frozen") else None,
        closed=message.closed if message.HasField("closed") else None,
        overdraft_limit=overdraft_limit,
        change_id=change_id,
    )


def to_lock_mode(value: int) -> LockMode:
    """Read from a request how a lock shall be held."""
    if value == 0:
        return LockMode.EXCLUSIVE
    try:
        return LockMode(value)
    except ValueError:
        known = ", ".join(mode.name for mode in LockMode)
        raise InvalidRequest(f"mode {value} is not known: expected one of {known}") from None


def to_timeout(seconds: float | None) -> float:
    """Return how long a coordinator may take, so that its answer is there before the caller has gone."""
    if not seconds:
        return DEFAULT_TIMEOUT_SECONDS
    return min(0.9 * seconds, TIMEOUT_SECONDS_MAX)
