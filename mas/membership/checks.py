"""What an operator may ask of a cluster that is as the roster says: each check passes, or raises the reason and what to do."""

from mas.errors import InvalidRequest, NotFound
from mas.ledger.rows import NodeRow
from mas.membership.roster import Roster, can_hold


def check_bucket(roster: Roster, bucket: int) -> None:
    """Expect a bucket that there is. Raises `NotFound`."""
    known = list(roster.holders())
    if bucket not in known:
        raise NotFound(f"there is no bucket {bucket}: expected one from {known[0]} to {known[-1]}")


def check_node(roster: Roster, node: int) -> None:
    """Expect a node that there is, or was. Raises `NotFound`."""
    known = list(roster.nodes())
    if node not in known:
        raise NotFound(f"there is no node {node}: expected one of {known}")


def check_may_hold(roster: Roster, bucket: int, row: NodeRow) -> None:
    """Expect a node that holds buckets, on a machine without another replica of this one.

    A learner that never answers would never become a voter; two replicas on one machine fall together. Raises
    `InvalidRequest`.
    """
    if not can_hold(row):
        raise InvalidRequest(
            f"node {row.node} runs {', '.join(row.roles)}, and holds no buckets: expected one with the role rm or all"
        )
    nodes = roster.nodes()
    for holder in roster.holders()[bucket].holders:
        if row.host and holder != row.node and nodes[holder].host == row.host:
            raise InvalidRequest(
                f"nodes {holder} and {row.node} are both on {row.host!r}, and would fall together: "
                f"name a node elsewhere, or remove the replica of node {holder} first"
            )


def check_address(roster: Roster, node: NodeRow) -> None:
    """Expect an address that no other node has. Raises `InvalidRequest`."""
    for other in roster.nodes().values():
        if other.address == node.address and other.node != node.node and not other.retired:
            raise InvalidRequest(
                f"{node.address} is the address of node {other.node}: give node {node.node} its own"
            )


def check_store(roster: Roster, node: NodeRow) -> None:
    """Expect that whoever comes under an id that is used is the one that used it. Raises `InvalidRequest`."""
    known = roster.store_of(node.node)
    if not known and any(founder.node == node.node for founder in roster.founders):
        raise InvalidRequest(
            f"node {node.node} is one of the cluster's first nodes: join under a new id"
        )
    if known and known != node.store:
        raise InvalidRequest(
            f"node {node.node} is known with another data directory: give it that one, or join under a new id"
        )


def check_not_the_last_manager(roster: Roster, node: int) -> None:
    """Expect another coordinator and lock service beside this node, as only resource managers can join later.

    Raises `InvalidRequest`.
    """
    for role in ("tc", "gls"):
        able = [
            each
            for each, row in roster.nodes().items()
            if not row.retired and {role, "tm", "all"}.intersection(row.roles)
        ]
        if able == [node]:
            raise InvalidRequest(
                f"node {node} is the only one left with the role {role}, and no other can take its place: it stays"
            )
