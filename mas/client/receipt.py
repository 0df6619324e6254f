"""What a client asks for and what it hears, as plain values."""

import msgspec

from mas.ledger.instructions import AccountState, Reason
from mas.money import DEFAULT_CURRENCY
from mas.transaction.outcome import Status
from mas.wire.gen.mas.v1 import account_pb2 as pb
from mas.wire.messages import result_from_wire

OUTCOMES = (Status.COMMITTED, Status.REFUSED, Status.KEY_REUSED)
"""What no other try of the same key and contents would change."""


class Payment(msgspec.Struct, frozen=True):
    """One payment of a batch."""

    payer: str
    payee: str
    amount: str | int
    """"12.50" as people write it, or 1250 minor units."""
    currency: str = DEFAULT_CURRENCY
    key: str = ""
    """Names this payment for all time, among those of the token's key space and the payer; empty: a new one."""
    reference: str = ""


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """What became of a request. A refusal is an answer, not an error."""

    key: str
    """Ask again by it."""
    status: Status
    payment_id: bytes = b""
    reason: Reason = Reason.NONE
    detail: str = ""
    time_us: int = 0
    """COMMITTED: microseconds since the epoch."""
    bucket: int = 0
    """COMMITTED creation: where the account lives."""
    state: AccountState | None = None
    """COMMITTED change of an account: how it has left it."""

    @property
    def committed(self) -> bool:
        """Whether it has happened, for ever."""
        return self.status is Status.COMMITTED

    @property
    def final(self) -> bool:
        """Whether asking again by the same key would bring the same answer."""
        return self.status in OUTCOMES

    @property
    def is_transient(self) -> bool:
        """Whether the reason is the system's own (overload, a lock, an outage): it ended this try, and another may succeed."""
        return self.reason >= Reason.LOCK_CONFLICT


class NewAccount(msgspec.Struct, frozen=True):
    """What became of a request for an account."""

    receipt: Receipt
    token: str
    """COMMITTED: pays from the account and reads it."""


def receipt_from_wire(key: str, message: pb.PaymentResult) -> Receipt:
    """The receipt that a server's result is."""
    result = result_from_wire(message)
    return Receipt(
        key,
        result.status,
        result.payment_id,
        result.reason,
        result.detail,
        result.time_us,
        result.account_bucket,
    )
