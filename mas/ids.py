"""Names for payments, attempts and homes: the few places where MAS hashes.

    payment_id   16 bytes   a payment's name for all time (rule 1, payment ids)
    xid          16 bytes   one attempt: its coordinator's incarnation (10) and a counter (6) (rule 2, attempts)
    home         int        the bucket that holds a number's claim

Pure functions of what they are given: clock and dice are the caller's.
"""

from hashlib import blake2b

INCARNATION_BYTES = 10
XID_BYTES = 16
PAYMENT_ID_BYTES = 16
_COUNTER_BYTES = XID_BYTES - INCARNATION_BYTES
COUNTER_MAX = (1 << 8 * _COUNTER_BYTES) - 1


def make_incarnation(now_us: int, chance: bytes) -> bytes:
    """A coordinator's name for one life: 48 bits of milliseconds and 32 of chance."""
    assert len(chance) == 4
    return (now_us // 1000).to_bytes(6, "big") + chance


def make_xid(incarnation: bytes, counter: int) -> bytes:
    """The id of one attempt, used once for all time."""
    return incarnation + counter.to_bytes(_COUNTER_BYTES, "big")


def xid_incarnation(xid: bytes) -> bytes:
    """The incarnation of the coordinator that made this attempt."""
    return xid[:INCARNATION_BYTES]


def xid_counter(xid: bytes) -> int:
    """The attempt's place among its coordinator's attempts, from 1."""
    return int.from_bytes(xid[INCARNATION_BYTES:], "big")


def payment_id(kind: int, key_space: str, payer: str, key: str) -> bytes:
    """The payment that this key of a key space names, for this payer, for all time (rule 1)."""
    digest = blake2b(bytes((kind,)), digest_size=PAYMENT_ID_BYTES)
    for part in (key_space, payer, key):
        data = part.encode()
        digest.update(len(data).to_bytes(4, "big"))
        digest.update(data)
    return digest.digest()


def home_bucket(number: str, buckets: int) -> int:
    """The bucket, from 1 to `buckets`, that holds the claim of this account number.

    `buckets` is the count at the cluster's creation, for all time (rule 20, genesis).
    """
    return int.from_bytes(blake2b(number.encode(), digest_size=8).digest(), "big") % buckets + 1
