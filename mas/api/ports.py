"""What the gRPC services need of the world beside the buckets: a coordinator, locks, and the node's own state."""

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from mas.errors import MasError
from mas.ledger.instructions import Answer, Kind, LockMode, SetAccount, Token
from mas.rpc.messages import AccountView, BucketView, PostingView, ReadLevel
from mas.transaction.outcome import PaymentRequest, PaymentResult


class Queries(Protocol):
    """What is asked for one caller at a time, and goes through the buckets' logs. All raise `Unavailable`."""

    async def read_payment(
        self, payment_id: bytes, kind: Kind, payer: str, timeout: float
    ) -> PaymentResult | None:
        """Read what the anchor has recorded, None if nothing."""

    async def cancel(
        self, payment_id: bytes, kind: Kind, payer: str, timeout: float
    ) -> PaymentResult:
        """End the key for good, unless the payment has an outcome, which is the answer then (rule 9, outcomes)."""

    async def set_account(self, change: SetAccount, timeout: float) -> Answer:
        """Carry out an administrator's change once under its name. Raises `OutcomeUnknown` as well."""


class Reads(Protocol):
    """What is read for one caller at a time. All raise `Unavailable`."""

    async def accounts(
        self, numbers: Sequence[str], level: ReadLevel, timeout: float
    ) -> list[AccountView | MasError | None]:
        """One answer for each number: None where there is no such account, an error where it can't be read now."""

    async def postings(
        self, number: str, before: int, limit: int, timeout: float
    ) -> list[PostingView] | None:
        """A page of a statement, newest first; None where there is no such account."""

    async def bucket(self, bucket: int, replica: int, timeout: float) -> BucketView:
        """A named replica's own state."""


class Coordinator(Protocol):
    """The transaction coordinator: payments by `submit`, everything else by `queries` and `reads`."""

    @property
    def queries(self) -> Queries: ...

    @property
    def reads(self) -> Reads: ...

    def submit(
        self,
        caller: str,
        requests: Sequence[PaymentRequest],
        on_result: Callable[[int, PaymentResult], None],
    ) -> None:
        """Carry out payments and creations; calls back once for each position, on the loop.

        `caller` is whose they are: callers' payments begin in turns.

        Raises `Unavailable` (as `Overloaded`, or because it is stopping): none of them was begun.
        """


class Locks(Protocol):
    """The Global Lock Service."""

    async def acquire(
        self, owner: bytes, numbers: Sequence[str], mode: LockMode, timeout: float
    ) -> tuple[dict[str, Token], float]:
        """All or none, and for how many seconds from now; raises `Unavailable` when not had in time."""

    async def release(self, owner: bytes) -> None:
        """Let go of what this owner holds; raises `Unavailable` where that isn't certain."""


class NodeView(msgspec.Struct, frozen=True):
    """What a node says of itself."""

    node: int
    cluster: str
    version: str
    roles: tuple[str, ...]
    buckets: tuple[int, ...] = ()
    """Those that it holds a replica of."""
    leads: tuple[int, ...] = ()
    """Those of them that it leads."""


class Node(Protocol):
    """The node that this process is."""

    def view(self) -> NodeView: ...
