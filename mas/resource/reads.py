"""Reads of a bucket: what an account looks like, to whom (design, section 8; rules 29, 30).

A linearizable read waits for its read index to be applied and then fixes its answer: the balance at that moment, and of
the legs then prepared on the account those that turn out to be committed. Their anchors are asked; whatever is still
undecided when its anchor answers was told to nobody before this read began, and is left out.
"""

from collections.abc import Callable, Sequence

import msgspec

from mas.ledger import (
    UNKNOWN,
    Account,
    Answer,
    Chunk,
    Commit,
    Kind,
    Ledger,
    Look,
    PreparedLegs,
)
from mas.resource.ports import Buckets
from mas.transaction.messages import (
    AccountView,
    AccountViews,
    Claims,
    Nodes,
    ReadAccounts,
    ReadClaims,
    ReadLevel,
    ReadNodes,
    Reply,
    TurnedAway,
    Why,
)
from mas.transaction.participant import settle


class Read(msgspec.Struct, gc=False):
    """One read and where its answer goes."""

    peer: int
    request: ReadAccounts | ReadClaims | ReadNodes


def missing_numbers(ledger: Ledger, request: ReadAccounts | ReadClaims | ReadNodes) -> list[str]:
    """Which of the rows that this read needs aren't in memory."""
    if isinstance(request, ReadNodes):
        return []
    find = ledger.claim if isinstance(request, ReadClaims) else ledger.account
    return [number for number in request.numbers if find(number) is UNKNOWN]


def view_claims(ledger: Ledger, request: ReadClaims) -> Claims:
    """The claims asked for; every row is in memory."""
    claims = (ledger.claim(number) for number in request.numbers)
    return Claims(
        request.request, tuple(claim if isinstance(claim, int) else 0 for claim in claims)
    )


def view_nodes(ledger: Ledger, request: ReadNodes) -> Nodes:
    """The cluster's register, which is always in memory."""
    bucket = ledger.bucket
    return Nodes(request.request, bucket.nodes_index, bucket.nodes)


def view_accounts(ledger: Ledger, request: ReadAccounts, bucket: int, age_ms: int) -> AccountViews:
    """The accounts asked for as they stand now, all in memory; a READ_UNCOMMITTED one with prepared legs counted in."""
    accounts = [_visible(ledger, number) for number in request.numbers]
    return AccountViews(
        request.request,
        tuple(
            None if account is None else _view(account, bucket, request.level)
            for account in accounts
        ),
        any(account is not None and (account.held or account.headroom) for account in accounts),
        age_ms if request.level is ReadLevel.STALE else 0,
    )


def _visible(ledger: Ledger, number: str) -> Account | None:
    account = ledger.account(number)
    assert account is not UNKNOWN
    return account


def _view(account: Account, bucket: int, level: ReadLevel) -> AccountView:
    uncommitted = level is ReadLevel.READ_UNCOMMITTED
    in_flight = account.headroom - account.held if uncommitted else 0
    return AccountView(
        number=account.number,
        id=account.id,
        currency=account.currency,
        balance=account.balance + in_flight,
        held=account.held,
        overdraft_limit=account.overdraft_limit,
        frozen=account.frozen,
        closed=account.closed,
        version=account.version,
        sequence=account.sequence,
        bucket=bucket,
    )


class Firm:
    """A linearizable answer in the making: the views are fixed, the legs prepared at that moment are asked about.

    An account whose creation turns out to be committed has no row yet to be looked at: then `later` gets what creates it,
    and the read has to begin again.
    """

    def __init__(
        self,
        views: AccountViews,
        legs: Sequence[PreparedLegs],
        done: Callable[[Reply], None],
        later: Callable[[tuple[Commit, ...]], None],
    ) -> None:
        self._views = views
        self._done = done
        self._later = later
        self._opened: list[Commit] = []
        self._outstanding = len(legs)
        self._committed: list[PreparedLegs] = []
        self._unanswered = False
        self._legs = legs

    def ask(self, buckets: Buckets) -> None:
        """Ask every leg's anchor, one message an anchor."""
        by_anchor: dict[int, list[PreparedLegs]] = {}
        for prepared in self._legs:
            by_anchor.setdefault(prepared.anchor, []).append(prepared)
        for anchor, asked in by_anchor.items():
            looks = tuple(Look(prepared.payment_id) for prepared in asked)
            buckets.submit(anchor, Chunk(b"", 0, looks), self._hear(asked))

    def _hear(self, asked: list[PreparedLegs]) -> Callable[[int, Answer | TurnedAway], None]:
        def on_answer(position: int, answer: Answer | TurnedAway) -> None:
            self._outstanding -= 1
            if isinstance(answer, TurnedAway):
                self._unanswered = True
            elif isinstance(decided := settle(asked[position], answer), Commit):
                if asked[position].kind is Kind.CREATION:
                    self._opened.append(decided)
                else:
                    self._committed.append(asked[position])
            if not self._outstanding:
                self._conclude()

        return on_answer

    def _conclude(self) -> None:
        if self._unanswered:
            detail = "a payment under way on the account can't be looked up: its payer's bucket doesn't answer"
            self._done(TurnedAway(self._views.request, Why.UNAVAILABLE, detail=detail))
            return
        if self._opened:
            self._later(tuple(self._opened))
            return
        views = self._views.views
        for prepared in self._committed:
            for number, amount in prepared.legs:
                views = tuple(
                    msgspec.structs.replace(view, balance=view.balance + amount)
                    if view is not None and view.number == number
                    else view
                    for view in views
                )
        self._done(msgspec.structs.replace(self._views, views=views))
