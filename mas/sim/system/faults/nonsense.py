"""A coordinator of another version, which sends what no rule of this one knows what to do with."""

from collections.abc import Sequence

from mas.ids import PAYMENT_ID_BYTES, XID_BYTES
from mas.ledger import Batch, Body, Decide, Kind, Prepare, Resolve
from mas.runtime import Dice
from mas.sim.plan import pick
from mas.sim.system.faults.aim import Aim, Strikes


class NonsenseFaults:
    """Sends instructions that can be decoded and not carried out."""

    def __init__(self, aim: Aim) -> None:
        self._aim = aim
        self._cluster = aim.cluster
        self._trace = aim.cluster.trace
        self._dice = aim.dice
        self.strikes: Strikes = {"nonsense": (self._send_nonsense,)}

    def _send_nonsense(self) -> None:
        """A coordinator of another version sends what no rule of this one knows what to do with."""
        manager = self._aim.manager()
        if manager is not None and manager.router is not None:
            bucket = pick(self._dice, list(self._cluster.placement))
            batch = Batch(b"", 0, (pick(self._dice, nonsense(self._dice)),))
            self._trace.add(manager.id, f"sends nonsense to bucket {bucket}")
            manager.process.post(manager.router.submit, bucket, batch, _hear_nothing)


def nonsense(dice: Dice) -> Sequence[Resolve | Decide | Prepare]:
    """Each is decoded well, and has a field that its rule can't work with."""
    xid, payment_id = dice.randbytes(XID_BYTES), dice.randbytes(PAYMENT_ID_BYTES)
    legs = ((f"a{dice.randrange(8)}", 1),)
    body = Body(Kind.PAYMENT, "USD", (("a1", -1), ("a2", 1)))
    return (
        Decide(xid, payment_id, 1, body, b"hash", (), own=(5,)),
        Resolve(payment_id[:1], 1, xid, b"hash"),
        Prepare(xid, payment_id, 1, b"hash", 99, (1,), Kind.PAYMENT, "USD", legs),
    )


def _hear_nothing(_: int, __: object) -> None:
    """Whoever sent it is content with any answer."""
