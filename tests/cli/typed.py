"""Commands as a person types them."""

from click.testing import CliRunner, Result

from mas.cli import cli


def mas(*arguments: str) -> Result:
    """Run one; only an exit may end it."""
    result = CliRunner().invoke(cli, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), (
        f"{[word[:60] for word in arguments]}: {result.exception!r}"[:2_000]
    )
    return result
