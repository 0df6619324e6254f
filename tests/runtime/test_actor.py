"""One loop: an actor's public methods never await between reading its state and writing it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import mas

METHODS = """
class Counter(Actor):
    async def run(self):
        self.count = await self.next(self.count)

    async def late(self):
        before = self.count
        await self.disk.write()
        self.count = before + 1

    async def in_one_statement(self):
        self.count = await self.next(self.count)

    async def added(self):
        self.count += await self.disk.read()

    async def at_once(self):
        self.count = self.count + 1
        await self.disk.write()

    async def of_an_item(self):
        item = self.items[1]
        async with self.lock:
            self.items[1] = item + 1
"""


def public_methods(source: str) -> Iterator[tuple[str, ast.AsyncFunctionDef]]:
    """The public coroutines of actors; `run` is the actor's own task."""
    for made in ast.walk(ast.parse(source)):
        if isinstance(made, ast.ClassDef) and "Actor" in [ast.unparse(base) for base in made.bases]:
            for method in made.body:
                is_coroutine = isinstance(method, ast.AsyncFunctionDef)
                if is_coroutine and method.name != "run" and not method.name.startswith("_"):
                    yield f"{made.name}.{method.name}", method


def torn(method: ast.AsyncFunctionDef) -> set[str]:
    """The attributes that a method reads, and writes behind an await that follows."""
    read: set[str] = set()
    read_before_await: set[str] = set()
    found: set[str] = set()
    for node in _in_order(method):
        if isinstance(node, ast.Await | ast.AsyncWith | ast.AsyncFor):
            read_before_await |= read
        elif isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            written = {name for target in targets for name in _attributes(target)}
            adds_behind = isinstance(node, ast.AugAssign) and _awaits(node.value)
            found |= written if adds_behind else written & read_before_await
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            read |= set(_attributes(node))
    return found


def _in_order(method: ast.AsyncFunctionDef) -> list[ast.AST]:
    """By where each ends, the inner before the outer: what an assignment or an await stands on comes before it."""
    nodes = [node for node in ast.walk(method) if isinstance(node, ast.stmt | ast.expr)]
    opening = (ast.AsyncWith, ast.AsyncFor)

    def place(node: ast.stmt | ast.expr) -> tuple[int, int, bool]:
        if isinstance(node, opening):
            return node.lineno, node.col_offset, True
        return node.end_lineno or 0, node.end_col_offset or 0, isinstance(node, ast.stmt)

    return sorted(nodes, key=place)


def _awaits(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Await) for part in ast.walk(node))


def _attributes(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and ast.unparse(part.value) == "self":
            yield part.attr


def test_the_look_finds_a_write_behind_an_await() -> None:
    found = {name: torn(method) for name, method in public_methods(METHODS)}

    assert found == {
        "Counter.late": {"count"},
        "Counter.in_one_statement": {"count"},
        "Counter.added": {"count"},
        "Counter.at_once": set(),
        "Counter.of_an_item": {"items"},
    }


def test_no_public_method_of_an_actor_is_torn_by_an_await() -> None:
    looked: list[str] = []
    for path in Path(mas.__file__).parent.rglob("*.py"):
        for name, method in public_methods(path.read_text()):
            looked.append(name)
            assert not torn(method), f"{path}: {name} writes {torn(method)} behind an await"

    assert {"PeerTransport.stop", "RaftHost.finish_snapshots"} <= set(looked)
