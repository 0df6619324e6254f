"""Calls that arrive in one turn of the loop go to the coordinator together: one batch, not one each."""

import asyncio

from mas.api.ports import Coordinator
from mas.api.shares import Held, Share
from mas.errors import Unavailable
from mas.transaction.outcome import PaymentRequest, PaymentResult


class Gathering:
    """Where single requests wait for the rest of their turn; no timer, so nobody waits longer."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._requests: list[PaymentRequest] = []
        self._futures: list[asyncio.Future[PaymentResult]] = []
        self._shares: list[Share] = []

    def submit(self, request: PaymentRequest, share: Share) -> asyncio.Future[PaymentResult]:
        """What becomes of one request; fails with `Unavailable` when it was not begun.

        It is held in its caller's share until then, whether or not the caller still waits.

        Raises:
            Overloaded: the caller has its share of payments under way.
        """
        share.take(Held.PAYMENTS)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[PaymentResult] = loop.create_future()
        if not self._requests:
            loop.call_soon(self._hand_over)
        self._requests.append(request)
        self._futures.append(future)
        self._shares.append(share)
        return future

    def _hand_over(self) -> None:
        requests, futures, shares = self._requests, self._futures, self._shares
        self._requests, self._futures, self._shares = [], [], []

        def on_result(position: int, result: PaymentResult) -> None:
            shares[position].give(Held.PAYMENTS)
            # The caller may have gone.
            if not futures[position].done():
                futures[position].set_result(result)

        try:
            self._coordinator.submit(requests, on_result)
        except Unavailable as error:
            for share, future in zip(shares, futures, strict=True):
                share.give(Held.PAYMENTS)
                if not future.done():
                    future.set_exception(error)
