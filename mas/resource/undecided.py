"""Rule 15: what would be refused only because of a leg still undecided isn't refused at once.

The bucket's leader asks the anchors of those legs, then proposes again, one time, behind what it has learned. What is
still undecided then has been answered to nobody, so the second proposal names it and the ledger leaves it out. Each
instruction goes on when its own questions are answered, or an anchor has kept it waiting for too long: the
leg counts then as it stands, and the attempt ends if it depends on it.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from mas.ledger import NONE_LEFT_OUT, Batch, Decide, Prepare, PreparedLegs
from mas.limits import TURN_INSTRUCTIONS_MAX
from mas.resource.anchors import Anchors, Open, Word
from mas.resource.reply_to import ReplyTo

_PATIENCE_SECONDS = 1.0
"""Well below the time after which whoever asked gives the bucket up."""


class Waiting(msgspec.Struct, gc=False):
    """An instruction that the ledger answered PENDING_ON, and whom its answer is for."""

    route: ReplyTo
    position: int
    instruction: Prepare | Decide
    xids: tuple[bytes, ...]


class _Group(msgspec.Struct, eq=False):
    """Instructions that wait for the same legs."""

    items: dict[bytes, Waiting]
    """By their own xids."""
    open: dict[bytes, None]
    """Legs without a word."""
    undecided: dict[bytes, None]
    """By the word of their anchors. Where an anchor is out of reach, its legs are not among them."""
    patience: asyncio.TimerHandle | None = None


class SetAside:
    """What waits for the anchors of other payments' legs."""

    def __init__(
        self, anchors: Anchors, again: Callable[[list[Waiting], tuple[bytes, ...]], None]
    ) -> None:
        """`again` takes what is to be proposed a second time, and what is left out then."""
        self._anchors = anchors
        self._again = again
        self._groups: dict[bytes, _Group] = {}

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, waiting: Iterable[Waiting], legs: Mapping[bytes, PreparedLegs]) -> None:
        """Set these aside until the legs that they name have a word, or time is up."""
        groups: dict[tuple[bytes, ...], _Group] = {}
        for item in waiting:
            # Of an earlier copy whoever sent it has lost sight, before it sent this one.
            self.end(item.instruction.xid)
            group = groups.get(item.xids)
            if group is None:
                group = groups[item.xids] = _Group({}, {}, {})
            group.items[item.instruction.xid] = item
            self._groups[item.instruction.xid] = group
        for xids, group in groups.items():
            self._ask(group, [legs[xid] for xid in xids if xid in legs])

    def _ask(self, group: _Group, legs: list[PreparedLegs]) -> None:
        def hear(xid: bytes, word: Word) -> None:
            if xid not in group.open:
                return
            del group.open[xid]
            if word is Open.UNDECIDED:
                group.undecided[xid] = None
            if not group.open:
                self._conclude(group)

        group.open = {one.xid: None for one in legs}
        loop = asyncio.get_running_loop()
        for one in legs:
            self._anchors.ask(one, hear)
        pause = _PATIENCE_SECONDS if legs else 0.0
        group.patience = loop.call_later(pause, self._conclude, group)

    def _conclude(self, group: _Group) -> None:
        group.open.clear()
        if group.patience is not None:
            group.patience.cancel()
        items = [item for xid, item in group.items.items() if self._groups.get(xid) is group]
        for item in items:
            del self._groups[item.instruction.xid]
        if items:
            self._again(items, tuple(group.undecided) or NONE_LEFT_OUT)

    def end(self, xid: bytes) -> Waiting | None:
        """The attempt that brought this instruction has ended: it isn't proposed again (rule 10)."""
        group = self._groups.pop(xid, None)
        return None if group is None else group.items.pop(xid)

    def give_up(self) -> list[Waiting]:
        """All that is set aside, which has done nothing."""
        items = [group.items[xid] for xid, group in self._groups.items()]
        for group in dict.fromkeys(self._groups.values()):
            group.open.clear()
            if group.patience is not None:
                group.patience.cancel()
        self._groups.clear()
        return items


def second_proposals(
    items: Iterable[Waiting], left_out: tuple[bytes, ...]
) -> Iterator[tuple[Batch, ReplyTo]]:
    """What waited together, as one batch for each request that brought some: what is left out is named once for all of it."""
    by_request: dict[tuple[int, int], list[Waiting]] = {}
    for item in items:
        by_request.setdefault((item.route.peer, item.route.request), []).append(item)
    for (peer, request), together in by_request.items():
        for start in range(0, len(together), TURN_INSTRUCTIONS_MAX):
            part = together[start : start + TURN_INSTRUCTIONS_MAX]
            instructions = tuple([item.instruction for item in part])
            positions = tuple([item.position for item in part])
            yield Batch(b"", 0, instructions, left_out), ReplyTo(peer, request, positions)
