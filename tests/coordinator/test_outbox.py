"""A batch is bounded, each caller's order stays, nothing is lost, and nobody waits behind another's thousands."""

from collections import defaultdict

import hypothesis.strategies as st
from hypothesis import given

from mas.coordinator.outbox import Outbox, Outgoing
from mas.coordinator.payment import Payment
from mas.ledger import Body, Commit, Kind, Prepare
from mas.limits import LEGS_PER_PAYMENT_MAX, TURN_BYTES_MAX, TURN_INSTRUCTIONS_MAX
from mas.transaction.attempt import Attempt, Part, SendFinish, SendPrepare
from mas.transaction.payment import PaymentRun
from mas.transaction.placement import Placement
from mas.transaction.xid_source import XidSource

_BODY = Body(Kind.PAYMENT, "USD", ())
_SMALL = Commit(bytes(16), 1)
_ATTEMPTS = XidSource(lambda: bytes(10))


def _prepare(legs: int) -> Prepare:
    return Prepare(bytes(16), bytes(16), 1, b"", 1, (2,), Kind.PAYMENT, "USD", (("a", 1),) * legs)


_WIDE = _prepare(LEGS_PER_PAYMENT_MAX)


def _sends(caller: str, count: int, instruction: Prepare | Commit = _SMALL) -> list[Outgoing]:
    run = PaymentRun(bytes(16), _BODY, b"", _ATTEMPTS)
    payment = Payment(run, caller, lambda _, __: None, 0, 0.0, 0.0)
    attempt = Attempt([], bytes(16), 1, Placement(1), bytes(16), _BODY, b"", {})
    if isinstance(instruction, Prepare):
        return [(payment, SendPrepare(1, instruction, attempt, Part(1))) for _ in range(count)]
    return [(payment, SendFinish(1, instruction, attempt, Part(1))) for _ in range(count)]


def _add(outbox: Outbox, sends: list[Outgoing]) -> None:
    for payment, send in sends:
        outbox.add(payment, send)


def _bytes(sends: list[Outgoing]) -> int:
    return sum(
        40 * len(send.instruction.legs) if isinstance(send.instruction, Prepare) else 32
        for _, send in sends
    )


def _sent(sends: list[Outgoing]) -> list[int]:
    return [id(send) for _, send in sends]


def test_what_fits_a_batch_is_the_next_one_in_its_order() -> None:
    outbox = Outbox()
    sends = _sends("a", 600) + _sends("b", 200) + _sends("a", 200)
    _add(outbox, sends)
    assert outbox.take() == sends
    assert outbox.take() == []


def test_kind_6_one_send_is_in_the_next_batch_however_much_waits_in_front_of_it() -> None:
    for instruction in (_SMALL, _WIDE):
        outbox = Outbox()
        _add(outbox, _sends("many", 8_192, instruction))
        outbox.take()
        single = _sends("one", 1)
        _add(outbox, single)
        batch = outbox.take()
        assert single[0] in batch
        assert len(batch) > 50, "the others' turn comes beside it"


def test_rule_38_a_batch_is_full_and_no_more() -> None:
    outbox = Outbox()
    _add(outbox, _sends("a", 2_500))
    sizes = [len(outbox.take()) for _ in range(3)]
    assert sizes == [TURN_INSTRUCTIONS_MAX, TURN_INSTRUCTIONS_MAX, 500]
    _add(outbox, _sends("a", 500, _WIDE))
    assert 0.95 * TURN_BYTES_MAX < _bytes(outbox.take()) + 120 * 97 <= TURN_BYTES_MAX


_Sends = st.tuples(
    st.sampled_from("abc"), st.integers(1, 1_500), st.sampled_from([_SMALL, _prepare(2), _WIDE])
)


@given(st.lists(st.one_of(_Sends, st.none()), max_size=8))
def test_nothing_is_lost_doubled_or_overtaken_by_its_own_caller(
    steps: list[tuple[str, int, Prepare | Commit] | None],
) -> None:
    outbox = Outbox()
    added: dict[str, list[Outgoing]] = defaultdict(list)
    taken: dict[str, list[Outgoing]] = defaultdict(list)

    def take() -> None:
        before = len(outbox)
        batch = outbox.take()
        assert bool(batch) == bool(before)
        assert len(batch) + len(outbox) == before
        assert len(batch) <= TURN_INSTRUCTIONS_MAX
        assert _bytes(batch) <= TURN_BYTES_MAX
        for payment, send in batch:
            taken[payment.caller].append((payment, send))

    for step in steps:
        if step is None:
            take()
        else:
            sends = _sends(*step)
            added[step[0]] += sends
            _add(outbox, sends)
    while outbox:
        take()
    assert {caller: _sent(sends) for caller, sends in taken.items()} == {
        caller: _sent(sends) for caller, sends in added.items()
    }
