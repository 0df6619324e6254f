"""Every kind of instruction says which rows it looks at, and the ledger has a rule for it."""

import typing

from mas.ledger import BucketRow, Instruction, Ledger, ResidentState
from mas.ledger.needs import NEEDS


def test_every_instruction_has_its_needs_and_its_rule() -> None:
    kinds = set(typing.get_args(Instruction))
    assert len(kinds) == 15
    assert set(NEEDS) == kinds
    assert set(Ledger(ResidentState(BucketRow(1), {}, {}))._rules) == kinds
