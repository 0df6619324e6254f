"""Nodes and replicas come out of protobuf as they went in."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mas.ledger.rows import NodeRow
from mas.rpc.messages import FollowerView, ReplicaState, ReplicaView
from mas.wire.gen.mas.v1 import node_pb2 as pb
from mas.wire.nodes import node_from_wire, node_to_wire, replica_from_wire, replica_to_wire

ids = st.integers(0, 2**32 - 1)
indexes = st.integers(0, 2**64 - 1)
texts = st.text(max_size=20)
id_tuples = st.lists(ids, max_size=4).map(tuple)
nodes = st.builds(
    NodeRow, ids, texts, st.lists(texts, max_size=3).map(tuple), texts, st.binary(), st.booleans()
)
followers = st.builds(FollowerView, ids, indexes, st.booleans(), st.booleans())
views = st.builds(
    ReplicaView,
    request=st.just(0),
    bucket=ids,
    node=ids,
    state=st.sampled_from(ReplicaState),
    trouble=texts,
    leading=st.booleans(),
    leader=ids,
    term=indexes,
    first_index=indexes,
    last_index=indexes,
    commit=indexes,
    applied=indexes,
    flushed=indexes,
    voters=id_tuples,
    learners=id_tuples,
    received=indexes,
    size=indexes,
    followers=st.lists(followers, max_size=3).map(tuple),
)


@given(nodes)
def test_a_node_survives_the_way_but_for_its_store(row: NodeRow) -> None:
    wire = pb.Node.FromString(node_to_wire(row).SerializeToString())
    assert node_from_wire(wire, row.store) == row
    assert node_from_wire(wire) == msgspec.structs.replace(row, store=b"")


@given(views)
def test_a_replica_survives_the_way(view: ReplicaView) -> None:
    wire = pb.Replica.FromString(replica_to_wire(view).SerializeToString())
    assert replica_from_wire(wire) == view


def test_states_have_the_same_names_and_numbers() -> None:
    assert {state.name: int(state) for state in ReplicaState} == dict(pb.Replica.State.items())


def test_a_newer_servers_state_is_stopped() -> None:
    message = pb.Replica(bucket=1, node=2, trouble="so it is")
    message.MergeFromString(b"\x18\x63")  # field 3, state: 99
    view = replica_from_wire(message)
    assert (view.state, view.trouble) == (ReplicaState.STOPPED, "so it is")
