"""Counts the money of a whole cluster from each replica's own state, and holds the replicas against each other."""

import asyncio

import msgspec

from mas.client import Client
from mas.errors import MasError
from mas.rpc.messages import BucketView
from mas.runtime import Clock, SystemClock

_SETTLE_SECONDS = 60.0
_POLL_SECONDS = 0.05


class AuditFailed(MasError):
    """Money is missing or made, or replicas don't agree."""


class Audit(msgspec.Struct, frozen=True):
    """A cluster at rest. Amounts in minor units."""

    total: dict[str, int]
    """The balances of all accounts but @external, by currency: what was put in."""
    payments: int
    """Records with the outcome COMMITTED, creations included."""
    lag_s: float
    """The oldest change, when first asked, that a replica's database didn't hold."""
    hashes: dict[int, str]
    """Each bucket's state hash, the same on all its replicas."""
    views: tuple[BucketView, ...]


async def audit(
    client: Client, clock: Clock | None = None, seconds: float = _SETTLE_SECONDS
) -> Audit:
    """Wait until nothing is under way and every replica holds everything, then count.

    Raises:
        AuditFailed: it doesn't come to rest, or what the replicas hold isn't right.
    """
    clock = clock or SystemClock()
    deadline = clock.monotonic() + seconds
    lag_ms = 0
    first = True
    while True:
        views = await _views(client)
        if first:
            lag_ms, first = max(view.lag_ms for view in views), False
        trouble = _unrest(views)
        if not trouble:
            break
        if clock.monotonic() > deadline:
            raise AuditFailed(f"not at rest after {seconds:.0f} s: {trouble}")
        await clock.sleep(_POLL_SECONDS)
    leading = {view.bucket: view for view in views}.values()
    total = _sums([view.balances for view in leading])
    external = _sums([view.external for view in leading])
    for currency, amount in total.items():
        if amount + external.get(currency, 0):
            raise AuditFailed(
                f"{currency}: accounts hold {amount}, and {-external.get(currency, 0)} came from outside"
            )
    return Audit(
        total,
        sum(view.records for view in leading),
        lag_ms / 1000,
        {view.bucket: view.state_hash for view in leading},
        views,
    )


async def _views(client: Client) -> tuple[BucketView, ...]:
    buckets = await client.buckets()
    return tuple(
        await asyncio.gather(
            *(
                client.bucket(bucket, replica)
                for bucket, replicas in buckets.items()
                for replica in replicas
            )
        )
    )


def _unrest(views: tuple[BucketView, ...]) -> str:
    """Return why the cluster isn't at rest yet; empty when it is."""
    newest: dict[int, BucketView] = {}
    for view in views:
        if view.prepared:
            return f"bucket {view.bucket} has {view.prepared} payments prepared"
        if view.applied != view.commit:
            # Its rows were read before its legs were counted: what settled them isn't among the rows.
            return f"bucket {view.bucket} has applied {view.commit}, and its rows are of {view.applied}"
        other = newest.setdefault(view.bucket, view)
        if other.applied != view.applied:
            return f"replicas of bucket {view.bucket} are at {other.applied} and {view.applied}"
        if other.state_hash != view.state_hash:
            return f"replicas of bucket {view.bucket} differ at index {view.applied}"
    return ""


def _sums(by_currency: list[dict[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for each in by_currency:
        for currency, amount in each.items():
            sums[currency] = sums.get(currency, 0) + amount
    return sums
