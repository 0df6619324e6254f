"""A bucket's ledger."""

import pytest

from tests.ledger.harness import (
    Bank,
)


@pytest.fixture
def bank() -> Bank:
    bank = Bank()
    bank.open(("a", 100), ("b", 100), ("c", 0))
    return bank
