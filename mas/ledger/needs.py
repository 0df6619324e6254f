"""Which rows an instruction will look at, so that they can be loaded before it is applied (rule 23, loads)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mas.ledger.instructions import (
    EXTERNAL,
    Abort,
    CloseIncarnation,
    Commit,
    Decide,
    Genesis,
    Kind,
    Legs,
    Mark,
    Prepare,
    QueryRecord,
    RecordRefusal,
    RegisterNode,
    Resolve,
    RetireNode,
    SetAccount,
    TakeEpoch,
    Unmark,
)
from mas.ledger.rows import PreparedLegs

_Prepared = Mapping[bytes, PreparedLegs]
Needs = tuple[Sequence[str], bytes | None, str | None]
"""Account numbers, a payment_id whose record is needed, a number whose claim is needed."""

_NOTHING: Needs = ((), None, None)


def external_number(currency: str) -> str:
    """The number of the account that a leg names `EXTERNAL` (rule 17, external account)."""
    return f"{EXTERNAL}/{currency}"


def own_legs(instruction: Decide) -> Legs:
    """The legs that the anchor itself carries out."""
    legs, own = instruction.body.legs, instruction.own
    return legs if len(own) == len(legs) else tuple([legs[position] for position in own])


def _numbers(kind: Kind, currency: str, legs: Legs) -> list[str]:
    numbers = [number for number, _ in legs]
    if kind is Kind.CREATION:
        numbers.append(EXTERNAL)
    if EXTERNAL in numbers:
        numbers[numbers.index(EXTERNAL)] = external_number(currency)
    return numbers


def _of_prepare(prepare: Prepare, _: _Prepared) -> Needs:
    return _numbers(prepare.kind, prepare.currency, prepare.legs), None, None


def _of_decide(decide: Decide, _: _Prepared) -> Needs:
    body = decide.body
    claim = body.legs[0][0] if body.kind is Kind.CREATION else None
    return _numbers(body.kind, body.currency, own_legs(decide)), decide.payment_id, claim


def _of_prepared(instruction: Commit | Abort, prepared: _Prepared) -> Needs:
    legs = prepared.get(instruction.xid)
    if legs is None:
        return _NOTHING
    return _numbers(legs.kind, legs.currency, legs.legs), None, None


def _of_payer(kind: Kind, payer: str, payment_id: bytes) -> Needs:
    return (payer,) if payer and kind is not Kind.CREATION else (), payment_id, None


def _of_account(instruction: Mark | Unmark, _: _Prepared) -> Needs:
    return (instruction.account,), None, None


def _of_change(set_account: SetAccount, _: _Prepared) -> Needs:
    return (set_account.account,), set_account.change_id or None, None


# Typed by what each one takes; `Any`, since a type says which of them it goes to.
NEEDS: dict[type, Callable[[Any, _Prepared], Needs]] = {
    Prepare: _of_prepare,
    Decide: _of_decide,
    RecordRefusal: lambda instruction, _: _of_payer(
        instruction.kind, instruction.payer, instruction.payment_id
    ),
    Commit: _of_prepared,
    Abort: _of_prepared,
    Resolve: lambda instruction, _: ((), instruction.payment_id, None),
    QueryRecord: lambda instruction, _: _of_payer(
        instruction.kind, instruction.payer, instruction.payment_id
    ),
    Mark: _of_account,
    Unmark: _of_account,
    SetAccount: _of_change,
    CloseIncarnation: lambda instruction, _: _NOTHING,
    Genesis: lambda instruction, _: _NOTHING,
    TakeEpoch: lambda instruction, _: _NOTHING,
    RegisterNode: lambda instruction, _: _NOTHING,
    RetireNode: lambda instruction, _: _NOTHING,
}
