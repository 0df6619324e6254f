"""What names a payment, and what tells two bodies apart (rules 1, 3, 6)."""

import pytest

from mas import ids
from mas.ledger.instructions import EXTERNAL, Body, Kind, Legs, payer
from mas.transaction.outcome import PaymentRequest, hash_body, payment_id_of

TRANSFER = Body(Kind.PAYMENT, "USD", (("A", -5), ("B", 5)))


@pytest.mark.parametrize(
    ("kind", "legs", "number"),
    [
        (Kind.PAYMENT, (("B", 5), ("A", -5)), "A"),
        (Kind.PAYMENT, (("A", -2), ("B", -3), ("C", 5)), "A"),
        (Kind.DEPOSIT, ((EXTERNAL, -5), ("A", 5)), "A"),
        (Kind.DEPOSIT, (("A", 5), (EXTERNAL, -5)), "A"),
        (Kind.WITHDRAWAL, ((EXTERNAL, 5), ("A", -5)), "A"),
        (Kind.CREATION, (("A", 0),), "A"),
    ],
)
def test_rule_3_the_payer(kind: Kind, legs: Legs, number: str) -> None:
    assert payer(Body(kind, "USD", legs)) == number


def test_rule_1_a_payment_is_named_by_kind_key_space_payer_and_key() -> None:
    request = PaymentRequest("cluster", "key", TRANSFER)

    assert payment_id_of(request) == ids.payment_id(Kind.PAYMENT, "cluster", "A", "key")
    assert payment_id_of(PaymentRequest("cluster", "key", TRANSFER, repeat=True)) == payment_id_of(
        request
    )
    assert payment_id_of(PaymentRequest("keys:other", "key", TRANSFER)) != payment_id_of(request)


def test_rule_1_a_deposit_is_a_payment_and_a_creation_is_not() -> None:
    deposit = Body(Kind.DEPOSIT, "USD", ((EXTERNAL, -5), ("A", 5)))
    creation = Body(Kind.CREATION, "USD", (("A", 5),))

    assert payment_id_of(PaymentRequest("c", "k", deposit)) == ids.payment_id(
        Kind.PAYMENT, "c", "A", "k"
    )
    assert payment_id_of(PaymentRequest("c", "k", creation)) == ids.payment_id(
        Kind.CREATION, "c", "A", "k"
    )


@pytest.mark.parametrize(
    "other",
    [
        Body(Kind.PAYMENT, "EUR", (("A", -5), ("B", 5))),
        Body(Kind.PAYMENT, "USD", (("A", -6), ("B", 6))),
        Body(Kind.PAYMENT, "USD", (("A", -5), ("C", 5))),
        Body(Kind.PAYMENT, "USD", (("A", -5), ("B", 5)), reference="rent"),
        Body(Kind.PAYMENT, "USD", (("A", -5), ("B", 5)), overdraft_limit=1),
    ],
)
def test_bodies_that_differ_have_different_hashes(other: Body) -> None:
    assert hash_body(other) != hash_body(TRANSFER)
    assert hash_body(Body(Kind.PAYMENT, "USD", (("A", -5), ("B", 5)))) == hash_body(TRANSFER)
