"""The audit of a cluster: it counts only what holds still."""

import msgspec
import pytest

from mas.client import Client
from mas.rpc.messages import BucketView
from mas.testing.audit import audit

AT_REST = BucketView(
    request=0,
    bucket=1,
    leader=1,
    term=1,
    commit=7,
    applied=7,
    flushed=7,
    accounts=1,
    balances={"USD": 100},
    external={"USD": -100},
    prepared=0,
    records=1,
    postings=2,
    state_hash="00",
)


class OneBucket(Client):
    """Answers with one view after the other."""

    def __init__(self, *views: BucketView) -> None:
        self._views = list(views)

    async def buckets(self, *, timeout: float | None = None) -> dict[int, list[int]]:
        return {1: [1]}

    async def bucket(
        self, bucket: int, replica: int, *, timeout: float | None = None
    ) -> BucketView:
        return self._views.pop(0)


@pytest.mark.asyncio
async def test_a_bucket_that_has_applied_more_than_was_counted_is_not_at_rest() -> None:
    """What is prepared was told as of the later index, and the money as of the earlier: a payment was in neither."""
    between = msgspec.structs.replace(AT_REST, applied=6, balances={"USD": 99})
    found = await audit(OneBucket(between, AT_REST))
    assert found.total == {"USD": 100}
