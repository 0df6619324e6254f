"""Rule 16 for all that a coordinator could ever write into the log: every replica does the same with it, and lives on."""

import asyncio
from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mas.ledger import (
    EXTERNAL,
    LEDGER_VERSION,
    Abort,
    Answer,
    Batch,
    Body,
    CloseIncarnation,
    Commit,
    Decide,
    Genesis,
    Instruction,
    Kind,
    Ledger,
    LockMode,
    Mark,
    Missing,
    Prepare,
    Proposal,
    QueryRecord,
    Reason,
    RecordRefusal,
    RegisterNode,
    Resolve,
    RetireNode,
    SetAccount,
    TakeEpoch,
    Token,
    Unmark,
    decode_batch,
    encode,
)
from mas.limits import BALANCE_MAX
from mas.storage.account_db.rocksdb import RocksAccountDB
from tests.ledger.harness import BUCKET, BUCKETS, HOME_HERE, OTHER_TC, TC, decide, pid, prepare, xid

# -- What a decoder lets pass: any bytes, any text, any number of 64 bits. Mostly in their places ---------------------


def mostly(*likely: object, rarely: st.SearchStrategy) -> st.SearchStrategy:
    return st.integers(0, 9).flatmap(lambda dice: st.sampled_from(likely) if dice else rarely)


INTS = st.sampled_from(
    [-1, 0, 99, BALANCE_MAX, -BALANCE_MAX, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)]
) | st.integers(-(2**63), 2**64 - 1)
TEXTS = mostly("", "one", rarely=st.text(max_size=5) | st.sampled_from(["x" * 2_000, "nul\x00"]))
ODD_NUMBERS = st.text(max_size=5) | st.sampled_from(
    ["", "@", f"{EXTERNAL}/USD", "z" * 65, "nul\x00", "a\n", "\ufeff", "c\u0301", '"', "\U0001f4b6"]
)
NUMBERS = mostly("a", "b", "far", *HOME_HERE[:2], EXTERNAL, rarely=ODD_NUMBERS)
IDS = mostly(*map(pid, range(4)), rarely=st.binary(max_size=20))
XIDS = mostly(*map(xid, range(5)), rarely=st.binary(max_size=20))
CURRENCIES = mostly(
    "USD", rarely=st.sampled_from(["EUR", "usd", "", "US\x00", "DOLLARS", "\u00c5BC"])
)
ATTEMPTS = mostly(1, 2, rarely=INTS)
COUNTS = mostly(0, 1, 2, 3, rarely=INTS)
BUCKET_IDS = mostly(1, 2, 3, rarely=INTS)
AMOUNTS = mostly(-5, -1, 0, 1, 5, rarely=INTS)
LEGS = st.one_of(
    st.sampled_from([(("a", -1), ("b", 1)), (("a", -5), ("far", 5)), ((EXTERNAL, -3), ("a", 3))]),
    st.sampled_from([((number, 3),) for number in ("new", *HOME_HERE[:2])]),
    st.lists(st.tuples(NUMBERS, AMOUNTS), max_size=3).map(tuple),
)
TOKENS = st.builds(Token, COUNTS, COUNTS, st.sampled_from(LockMode))
MANY_TOKENS = mostly((), rarely=st.lists(st.none() | TOKENS, max_size=3).map(tuple))
PARTICIPANTS = mostly((), (2,), rarely=st.lists(BUCKET_IDS, max_size=3).map(tuple))
OWN = mostly((0, 1), (0,), rarely=st.lists(st.integers(-1, 3) | INTS, max_size=3).map(tuple))
KINDS = st.sampled_from(Kind)
HASHES = mostly(b"h" * 16, b"i" * 16, rarely=st.binary(max_size=3))
BODIES = st.builds(Body, KINDS, CURRENCIES, LEGS, COUNTS, TEXTS)
OPTIONAL = st.none() | st.booleans()

INSTRUCTIONS: st.SearchStrategy[Instruction] = st.one_of(
    st.builds(
        Prepare,
        *(
            XIDS,
            IDS,
            ATTEMPTS,
            HASHES,
            BUCKET_IDS,
            PARTICIPANTS,
            KINDS,
            CURRENCIES,
            LEGS,
            MANY_TOKENS,
        ),
        *(COUNTS, st.tuples(TEXTS, TEXTS), TEXTS),
    ),
    st.builds(
        Decide,
        *(XIDS, IDS, ATTEMPTS, BODIES, HASHES, PARTICIPANTS, OWN, BUCKET_IDS, MANY_TOKENS),
    ),
    st.builds(
        RecordRefusal,
        IDS,
        KINDS,
        NUMBERS,
        COUNTS,
        st.sampled_from(Reason),
        TEXTS,
        st.none() | BODIES,
        HASHES,
    ),
    st.builds(Commit, XIDS, COUNTS),
    st.builds(Abort, XIDS),
    st.builds(Resolve, IDS, ATTEMPTS, XIDS, HASHES),
    st.builds(QueryRecord, IDS, NUMBERS, KINDS),
    st.builds(Mark, NUMBERS, TOKENS),
    st.builds(Unmark, NUMBERS, TOKENS),
    st.builds(CloseIncarnation, mostly(TC, OTHER_TC, rarely=st.binary(max_size=12))),
    st.builds(Genesis, TEXTS, BUCKET_IDS, BUCKET_IDS),
    st.builds(TakeEpoch, TEXTS),
    st.builds(
        SetAccount,
        *(NUMBERS, OPTIONAL, OPTIONAL, st.none() | AMOUNTS, st.none() | TOKENS),
        mostly(b"", pid(1), pid(9), rarely=st.binary(max_size=20)),
    ),
    st.builds(RegisterNode, COUNTS, TEXTS, st.lists(TEXTS, max_size=2).map(tuple), TEXTS, IDS),
    st.builds(RetireNode, COUNTS),
)
CHUNKS = st.builds(
    Batch,
    mostly(TC, b"", rarely=st.binary(max_size=12)),
    mostly(0, 1, rarely=INTS),
    st.lists(INSTRUCTIONS, max_size=6).map(tuple),
)
ENTRIES = st.lists(
    st.builds(
        Proposal,
        *(st.just(LEDGER_VERSION) | st.integers(-(2**63), LEDGER_VERSION), INTS, INTS, INTS),
        st.lists(CHUNKS, min_size=1, max_size=2).map(tuple),
    ),
    min_size=1,
    max_size=5,
)


class Replica:
    """A ledger over a real database, which it meets after each entry, or only at the end."""

    def __init__(self, database: RocksAccountDB, bucket: int, *, eager: bool) -> None:
        self.database, self.bucket, self.eager = database, bucket, eager
        self.ledger: Ledger

    async def start(self) -> None:
        kept = await self.database.open(self.bucket, b"me")
        kept.bucket.bucket = BUCKET  # every example has a bucket of its own in the file
        self.ledger = Ledger(kept)
        self.ledger.rows.filter.add_all(await self.database.payment_ids(self.bucket, b"", 1_000))
        self.ledger.rows.filter.complete()

    async def apply(self, proposal: Proposal) -> list[list[Answer]]:
        """The way its host does."""
        ledger = self.ledger
        if missing := ledger.missing(proposal):
            ledger.rows.load(missing, await self.load(missing))
        answers = ledger.apply(ledger.rows.bucket.applied + 1, 1, proposal)
        if self.eager:
            await self.flush()
        return answers

    async def load(self, missing: Missing):  # noqa: ANN201
        return await self.database.load(
            self.bucket, missing.accounts, missing.records, missing.claims
        )

    async def flush(self) -> None:
        before = self.ledger.rows._flushed_index
        writes = self.ledger.rows.take_writes()
        writes.bucket.bucket = self.bucket
        assert await self.database.flush(writes, before=before, writer=b"me")
        self.ledger.rows.flushed(writes)
        self.ledger.rows.evict(0)


_buckets = count(1)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RocksAccountDB]:
    database = RocksAccountDB.connect(tmp_path_factory.mktemp("any") / "a", "test", 1)
    yield database
    asyncio.run(database.close())


FIRST = Proposal(
    LEDGER_VERSION,
    1,
    1,
    1,
    (
        Batch(
            TC,
            0,
            (
                Genesis("cluster", BUCKET, BUCKETS),
                prepare(900, ("a", 100), kind=Kind.CREATION),
                Commit(xid(900), 1),
                prepare(901, ("b", 100), kind=Kind.CREATION),
                Commit(xid(901), 1),
                prepare(0, ("a", -1)),
                decide(1, ("a", -1), ("b", 1)),
            ),
        ),
    ),
)


async def agree(database: RocksAccountDB, entries: list[Proposal]) -> None:
    """Both replicas answer alike and hold the same, also after a start from what the database has."""
    eager, lazy = (Replica(database, next(_buckets), eager=each) for each in (True, False))
    await eager.start()
    await lazy.start()
    for proposal in (FIRST, *entries):
        # As the leader got it, and as the log hands it out.
        batches = tuple(decode_batch(encode(batch)) for batch in proposal.batches)
        proposal = Proposal(
            *(getattr(proposal, f) for f in Proposal.__struct_fields__[:-1]), batches
        )
        assert await eager.apply(proposal) == await lazy.apply(proposal)
    await lazy.flush()
    assert eager.ledger.rows.state_hash() == lazy.ledger.rows.state_hash()
    kept = [await eager.database.bucket_row(each.bucket) for each in (eager, lazy)]
    assert kept[0].state_hash == kept[1].state_hash == lazy.ledger.rows.state_hash()
    for each in (eager, lazy):
        await database.verify(each.bucket)
    await eager.start()
    assert eager.ledger.rows.state_hash() == lazy.ledger.rows.state_hash()


@settings(max_examples=30, deadline=None)
@given(entries=ENTRIES)
def test_whatever_an_instruction_holds_every_replica_does_the_same(
    database: RocksAccountDB, entries: list[Proposal]
) -> None:
    """Through the decoder, the loads, the rules, the filter, the digests, MessagePack and RocksDB: nothing raises."""
    asyncio.run(agree(database, entries))
