"""What the gRPC services need of the world: a coordinator, locks, buckets, and the node's own state."""

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from mas.errors import MasError
from mas.ledger.instructions import Answer, Batch, Kind, LockMode, SetAccount, Token
from mas.rpc.messages import AccountView, BucketView, PostingView, ReadLevel, Rejected
from mas.transaction.outcome import PaymentRequest, PaymentResult


class Coordinator(Protocol):
    """The transaction coordinator. What it is asked one at a time raises `Unavailable`."""

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

    async def read_accounts(
        self, numbers: Sequence[str], level: ReadLevel, timeout: float
    ) -> list[AccountView | MasError | None]:
        """One answer for each number: None where there is no such account, an error where it can't be read now."""

    async def read_payment(
        self, payment_id: bytes, kind: Kind, payer: str, timeout: float
    ) -> PaymentResult | None:
        """What the anchor has recorded, None: nothing."""

    async def cancel(
        self, payment_id: bytes, kind: Kind, payer: str, timeout: float
    ) -> PaymentResult:
        """End the key for good, unless the payment has an outcome (rule 9)."""

    async def read_postings(
        self, number: str, before: int, limit: int, timeout: float
    ) -> list[PostingView] | None:
        """A page of a statement, newest first; None where there is no such account."""

    async def read_bucket(self, bucket: int, replica: int, timeout: float) -> BucketView:
        """A replica's own state."""

    async def set_account(self, change: SetAccount, timeout: float) -> Answer:
        """An administrator's change, carried out once under its name. Raises `OutcomeUnknown` as well."""

    def buckets(self) -> dict[int, list[int]]:
        """Each bucket, and the nodes that hold its replicas."""


class Locks(Protocol):
    """The Global Lock Service."""

    async def acquire(
        self, owner: bytes, numbers: Sequence[str], mode: LockMode, timeout: float
    ) -> tuple[dict[str, Token], float]:
        """All or none, and for how many seconds from now; raises `Unavailable` when not had in time."""

    async def release(self, owner: bytes) -> None:
        """Let go of what this owner holds; raises `Unavailable` where that isn't certain."""


class Buckets(Protocol):
    """The leaders of the buckets."""

    def submit(
        self, bucket: int, batch: Batch, on_answer: Callable[[int, Answer | Rejected], None]
    ) -> None:
        """Send once; calls back once for each position, on the loop."""

    def all(self) -> list[int]:
        """Every bucket of the cluster, ascending."""


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
