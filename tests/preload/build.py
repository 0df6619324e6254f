"""Builds the libraries of this directory, which stand between a process and its disk."""

import os
import subprocess
from pathlib import Path


def build(name: str, folder: Path) -> Path:
    """The shared library of `name`.c, made in this folder by the C compiler of the machine ($CC, or cc)."""
    library = folder / f"{name}.so"
    source = Path(__file__).with_name(f"{name}.c")
    compiler = os.environ.get("CC", "cc")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source, "-ldl"],
        check=True,
    )
    return library
