"""Every row that code and tests name stands in docs/crash-matrix.md."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "crash-matrix.md").read_text()
ROWS = re.findall(r"^\| ([A-Z]\d+) \|", PAGE, re.MULTILINE)
LETTERS = "".join(sorted({row[0] for row in ROWS}))


def named(source: str) -> set[str]:
    """The rows that a source names: in the name of a test, or as "P12"."""
    return {
        row.upper()
        for row in re.findall(rf"\bdef test_([{LETTERS.lower()}]\d+)_", source)
        + re.findall(rf"(?<![\w.])[{LETTERS}]\d{{1,2}}(?![\w.]\w|\w)", source)
    }


def test_each_part_of_the_page_is_numbered_from_one_without_a_gap() -> None:
    for letter in LETTERS:
        numbers = [int(row[1:]) for row in ROWS if row[0] == letter]
        assert numbers == list(range(1, len(numbers) + 1)), letter


def test_every_row_that_code_and_tests_name_is_there() -> None:
    for page in (*ROOT.glob("mas/**/*.py"), *ROOT.glob("tests/**/*.py")):
        if page != Path(__file__):
            unknown = named(page.read_text()) - set(ROWS)
            assert not unknown, f"{page.relative_to(ROOT)} names {sorted(unknown)}"


def test_a_row_that_is_not_there_is_noticed() -> None:
    source = 'def test_f99_nothing() -> None:\n    """As (P12), M98 and T97."""'
    assert named(source) - set(ROWS) == {"F99", "M98", "T97"}


def test_the_rules_that_rows_cite_are_there() -> None:
    rules = set(
        re.findall(r"^## Rule (\d+):", (ROOT / "docs/protocol.md").read_text(), re.MULTILINE)
    )
    cited = re.findall(r"\((\d+(?:, \d+)*)\)\.? \|$", PAGE, re.MULTILINE)
    assert len(cited) > 20
    assert {number for each in cited for number in each.split(", ")} <= rules
