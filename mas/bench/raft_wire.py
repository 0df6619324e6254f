"""What the load and the nodes of the Raft benchmark say to each other, over gRPC, in msgpack.

    Propose  Batch -> Answer                 unary
    Stream   Batches -> Answers              both ways, many callers share it
    State    nothing -> one of each group

A payload names the caller's entry: (client, sequence) and filler. A client's sequences count from 1 without a gap, and
what a client had no answer to it proposes again under the same: so whoever applies can tell a repeat from a loss.
"""

from collections.abc import Iterable
from struct import Struct

import msgspec
import xxhash

PAYLOAD_BYTES = 256
SERVICE = "mas.bench.Raft"
PROPOSE = f"/{SERVICE}/Propose"
STREAM = f"/{SERVICE}/Stream"
STATE = f"/{SERVICE}/State"

_NAME = Struct(">II")
_FILLER = bytes(PAYLOAD_BYTES - _NAME.size)


class Batch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Entries proposed together, of one group and one client."""

    number: int
    """Of the batch, on its stream."""
    group: int
    payloads: tuple[bytes, ...]


class Answer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """All of a batch is committed, and applied by the leader; or not known to be."""

    number: int
    index: int
    """Of its last entry; 0: ask again, at `leader` if that is known."""
    leader: int = 0


class GroupState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One group on one node."""

    group: int
    leader: int
    leading: bool
    applied: int
    """The last index applied."""
    count: int
    digest: int
    """See `Applied`."""


class Applied(msgspec.Struct, array_like=True):
    """A set of payloads: how many, and the sum of their hashes, in whatever order they came."""

    count: int = 0
    digest: int = 0

    def add(self, payloads: Iterable[bytes]) -> None:
        """Each at most once."""
        for payload in payloads:
            self.count += 1
            self.digest = (self.digest + xxhash.xxh3_64_intdigest(payload)) % 2**64

    def merge(self, other: "Applied") -> None:
        """All of another set, which has none in common with this one."""
        self.count += other.count
        self.digest = (self.digest + other.digest) % 2**64


encode = msgspec.msgpack.Encoder().encode
decode_batch = msgspec.msgpack.Decoder(Batch).decode
decode_batches = msgspec.msgpack.Decoder(tuple[Batch, ...]).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
decode_answers = msgspec.msgpack.Decoder(tuple[Answer, ...]).decode
decode_states = msgspec.msgpack.Decoder(tuple[GroupState, ...]).decode


def make_payload(client: int, sequence: int) -> bytes:
    """The payload of this name, PAYLOAD_BYTES long."""
    return _NAME.pack(client, sequence) + _FILLER


def name_of(payload: bytes) -> tuple[int, int]:
    """Its client and sequence."""
    client, sequence = _NAME.unpack_from(payload)
    return client, sequence
