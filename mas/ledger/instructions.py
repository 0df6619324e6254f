"""What a bucket's ledger is told, and what it answers.

An instruction is one command to the ledger of one bucket. Its coordinator encodes it once; the same bytes are the
request to the leader, the Raft entry, the log's value and what the followers get. A `Proposal` is the content of one
Raft entry: batches of instructions, each batch from one sender.

Amounts are signed minor units: a debit is negative, a credit positive. Times are microseconds since the epoch, for people;
no rule reads them (rule 12, time decides no outcome).
"""

from enum import IntEnum

import msgspec

from mas.decoding import msgpack_decoder
from mas.errors import CorruptData, InvalidRequest

EXTERNAL = "@external"
"""The account of a bucket that stands for the world outside; one for each currency (rule 17, external account)."""

NONE_LEFT_OUT = (b"",)
"""What a second proposal leaves out where nothing is undecided any more (rule 15, contention)."""

LEDGER_VERSION = 1
"""The version of the rules that this program judges by (rule 16, admission)."""


class Kind(IntEnum):
    """What a payment is; part of its payment_id."""

    PAYMENT = 1
    CREATION = 2
    DEPOSIT = 3
    WITHDRAWAL = 4


class LockMode(IntEnum):
    """How a lock is held; `compatible` says which modes exclude each other."""

    EXCLUSIVE = 1
    ESCROW = 2
    SHARED = 3


def compatible(one: LockMode, other: LockMode) -> bool:
    """Tell whether two holders may have one lock at a time: ESCROW with ESCROW, SHARED with SHARED."""
    return one is other and one is not LockMode.EXCLUSIVE


class Token(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, order=True
):
    """A fencing token: tokens only grow, by (epoch, counter) (rule 36, lock tokens)."""

    epoch: int
    counter: int
    mode: LockMode = LockMode.EXCLUSIVE


class Code(IntEnum):
    """What became of an instruction."""

    NONE = 0
    """A question, or an `RecordRefusal` by an attempt: the payment has no record."""
    # Outcomes and attempts, as the anchor's record says them.
    COMMITTED = 1
    REFUSED = 2
    """Of `Prepare`: a ledger's no, which binds nobody until the anchor has it. Else the record's outcome."""
    ABORTED = 3
    """Attempts up to `attempt` are dead and have done nothing; `xid` is set where a DECIDE was judged so."""
    KEY_REUSED = 4
    """The payment has an outcome for another body; `detail` names the fields that differ."""
    # Legs.
    PREPARED = 10
    POSTED = 11
    FREED = 12
    OVER = 13
    """Below the low-water mark and not prepared: whatever it was, it is over."""
    # Ends of an attempt only (never a ledger's no).
    PENDING_ON = 20
    """Would be refused only because of the legs of `xids`, still undecided (rule 15). Not recorded."""
    CONTENDED = 21
    LOCK_CONFLICT = 22
    STALE_XID = 23
    WRONG_BUCKET = 24
    # Everything else.
    DONE = 30
    """An instruction without legs has taken effect; `value` is its result, where it has one."""
    UNCHANGED = 31
    FAILED = 40
    """The instruction's own logic raised; undone whole, alike on every replica (rule 16)."""
    ALARM = 41
    """Can't happen (rule 10, low-water mark); nothing was changed."""


class Reason(IntEnum):
    """Why the ledger says no, or why an attempt ended."""

    NONE = 0
    ACCOUNT_NOT_FOUND = 1
    ACCOUNT_EXISTS = 2
    INSUFFICIENT_FUNDS = 3
    BALANCE_LIMIT = 4
    """A credit would pass the greatest balance."""
    ACCOUNT_FROZEN = 5
    ACCOUNT_CLOSED = 6
    CURRENCY_MISMATCH = 7
    CANCELLED = 8
    LEGS_PREPARED = 9
    """Closing, or lowering an overdraft limit, while legs need it."""
    ACCOUNT_NOT_EMPTY = 10
    """Closing while there is a balance, of either sign."""
    LOCK_CONFLICT = 20
    CONTENDED = 21
    STALE_XID = 22
    WRONG_BUCKET = 23
    TIMED_OUT = 24
    DIED = 25
    """The attempt was declared dead by a question (rule 11, the resolver)."""
    OVERLOADED = 26
    UNAVAILABLE = 27
    # Of the cluster's register.
    NODE_ID_USED = 40
    """By another data directory, or by a node that is retired."""
    TOO_MANY_NODES = 41


class RejectReason(IntEnum):
    """Why there is no answer of the ledger's."""

    NOT_LEADING = 1
    """This copy has done nothing; `leader` may say whom to ask."""
    OVERLOADED = 2
    """This copy has done nothing."""
    UNAVAILABLE = 3
    """This copy has done nothing: no leader, or the database is away, or the deadline is past."""
    UNKNOWN = 4
    """It may or may not be done, now or later (rule 39, unknown results)."""
    INVALID = 5
    """The request can't be read or names an unknown bucket."""
    FAILED = 6
    """Of a read: it raised there, and would elsewhere. Nobody else is asked."""


class AccountState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an administrator may change of an account."""

    frozen: bool
    closed: bool
    """For good."""
    overdraft_limit: int


class Answer(msgspec.Struct, frozen=True, array_like=True, gc=False, omit_defaults=True):
    """The result of one instruction. Which fields are set depends on `code`."""

    code: Code
    reason: Reason = Reason.NONE
    attempt: int = 0
    xid: bytes = b""
    """COMMITTED: the attempt that did it; ABORTED: the judged DECIDE's, or empty."""
    time_us: int = 0
    """COMMITTED: the posting time of all its legs."""
    xids: tuple[bytes, ...] = ()
    detail: str = ""
    account_bucket: int = 0
    """COMMITTED creation: the bucket of the account."""
    state: AccountState | None = None
    """`SetAccount`, DONE or UNCHANGED: the account as it is now."""
    value: int = 0
    """`TakeEpoch`: the epoch taken; `RegisterNode` and `RetireNode`, DONE or UNCHANGED: the index of the entry that
    changed the register last."""


Legs = tuple[tuple[str, int], ...]
"""(account number, signed amount), in request order."""

Parties = tuple[str, str]
"""The first account that a payment debits, and the first that it credits: each is whom the other side's postings name."""


def parties(legs: Legs) -> Parties:
    """Of a payment's legs, all of them; an empty text where a side has none."""
    if len(legs) == 2:  # nearly every payment
        (first, amount), (second, _) = legs
        return (first, second) if amount < 0 else (second, first)
    debtor = next((number for number, amount in legs if amount < 0), "")
    return debtor, next((number for number, amount in legs if amount >= 0), "")


class Body(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """What a payment is, apart from how it is carried out. The legs sum to zero, a creation's apart.

    CREATION: one leg, the number and its opening balance. DEPOSIT and WITHDRAWAL: two legs, one of them EXTERNAL.
    """

    kind: Kind
    currency: str
    legs: Legs
    overdraft_limit: int = 0
    reference: str = ""


def payer(body: Body) -> str:
    """The account whose bucket is the anchor (rule 3, anchor and record): a creation's number; in a deposit, the
    account paid into.
    """
    return body.legs[payer_position(body)][0]


def payer_position(body: Body) -> int:
    """Find the payer's leg."""
    kind = body.kind
    if kind is Kind.CREATION:
        return 0
    into = kind is Kind.DEPOSIT
    for position, (number, amount) in enumerate(body.legs):
        if (amount > 0) is into and number != EXTERNAL:
            return position
    raise AssertionError(f"{body} has no payer")


class Prepare(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag=1
):
    """Phase 1 at a bucket that isn't the anchor: all these legs, or none (rule 4, prepare)."""

    xid: bytes
    payment_id: bytes
    attempt: int
    body_hash: bytes
    anchor: int
    participants: tuple[int, ...]
    """Every bucket of the payment but the anchor."""
    kind: Kind
    currency: str
    legs: Legs
    tokens: tuple[Token | None, ...] = ()
    overdraft_limit: int = 0
    parties: Parties = ("", "")
    """Of the whole payment."""
    reference: str = ""


class Decide(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag=2
):
    """Phase 2 at the anchor: judge, post the anchor's own legs, write the record (rules 5, 6)."""

    xid: bytes
    payment_id: bytes
    attempt: int
    body: Body
    body_hash: bytes
    participants: tuple[int, ...]
    """The buckets that have voted yes; empty for a payment within this bucket."""
    own: tuple[int, ...]
    """Which legs of the body are this bucket's."""
    account_bucket: int = 0
    """CREATION: the bucket of the new account, which is what is claimed."""
    tokens: tuple[Token | None, ...] = ()
    """One for each leg that `own` names, in its order, or none at all; so it is in `Prepare`, for its legs."""


class RecordRefusal(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag=3
):
    """Write an outcome REFUSED: a ledger's no of another bucket (rule 8, ending an attempt), or a cancellation (rule 9,
    outcomes).

    A cancellation has attempt 0 and no body, and only an outcome already there stops it.
    """

    payment_id: bytes
    kind: Kind
    payer: str
    attempt: int
    reason: Reason
    detail: str = ""
    body: Body | None = None
    body_hash: bytes = b""


class Commit(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag=4
):
    """Post what is prepared under this xid, at the time of the anchor's record (rule 10)."""

    xid: bytes
    time_us: int


class Abort(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag=5
):
    """Free what is prepared under this xid (rule 10)."""

    xid: bytes


class Resolve(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag=6
):
    """The resolver's question at the anchor: without an outcome the attempt is declared dead first (rule 11)."""

    payment_id: bytes
    attempt: int
    xid: bytes
    body_hash: bytes


class QueryRecord(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag=7
):
    """A question that changes nothing: by payment, naming its payer (rule 8), or by xid, naming none (rule 15)."""

    payment_id: bytes
    payer: str = ""
    kind: Kind = Kind.PAYMENT


class Mark(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag=8
):
    """Set a lock's token in an account (rule 33, locks and marks). PENDING_ON: it is set, and names the legs prepared
    there before it.
    """

    account: str
    token: Token


class Unmark(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag=9
):
    """Take a lock's token away."""

    account: str
    token: Token


class CloseIncarnation(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag=10
):
    """Set a coordinator's low-water mark beyond all; nothing while a leg of it is prepared (rule 10)."""

    incarnation: bytes


class Genesis(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag=11
):
    """The first entry of every bucket's log (rule 20, genesis). A second one that says the same changes nothing."""

    cluster: str
    bucket: int
    buckets: int


class TakeEpoch(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag=12
):
    """A lock service that starts takes its epoch, in bucket 1 (rule 36); the answer's `value`."""

    holder: str


class SetAccount(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag=13
):
    """An administrator's change of one account; None leaves a property as it is (rule 13, prepared legs commit).

    With a `change_id` it is judged once: the bucket keeps what became of it, as it does of payments (rules 3, 39).
    Closing takes an account that is empty, with nothing prepared on it; nothing of a closed one changes any more.
    """

    account: str
    frozen: bool | None = None
    closed: bool | None = None
    overdraft_limit: int | None = None
    token: Token | None = None
    change_id: bytes = b""


class RegisterNode(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag=14
):
    """A node joins the cluster, or says anew where it is; in bucket 1. An id is used once for all time."""

    node: int
    address: str
    """Of its peer transport, "host:port"."""
    roles: tuple[str, ...]
    host: str = ""
    """A label of the machine: two replicas on one machine fall together."""
    store: bytes = b""
    """What its data directory drew at its first start: a node that was wiped isn't the one that was registered."""


class RetireNode(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag=15
):
    """A node has left for good; in bucket 1. One of the cluster's creation needn't have been registered before."""

    node: int


Instruction = (
    Prepare
    | Decide
    | RecordRefusal
    | Commit
    | Abort
    | Resolve
    | QueryRecord
    | Mark
    | Unmark
    | CloseIncarnation
    | Genesis
    | TakeEpoch
    | SetAccount
    | RegisterNode
    | RetireNode
)


class Batch(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Instructions of one sender, with the low-water mark that whatever it sends carries (rule 10).

    `incarnation` is empty where no coordinator speaks (a resolver, a lock service, a bucket's first leader).
    """

    incarnation: bytes
    low_water: int
    instructions: tuple[Instruction, ...]
    left_out: tuple[bytes, ...] = ()
    """On second proposals: what the first ones were pending on and is still undecided, by xid (rule 15).

    Never empty there: `NONE_LEFT_OUT` where all of it has been decided meanwhile.
    """


class Proposal(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One Raft entry. (proposer, number) lets the node that proposed it find whom to answer, and nobody else."""

    version: int
    time_us: int
    proposer: int
    """A number that the proposing process drew at its start."""
    number: int
    batches: tuple[Batch, ...]


class RawProposal(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False
):
    """A `Proposal` as its leader writes it: the batches' bytes as they came."""

    version: int
    time_us: int
    proposer: int
    number: int
    batches: tuple[msgspec.Raw, ...]


encode = msgspec.msgpack.Encoder().encode
decode_proposal = msgpack_decoder(Proposal, "an entry", CorruptData)
"""What an entry of a bucket's log holds. Raises `CorruptData`."""
decode_batch = msgpack_decoder(Batch, "a batch of instructions", InvalidRequest)
"""What a coordinator sends. Raises `InvalidRequest`."""


def begins(instruction: Instruction) -> bool:
    """Tell whether this begins something, so that overload may reject it (rule 16, admission)."""
    match instruction:
        case Prepare() | Mark() | SetAccount() | RegisterNode():
            return True
        case Decide():
            return not instruction.participants
        case _:
            return False
