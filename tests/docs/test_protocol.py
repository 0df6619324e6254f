"""Every rule that code, tests and pages cite is in docs/protocol.md, under the title that they cite it by."""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.docs.pages import PAGES, ROOT

PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()

_TITLE = re.compile(r"^## Rule (\d+): (.+)$", re.MULTILINE)
_CITATION = re.compile(
    r"\b[Rr]ules? (?P<numbers>\d+[a-z]?\b(?:(?:, and|, or|,| and| or| to) \d+[a-z]?\b)*)"
    r"(?:, (?P<title>[^\W\d][^)\n]*))?"
)
_ROW = re.compile(r"[A-Z]\d+\b")


def _titles() -> dict[str, str]:
    return dict(_TITLE.findall(PROTOCOL))


def _clauses() -> set[str]:
    """The clauses by number and letter: {"3a", "3b", ...}."""
    number, *rest = re.split(r"^## Rule (\d+): .+$", PROTOCOL, flags=re.MULTILINE)[1:]
    rules = {number: rest[0]} | dict(zip(rest[1::2], rest[2::2], strict=True))
    return {
        f"{number}{letter}"
        for number, text in rules.items()
        for letter in re.findall(r"^- \*\*\((\w)\)\*\*", text, re.MULTILINE)
    }


def _sources() -> list[Path]:
    return [
        *sorted(ROOT.glob("mas/**/*.py")),
        *(page for page in sorted(ROOT.glob("tests/**/*.py")) if page != Path(__file__)),
        *sorted(ROOT.glob("proto/**/*.proto")),
        *PAGES,
    ]


def citations(text: str) -> Iterator[tuple[list[str], str]]:
    """The rules that this text cites, with the title that each is cited by, if any."""
    on_one_line = re.sub(r"\s*\n\s*(?:(?:#|//)\s*)?", " ", text)
    for found in _CITATION.finditer(on_one_line):
        yield re.findall(r"\d+[a-z]?", found["numbers"]), found["title"] or ""


def wrong(text: str) -> list[str]:
    """What is wrong with the citations of this text."""
    titles, clauses = _titles(), _clauses()
    found = []
    for numbers, title in citations(text):
        unknown = [each for each in numbers if each not in titles and each not in clauses]
        found += [f"there is no rule {each}" for each in unknown]
        if title and not unknown and not _ROW.match(title):
            expected = titles[re.sub(r"\D", "", numbers[-1])]
            if not title.startswith(expected):
                found.append(f"rule {numbers[-1]} is {expected!r}, and not {title[:60]!r}")
    return found


def test_the_rules_are_numbered_from_one_without_a_gap() -> None:
    numbers = [int(number) for number, _ in _TITLE.findall(PROTOCOL)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_no_two_rules_have_one_title() -> None:
    titles = list(_titles().values())
    assert len(titles) == len(set(titles))


def test_clauses_are_lettered_without_a_gap() -> None:
    for number in _titles():
        letters = sorted(each[-1] for each in _clauses() if each[:-1] == number)
        assert letters == [chr(ord("a") + n) for n in range(len(letters))], number


def test_the_index_names_every_rule_by_its_title_and_leads_there() -> None:
    links = re.findall(r"\[(\d+) ([^\]]+)\]\(#([^)]+)\)", PROTOCOL)
    assert links == [
        (number, title, f"rule-{number}-{title.replace(' ', '-')}")
        for number, title in _TITLE.findall(PROTOCOL)
    ]


def test_every_citation_is_of_a_rule_that_exists_under_its_title() -> None:
    found = [
        f"{page.relative_to(ROOT)}: {each}"
        for page in _sources()
        for each in wrong(page.read_text())
    ]
    assert not found, "\n".join(found)


def test_a_wrong_citation_is_noticed() -> None:
    number, title = "16", _titles()["16"]
    assert not wrong(f"(rule {number}, {title})")
    assert not wrong(f"(rule {number}b, {title}, by its own room)")
    assert not wrong("(rules 33 to 36, 38) and (rule 6, M2, M6)")
    assert wrong("rule 41") == ["there is no rule 41"]
    assert wrong("(rules 7 and 41)") == ["there is no rule 41"]
    assert wrong("rule 7b") == ["there is no rule 7b"]
    assert wrong(f"(rule {number}, omission)")
    assert wrong(f"(rule {number},\n    # omission)")
