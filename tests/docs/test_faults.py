"""docs/faults.md names tests that exist, and at least one for each fault."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "faults.md").read_text()
FAULTS = {
    section.partition("\n")[0]: re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", section)
    for section in PAGE.split("\n### ")[1:]
}


def functions_of(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_each_fault_has_a_test() -> None:
    assert len(FAULTS) >= 80
    assert [fault for fault, tests in FAULTS.items() if not tests] == []


def test_the_tests_that_are_named_exist() -> None:
    known = {file: functions_of(ROOT / file) for tests in FAULTS.values() for file, _ in tests}
    missing = [
        f"{fault}: {file}::{name}"
        for fault, tests in FAULTS.items()
        for file, name in tests
        if name not in known[file]
    ]
    assert missing == []
