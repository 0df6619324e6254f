"""What a command says, in a way that never changes how it ends: stdout may be full, closed, or of another alphabet.

Whoever asked for a payment must be able to learn what became of it. So what stdout doesn't take goes to stderr, and
what neither takes is dropped, and the exit status still tells the outcome.
"""

import contextlib
import sys

import click
import msgspec


def show(tree: object, text: str, *, as_json: bool) -> None:
    """Print an answer: for a program, or for a person."""
    answer = msgspec.json.encode(tree).decode() if as_json else text
    trouble = _write(answer)
    if trouble:
        complain(f"Error: the answer can't be written ({trouble}). It is:\n{answer}")


def complain(text: str) -> None:
    """Tell a person, beside the answer."""
    # Nobody is left to tell that stderr doesn't take it.
    with contextlib.suppress(OSError, ValueError):
        click.echo(text, err=True)


def _write(answer: str) -> str:
    """Write it to stdout; why that is impossible, empty where it isn't."""
    if sys.stdout is None:
        return "stdout is closed"
    try:
        click.echo(answer)
    except (OSError, ValueError) as error:
        return str(error)
    return ""
