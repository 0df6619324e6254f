"""What travels between whoever coordinates and the buckets: one frame a peer and turn, many messages in it.

A request names a bucket and is numbered by its sender; it is answered position by position, as answers come
(rule 37, batches). A request that a node turns away has done nothing there; one that was lost sight of is unknown (rule
39, unknown results).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from typing import TypeVar

import msgspec

from mas.decoding import Buffer, msgpack_decoder
from mas.errors import NetworkError
from mas.ledger.instructions import Answer, RejectReason
from mas.ledger.rows import NodeRow
from mas.limits import FRAME_BYTES_MAX, TURN_BYTES_MAX, TURN_INSTRUCTIONS_MAX

T = TypeVar("T")


class ReadLevel(IntEnum):
    """What a read promises, from the strongest to the cheapest (rules 29, 30)."""

    LINEARIZABLE = 1
    READ_COMMITTED = 2
    READ_UNCOMMITTED = 3
    STALE = 4


class Submit(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Carry out a batch of instructions in a bucket. `batch` is an encoded `ledger.Batch`."""

    request: int
    bucket: int
    batch: msgspec.Raw
    left_ms: int = 0
    """How long its sender waits, in milliseconds from its sending; 0: it doesn't say (rule 16, admission)."""


class Answers(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Answers of the ledger, by position in the batch."""

    request: int
    answers: tuple[tuple[int, Answer], ...]


class Rejected(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """These positions (none named: all that are unanswered) get no answer of the ledger's."""

    request: int
    why: RejectReason
    positions: tuple[int, ...] = ()
    leader: int = 0
    detail: str = ""


class ReadAccounts(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Read accounts of a bucket. Answered by `AccountViews` or `Rejected`."""

    request: int
    bucket: int
    level: ReadLevel
    numbers: tuple[str, ...]
    left_ms: int = 0
    """How long its sender waits, in milliseconds from its sending; 0: it doesn't say (rule 16)."""


class AccountView(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An account as a reader sees it. Amounts in minor units."""

    number: str
    id: str
    currency: str
    balance: int
    debits_pending: int
    overdraft_limit: int
    frozen: bool
    closed: bool
    version: int
    sequence: int
    bucket: int


class AccountViews(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """One view for each number asked for, None where there is no such account."""

    request: int
    views: tuple[AccountView | None, ...]
    undecided: tuple[int, ...] = ()
    """LINEARIZABLE: the positions that have no answer, since the anchors of payments under way there don't answer."""
    prepared: bool = False
    """A leg is prepared on one of them: a SERIALIZABLE read starts over (rule 31, serializable reads)."""
    age_ms: int = 0
    """STALE: how long ago this replica last heard from its leader."""


class ReadClaims(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """Linearizable: which bucket has claimed each number; asked of the numbers' home."""

    request: int
    bucket: int
    numbers: tuple[str, ...]
    left_ms: int = 0
    """How long its sender waits, in milliseconds from its sending; 0: it doesn't say (rule 16)."""


class Claims(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """The bucket of each number, 0 where nobody claimed it."""

    request: int
    buckets: tuple[int, ...]


class ReadPostings(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=8):
    """An account's postings, newest first, below sequence `before` (0: from the newest; at most `SEQUENCE_MAX`)."""

    request: int
    bucket: int
    number: str
    before: int
    limit: int
    left_ms: int = 0
    """How long its sender waits, in milliseconds from its sending; 0: it doesn't say (rule 16)."""


class PostingView(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One line of a statement. Amounts in minor units, time in microseconds since the epoch."""

    sequence: int
    payment_id: bytes
    amount: int
    balance: int
    time_us: int
    counterparty: str = ""
    """Who paid this credit, or whom this debit paid: of several the first."""
    reference: str = ""
    """What the payer told the payee."""


class Postings(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=9):
    """A page of a statement; `found` is False where there is no such account."""

    request: int
    found: bool
    postings: tuple[PostingView, ...]


class ReadBucket(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    """This replica's own state, whoever leads: for checks, tools and the demo's count of the money."""

    request: int
    bucket: int
    left_ms: int = 0
    """How long its sender waits, in milliseconds from its sending; 0: it doesn't say (rule 16)."""


class BucketView(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=11):
    """What one replica says of its bucket, computed from its own rows, flushed and unflushed."""

    request: int
    bucket: int
    leader: int
    term: int
    commit: int
    applied: int
    flushed: int
    accounts: int
    balances: dict[str, int]
    """Sum of the balances of all accounts but @external, by currency."""
    external: dict[str, int]
    """The @external accounts' balances, by currency."""
    prepared: int
    """Count of prepared xids."""
    records: int
    """Count of records with the outcome COMMITTED."""
    postings: int
    """Count of all postings."""
    state_hash: str
    """Hexadecimal, as of `applied`."""
    lag_ms: int = 0
    """How old the oldest change was, when this was asked, that the AccountDB did not hold yet."""


class ReadNodes(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=12):
    """Linearizable: the cluster's register of nodes; asked of bucket 1, which keeps it."""

    request: int
    bucket: int
    left_ms: int = 0
    """How long its sender waits, in milliseconds from its sending; 0: it doesn't say (rule 16)."""


class Nodes(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=13):
    """The register: of two answers that with the greater index is the newer one."""

    request: int
    index: int
    """Of the log's entry that changed the register last; 0 where none has."""
    nodes: tuple[NodeRow, ...]
    """Nodes that joined or left after the cluster's creation, in ascending order of their ids."""


class Change(IntEnum):
    """What an operator wants of a bucket's membership."""

    ADD = 1
    """A learner, which its leader makes a voter once it has caught up."""
    REMOVE = 2
    LEAD = 3


class ChangeMembers(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=14):
    """Begin a change, unless it is so already; asked of the bucket's leader. Answered by its `ReplicaView` or `Rejected`."""

    request: int
    bucket: int
    change: Change
    node: int


class ReadReplica(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=15):
    """What a node says of its replica of a bucket. Answered by `ReplicaView`, whoever leads."""

    request: int
    bucket: int


class ReplicaState(IntEnum):
    """How it stands with a replica."""

    ABSENT = 0
    """This node holds none."""
    RUNNING = 1
    STOPPED = 2
    """Its log or database can't be used; `trouble` says why."""
    BEHIND = 3
    """It takes part in consensus, and waits for a snapshot."""


class FollowerView(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the leader knows of another replica."""

    node: int
    match: int
    """The last index that it is known to hold."""
    active: bool
    """Heard of within the last election timeout."""
    snapshot: bool
    """It is being sent one."""


class ReplicaView(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=16):
    """One replica, as its node sees it."""

    request: int
    bucket: int
    node: int
    state: ReplicaState
    trouble: str = ""
    refused: bool = False
    """A change was asked for that can't be as things are: `trouble` says why."""
    leading: bool = False
    leader: int = 0
    term: int = 0
    first_index: int = 0
    """Of the log."""
    last_index: int = 0
    commit: int = 0
    applied: int = 0
    flushed: int = 0
    voters: tuple[int, ...] = ()
    """In a joint configuration, of both halves."""
    learners: tuple[int, ...] = ()
    received: int = 0
    """Bytes of a snapshot on its way here, and how many there are."""
    size: int = 0
    followers: tuple[FollowerView, ...] = ()
    """Where it leads."""


ReadRequest = ReadAccounts | ReadClaims | ReadPostings | ReadBucket | ReadNodes
ForLeader = Submit | ReadAccounts | ReadClaims | ReadPostings | ReadNodes
"""What a bucket's leader answers, and nobody else."""


class PassOn(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=17):
    """Whoever asks doesn't reach the bucket's leader: a replica that does asks in its place, once, and passes the answers back."""

    request: int
    """As the message's own."""
    bucket: int
    leader: int
    """Who leads, as far as whoever asks knows. A replica that knows of another leader names it instead of passing on."""
    message: ForLeader


BucketRequest = ForLeader | ReadBucket | PassOn
"""For the bucket's own service; the others are about the replica itself."""
Request = BucketRequest | ReadReplica | ChangeMembers
Reply = Answers | Rejected | AccountViews | Claims | Postings | BucketView | Nodes | ReplicaView

_ANSWERS: dict[type[Request], type[Reply]] = {
    Submit: Answers,
    ReadAccounts: AccountViews,
    ReadClaims: Claims,
    ReadPostings: Postings,
    ReadBucket: BucketView,
    ReadNodes: Nodes,
    ReadReplica: ReplicaView,
    ChangeMembers: ReplicaView,
}


def can_answer(request: type[Request], reply: Reply) -> bool:
    """Tell whether such a request is answered so: each has its kind of answer, and all can be turned away."""
    return isinstance(reply, Rejected | _ANSWERS[request])


encode = msgspec.msgpack.Encoder().encode


def to_left_ms(seconds: float) -> int:
    """Return the time that a sender waits as its message carries it; never 0, which would say that nobody knows."""
    return max(1, round(1000 * seconds))


def batches(items: Iterable[T], data_of: Callable[[T], bytes]) -> Iterator[list[T]]:
    """Items in order, put together as far as the bounds of a turn allow: bytes as well as number (rule 38, bounded turns).

    An item that is larger by itself travels alone.
    """
    batch: list[T] = []
    total = 0
    for item in items:
        size = len(data_of(item))
        if batch and (total + size > TURN_BYTES_MAX or len(batch) >= TURN_INSTRUCTIONS_MAX):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size
    if batch:
        yield batch


def frame_of(messages: Sequence[bytes]) -> bytes:
    """A frame of messages that were encoded one by one; `decode_requests` and `decode_replies` read it."""
    return b"\xdd" + len(messages).to_bytes(4, "big") + b"".join(messages)  # MessagePack's array


MESSAGE_BYTES_MAX = FRAME_BYTES_MAX - 5
"""Of one message, so that a frame has room for it."""

decode_requests: Callable[[Buffer], tuple[Request, ...]] = msgpack_decoder(
    tuple[Request, ...], "a frame of requests", NetworkError
)
"""Raises `NetworkError`."""
decode_replies: Callable[[Buffer], tuple[Reply, ...]] = msgpack_decoder(
    tuple[Reply, ...], "a frame of replies", NetworkError
)
"""Raises `NetworkError`."""
