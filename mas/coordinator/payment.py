"""One payment as its coordinator carries it out: the run that says what to do, and whom its result is for."""

from collections.abc import Callable

import msgspec

from mas.transaction.outcome import PaymentResult
from mas.transaction.payment import PaymentRun

OnResult = Callable[[int, PaymentResult], None]
"""Takes a request's position among those submitted with it, and its result."""


class Payment(msgspec.Struct, gc=False, eq=False):
    """One payment under way."""

    run: PaymentRun
    caller: str
    """Whose it is; nobody's, if it is taken over from a coordinator that is gone."""
    on_result: OnResult
    position: int
    late_at: float
    """When to end what can be ended, so that the caller still hears it: monotonic seconds."""
    ends: float
    """When its caller waits no longer."""
    slot: int = 0
    """Where it is in the deadlines."""
