"""The filter before the records: never a false "no" (rule 24)."""

import random

from hypothesis import given
from hypothesis import strategies as st

from mas.ledger import RecordFilter

ids = st.binary(min_size=16, max_size=16)


@given(st.lists(ids), ids)
def test_what_was_added_is_never_denied(added: list[bytes], other: bytes) -> None:
    filter_ = RecordFilter()
    filter_.add_all(added)
    assert other in filter_, "incomplete: maybe"
    filter_.complete()
    assert all(one in filter_ for one in added)


def test_what_was_added_is_found_through_all_layers_and_little_else() -> None:
    dice = random.Random(1)
    filter_ = RecordFilter()
    filter_.complete()
    added = [dice.randbytes(16) for _ in range(100_000)]
    filter_.add_all(added)
    assert len(filter_._layers) == 3
    assert all(one in filter_ for one in added)
    assert sum(dice.randbytes(16) in filter_ for _ in range(100_000)) < 50


def test_an_empty_filter_that_is_complete_knows_nothing() -> None:
    filter_ = RecordFilter()
    filter_.complete()
    assert bytes(16) not in filter_
    assert b"\xff" * 16 not in filter_
