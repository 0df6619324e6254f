"""Calls of one caller that arrive in one turn of the loop go to the coordinator together: one batch, not one each."""

import asyncio

from mas.api.ports import Coordinator
from mas.api.shares import Held, Share
from mas.errors import Unavailable
from mas.transaction.outcome import PaymentRequest, PaymentResult

_Future = asyncio.Future[PaymentResult]


class Coalescer:
    """Where single requests wait for the rest of their turn; no timer, so nobody waits longer."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._gathered: dict[Share, tuple[list[PaymentRequest], list[_Future]]] = {}

    def submit(self, request: PaymentRequest, share: Share) -> _Future:
        """What becomes of one request; fails with `Unavailable` when it was not begun.

        It is held in its caller's share until then, whether or not the caller still waits.

        Raises:
            Overloaded: the caller has its share of payments under way.
        """
        share.take(Held.PAYMENTS)
        loop = asyncio.get_running_loop()
        future: _Future = loop.create_future()
        if not self._gathered:
            loop.call_soon(self._hand_over)
        requests, futures = self._gathered.setdefault(share, ([], []))
        requests.append(request)
        futures.append(future)
        return future

    def _hand_over(self) -> None:
        gathered, self._gathered = self._gathered, {}
        for share, (requests, futures) in gathered.items():
            self._begin(share, requests, futures)

    def _begin(self, share: Share, requests: list[PaymentRequest], futures: list[_Future]) -> None:
        def on_result(position: int, result: PaymentResult) -> None:
            share.give(Held.PAYMENTS)
            # The caller may have gone.
            if not futures[position].done():
                futures[position].set_result(result)

        try:
            self._coordinator.submit(share.caller.name, requests, on_result)
        except Unavailable as error:
            share.give(Held.PAYMENTS, len(futures))
            for future in futures:
                if not future.done():
                    future.set_exception(error)
