"""Which buckets a payment is placed in: those of its accounts, and for a new account one that its number doesn't choose."""

from collections.abc import Callable
from functools import partial

from mas.coordinator.directory import Directory
from mas.coordinator.payment import Payment
from mas.coordinator.placement_ids import PlacementIds
from mas.ids import home_bucket
from mas.ledger.instructions import EXTERNAL, Kind
from mas.rpc.ports import Buckets
from mas.transaction.placement import Placement, place, place_creation

OnLocated = Callable[[Payment, Placement], None]


class Locator:
    """Places payments, with the directory's help."""

    def __init__(
        self,
        directory: Directory,
        placement_ids: PlacementIds,
        buckets: Buckets,
        on_located: OnLocated,
    ) -> None:
        self._directory = directory
        self._placement_ids = placement_ids
        self._buckets = buckets
        self._on_located = on_located

    def locate(self, payment: Payment) -> Placement | None:
        """Place a payment. None where that takes a question: then it calls back, unless the payment is answered before."""
        body = payment.run.body
        buckets = self._directory.known(body.legs)
        if body.kind is Kind.CREATION:
            self._place_creation(payment)
        elif 0 in buckets and (body.kind is Kind.PAYMENT or not any(buckets)):
            self._find(payment, fresh=False)
        else:
            return place(body, buckets)
        return None

    def locate_anew(self, payment: Payment) -> None:
        """Place a payment whose accounts weren't where they were said to be: now only the homes' word counts."""
        if payment.run.body.kind is Kind.CREATION:
            self._place_creation(payment)
        else:
            self._find(payment, fresh=True)

    def _place_creation(self, payment: Payment) -> None:
        self._placement_ids.take(partial(self._on_id, payment))

    def _on_id(self, payment: Payment, placement_id: int) -> None:
        """Place a new account by a number that only chooses a place (rule 19, placement)."""
        buckets = self._buckets.all()
        home = home_bucket(payment.run.body.legs[0][0], self._directory.homes)
        bucket = buckets[placement_id % len(buckets)]
        self._on_located(payment, place_creation(home, bucket))

    def _find(self, payment: Payment, *, fresh: bool) -> None:
        run = payment.run
        numbers = [number for number, _ in run.body.legs if number != EXTERNAL]
        self._directory.find(
            numbers, partial(self._on_found, payment), lambda: not run.replied, fresh=fresh
        )

    def _on_found(self, payment: Payment, found: dict[str, int]) -> None:
        body = payment.run.body
        self._on_located(payment, place(body, [found.get(number, 0) for number, _ in body.legs]))
