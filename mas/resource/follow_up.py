"""What follows from the anchors' words: outcomes are settled in the log, and behind them what waited for them is proposed again.

All words of a turn become one proposal, the outcomes first, so that a second proposal (rule 15, contention) finds them applied.
"""

import asyncio
from collections.abc import Iterable, Iterator

from mas.ledger import Abort, Batch, Commit
from mas.limits import TURN_INSTRUCTIONS_MAX
from mas.resource.contention import Waiting, turn_back
from mas.resource.proposals import Item, Proposals
from mas.resource.replica import Replica
from mas.resource.reply_to import ReplyTo, SendReply


class FollowUp:
    """Proposes what the anchors' words lead to, once a turn."""

    def __init__(self, replica: Replica, proposals: Proposals, reply: SendReply) -> None:
        self._replica = replica
        self._proposals = proposals
        self._reply = reply
        self._outcomes: list[Commit | Abort] = []
        self._again: list[tuple[list[Waiting], tuple[bytes, ...]]] = []

    def settle(self, outcome: Commit | Abort) -> None:
        """Take what became of legs that are prepared here."""
        self._send_soon()
        self._outcomes.append(outcome)

    def propose_again(self, items: list[Waiting], left_out: tuple[bytes, ...]) -> None:
        """Take what waited for words of anchors, and the legs that they call undecided."""
        self._send_soon()
        self._again.append((items, left_out))

    def _send_soon(self) -> None:
        if not self._outcomes and not self._again:
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        outcomes, self._outcomes = self._outcomes, []
        again, self._again = self._again, []
        if not self._replica.leading:
            turn_back([item for items, _ in again for item in items], self._replica, self._reply)
            return
        for start in range(0, len(outcomes), TURN_INSTRUCTIONS_MAX):
            self._proposals.add_own(*outcomes[start : start + TURN_INSTRUCTIONS_MAX])
        for items, left_out in again:
            for batch, reply_to in _second_proposals(items, left_out):
                self._proposals.add(Item.of(batch, reply_to))
        self._proposals.send()


def _second_proposals(
    items: Iterable[Waiting], left_out: tuple[bytes, ...]
) -> Iterator[tuple[Batch, ReplyTo]]:
    """Gather what waited together in one batch for each request that brought some: what is left out is named once for all of it."""
    by_request: dict[tuple[int, int], list[Waiting]] = {}
    for item in items:
        by_request.setdefault((item.reply_to.peer, item.reply_to.request), []).append(item)
    for (peer, request), together in by_request.items():
        for start in range(0, len(together), TURN_INSTRUCTIONS_MAX):
            part = together[start : start + TURN_INSTRUCTIONS_MAX]
            instructions = tuple([item.instruction for item in part])
            positions = tuple([item.position for item in part])
            yield Batch(b"", 0, instructions, left_out), ReplyTo(peer, request, positions)
