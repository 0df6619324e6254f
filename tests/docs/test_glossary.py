"""Every object that docs/glossary.md names can be imported, and the words stand in order."""

import re
from pathlib import Path
from pkgutil import resolve_name

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text()
ROWS = re.findall(r"^\| ([^|`]+) \| [^|]+ \| `([\w.]+)` \|$", PAGE, re.MULTILINE)
NAMES = sorted(set(re.findall(r"`(mas\.[\w.]+)`", PAGE)))


def test_words_stand_in_order_each_once() -> None:
    words = [word for word, _ in ROWS]
    assert words == sorted(set(words))
    assert len(words) >= 30
    assert len(words) == PAGE.count("\n| ") - 2  # every row but the table's head has all three


@pytest.mark.parametrize("name", NAMES)
def test_what_is_named_is_there(name: str) -> None:
    module, _, rest = name.rpartition(".")
    owner = resolve_name(module)
    assert rest in dir(owner) or rest in getattr(owner, "__struct_fields__", ())
