"""The node's log writes: whatever all groups have to write while one batch is on its way to disk is the next.

So one fsync serves every group, batches grow with the load, and nobody waits for one to fill. A disk that doesn't answer
for long has failed: whoever waits for this node's word has others to turn to, once it is silent for good.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from mas.errors import StorageError, WriteHangs
from mas.multiraft.ports import LogBatch, RaftLog, Worker
from mas.runtime import Promise

_log = logging.getLogger(__name__)

# Behind a write for very many groups the loop is let go now and again (rule 38).
_FINISHERS_PER_TURN = 128
# A process that was stopped for a while finds one look overdue, not all: it goes on.
_LOOKS = 10


class LogWriter:
    """Fills one batch on the loop while the one before is written in the log's thread."""

    def __init__(self, log: RaftLog, thread: Worker, seconds_max: float) -> None:
        self._log = log
        self._thread = thread
        self._seconds_max = seconds_max
        self._begun = asyncio.Event()
        self._sync = False
        self._finishers: list[Callable[[], None]] = []
        self.batch: LogBatch = log.batch()
        """Being filled; whoever writes to it calls `submit` before anything else runs."""
        self.commits = 0
        self._is_writing = False

    def submit(self, finish: Callable[[], None] | None = None, *, sync: bool) -> None:
        """Have the batch written; `finish` is called on the loop once it is (with `sync`: durably)."""
        self._sync = self._sync or sync
        if finish is not None:
            self._finishers.append(finish)
        self._begun.set()

    async def write(self, fill: Callable[[], None]) -> None:
        """Return once what `fill` has put into the batch, and all before it, is durable."""
        written: Promise[None] = Promise()
        fill()
        self.submit(partial(written.set, None), sync=True)
        await written

    async def run(self) -> None:
        """Write batch after batch.

        Raises:
            StorageError: a write failed. Nobody knows what is on the disk, so the process must stop.
        """
        while True:
            await self._begun.wait()
            self._begun.clear()
            batch, self.batch = self.batch, self._log.batch()
            finishers, self._finishers = self._finishers, []
            sync, self._sync = self._sync, False
            try:
                self._is_writing = True
                await self._thread.run(partial(batch.commit, sync=sync))
                self._is_writing = False
            except StorageError as error:
                _log.critical("the Raft log can't be written, this process must stop: %s", error)
                raise
            self.commits += 1
            for position, finish in enumerate(finishers, 1):
                finish()
                if position % _FINISHERS_PER_TURN == 0:
                    await asyncio.sleep(0)

    async def watch(self) -> None:
        """Look after the disk, beside `run`, until cancelled.

        Raises:
            WriteHangs: one write hasn't returned for too long. Its thread can't be waited for.
        """
        looks = seen = 0
        while True:
            await asyncio.sleep(self._seconds_max / _LOOKS)
            looks = looks + 1 if self._is_writing and self.commits == seen else 0
            seen = self.commits
            if looks > _LOOKS:
                raise WriteHangs(
                    f"a write of the Raft log hasn't returned for {self._seconds_max:g} seconds: the disk hangs. The other "
                    "nodes go on; look at the disk, then start this node again"
                )
