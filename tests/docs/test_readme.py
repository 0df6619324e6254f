"""What README.md tells a person to type works, as it stands there."""

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import README, ROOT, blocks, typed
from tests.integration.processes import Server


def test_the_first_two_commands_are_the_demo_and_the_tests() -> None:
    assert typed(README)[:2] == ["scripts/demo", "scripts/test"]
    for command in typed(README):
        assert os.access(ROOT / command.split()[0], os.X_OK), command


@pytest.mark.integration
@pytest.mark.timeout(180)
def test_the_demo_ends_well_and_leaves_nothing_behind(tmp_path: Path) -> None:
    demo = subprocess.run(
        [ROOT / "scripts/demo"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    last = demo.stdout.strip().splitlines()[-1]
    assert re.match(r"1003 payments, one kill -9, no cent lost: 6000\.00 USD put in", last), last
    for line in blocks(README, "text")[0].splitlines():
        words = re.escape(re.sub(r"\d+", "0", line.strip())).replace("0", r"\d+")
        assert line == "..." or re.search(words, demo.stdout), f"the demo doesn't print {line!r}"
    assert list(tmp_path.iterdir()) == []
    running = subprocess.run(
        ["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True
    )
    assert str(tmp_path) not in running.stdout


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_the_commands_for_the_playground_work_as_they_stand(tmp_path: Path) -> None:
    server = Server(tmp_path)
    commands = [line.split()[1:] for line in typed(README) if line.startswith(".venv/bin/mas ")]
    serve, *others = commands
    assert serve == ["serve", "--role", "all", "--data-dir", "data"]
    assert len(others) >= 4
    with server.running():
        for arguments in others:
            done = server.run(*arguments)
            assert done.returncode == 0, (arguments, done.stderr)
            assert done.stdout


@pytest.mark.parametrize("code", blocks(README, "python"))
def test_the_python_is_python(code: str) -> None:
    compile(code, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
