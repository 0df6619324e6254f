"""Blocking work runs in a thread of its own."""

import asyncio

import pytest

from mas.multiraft import WorkerThread


@pytest.mark.asyncio
async def test_worker_thread_runs_in_order_and_raises_what_is_raised() -> None:
    thread = WorkerThread("test")
    done: list[int] = []
    await asyncio.gather(*(thread.run(lambda n=n: done.append(n)) for n in range(20)))
    assert done == list(range(20))

    def fail() -> None:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        await thread.run(fail)
    thread.close()
