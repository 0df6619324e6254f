"""One bucket on this node: its ledger in memory, its rows in the AccountDB, the flusher between them, and who leads.

A snapshot replaces the ledger and the flusher, so workers hold the replica and look at `ledger` each time they use it.
"""

import asyncio
import logging

from mas.errors import DatabaseUnavailable
from mas.ledger import Ledger, Missing
from mas.ledger.instructions import RejectReason
from mas.ledger.row_cache import RowCache
from mas.ledger.rows import ResidentState
from mas.multiraft.events import Leadership
from mas.resource.flusher import Flusher
from mas.resource.ports import AccountDB, Group
from mas.resource.settings import ResourceSettings
from mas.rpc.messages import Rejected
from mas.runtime import Clock

_log = logging.getLogger(__name__)

_RELOAD_SECONDS = 0.5
_FILTER_PAGE = 5_000


def writer_mark(proposer: int) -> bytes:
    """The `writer` that this process is to its databases (rule 25, conditional flush)."""
    return proposer.to_bytes(8, "big")


class Replica:
    """Owns one bucket's state on this node, and keeps it and its rows together."""

    ledger: Ledger
    flusher: Flusher

    def __init__(
        self,
        bucket: int,
        resident: ResidentState,
        group: Group,
        database: AccountDB,
        writer: bytes,
        clock: Clock,
        settings: ResourceSettings,
    ) -> None:
        self.bucket = bucket
        self.leadership = Leadership(0, 0, leading=False)
        """Who leads the bucket; the service sets it in the order of commit_c."""
        self._group = group
        self._database = database
        self._writer = writer
        self._clock = clock
        self._flush_pause = settings.flush_pause
        self._filter_empty = asyncio.Event()
        self._start_from(resident)

    def _start_from(self, resident: ResidentState) -> None:
        self.ledger = Ledger(resident)
        self.flusher = Flusher(
            self.ledger, self._database, self._writer, self._clock, self._flush_pause
        )
        self._filter_empty.set()

    @property
    def rows(self) -> RowCache:
        """The ledger's rows in memory."""
        return self.ledger.rows

    @property
    def leading(self) -> bool:
        """Whether this node leads the bucket."""
        return self.leadership.leading

    def not_leading(self, request: int, positions: tuple[int, ...] = ()) -> Rejected:
        """Tell whoever sent this request who leads instead."""
        leader = self.leadership.leader
        return Rejected(request, RejectReason.NOT_LEADING, positions, leader)

    async def load(self, missing: Missing) -> None:
        """Take these rows into memory, waiting as long as the database is down.

        They are no older than the last flush acknowledged by the time they are here (rule 23, loads).
        """
        while True:
            try:
                loaded = await self._database.load(
                    self.bucket, missing.accounts, missing.records, missing.claims
                )
            except DatabaseUnavailable as error:
                _log.error("bucket %d waits for rows: %s", self.bucket, error)
                await self._clock.sleep(_RELOAD_SECONDS)
                continue
            if loaded.applied >= self.flusher.flushed:
                self.rows.load(missing, loaded)
                return

    async def flush(self) -> None:
        """Write what has changed to the database once something has, and tell the group.

        Raises:
            StorageError: the database isn't where this process left it (rule 25).
        """
        flusher = self.flusher
        await flusher.flush()
        if flusher is self.flusher:
            self.report_applied()

    def report_applied(self) -> None:
        """Tell the group how far the state is applied and durable (rule 26, durably applied)."""
        self._group.set_applied(self.rows.bucket.applied, self.flusher.flushed)

    async def reopen(self) -> None:
        """Start anew from the rows that a snapshot has put into the database.

        Waits as long as the database is down: the installation may just have filled the disk.
        """
        resident = await self._open()
        before = self.flusher
        self._start_from(resident)
        before.retire()

    async def _open(self) -> ResidentState:
        while True:
            try:
                return await self._database.open(self.bucket, self._writer)
            except DatabaseUnavailable as error:
                _log.error(
                    "bucket %d waits for the database behind a snapshot: %s", self.bucket, error
                )
                await self._clock.sleep(_RELOAD_SECONDS)

    async def fill_filter(self) -> None:
        """Put every record's id into a new ledger's filter, which answers "maybe" until then (rule 24, record filter)."""
        await self._filter_empty.wait()
        self._filter_empty.clear()
        record_filter, after = self.rows.filter, b""
        while page := await self._payment_ids(after):
            record_filter.add_all(page)
            after = page[-1]
        record_filter.complete()

    async def _payment_ids(self, after: bytes) -> list[bytes]:
        while True:
            try:
                return await self._database.payment_ids(self.bucket, after, _FILTER_PAGE)
            except DatabaseUnavailable as error:
                _log.error("bucket %d's filter waits for records: %s", self.bucket, error)
                await self._clock.sleep(_RELOAD_SECONDS)
