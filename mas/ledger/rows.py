"""A bucket's state as rows: what the AccountDB stores and a snapshot carries.

Rows in memory belong to the ledger, which alone changes them. What it has changed since the last flush it hands out
as a `WriteSet`.
"""

from typing import TYPE_CHECKING

import msgspec

from mas.ledger import instructions
from mas.ledger.instructions import Body, Code, Kind, Legs, Parties, Reason, Token


class Account(msgspec.Struct, array_like=True, gc=False):
    """One account. `balance - debits_pending >= -overdraft_limit` always; `balance + credits_pending` never passes the greatest balance."""

    number: str
    id: str
    """bucket-index-place of its creation: for all time, whatever becomes of the number (rule 19, placement)."""
    currency: str
    balance: int = 0
    debits_pending: int = 0
    """Sum of prepared debits, as a positive number."""
    credits_pending: int = 0
    """Sum of prepared credits."""
    overdraft_limit: int = 0
    frozen: bool = False
    closed: bool = False
    version: int = 0
    """Grows with every change of the account (rule 14, versions)."""
    sequence: int = 0
    """The number of its last posting."""
    marks: tuple[Token, ...] = ()
    """Locks that keep payments out (rules 33 to 35)."""
    fence: Token | None = None
    """The newest EXCLUSIVE token seen here: older ones are LOCK_CONFLICT (rule 35, exclusive mode)."""
    passed: Token | None = None
    """A mark no newer than this one isn't set again: of marks that were taken away, and of the legs that took some, the newest
    token (rule 34, escrow mode)."""
    chunk: int = 0
    """The chunk that holds its last posting. Where chunks are cut is each replica's own: not part of the state hash."""
    chunk64: int = 0
    """The chunk of its last posting whose number divides by 64. Not part of the state hash."""

    if TYPE_CHECKING:

        def __copy__(self) -> "Account": ...


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A payment's entry at its anchor, for ever (rule 3, anchor and record)."""

    payment_id: bytes
    outcome: Code
    """COMMITTED, REFUSED, or ABORTED, which is no outcome."""
    body: Body | None = None
    body_hash: bytes = b""
    reason: Reason = Reason.NONE
    attempt: int = 0
    xid: bytes = b""
    time_us: int = 0
    account_bucket: int = 0
    """CREATION: the bucket of the account."""
    detail: str = ""
    payer: str = ""
    """Whose it is, where there is no body that says so: of a cancellation. Empty also where only its attempts are dead."""

    def is_of(self, payer: str) -> bool:
        """Tell whether this payment is that account's; nobody's is everybody's."""
        owner = self.payer if self.body is None else instructions.payer(self.body)
        return owner in ("", payer)


class Posting(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One committed change of one balance."""

    account: str
    sequence: int
    payment_id: bytes
    amount: int
    balance: int
    """After it."""
    time_us: int
    counterparty: str
    """Who paid this credit, or whom this debit paid: of several the first, in request order (`Parties`)."""
    reference: str
    """What the payer told the payee."""


class PreparedLegs(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one xid has prepared in this bucket; always in memory (rule 22, eviction)."""

    xid: bytes
    payment_id: bytes
    attempt: int
    body_hash: bytes
    anchor: int
    participants: tuple[int, ...]
    kind: Kind
    currency: str
    legs: Legs
    tokens: tuple[Token | None, ...] = ()
    overdraft_limit: int = 0
    """CREATION: of the account, which has no row before its `Commit` (rule 18, account creation)."""
    parties: Parties = ("", "")
    reference: str = ""


class Incarnation(msgspec.Struct, array_like=True, gc=False):
    """What is remembered of one coordinator: its low-water mark, and the posted xids not below it (rule 10, low-water
    mark).
    """

    incarnation: bytes
    low_water: int = 0
    posted: dict[int, None] = {}
    """Counters, in the order of their posting."""
    closed: bool = False


class NodeRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A node that joined or left the cluster after its creation."""

    node: int
    address: str = ""
    """Of its peer transport, "host:port"; empty where it was retired without having been registered."""
    roles: tuple[str, ...] = ()
    host: str = ""
    """A label of the machine."""
    store: bytes = b""
    """Tells a node from one that came back under its id without its data."""
    retired: bool = False
    """For all time."""


class BucketRow(msgspec.Struct, array_like=True, gc=False):
    """The bucket itself."""

    bucket: int
    applied: int = 0
    term: int = 0
    """Of the entry applied last."""
    state_hash: int = 0
    """As of `applied`; unsigned, 128 bits."""
    version: int = 1
    """The ledger version in force (rule 16, admission)."""
    cluster: str = ""
    buckets: int = 0
    """The bucket count at the cluster's creation (rule 20, genesis)."""
    epoch: int = 0
    """The newest lock service's (rule 36, lock tokens)."""
    time_us: int = 0
    """The latest stamp of an entry: stamps never go back (rule 12, time decides no outcome)."""
    members: bytes = b""
    """The encoded `raft.ConfState` as of `applied`."""
    nodes: tuple[NodeRow, ...] = ()
    """Bucket 1: the cluster's register of nodes, in ascending order of their ids."""
    nodes_index: int = 0
    """Of the entry that changed the register last: of two copies it tells the newer one."""

    if TYPE_CHECKING:

        def __copy__(self) -> "BucketRow": ...


class WriteSet(msgspec.Struct, gc=False):
    """Everything that has changed since the write set before; rows are copies, or are never changed again.

    `None` deletes. A leg prepared and settled between two flushes isn't in it.
    """

    bucket: BucketRow
    accounts: dict[str, Account]
    records: dict[bytes, Record]
    legs: dict[bytes, PreparedLegs | None]
    claims: dict[str, int]
    incarnations: dict[bytes, Incarnation]
    postings: list[Posting]


class Loaded(msgspec.Struct, gc=False):
    """What a load brought: rows, and the applied index read with them (rule 23, loads).

    A number or payment_id that was asked for and isn't here does not exist.
    """

    applied: int
    accounts: dict[str, Account]
    records: dict[bytes, Record]
    claims: dict[str, int]


class ResidentState(msgspec.Struct, gc=False):
    """What is always in memory, read once at the start (rule 22)."""

    bucket: BucketRow
    legs: dict[bytes, PreparedLegs]
    incarnations: dict[bytes, Incarnation]
