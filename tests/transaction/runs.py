"""One run of the machine, told event by event; what it wants done waits in `effects`."""

from typing import TypeVar

from mas.ids import INCARNATION_BYTES
from mas.ledger.instructions import Answer, Body, Code, Instruction, Kind, Reason, RejectReason
from mas.transaction.machine import Effect, GlobalTransaction, Later, Reply, Send
from mas.transaction.outcome import PaymentResult, hash_body
from mas.transaction.placement import Placement, place
from mas.transaction.xid_source import XidSource

T = TypeVar("T")

PAYER, PAYEE, THIRD = "A", "B", "C"
ANCHOR, OTHER, FAR = 1, 2, 3
TRANSFER = Body(Kind.PAYMENT, "USD", ((PAYER, -5), (PAYEE, 5)))
SPLIT = Body(Kind.PAYMENT, "USD", ((PAYER, -5), (PAYEE, 2), (THIRD, 3)))
PAYMENT_ID = bytes(16)
SOMEBODY_ELSE = b"x" * 16


def lives() -> XidSource:
    """Attempts whose incarnations are numbered from 1."""
    names = iter(range(1, 100))
    return XidSource(lambda: next(names).to_bytes(INCARNATION_BYTES, "big"))


class Run:
    """A payment's run with everything that it has wanted so far."""

    def __init__(
        self,
        body: Body = TRANSFER,
        buckets: tuple[int, ...] = (ANCHOR, OTHER),
        *,
        placement: Placement | None = None,
        repeat: bool = False,
        exclusive: bool = False,
    ) -> None:
        self.attempts = lives()
        self.transaction = GlobalTransaction(
            PAYMENT_ID, body, hash_body(body), self.attempts, repeat, exclusive
        )
        self.placement = placement or place(body, buckets)
        self.effects: list[Effect] = []

    def start(self) -> "Run":
        self.transaction.located(self.placement, self.effects)
        return self

    def take(self, kind: type[T]) -> list[T]:
        """The effects of this kind that wait, in order; they wait no longer."""
        taken = [effect for effect in self.effects if isinstance(effect, kind)]
        self.effects = [effect for effect in self.effects if not isinstance(effect, kind)]
        return taken

    def sent(self, kind: type) -> list[Send]:
        """The sends of this kind of instruction that wait, in order; they wait no longer."""
        sends = [
            effect
            for effect in self.effects
            if isinstance(effect, Send) and isinstance(effect.instruction, kind)
        ]
        self.effects = [
            effect
            for effect in self.effects
            if not (isinstance(effect, Send) and isinstance(effect.instruction, kind))
        ]
        return sends

    def one(self, kind: type) -> Send:
        sends = self.sent(kind)
        assert len(sends) == 1, f"{len(sends)} of {kind.__name__}: {self.effects}"
        return sends[0]

    def answer(
        self, send: Send, code: Code, reason: Reason = Reason.NONE, **fields: object
    ) -> None:
        answer = Answer(code, reason, **fields)  # type: ignore[arg-type]
        self.transaction.answered(send, answer, self.effects)

    def turn_away(self, send: Send, why: RejectReason) -> None:
        self.transaction.turned_away(send, why, self.effects)

    def late(self) -> None:
        self.transaction.late_now(self.effects)

    def expire(self) -> None:
        self.transaction.expired(self.effects)

    def wait(self) -> None:
        """All pauses are over."""
        for later in self.take(Later):
            self.transaction.again(later.send, self.effects)

    def result(self) -> PaymentResult:
        """What the client hears, now and only once."""
        replies = self.take(Reply)
        assert len(replies) == 1, f"{len(replies)} replies"
        return replies[0].result

    def is_silent(self) -> bool:
        return not any(isinstance(effect, Reply) for effect in self.effects)

    def wants(self) -> list[type[Instruction] | type[Effect]]:
        """What waits, by name: instructions for sends."""
        return [
            type(effect.instruction) if isinstance(effect, Send) else type(effect)
            for effect in self.effects
        ]
