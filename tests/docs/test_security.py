"""What docs/security.md says of the shares is what they are."""

import re
from pathlib import Path

from mas.api.door import REQUEST_SECONDS
from mas.api.requests import TIMEOUT_SECONDS_MAX
from mas.api.server import CONCURRENT_CALLS_MAX
from mas.config import SharesConfig
from mas.limits import PAYMENTS_PER_BATCH_MAX, REQUESTS_IN_FLIGHT_MAX

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text()


def test_the_table_of_shares_is_the_configurations() -> None:
    shares = SharesConfig()
    rows = re.findall(r"^\| `(\w+)`.*?\| ([\w,]+) \| ([\d,]+) \| ([\d,]+) \|$", PAGE, re.MULTILINE)
    assert {name for name, *_ in rows} == set(shares.account.__struct_fields__)
    for name, stranger, account, operator in rows:
        if stranger != "none":
            assert stranger == f"{getattr(shares.stranger, name):,}"
        assert account == f"{getattr(shares.account, name):,}"
        assert operator == f"{getattr(shares.operator, name):,}"


def test_the_other_bounds_are_those_of_the_code() -> None:
    shares = SharesConfig()
    page = " ".join(PAGE.split())
    for said in (
        f"{shares.strangers} calls and streams (`strangers`)",
        f"after {shares.stranger_seconds:g} seconds (`stranger_seconds`)",
        f"takes {CONCURRENT_CALLS_MAX:,} calls and carries {REQUESTS_IN_FLIGHT_MAX:,} payments",
        f"a batch {PAYMENTS_PER_BATCH_MAX:,} payments",
        f"A request has {REQUEST_SECONDS:g} seconds to come",
        f"or after {TIMEOUT_SECONDS_MAX:g} seconds",
    ):
        assert said in page, said
