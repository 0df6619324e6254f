"""Calls of one caller that arrive in one turn of the loop go to the coordinator together: one batch, not one each."""

import asyncio

from mas.api.ports import Coordinator
from mas.api.shares import Held, Share
from mas.errors import Unavailable
from mas.runtime import Promise
from mas.transaction.outcome import PaymentRequest, PaymentResult


class Coalescer:
    """Where single requests wait for the rest of their turn; no timer, so nobody waits longer."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._gathered: dict[Share, tuple[list[PaymentRequest], list[Promise[PaymentResult]]]] = {}

    def submit(self, request: PaymentRequest, share: Share) -> Promise[PaymentResult]:
        """Submit one request. The promise is its result; it fails with `Unavailable` if the request was not begun.

        It is held in its caller's share until then, whether or not the caller still waits.

        Raises:
            Overloaded: the caller has its share of payments under way.
        """
        share.take(Held.PAYMENTS)
        promise: Promise[PaymentResult] = Promise()
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._hand_over)
        requests, promises = self._gathered.setdefault(share, ([], []))
        requests.append(request)
        promises.append(promise)
        return promise

    def _hand_over(self) -> None:
        gathered, self._gathered = self._gathered, {}
        for share, (requests, promises) in gathered.items():
            self._begin(share, requests, promises)

    def _begin(
        self, share: Share, requests: list[PaymentRequest], promises: list[Promise[PaymentResult]]
    ) -> None:
        def on_result(position: int, result: PaymentResult) -> None:
            share.give(Held.PAYMENTS)
            promises[position].set(result)

        try:
            self._coordinator.submit(share.caller.name, requests, on_result)
        except Unavailable as error:
            share.give(Held.PAYMENTS, len(promises))
            for promise in promises:
                promise.fail(error)
