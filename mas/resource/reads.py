"""Reads of a bucket: what an account looks like, to whom (design, section 8; rules 29, 30).

A linearizable read waits for its read index to be applied and then notes each account: its state, and the legs that are
prepared on it. Once each of these is decided, it answers the noted state and the noted legs that are committed,
and nothing later. So reads and payments stand in the order of the account's own log. A statement waits for the same
legs, until they are posted.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence

import msgspec

from mas.ledger import UNKNOWN, Abort, Account, Commit, Kind, Posting, PreparedLegs
from mas.ledger.row_cache import RowCache
from mas.resource.anchors import Anchors
from mas.rpc.messages import (
    AccountView,
    AccountViews,
    Claims,
    Nodes,
    PostingView,
    ReadAccounts,
    ReadBucket,
    ReadClaims,
    ReadLevel,
    ReadNodes,
    ReadPostings,
)

_PATIENCE_SECONDS = 0.75
"""Below the time after which a bucket client asks another replica: whoever reads hears why it has no answer."""

RowsRequest = ReadAccounts | ReadClaims | ReadNodes | ReadPostings


class Read(msgspec.Struct, gc=False):
    """One read and where its answer goes."""

    peer: int
    request: RowsRequest
    gives_up: float
    """When whoever asks has given it up, and asks anew: monotonic seconds."""


class Stored(msgspec.Struct, gc=False):
    """One read that the database answers."""

    peer: int
    request: ReadPostings | ReadBucket
    gives_up: float


def missing_numbers(rows: RowCache, request: RowsRequest) -> list[str]:
    """List the rows that this read needs and that aren't in memory."""
    match request:
        case ReadNodes():
            return []
        case ReadClaims(numbers=numbers):
            return [number for number in numbers if rows.claim(number) is UNKNOWN]
        case ReadAccounts(numbers=numbers):
            return [number for number in numbers if rows.account(number) is UNKNOWN]
        case ReadPostings(number=number):
            return [number] if rows.account(number) is UNKNOWN else []


def view_claims(rows: RowCache, request: ReadClaims) -> Claims:
    """The claims asked for; every row is in memory."""
    claims = (rows.claim(number) for number in request.numbers)
    return Claims(
        request.request, tuple(claim if isinstance(claim, int) else 0 for claim in claims)
    )


def view_nodes(rows: RowCache, request: ReadNodes) -> Nodes:
    """The cluster's register, which is always in memory."""
    bucket = rows.bucket
    return Nodes(request.request, bucket.nodes_index, bucket.nodes)


def view_postings(postings: Iterable[Posting]) -> tuple[PostingView, ...]:
    """Show postings as the lines of a statement."""
    return tuple(
        PostingView(
            each.sequence,
            each.payment_id,
            each.amount,
            each.balance,
            each.time_us,
            each.counterparty,
            each.reference,
        )
        for each in postings
    )


def view_accounts(rows: RowCache, request: ReadAccounts, bucket: int, age_ms: int) -> AccountViews:
    """The accounts asked for as they stand now, all in memory; a READ_UNCOMMITTED one with prepared legs counted in."""
    accounts = [_visible(rows, number) for number in request.numbers]
    uncommitted = request.level is ReadLevel.READ_UNCOMMITTED
    return AccountViews(
        request.request,
        tuple(
            None if account is None else _view(account, bucket, uncommitted=uncommitted)
            for account in accounts
        ),
        prepared=any(
            account is not None and (account.debits_pending or account.credits_pending)
            for account in accounts
        ),
        age_ms=age_ms if request.level is ReadLevel.STALE else 0,
    )


def _visible(rows: RowCache, number: str) -> Account | None:
    account = rows.account(number)
    assert account is not UNKNOWN
    return account


def _view(account: Account, bucket: int, *, uncommitted: bool = False) -> AccountView:
    in_flight = account.credits_pending - account.debits_pending if uncommitted else 0
    return AccountView(
        number=account.number,
        id=account.id,
        currency=account.currency,
        balance=account.balance + in_flight,
        debits_pending=account.debits_pending,
        overdraft_limit=account.overdraft_limit,
        frozen=account.frozen,
        closed=account.closed,
        version=account.version,
        sequence=account.sequence,
        bucket=bucket,
    )


class Noted:
    """An account as linearizable reads have noted it at one index, and the legs on which its balance depends."""

    def __init__(self, rows: RowCache, bucket: int, number: str, anchors: Anchors) -> None:
        self._rows = rows
        self._bucket = bucket
        self._number = number
        self._anchors = anchors
        self._readers: dict[Callable[[], None], None] = {}
        self._note()

    def _note(self) -> None:
        account = _visible(self._rows, self._number)
        self.index = self._rows.bucket.applied
        self.view = None if account is None else _view(account, self._bucket)
        self._legs = {legs.xid: legs for legs in self._rows.prepared_on((self._number,))}
        self.was_prepared = bool(self._legs)

    @property
    def is_decided(self) -> bool:
        """Whether `view` is the answer."""
        return not self._legs

    def join(self, reader: Callable[[], None]) -> None:
        """Call this reader once it is decided, unless it leaves before."""
        if not self._readers:
            self._wait()
        self._readers[reader] = None

    def leave(self, reader: Callable[[], None]) -> None:
        """This reader waits no longer."""
        self._readers.pop(reader, None)
        if not self._readers:
            self._anchors.leave(self._legs, self._on_outcome)

    def _wait(self) -> None:
        # Before it is posted here, there is no row of an account whose creation is committed.
        opening = [legs for legs in self._legs.values() if legs.kind is Kind.CREATION]
        if opening:
            self._anchors.wait(opening, self._on_outcome, settled=True)
        else:
            self._anchors.wait(self._legs.values(), self._on_outcome)

    def _on_outcome(self, xid: bytes, outcome: Commit | Abort) -> None:
        legs = self._legs.pop(xid)
        if legs.kind is Kind.CREATION:
            self._note()
            if self._legs:
                self._wait()
        elif self.view is not None and isinstance(outcome, Commit):
            change = sum(amount for number, amount in legs.legs if number == self._number)
            self.view = msgspec.structs.replace(self.view, balance=self.view.balance + change)
        if not self._legs:
            readers, self._readers = self._readers, {}
            for reader in readers:
                reader()


class LinearizableRead:
    """A linearizable answer in the making. Its accounts wait for themselves alone, and all of them for so long."""

    def __init__(
        self, request: ReadAccounts, noted: list[Noted], done: Callable[[AccountViews], None]
    ) -> None:
        self._request = request
        self._noted = noted
        self._done = done
        self._open = {each: None for each in noted if not each.is_decided}
        self._left = len(self._open)
        self._patience: asyncio.TimerHandle | None = None

    def answer(self) -> None:
        """Now, if all is decided that these accounts depend on; otherwise once it is, or patience is over."""
        if not self._open:
            self._conclude()
            return
        loop = asyncio.get_running_loop()
        self._patience = loop.call_later(_PATIENCE_SECONDS, self._conclude)
        for each in self._open:
            each.join(self._on_decided)

    def _on_decided(self) -> None:
        self._left -= 1
        if not self._left:
            assert self._patience is not None
            self._patience.cancel()
            self._conclude()

    def _conclude(self) -> None:
        for each in self._open:
            each.leave(self._on_decided)
        undecided = tuple([i for i, each in enumerate(self._noted) if not each.is_decided])
        views = tuple([each.view if each.is_decided else None for each in self._noted])
        prepared = any(each.was_prepared for each in self._noted)
        self._done(AccountViews(self._request.request, views, undecided, prepared=prepared))


class Posted:
    """Waits until legs are settled here, for a statement that has to show them; `done` says whether they were in time."""

    def __init__(
        self, legs: Sequence[PreparedLegs], anchors: Anchors, done: Callable[[bool], None]
    ) -> None:
        self._anchors = anchors
        self._done = done
        self._open = {one.xid: None for one in legs}
        anchors.wait(legs, self._on_outcome, settled=True)
        self._patience = asyncio.get_running_loop().call_later(_PATIENCE_SECONDS, self._give_up)

    def _on_outcome(self, xid: bytes, _: Commit | Abort) -> None:
        self._open.pop(xid, None)
        if not self._open:
            self._patience.cancel()
            self._done(True)  # noqa: FBT003 - its one argument

    def _give_up(self) -> None:
        self._anchors.leave(self._open, self._on_outcome)
        self._done(False)  # noqa: FBT003 - its one argument


def shown(rows: RowCache, request: ReadPostings) -> list[PreparedLegs]:
    """The legs that a statement begun now has to show once they are committed."""
    account = _visible(rows, request.number)
    if account is not None and 0 < request.before <= account.sequence + 1:
        return []  # a page that is full of what is posted: nothing comes in between
    return rows.prepared_on((request.number,))
