"""Which bucket has which legs of a payment, as far as its coordinator knows."""

from collections.abc import Sequence

import msgspec

from mas.ledger.instructions import EXTERNAL, Body, payer_position


class Placement(msgspec.Struct, frozen=True, gc=False):
    """Where a payment's accounts are.

    With an account missing, nothing else is said of the legs.
    """

    anchor: int
    """0: nobody has claimed the payer."""
    own: tuple[int, ...] = ()
    """Which legs of the body are the anchor's."""
    others: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """Bucket and which legs, of every other bucket, in the order of the legs."""
    participants: tuple[int, ...] = ()
    """The other buckets alone."""
    missing: str = ""
    """An account that nobody has claimed: its home's linearizable word for it (rule 3, anchor and record)."""


def place(body: Body, buckets: Sequence[int]) -> Placement:
    """Group the legs of a payment by the buckets of their accounts; 0 says that nobody has claimed one.

    The `EXTERNAL` account is in every bucket: its leg goes where the payer is (rule 17, external account), whatever is
    said of it.
    """
    payer = payer_position(body)
    anchor = buckets[payer]
    if not anchor:
        return Placement(0, missing=body.legs[payer][0])
    if len(buckets) == 2:  # nearly every payment
        payee = 1 - payer
        bucket = buckets[payee]
        if bucket == anchor or body.legs[payee][0] == EXTERNAL:
            return Placement(anchor, (0, 1))
        if bucket:
            return Placement(anchor, (payer,), ((bucket, (payee,)),), (bucket,))
    return _place_many(body, buckets, anchor)


def _place_many(body: Body, buckets: Sequence[int], anchor: int) -> Placement:
    own: list[int] = []
    others: dict[int, list[int]] = {}
    missing = ""
    for position, (number, _) in enumerate(body.legs):
        bucket = anchor if number == EXTERNAL else buckets[position]
        if bucket == anchor:
            own.append(position)
        else:
            others.setdefault(bucket, []).append(position)
        if not bucket and not missing:
            missing = number
    if missing:
        return Placement(anchor, missing=missing)
    grouped = tuple([(bucket, tuple(positions)) for bucket, positions in others.items()])
    return Placement(anchor, tuple(own), grouped, tuple(others))


def place_creation(home: int, bucket: int) -> Placement:
    """A new account in `bucket`, claimed at its number's home, which is the anchor (rule 18, account creation)."""
    if home == bucket:
        return Placement(home, own=(0,))
    return Placement(home, others=((bucket, (0,)),), participants=(bucket,))
