"""Nothing is there that nobody uses: settings, names of modules, and commands that the documents show."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import get_args, get_origin, get_type_hints

import click
import msgspec
import pytest

from mas.api.shares import Held, Rank
from mas.cli import cli
from mas.config import Config
from tests.docs.pages import OPERATIONS, PAGES, README, ROOT

PUBLIC = ("mas/client/__init__.py", "mas/testing/__init__.py")
"""What these export is for programs that aren't here."""
WANTED = {
    "GlobalLock": "the seed's interface of a lock, for whoever takes one",
    "MemoryStorage": "the Storage of whoever uses `mas.raft` alone",
}
"""Names that nothing here uses, each with the reason to have it."""


@cache
def _modules() -> dict[str, ast.Module]:
    generated = ROOT / "mas" / "wire" / "gen"
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text())
        for path in sorted((ROOT / "mas").rglob("*.py"))
        if generated not in path.parents
    }


# -- names ----------------------------------------------------------------------------------------


def _defined(statement: ast.stmt) -> list[str]:
    """The names that a module has by this statement, where nobody but its readers could use them."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() if statement.decorator_list:
            return []  # its decorator has it: a command, a handler
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [statement.name]
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return [] if name.startswith("__") else [name]
    return []  # `A, B = range(2)` numbers all that there is


def _named(tree: ast.AST) -> Counter[str]:
    """How often each name is read, as a variable or an attribute."""
    return Counter(
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    )


def _imported(path: str, tree: ast.Module) -> Iterator[str]:
    if path.endswith("__init__.py") and path not in PUBLIC:
        return  # handing a name on isn't using it
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)


def unused_names(modules: dict[str, ast.Module]) -> list[str]:
    imported = {name for path, tree in modules.items() for name in _imported(path, tree)}
    statements = [
        (path, statement, _named(statement))
        for path, tree in modules.items()
        for statement in tree.body
    ]
    here: dict[str, Counter[str]] = {path: Counter() for path in modules}
    everywhere = Counter[str]()
    for path, _, named in statements:
        here[path].update(named)
        everywhere.update(named)
    return [
        f"{path}:{statement.lineno} {name}"
        for path, statement, named in statements
        for name in _defined(statement)
        if name not in imported
        and (here[path] if name.startswith("_") else everywhere)[name]
        == named[name]  # what names itself uses nothing
    ]


def test_every_name_of_a_module_is_used() -> None:
    unused = unused_names(_modules())
    assert [each for each in unused if each.split()[1] not in WANTED] == []
    assert {each.split()[1] for each in unused} == WANTED.keys(), "some are used by now"


def test_a_name_that_is_not_used_is_found() -> None:
    one = """
_TICKS, _TOCKS = range(2)
_TICK = 1
LEFT = 2
RIGHT: int = 3
def again(): return again()
def used(): return LEFT
class Alone:
    def make(self) -> "Alone": return Alone()
@command
def typed(): ...
"""
    other = "from one import RIGHT, used\nused(one._TICK)\n"
    modules = {"one.py": one, "other.py": other, "__init__.py": "from one import again"}
    found = unused_names({path: ast.parse(text) for path, text in modules.items()})
    assert [each.split()[1] for each in found] == ["_TICK", "again", "Alone"]


# -- settings -------------------------------------------------------------------------------------


def _settings(table: type[msgspec.Struct], called: set[str]) -> Iterator[tuple[str, set[str], str]]:
    """Every setting: its table, what that is called where it is read, and the setting's own name."""
    for name, hint in get_type_hints(table).items():
        held = get_args(hint)[0] if get_origin(hint) is tuple else hint
        if isinstance(held, type) and issubclass(held, msgspec.Struct):
            singular = {name.removesuffix("s"), name.removesuffix("es")}
            yield from _settings(held, {name, *singular, "config", "most"})  # `most`: a share's
        yield table.__name__, called, name


def unread_settings(config: type[msgspec.Struct], modules: dict[str, ast.Module]) -> set[str]:
    read = {
        (_name_of(node.value), node.attr)
        for tree in modules.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
    }
    return {
        f"{table}.{setting}"
        for table, called, setting in _settings(config, {"config", "self"})
        if not any((whose, setting) in read for whose in called)
    }


def _name_of(table: ast.expr) -> str:
    match table:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Call(func=ast.Name(id=name)):
            return name.lstrip("_")
        case ast.Call(func=ast.Attribute(attr=name)):
            return name.lstrip("_")
    return ""


def test_every_setting_is_read() -> None:
    of_shares = {each.value for each in (*Held, *Rank)}
    unread = unread_settings(Config, _modules())
    assert {each for each in unread if each.split(".")[1] not in of_shares} == set()


def test_a_setting_that_is_not_read_is_found() -> None:
    code = "if config.door.open and config.doors: window.shut(config.door, roof)"
    unread = unread_settings(House, {"one.py": ast.parse(code)})
    assert unread == {"Door.shut", "House.roof"}


class Door(msgspec.Struct):
    open: bool = False
    shut: bool = False


class House(msgspec.Struct):
    door: Door
    doors: tuple[Door, ...]
    roof: bool = False


# -- commands -------------------------------------------------------------------------------------


def _shown(text: str) -> Iterator[list[str]]:
    """The words of every `mas ...` that a document shows, in a block or within a line."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    spans = re.findall(
        r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    )
    for line in (*lines, *spans):
        found = re.match(r"(?:\$ )?(?:\.venv/bin/)?mas ([a-z-].*)", line.strip())
        if found:
            yield re.split(r"\s{2,}|\s#", found[1])[0].split()


def lacking(words: list[str]) -> str:
    """What the command line lacks of a command as it is shown: a word or an option; empty where it has it all."""
    command: click.Command = cli
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        word = rest.pop(0)
        if word not in command.commands:
            if command.invoke_without_command:
                break
            return word
        command = command.commands[word]
    has = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
    options = (word.strip("[]").partition("=")[0] for word in rest if word.startswith(("-", "[-")))
    return next((option for option in options if option not in has | {"--help"}), "")


def _texts() -> Iterator[tuple[str, str]]:
    """All pages, and the code, whose errors say what to type."""
    for page in PAGES:
        yield page.name, page.read_text()
    for name, tree in _modules().items():
        strings = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
        yield name, "\n".join(each for each in strings if isinstance(each, str))


def test_every_command_that_a_text_shows_is_there() -> None:
    shown = [(name, words) for name, text in _texts() for words in _shown(text)]
    assert [(name, *words) for name, words in shown if lacking(words)] == []


def test_commands_are_found_in_documents() -> None:
    assert all(len(list(_shown(page.read_text()))) > 5 for page in (README, OPERATIONS))


@pytest.mark.parametrize(
    ("shown", "lacks"),
    [
        ("Type `mas tx resolve XID`.", "tx"),
        ("```sh\nmas admin node dance 1\n```", "dance"),
        (
            "```console\n$ .venv/bin/mas serve --role all --data-directory x\n```",
            "--data-directory",
        ),
        ("`mas pay alice bob 1 --help`, and `mas bench [--quick]`", ""),
    ],
)
def test_a_command_that_is_not_there_is_found(shown: str, lacks: str) -> None:
    assert next(filter(None, map(lacking, _shown(shown))), "") == lacks
