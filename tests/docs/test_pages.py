"""The files that the pages link to or name are there."""

import re

from tests.docs.pages import PAGES, ROOT


def test_every_file_that_the_pages_point_to_is_there() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_every_file_that_the_pages_name_is_there() -> None:
    for page in PAGES:
        for name in re.findall(r"`((?:\w+/)+[\w.]*)`", page.read_text()):
            places = (ROOT, ROOT / "mas", page.parent)
            assert any((place / name).exists() for place in places), f"{page.name}: {name}"
