"""Named points in the code where a test may kill the process, as a power cut would.

    MAS_FAILPOINTS="raft.after_append=kill@3,flush.before_commit=kill" mas serve ...

kills the process with SIGKILL at the third pass of the first point, or the first of the second.
Unset, a point costs a call and a look at an empty dict.
"""

import os
import re
import signal

from mas.errors import ConfigError

VARIABLE = "MAS_FAILPOINTS"
_PATTERN = re.compile(r"(?P<name>[\w.]+)=kill(@(?P<pass>[1-9]\d*))?")


def failpoint(name: str) -> None:
    """Die here, if a test has asked for it."""
    if _passes_left:
        _pass(name)


def _pass(name: str) -> None:
    left = _passes_left.get(name)
    if left is None:
        return
    if left == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    _passes_left[name] = left - 1


def _parse(text: str) -> dict[str, int]:
    points = {}
    for part in filter(None, text.split(",")):
        match = _PATTERN.fullmatch(part.strip())
        if match is None:
            raise ConfigError(
                f'{VARIABLE}: {part!r} is not of the form "name=kill" or "name=kill@3"'
            )
        points[match["name"]] = int(match["pass"] or 1)
    return points


_passes_left = _parse(os.environ.get(VARIABLE, ""))
