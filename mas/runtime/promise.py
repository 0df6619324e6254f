"""An answer that is still to come: whoever has it sets it, and whoever needs it awaits it."""

import asyncio
from typing import TypeVar

T = TypeVar("T")


class Promise(asyncio.Future[T]):
    """One answer for one waiter, on the running event loop.

    The first word counts: what comes after it, or after the waiter has gone, is dropped. So an answer, a broken
    connection and a deadline may race, and none of them asks who was first. It is a future, and not a wrapper of one,
    because awaiting it then costs nothing more.
    """

    __slots__ = ()

    def set(self, answer: T) -> None:
        """Answer, unless that is done or the waiter has gone."""
        if not self.done():
            self.set_result(answer)

    def fail(self, error: Exception) -> None:
        """Have the waiter raise this, unless it has its answer or has gone."""
        if not self.done():
            self.set_exception(error)

    async def wait(self, timeout: float) -> T:
        """Return the answer.

        Raises:
            TimeoutError: none came within `timeout` seconds; one that comes later is dropped.
        """
        async with asyncio.timeout(timeout):
            return await self
