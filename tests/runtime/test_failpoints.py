"""A failpoint does nothing, or kills its process at the pass that was asked for."""

import os
import signal
import subprocess
import sys

import pytest

PROGRAM = """
from mas.runtime import failpoint
for turn in range(1, 5):
    print(turn, flush=True)
    failpoint("here")
    failpoint("elsewhere")
"""


def _run(failpoints: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MAS_FAILPOINTS": failpoints}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_unset_nothing_happens() -> None:
    result = _run("")
    assert (result.returncode, result.stdout.split()) == (0, ["1", "2", "3", "4"])


@pytest.mark.parametrize(
    ("failpoints", "last"),
    [("here=kill", "1"), ("here=kill@3", "3"), ("other=kill,here=kill@2", "2")],
)
def test_it_kills_at_the_pass_asked_for(failpoints: str, last: str) -> None:
    result = _run(failpoints)
    assert result.returncode == -signal.SIGKILL
    assert result.stdout.split()[-1] == last


def test_a_point_never_passed_kills_nobody() -> None:
    assert _run("other=kill,here=kill@9").returncode == 0


@pytest.mark.parametrize("failpoints", ["here", "here=stop", "here=kill@0", "=kill"])
def test_a_misspelt_request_is_refused(failpoints: str) -> None:
    result = _run(failpoints)
    assert result.returncode == 1
    assert "MAS_FAILPOINTS" in result.stderr
