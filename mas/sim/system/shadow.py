"""A ledger for each bucket that belongs to no node: it applies what is committed before any replica does, and keeps the books.

Whatever a replica makes durable must have the state hash that the shadow had at that index.
"""

import asyncio
from collections.abc import Sequence

from mas.ledger import BucketRow, Instruction, Ledger, Loaded, ResidentState, decode_proposal
from mas.multiraft import Committed, RaftGroup
from mas.multiraft.events import CommitEvent
from mas.raft import Entry, EntryType
from mas.runtime import Mailbox
from mas.sim.system.books import Books
from mas.sim.trace import WORLD, Trace


class Shadow:
    """One bucket's committed past."""

    def __init__(self, bucket: int) -> None:
        self.ledger = Ledger(ResidentState(BucketRow(bucket), {}, {}))
        self.ledger.rows.filter.complete()
        self.hashes = [0]
        """By index."""

    @property
    def applied(self) -> int:
        """The newest index that any replica has been handed."""
        return self.ledger.rows.bucket.applied

    def apply(self, entry: Entry) -> tuple[Instruction, ...]:
        """The next entry; what it tells the ledger."""
        if entry.type is not EntryType.NORMAL or not entry.data:
            self.ledger.advance(entry.index, entry.term)
            return ()
        proposal = decode_proposal(entry.data)
        missing = self.ledger.missing(proposal)
        if missing:
            # All that there is is in memory: what isn't there isn't anywhere.
            self.ledger.rows.load(missing, Loaded(self.applied, {}, {}, {}))
        self.ledger.apply(entry.index, entry.term, proposal)
        return tuple(each for batch in proposal.batches for each in batch.instructions)


class Shadows:
    """All buckets', and who listens to their groups for them."""

    def __init__(self, buckets: Sequence[int], trace: Trace) -> None:
        self.books = Books(lambda what: trace.violate(WORLD, what))
        self.by_bucket = {bucket: Shadow(bucket) for bucket in buckets}
        self.asked: dict[bytes, int] = {}
        """By payment, or change of an account: how many instructions about it were committed."""
        self._trace = trace
        self._loop = asyncio.get_running_loop()

    def listen(self, group: RaftGroup) -> None:
        """Hear what this group commits, before its AccountService does."""
        if not isinstance(group.commit_c, _Tapped):
            group.commit_c = _Tapped(group.commit_c, self, group.id)

    def on_events(self, bucket: int, events: Sequence[CommitEvent]) -> None:
        """A replica is about to take these in."""
        shadow = self.by_bucket[bucket]
        for event in events:
            if isinstance(event, Committed):
                for entry in event.entries:
                    if entry.index == shadow.applied + 1:
                        self._apply(shadow, bucket, entry)

    def on_flushed(self, node: int, bucket: BucketRow) -> None:
        """A replica's state is durable."""
        shadow = self.by_bucket[bucket.bucket]
        self._trace.require(
            node,
            bucket.applied <= shadow.applied and shadow.hashes[bucket.applied] == bucket.state_hash,
            "bucket {} is flushed at {}, and has another state than the others had there",
            bucket.bucket,
            bucket.applied,
        )

    def _apply(self, shadow: Shadow, bucket: int, entry: Entry) -> None:
        try:
            instructions = shadow.apply(entry)
            writes = shadow.ledger.rows.take_writes()
        except Exception as error:  # noqa: BLE001  (whatever it is, every replica would stop here)
            self._trace.violate(
                WORLD, f"entry {entry.index} of bucket {bucket} can't be applied: {error!r}"
            )
            return
        for instruction in instructions:
            name = getattr(instruction, "payment_id", b"") or getattr(instruction, "change_id", b"")
            if name:
                self.asked[name] = self.asked.get(name, 0) + 1
        shadow.ledger.rows.flushed(writes)
        shadow.hashes.append(writes.bucket.state_hash)
        self._trace.add(
            WORLD, "bucket", bucket, "commits", entry.index, writes.bucket.state_hash & 0xFFFF
        )
        self.books.on_entry(bucket, writes, self._loop.time())


class _Tapped(Mailbox[CommitEvent]):
    """A group's commit_c, as its AccountService drains it."""

    __slots__ = ("_bucket", "_inner", "_shadows")

    def __init__(self, inner: Mailbox[CommitEvent], shadows: Shadows, bucket: int) -> None:
        super().__init__(inner.name, 1)
        self._inner = inner
        self._shadows = shadows
        self._bucket = bucket

    async def drain(self, limit: int | None = None) -> list[CommitEvent]:
        """All that waits, once the shadow knows of it."""
        events = await self._inner.drain(limit)
        self._shadows.on_events(self._bucket, events)
        return events

    def drain_nowait(self, limit: int | None = None) -> list[CommitEvent]:
        """Take what waits now, once the shadow knows of it."""
        events = self._inner.drain_nowait(limit)
        self._shadows.on_events(self._bucket, events)
        return events
