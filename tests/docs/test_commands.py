"""Every command that a page names is one of the program's, with the options that it is given."""

import re
from collections.abc import Iterator

import click
import pytest

from mas.cli.main import cli
from tests.docs.pages import PAGES, ROOT

_COMMAND = re.compile(r"^(?:\$ )?(?:\.venv/bin/)?mas ((?:-|[a-z]).*)$", re.MULTILINE)


def commands() -> Iterator[tuple[str, str]]:
    """Each command with the page that names it: in a block of code, or between backticks."""
    for page in PAGES:
        text = page.read_text()
        code = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
        code += re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        for block in code:
            for line in _COMMAND.findall(" ".join(block.split()) if "\n" not in block else block):
                yield str(page.relative_to(ROOT)), line


def missing(line: str) -> str:
    """The first word of a command line that the program doesn't know, empty if it knows all."""
    command: click.Command = cli
    words = re.split(r"\s{2,}", line)[0].split()
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        if name == "…":
            return ""
        found = command.commands.get(name)
        if found is None:
            return name
        command = found
    known = {"-h", "--help"} | {
        option
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    return next((word for word in words if word.startswith("-") and word not in known), "")


@pytest.mark.parametrize(("page", "line"), sorted(set(commands())))
def test_a_command_that_a_page_names_is_there(page: str, line: str) -> None:
    assert not missing(line), f"{page}: mas {line}"


def test_pages_name_commands() -> None:
    assert len(set(commands())) > 20


def test_a_command_that_is_not_there_is_noticed() -> None:
    assert missing("tx resolve") == "tx"
    assert missing("admin replica move 1 2") == "move"
    assert missing("serve --fast") == "--fast"
    assert not missing("admin replica add 2 5 --config mas.toml")
