"""The command line: `mas`. Each command says what to do, does nothing clever, and loads what it needs."""

from mas.cli.main import cli, main

__all__ = ["cli", "main"]
