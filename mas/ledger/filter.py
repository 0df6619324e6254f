"""The filter in front of the records: a fresh key costs no query (rule 24, record filter).

A Bloom filter (Bloom, 1970) with four probes of two bits each in one byte; a payment_id is a hash already and is cut into
probes as it is. Ids that were added are always found, a few dozen in a million others as well. It grows by a further
layer, each four times as large as the one before up to a bound, so it never has to be built anew.
"""

from collections.abc import Iterable
from itertools import combinations
from struct import Struct

_PROBES = Struct("<4I").unpack
_MASKS = tuple(
    (1 << first | 1 << second) for first, second in combinations(range(8), 2)
)  # 28 pairs of bits
_MASK_OF = tuple(_MASKS[value % len(_MASKS)] for value in range(256))
_BYTES_PER_ID = 4
_LAYER_BYTES_MIN = 1 << 16
_LAYER_BYTES_MAX = 1 << 24
"""A probe is 32 bits: 24 choose the byte, 8 the mask."""


class RecordFilter:
    """Whether a payment_id may have a record. Answers "maybe" to everything until it is complete."""

    __slots__ = ("_layers", "_room", "is_complete")

    def __init__(self) -> None:
        self.is_complete = False
        """Every id that the database held at the start has been added."""
        self._layers: list[bytearray] = [bytearray(_LAYER_BYTES_MIN)]
        self._room = _LAYER_BYTES_MIN // _BYTES_PER_ID

    def __contains__(self, payment_id: bytes) -> bool:
        """False is certain; True means "maybe"."""
        if not self.is_complete:
            return True
        a, b, c, d = _PROBES(payment_id)
        for bits in self._layers:
            last = len(bits) - 1
            if (
                not ~bits[a >> 8 & last] & _MASK_OF[a & 255]
                and not ~bits[b >> 8 & last] & _MASK_OF[b & 255]
                and not ~bits[c >> 8 & last] & _MASK_OF[c & 255]
                and not ~bits[d >> 8 & last] & _MASK_OF[d & 255]
            ):
                return True
        return False

    def add_all(self, payment_ids: Iterable[bytes]) -> None:
        """These have records, or are about to."""
        for payment_id in payment_ids:
            if not self._room:
                self._grow()
            self._room -= 1
            bits = self._layers[-1]
            last = len(bits) - 1
            for probe in _PROBES(payment_id):
                bits[probe >> 8 & last] |= _MASK_OF[probe & 255]

    def complete(self) -> None:
        """All that the database holds has been added: from now on "no" means no."""
        self.is_complete = True

    def _grow(self) -> None:
        size = min(4 * len(self._layers[-1]), _LAYER_BYTES_MAX)
        self._layers.append(bytearray(size))
        self._room = size // _BYTES_PER_ID
