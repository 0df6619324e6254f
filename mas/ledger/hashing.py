"""Digests of rows, whose sum modulo 2**128 is a bucket's state hash.

A sum doesn't ask for an order, so a row's change costs two digests, not a walk through the state, and whoever holds
the rows alone (a snapshot, a database) finds the same number. Each kind of row has a seed of its own, or a
row of one kind could stand for a row of another.
"""

from msgspec.msgpack import Encoder
from xxhash import xxh3_128_intdigest

from mas.ledger.rows import Account, Incarnation, NodeRow, Posting, PreparedLegs, Record

HASH_MODULUS = 1 << 128

_encode = Encoder().encode
_ACCOUNT, _RECORD, _LEGS, _CLAIM, _INCARNATION, _POSTING, _NODES = range(1, 8)


def account_digest(account: Account) -> int:
    """Of all but `chunk` and `chunk64`: where chunks are cut is each replica's own."""
    if account.chunk or account.chunk64:
        account = account.__copy__()
        account.chunk = account.chunk64 = 0
    return xxh3_128_intdigest(_encode(account), _ACCOUNT)


def record_digest(record: Record) -> int:
    """Of a payment's record."""
    return xxh3_128_intdigest(_encode(record), _RECORD)


def legs_digest(legs: PreparedLegs) -> int:
    """Of what one xid has prepared."""
    return xxh3_128_intdigest(_encode(legs), _LEGS)


def claim_digest(number: str, bucket: int) -> int:
    """Of a number's claim."""
    return xxh3_128_intdigest(_encode((number, bucket)), _CLAIM)


def incarnation_digest(incarnation: Incarnation) -> int:
    """Of what is remembered of one coordinator; the order of its posted counters doesn't count."""
    posted = sorted(incarnation.posted)
    row = (incarnation.incarnation, incarnation.low_water, posted, incarnation.closed)
    return xxh3_128_intdigest(_encode(row), _INCARNATION)


def posting_digest(posting: Posting) -> int:
    """Of one posting."""
    return xxh3_128_intdigest(_encode(posting), _POSTING)


def nodes_digest(nodes: tuple[NodeRow, ...], index: int) -> int:
    """Of the cluster's register, which is one row; 0 where nobody is in it, as for rows that aren't there."""
    return xxh3_128_intdigest(_encode((nodes, index)), _NODES) if nodes else 0
