"""Which bucket has which legs: the payer's is the anchor (rules 3, 17, 18)."""

import pytest

from mas.ledger.instructions import EXTERNAL, Body, Kind
from mas.transaction.placement import Placement, place, place_creation


def payment(*legs: tuple[str, int], kind: Kind = Kind.PAYMENT) -> Body:
    return Body(kind, "USD", legs)


@pytest.mark.parametrize(
    ("body", "buckets", "expected"),
    [
        # Two buckets; the first debit's is the anchor, whatever the order.
        (
            payment(("A", -5), ("B", 5)),
            (1, 2),
            Placement(1, (0,), ((2, (1,)),), (2,)),
        ),
        (
            payment(("B", 5), ("A", -5)),
            (2, 1),
            Placement(1, (1,), ((2, (0,)),), (2,)),
        ),
        # One bucket.
        (payment(("A", -5), ("B", 5)), (4, 4), Placement(4, (0, 1))),
        # Several payers: the first one counts.
        (
            payment(("A", -5), ("B", -1), ("C", 6)),
            (3, 1, 3),
            Placement(3, (0, 2), ((1, (1,)),), (1,)),
        ),
        # Two legs in one other bucket are together.
        (
            payment(("A", -5), ("B", 2), ("C", 3), ("D", 0)),
            (1, 2, 2, 3),
            Placement(1, (0,), ((2, (1, 2)), (3, (3,))), (2, 3)),
        ),
        # The outside world is wherever the account is.
        (payment((EXTERNAL, -5), ("A", 5), kind=Kind.DEPOSIT), (0, 3), Placement(3, (0, 1))),
        (payment(("A", -5), (EXTERNAL, 5), kind=Kind.WITHDRAWAL), (3, 0), Placement(3, (0, 1))),
        # Nobody has claimed the payer, or somebody else.
        (payment(("A", -5), ("B", 5)), (0, 2), Placement(0, missing="A")),
        (payment(("A", -5), ("B", 5)), (0, 0), Placement(0, missing="A")),
        (payment(("A", -5), ("B", 5)), (1, 0), Placement(1, missing="B")),
        (payment(("A", -5), ("B", 2), ("C", 3)), (1, 2, 0), Placement(1, missing="C")),
        (
            payment((EXTERNAL, -5), ("A", 5), kind=Kind.DEPOSIT),
            (0, 0),
            Placement(0, missing="A"),
        ),
    ],
)
def test_legs_are_grouped_by_bucket(
    body: Body, buckets: tuple[int, ...], expected: Placement
) -> None:
    assert place(body, buckets) == expected


def test_a_creation_is_claimed_at_home_and_made_where_it_is_placed() -> None:
    assert place_creation(1, 2) == Placement(1, (), ((2, (0,)),), (2,))
    assert place_creation(2, 2) == Placement(2, (0,))
