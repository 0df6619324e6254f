"""The roster: what a process knows of the cluster's nodes and of the buckets' replicas. Pure: two rosters in, the newer of everything out.

Nothing in it is decided here. Which nodes have joined or left is the register's, which bucket 1 keeps; which nodes hold a
bucket is that bucket's log's, by the index of its last change. Both carry the index that made them, so of two rosters
it is plain which is newer in what, and whoever meets anybody who knows more soon knows it too. What each node was
founded with, and which store it had when it was met first, never changes: there the first word stands.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import msgspec
from msgspec.structs import replace

from mas.decoding import msgpack_decoder
from mas.errors import NetworkError
from mas.ledger.rows import NodeRow
from mas.limits import BUCKET_ID_MAX, NODE_ID_MAX, NODE_STORE_BYTES, NODES_MAX


class BucketMembers(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Who holds replicas of a bucket."""

    bucket: int
    founders: tuple[int, ...]
    """The voters at the cluster's creation: what the bucket's log begins with."""
    index: int = 0
    """Of the entry that changed the membership last; 0: it is still that of the founders."""
    voters: tuple[int, ...] = ()
    """In a joint configuration, of both halves."""
    learners: tuple[int, ...] = ()

    @property
    def holders(self) -> tuple[int, ...]:
        """Voters and learners."""
        return self.voters + self.learners


class Roster(msgspec.Struct, frozen=True, gc=False):
    """A roster, or the part of one that is news. As stored and as sent."""

    founders: tuple[NodeRow, ...] = ()
    """The nodes of the cluster's creation, as configuration files name them."""
    register_index: int = 0
    register: tuple[NodeRow, ...] = ()
    """Nodes that joined or left since (bucket 1's)."""
    buckets: tuple[BucketMembers, ...] = ()
    stores: tuple[tuple[int, bytes], ...] = ()
    """The store of each node that holds replicas, as it was when the node was first met."""

    def nodes(self) -> dict[int, NodeRow]:
        """Every node that there ever was, by id, ascending."""
        rows = {row.node: row for row in self.founders}
        for row in self.register:
            founder = rows.get(row.node)
            if founder is not None and not row.address:
                row = replace(founder, retired=row.retired)
            rows[row.node] = row
        return dict(sorted(rows.items()))

    def holders(self) -> dict[int, BucketMembers]:
        """The buckets by id, ascending."""
        return {members.bucket: members for members in self.buckets}

    def store_of(self, node: int) -> bytes:
        """The node's store, empty where it isn't known."""
        registered = next((row.store for row in self.register if row.node == node), b"")
        return registered or dict(self.stores).get(node, b"")

    def may_hold(self, node: int) -> bool:
        """Tell whether buckets count on this node, or could: by its roles, or since it holds one already."""
        row = self.nodes().get(node)
        return (row is not None and can_hold(row)) or any(
            node in members.holders for members in self.buckets
        )

    def merge(self, other: "Roster") -> tuple["Roster", "Roster"]:
        """Both together, and what of `other` was news to this one."""
        newer_register = other.register_index > self.register_index
        news = Roster(
            founders=_unknown(self.founders, other.founders),
            register_index=other.register_index if newer_register else 0,
            register=other.register if newer_register else (),
            buckets=_newer(self.holders(), other.buckets),
            stores=_unmet(dict(self.stores), other.stores),
        )
        return self._with(news), news

    def is_empty(self) -> bool:
        """Tell whether there is nothing in it."""
        return self == _NOTHING

    def _with(self, news: "Roster") -> "Roster":
        if news.is_empty():
            return self
        buckets = self.holders() | news.holders()
        return Roster(
            founders=_sorted_nodes((*self.founders, *news.founders)),
            register_index=news.register_index or self.register_index,
            register=news.register if news.register_index else self.register,
            buckets=tuple(buckets[bucket] for bucket in sorted(buckets)),
            stores=tuple(sorted((*self.stores, *news.stores))),
        )


def can_hold(row: NodeRow) -> bool:
    """Tell whether a node's roles let it hold replicas."""
    return not {"rm", "all"}.isdisjoint(row.roles)


def _unknown(known: Iterable[NodeRow], offered: Iterable[NodeRow]) -> tuple[NodeRow, ...]:
    ids = {row.node: True for row in known}
    return tuple(row for row in offered if row.node not in ids)


def _newer(
    known: Mapping[int, BucketMembers], offered: Iterable[BucketMembers]
) -> tuple[BucketMembers, ...]:
    return tuple(
        members
        for members in offered
        if members.bucket not in known or members.index > known[members.bucket].index
    )


def _unmet(
    known: Mapping[int, bytes], offered: Iterable[tuple[int, bytes]]
) -> tuple[tuple[int, bytes], ...]:
    return tuple((node, store) for node, store in offered if node not in known)


def _sorted_nodes(rows: Iterable[NodeRow]) -> tuple[NodeRow, ...]:
    return tuple(sorted(rows, key=lambda row: row.node))


def decode_roster(data: bytes) -> Roster:
    """A roster that another process has sent.

    Raises:
        NetworkError: it can't be read, or can't be one.
    """
    roster = _decode(data)
    _check_nodes("founders", [row.node for row in roster.founders])
    _check_nodes("registered nodes", [row.node for row in roster.register])
    _check_nodes("nodes with a store", [node for node, _ in roster.stores])
    _check_ids("buckets", [members.bucket for members in roster.buckets], BUCKET_ID_MAX)
    if any(len(store) != NODE_STORE_BYTES for _, store in roster.stores):
        raise NetworkError(f"a roster has a store that isn't {NODE_STORE_BYTES} bytes")
    if roster.register_index < 0:
        raise NetworkError(f"a roster has the register of index {roster.register_index}")
    for members in roster.buckets:
        _check_members(members)
    return roster


def _check_members(members: BucketMembers) -> None:
    what = f"bucket {members.bucket}'s"
    _check_nodes(f"{what} founders", members.founders)
    _check_nodes(f"{what} voters", members.voters)
    _check_nodes(f"{what} learners", members.learners)
    if not members.founders or not members.voters or members.index < 0:
        raise NetworkError(f"a roster has {members}: expected founders, voters and an index")
    if any(node in members.voters for node in members.learners):
        raise NetworkError(f"a roster has {members}: expected no learner that votes")


def _check_nodes(what: str, ids: Sequence[int]) -> None:
    _check_ids(what, ids, NODE_ID_MAX)
    if len(ids) > NODES_MAX:
        raise NetworkError(f"a roster has {len(ids)} {what}: expected at most {NODES_MAX}")


def _check_ids(what: str, ids: Sequence[int], greatest: int) -> None:
    within = all(1 <= each <= greatest for each in ids)
    if not within or any(one >= other for one, other in pairwise(ids)):
        raise NetworkError(f"a roster's {what} aren't ascending ids from 1 to {greatest}")


def founding_roster(nodes: tuple[NodeRow, ...], buckets: dict[int, tuple[int, ...]]) -> Roster:
    """Make the roster that configuration files say of the cluster at its creation."""
    return Roster(
        founders=tuple(sorted(nodes, key=lambda row: row.node)),
        buckets=tuple(
            BucketMembers(bucket, tuple(sorted(voters)), voters=tuple(sorted(voters)))
            for bucket, voters in sorted(buckets.items())
        ),
    )


_NOTHING = Roster()
_decode = msgpack_decoder(Roster, "a roster", NetworkError)
