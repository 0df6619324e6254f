"""The cluster's register, which bucket 1 keeps: nodes that joined or left after the cluster's creation.

A node of the creation stands in every node's configuration, and here only once it is retired or has moved. An id is used
once for all time: it never comes to mean another node to whoever has heard of it before, and a node that has lost its
data, and with it its votes, can't come back as if it hadn't.
"""

from mas.ledger.instructions import Answer, Code, Reason, RegisterNode, RetireNode
from mas.ledger.rows import NodeRow
from mas.limits import (
    NODES_MAX,
    check_node_address,
    check_node_host,
    check_node_id,
    check_node_roles,
    check_node_store,
)

REGISTER_BUCKET = 1

Nodes = tuple[NodeRow, ...]
"""In ascending order of their ids."""


def register(nodes: Nodes, register_node: RegisterNode) -> Nodes | Answer:
    """The register with this node in it as it says it is now; or why it can't join under this id.

    Raises:
        InvalidRequest: one of its fields isn't what it has to be.
    """
    check_node_id(register_node.node)
    check_node_address(register_node.address)
    check_node_roles(register_node.roles)
    check_node_host(register_node.host)
    check_node_store(register_node.store)
    known = _find(nodes, register_node.node)
    if known is not None and known.retired:
        return _refuse_id(
            f"node {register_node.node} was retired, and an id is used once for all time"
        )
    if known is not None and known.store != register_node.store:
        return _refuse_id(
            f"node {register_node.node} was registered, at {known.address}, with another data directory than this one, which "
            "is new or was wiped"
        )
    return _put(
        nodes,
        NodeRow(
            register_node.node,
            register_node.address,
            register_node.roles,
            register_node.host,
            register_node.store,
        ),
    )


def retire(nodes: Nodes, retire_node: RetireNode) -> Nodes | Answer:
    """The register without this node among the living; all that is known of it is kept.

    Raises:
        InvalidRequest: no node has such an id.
    """
    check_node_id(retire_node.node)
    known = _find(nodes, retire_node.node) or NodeRow(retire_node.node)
    return _put(
        nodes,
        NodeRow(known.node, known.address, known.roles, known.host, known.store, retired=True),
    )


def _find(nodes: Nodes, node: int) -> NodeRow | None:
    return next((row for row in nodes if row.node == node), None)


def _put(nodes: Nodes, new: NodeRow) -> Nodes | Answer:
    others = [row for row in nodes if row.node != new.node]
    if len(others) >= NODES_MAX:
        return Answer(
            Code.REFUSED,
            Reason.TOO_MANY_NODES,
            detail=f"the register holds {NODES_MAX} nodes, retired ones among them: it has no room for node {new.node}",
        )
    return tuple(sorted([*others, new], key=lambda row: row.node))


def _refuse_id(what: str) -> Answer:
    return Answer(Code.REFUSED, Reason.NODE_ID_USED, detail=f"{what}: join under a new id")
