"""The lock service's shelf in the TM store, which keeps bytes and knows nothing of locks."""

from typing import Protocol

import msgspec

from mas.decoding import msgpack_decoder
from mas.errors import CorruptData
from mas.ledger import Token
from mas.locks import LockEntry

_decode_entry = msgpack_decoder(LockEntry, "a lock", CorruptData)
_encode = msgspec.msgpack.Encoder().encode


class ByteShelf(Protocol):
    """The TM store's part for locks: bytes by name."""

    async def put_lock(self, lock_id: str, data: bytes) -> None: ...

    async def delete_lock(self, lock_id: str) -> None: ...

    async def locks(self) -> dict[str, bytes]: ...


class LockShelf:
    """Fits `mas.locks.LockStore`, over a TM store that knows nothing of locks but their bytes."""

    def __init__(self, shelf: ByteShelf) -> None:
        self._shelf = shelf

    async def put_lock(self, entry: LockEntry) -> None:
        """Keep a lock, by its id and token."""
        await self._shelf.put_lock(_name(entry.lock_id, entry.token), _encode(entry))

    async def delete_lock(self, lock_id: str, token: Token) -> None:
        """Forget a lock."""
        await self._shelf.delete_lock(_name(lock_id, token))

    async def locks(self) -> list[LockEntry]:
        """Every lock that is kept."""
        return [_decode_entry(data) for data in (await self._shelf.locks()).values()]


def _name(lock_id: str, token: Token) -> str:
    return f"{lock_id} {token.epoch} {token.counter}"
