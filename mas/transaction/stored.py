"""What a transaction manager stores outside the buckets: transactions under way, and outsiders' locks.

The services that write these and the engines that store them share the structs; the stores' ports are in
`mas.coordinator.ports` and `mas.locks.ports`.
"""

import msgspec

from mas.ledger.instructions import Token


class PendingEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A transaction under way: what a restart needs to ask the anchor (rules 11, 40)."""

    xid: bytes
    payment_id: bytes
    attempt: int
    body_hash: bytes
    anchor: int
    participants: tuple[int, ...]


class LockEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One lock of an outsider (rule 36, lock tokens); its lock_id and token name it."""

    lock_id: str
    owner: bytes
    token: Token
    expires_us: int
    """Microseconds since the epoch; a clock that jumps ends a lease early or late, and no more than that."""
    bucket: int = 0
    """Where the account is marked; 0 where nothing is."""
