"""What `Anchors` sends, to whom."""

import asyncio

import pytest

from mas.ids import make_xid
from mas.ledger import Kind, PreparedLegs, QueryRecord, Resolve
from mas.resource.anchors import Anchors
from tests.resource.harness import FakeBuckets


def legs(number: int, anchor: int) -> PreparedLegs:
    return PreparedLegs(
        make_xid(b"coordinate", number),
        number.to_bytes(16, "big"),
        1,
        b"hash",
        anchor,
        (2,),
        Kind.PAYMENT,
        "USD",
        (("alice", 5),),
    )


@pytest.mark.asyncio
async def test_questions_of_a_turn_are_one_message_an_anchor_and_an_xid_once() -> None:
    buckets = FakeBuckets()
    anchors = Anchors(buckets, 0.25, lambda outcome: None)
    one, two, three = legs(1, anchor=4), legs(2, anchor=3), legs(3, anchor=4)

    for each in (one, two, one, three):
        anchors.ask_to_settle(each, abort=each is not two)
    await asyncio.sleep(0)

    assert {anchor: batch.instructions for anchor, batch, _ in buckets.asked} == {
        4: (
            Resolve(one.payment_id, 1, one.xid, b"hash"),
            Resolve(three.payment_id, 1, three.xid, b"hash"),
        ),
        3: (QueryRecord(two.payment_id),),
    }
    assert len(buckets.asked) == 2
