"""The ids of a coordinator's attempts, and its low-water mark.

counter    1 ... low_water ... next
           over, for sure │  maybe in phase 1  │ not made yet
"""

from collections import deque
from collections.abc import Callable

from mas.ids import make_xid, xid_counter, xid_incarnation


class XidSource:
    """Makes xids, each used once for all time (rule 2, attempts), and knows below which none is in phase 1 (rule 10,
    low-water mark).
    """

    __slots__ = ("_begun", "_in_phase_1", "_make_incarnation", "_names", "_next", "incarnation")

    def __init__(self, make_incarnation: Callable[[], bytes]) -> None:
        """`make_incarnation` gives a name that nobody has had, at each call."""
        self._make_incarnation = make_incarnation
        self._names: dict[bytes, None] = {}
        self._take_name()

    def renew(self, xid: bytes) -> None:
        """This xid's incarnation was taken for dead: go on under a new one, once (rule 10)."""
        if xid_incarnation(xid) == self.incarnation:
            self._take_name()

    def made(self, xid: bytes) -> bool:
        """Tell whether this is an xid of this life, under whatever name."""
        return xid_incarnation(xid) in self._names

    def _take_name(self) -> None:
        self.incarnation = self._make_incarnation()
        self._names[self.incarnation] = None
        self._next = 1
        # In the order of their counters; those that have left phase 1 are dropped from the front when it is looked at.
        self._begun: deque[bytes] = deque()
        self._in_phase_1: set[bytes] = set()

    def begin(self) -> bytes:
        """The xid of a new attempt, which is in phase 1 from now on."""
        xid = self.name()
        self._begun.append(xid)
        self._in_phase_1.add(xid)
        return xid

    def name(self) -> bytes:
        """An xid that is never in phase 1: of a payment within one bucket, or the owner of locks."""
        counter = self._next
        self._next = counter + 1
        return make_xid(self.incarnation, counter)

    def leave(self, xid: bytes) -> None:
        """This attempt sends no `Prepare` any more; told again, nothing changes."""
        self._in_phase_1.discard(xid)

    def low_water(self) -> int:
        """The counter below which no attempt is in phase 1; it only grows, and costs each xid one step."""
        begun, in_phase_1 = self._begun, self._in_phase_1
        while begun and begun[0] not in in_phase_1:
            begun.popleft()
        return xid_counter(begun[0]) if begun else self._next
