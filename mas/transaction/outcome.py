"""What a caller asks of a coordinator, and what it hears.

COMMITTED, REFUSED      outcomes: for ever; they end the key (rule 9, outcomes)
KEY_REUSED              the key has an outcome for another body; this body did nothing
ABORTED                 this try did nothing, for certain; another try of the key may succeed
UNKNOWN                 ask again by the same key
TURNED_AWAY             nothing was begun and nothing is recorded; speaks of this try alone
"""

from enum import IntEnum
from hashlib import blake2b

import msgspec

from mas.ids import payment_id
from mas.ledger.instructions import Body, Kind, Reason, encode, payer

BODY_HASH_BYTES = 16

_CHANGE = 255
"""Of a change's name: no kind of payment has this number."""

# On CPython 3.11 a member looked up in its enum costs as much as a call; every payment passes here.
_PAYMENT, _CREATION = Kind.PAYMENT, Kind.CREATION


class Status(IntEnum):
    """What became of a request."""

    COMMITTED = 1
    REFUSED = 2
    ABORTED = 3
    UNKNOWN = 4
    KEY_REUSED = 5
    REJECTED = 6


class PaymentRequest(msgspec.Struct, frozen=True, gc=False):
    """One payment, or one creation of an account, validated and authorised."""

    key_space: str
    """Whose keys these are: the token says it (rule 1, payment ids)."""
    key: str
    """The idempotency key; never empty."""
    body: Body
    repeat: bool = False
    """The client says that it has asked before: the anchor is asked before phase 1 (rule 8, ending an attempt)."""
    timeout: float = 10.0
    """Seconds that the caller waits."""


class PaymentResult(msgspec.Struct, frozen=True, gc=False):
    """The answer to one `PaymentRequest`."""

    status: Status
    payment_id: bytes
    reason: Reason = Reason.NONE
    detail: str = ""
    time_us: int = 0
    """COMMITTED: microseconds since the epoch."""
    account_bucket: int = 0
    """COMMITTED creation: where the account lives."""


def payment_id_of(request: PaymentRequest) -> bytes:
    """The payment_id of what is requested (rule 1). Deposits and withdrawals are payments."""
    body = request.body
    kind = _CREATION if body.kind is _CREATION else _PAYMENT
    return payment_id(kind, request.key_space, payer(body), request.key)


def change_id_of(key_space: str, account: str, key: str) -> bytes:
    """Name an administrator's change of an account, as a payment_id names a payment."""
    return payment_id(_CHANGE, key_space, account, key)


def hash_body(body: Body) -> bytes:
    """Compute what tells two bodies apart: BLAKE2b-128 of the encoded body."""
    return blake2b(encode(body), digest_size=BODY_HASH_BYTES).digest()
