"""Rosters: merging gives the same whatever comes first, twice or late; and what can't be a roster is refused."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mas.errors import NetworkError
from mas.ledger.rows import NodeRow
from mas.membership import BucketMembers, Roster, decode_roster
from mas.membership.roster import founding_roster

FOUNDERS = {node: NodeRow(node, f"h{node}:1", ("rm",)) for node in (1, 2, 3)}
STORES = {node: bytes([node]) * 16 for node in range(1, 6)}


def members(bucket: int, index: int) -> BucketMembers:
    """The one membership that a bucket can have as of an index."""
    return BucketMembers(bucket, (1, 2, 3), index, (1, 2 + index % 2), (4,) if index % 3 else ())


def register(index: int) -> tuple[NodeRow, ...]:
    joined = (NodeRow(node, f"h{node}:{index}") for node in range(4, 4 + index))
    return tuple(joined)


@st.composite
def rosters(draw: st.DrawFn) -> Roster:
    """Any part of what one cluster's nodes can know."""
    founders = draw(st.sets(st.sampled_from(sorted(FOUNDERS))))
    stores = draw(st.sets(st.sampled_from(sorted(STORES))))
    indexes = draw(st.dictionaries(st.integers(1, 4), st.integers(0, 9)))
    index = draw(st.integers(0, 3))
    return Roster(
        tuple(FOUNDERS[node] for node in sorted(founders)),
        index,
        register(index),
        tuple(members(bucket, indexes[bucket]) for bucket in sorted(indexes)),
        tuple((node, STORES[node]) for node in sorted(stores)),
    )


def merged(*all_of_them: Roster) -> Roster:
    roster = Roster()
    for each in all_of_them:
        roster = roster.merge(each)[0]
    return roster


@given(rosters(), rosters(), rosters())
def test_merging_is_the_same_in_any_order_and_any_grouping(a: Roster, b: Roster, c: Roster) -> None:
    assert merged(a, b, c) == merged(c, a, b) == merged(b, c, a) == merged(a, merged(b, c))


@given(rosters(), rosters())
def test_what_is_known_is_no_news(a: Roster, b: Roster) -> None:
    both, news = a.merge(b)
    assert a.merge(news)[0] == both, "the news is all that there was to know"
    assert both.merge(a)[1].is_empty()
    assert both.merge(b)[1].is_empty()
    assert both.merge(news) == (both, Roster())


@given(rosters(), rosters())
def test_nothing_that_was_known_is_lost_or_grows_older(a: Roster, b: Roster) -> None:
    both, _ = a.merge(b)
    for one in (a, b):
        assert both.register_index >= one.register_index
        assert set(both.nodes()) >= set(one.nodes())
        assert set(both.stores) >= set(one.stores)
        for bucket, known in one.holders().items():
            assert both.holders()[bucket].index >= known.index


@given(rosters())
def test_a_roster_survives_the_way(roster: Roster) -> None:
    assert decode_roster(msgspec.msgpack.encode(roster)) == roster
    assert msgspec.json.decode(msgspec.json.encode(roster), type=Roster) == roster


def test_news_that_bounce_end() -> None:
    """Between any nodes, until nobody has anything new to say."""
    known = {
        1: founding_roster(tuple(FOUNDERS.values()), {1: (1, 2, 3)}),
        2: Roster(buckets=(members(1, 5), members(2, 1)), stores=((1, STORES[1]),)),
        3: Roster(register_index=2, register=register(2), buckets=(members(1, 7),)),
    }
    queue = list(known.items())
    sent = 0
    while queue:
        sender, said = queue.pop(0)
        for node, roster in list(known.items()):
            if node == sender:
                continue
            sent += 1
            known[node], news = roster.merge(said)
            if not news.is_empty():
                queue.append((node, news))
    assert known[1] == known[2] == known[3]
    assert sent < 50


def test_the_register_is_laid_over_the_founders() -> None:
    roster = Roster(
        founders=tuple(FOUNDERS.values()),
        register_index=9,
        register=(NodeRow(2, retired=True), NodeRow(3, "moved:1", ("rm",)), NodeRow(4, "h4:1")),
    )
    nodes = roster.nodes()
    assert nodes[1] == FOUNDERS[1]
    assert nodes[2] == NodeRow(2, "h2:1", ("rm",), retired=True), "where it was is still known"
    assert nodes[3].address == "moved:1"
    assert list(nodes) == [1, 2, 3, 4]


def test_the_register_knows_a_store_best() -> None:
    roster = Roster(register=(NodeRow(4, "h:1", store=b"r" * 16),), stores=((4, b"m" * 16),))
    assert roster.store_of(4) == b"r" * 16
    assert Roster(stores=((4, b"m" * 16),)).store_of(4) == b"m" * 16
    assert roster.store_of(5) == b""


def test_who_holds_a_replica_may_hold_one_and_so_may_a_resource_manager() -> None:
    nodes = (NodeRow(2, "h:1", ("tm",)), NodeRow(3, "h:2", ("rm",)), NodeRow(5, "h:3", ("all",)))
    roster = Roster(founders=nodes, buckets=(BucketMembers(1, (1,), 3, (1,), (4,)),))
    assert [node for node in range(1, 7) if roster.may_hold(node)] == [1, 3, 4, 5]


def bad(**fields: object) -> bytes:
    return msgspec.msgpack.encode(fields)


def bucket(*fields: object) -> bytes:
    return bad(buckets=(fields,))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "can't be read"),
        (b"\xc1" * 9, "can't be read"),
        (bad(founders=(NodeRow(0),)), "founders aren't ascending"),
        (bad(founders=(NodeRow(2**32),)), "founders aren't ascending"),
        (bad(founders=(NodeRow(2), NodeRow(2))), "founders aren't ascending"),
        (bad(register=(NodeRow(3), NodeRow(2))), "registered nodes aren't ascending"),
        (bad(register=tuple(NodeRow(n) for n in range(1, 1_002))), "1001 registered nodes"),
        (bad(register_index=-1), "register of index -1"),
        (bad(stores=((1, b"short"),)), "isn't 16 bytes"),
        (bad(stores=((-1, b"s" * 16),)), "with a store aren't ascending"),
        (bucket(0, (1,), 0, (1,)), "buckets aren't ascending"),
        (bucket(65_537, (1,), 0, (1,)), "buckets aren't ascending"),
        (bucket(1, (1,), 0, ()), "expected founders, voters and an index"),
        (bucket(1, (), 0, (1,)), "expected founders, voters and an index"),
        (bucket(1, (1,), -1, (1,)), "expected founders, voters and an index"),
        (bucket(1, (1,), 0, (2, 1)), "voters aren't ascending"),
        (bucket(1, (1,), 0, (1,), (1,)), "no learner that votes"),
        (bucket(1, (1,), 0, tuple(range(1, 2_000))), "1999 bucket 1's voters"),
        (bucket(1, (1,), 0, (1, "x")), "can't be read"),
    ],
)
def test_what_cannot_be_a_roster_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(NetworkError, match=words):
        decode_roster(data)
