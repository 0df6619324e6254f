"""What a payment's run wants done. The host does it in order, and tells the run what came of it.

Every `Send…` is one instruction for one bucket: the bucket's answer comes back with it to `PaymentRun.on_answer`, and the
word that no answer comes to `PaymentRun.on_rejected`. What an attempt wants stands beside it, in `mas.transaction.attempt`.
"""

from typing import Final, final

import msgspec

from mas.ledger.instructions import LockMode, QueryRecord, RecordRefusal
from mas.transaction.attempt import (
    AttemptEffect,
    SendDecide,
    SendFinish,
    SendPrepare,
    SendResolve,
)
from mas.transaction.outcome import PaymentResult


@final
class SendRefusal(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Have the anchor record another bucket's no."""

    bucket: int
    instruction: RecordRefusal
    tries: int = 0
    """How often it was sent before."""


@final
class SendQuery(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Ask the anchor for the payment's record."""

    bucket: int
    instruction: QueryRecord
    tries: int = 0
    """How often it was sent before."""


Send = SendPrepare | SendDecide | SendResolve | SendFinish | SendRefusal | SendQuery
SENDS: Final = frozenset((SendPrepare, SendDecide, SendResolve, SendFinish, SendRefusal, SendQuery))
"""Their types: on CPython 3.11 `isinstance` of a struct costs three calls where it says no."""


class Retry(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Hand this to `PaymentRun.on_retry_due` after a pause that grows with `send.tries`."""

    send: Send


class Reply(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Answer the caller; a run does it once."""

    result: PaymentResult


class Locate(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Ask the accounts' homes, not the directory, where they are, and call `PaymentRun.on_located`."""

    tries: int
    """How often they were asked before: the first time at once, then after a pause that grows."""


class AcquireLocks(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Queue for the locks of all these accounts, and call `PaymentRun.on_locks_granted` or `on_locks_denied`."""

    owner: bytes
    numbers: list[str]
    mode: LockMode


class ReleaseLocks(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Give this owner's locks back: whatever carried their tokens has ended."""

    owner: bytes


Effect = (
    AttemptEffect | SendRefusal | SendQuery | Retry | Reply | Locate | AcquireLocks | ReleaseLocks
)
