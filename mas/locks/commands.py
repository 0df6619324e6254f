"""What the lock service is told: by those who ask it, by its marker, and by its clock."""

from collections.abc import Callable

import msgspec

from mas.errors import MasError
from mas.ledger.instructions import LockMode, Token
from mas.locks.marks import Placed
from mas.locks.table import Grant

OnResult = Callable[[Grant | MasError], None]
OnReleased = Callable[[bool | MasError], None]
"""Takes whether anything was held."""


class LockRequest(msgspec.Struct, frozen=True, eq=False):
    """Somebody asks for locks."""

    owner: bytes
    lock_ids: tuple[str, ...]
    mode: LockMode
    until: float
    """Monotonic seconds at which it gives up."""
    lease: float
    """Seconds."""
    on_result: OnResult
    """Called once."""
    marked: bool = False
    """Its accounts are marked before it is granted (rule 33, locks and marks)."""
    durable: bool = False
    """Its leases are kept in the TM store (rule 36, lock tokens)."""


class Withdraw(msgspec.Struct, frozen=True, eq=False):
    """Whoever asked is gone."""

    request: LockRequest


class Release(msgspec.Struct, frozen=True):
    """Let go of all that an owner holds or waits for."""

    owner: bytes
    on_result: OnReleased | None = None


class ReleaseLock(msgspec.Struct, frozen=True):
    """Let go of one lock, held under this token."""

    lock_id: str
    owner: bytes
    token: Token
    on_result: OnReleased


class Marked(msgspec.Struct, frozen=True, eq=False):
    """A lease's marks are set, and it is kept; or not, and some of them may be."""

    grant: Grant
    placed: list[Placed]
    """The accounts that are marked, or may be."""
    error: MasError | None


class Tick(msgspec.Struct, frozen=True, gc=False):
    """Time has passed."""


Command = LockRequest | Withdraw | Release | ReleaseLock | Marked | Tick
