"""The one file that asks the machine for chance.

Whoever needs dice takes them in its constructor: the same seed then gives the same run.
"""

import secrets
from typing import Protocol


class Dice(Protocol):
    """Chance, as an actor or a core sees it. A seeded `random.Random` fits."""

    def randrange(self, stop: int, /) -> int:
        """Return a number from 0 to `stop` - 1, each as likely."""
        ...

    def randbytes(self, n: int, /) -> bytes:
        """`n` bytes of chance."""
        ...


class SystemDice:
    """The machine's chance, good enough for secrets."""

    def randrange(self, stop: int, /) -> int:
        """Return a number from 0 to `stop` - 1, each as likely."""
        return secrets.randbelow(stop)

    def randbytes(self, n: int, /) -> bytes:
        """`n` bytes of chance."""
        return secrets.token_bytes(n)
