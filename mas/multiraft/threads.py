"""A thread of one's own for work that blocks: the log's writes have one, snapshot files another.

Never the loop's default pool: a hundred name look-ups waiting there would hold up every payment's fsync.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class WorkerThread:
    """Runs one piece of work after the other, in the order of the calls."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, or raise what it raises. A cancelled call leaves it running."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self) -> None:
        """Wait for what has been begun; whatever it writes to may be closed after that."""
        self._executor.shutdown(wait=True, cancel_futures=True)
