"""What configuration changes make of a configuration, and which are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mas.raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfigError,
    ConfState,
    CorruptState,
)
from mas.raft import confchange as rules
from mas.raft.quorum import VoteResult, joint_vote
from tests.raft.group import change

ADD, REMOVE, LEARN = ConfChangeType.ADD_NODE, ConfChangeType.REMOVE_NODE, ConfChangeType.ADD_LEARNER
IMPLICIT, EXPLICIT = ConfChangeTransition.JOINT_IMPLICIT, ConfChangeTransition.JOINT_EXPLICIT
THREE = ConfState(voters=(1, 2, 3))


@pytest.mark.parametrize(
    ("conf", "one", "expected"),
    [
        (THREE, change(ADD, 4), ConfState(voters=(1, 2, 3, 4))),
        (THREE, change(ADD, 2), THREE),
        (THREE, change(REMOVE, 3), ConfState(voters=(1, 2))),
        (THREE, change(REMOVE, 9), THREE),
        (THREE, change(LEARN, 4), ConfState(voters=(1, 2, 3), learners=(4,))),
        (THREE, change(LEARN, 3), ConfState(voters=(1, 2), learners=(3,))),
        (ConfState((1,), learners=(2,)), change(ADD, 2), ConfState(voters=(1, 2))),
        (ConfState(), change(ADD, 1), ConfState(voters=(1,))),
        (THREE, change(ADD, 0), THREE),
        (THREE, change(REMOVE, 0), THREE),
        (THREE, change(LEARN, 0), THREE),
    ],
)
def test_one_change_is_simple(conf: ConfState, one: ConfChange, expected: ConfState) -> None:
    assert rules.apply(conf, one) == expected


def test_node_0_is_nobody_among_several_changes_too() -> None:
    """etcd voids a change by setting its id to 0 (its `zero.txt`)."""
    assert rules.apply(THREE, change(ADD, 0, 4)) == rules.apply(
        THREE, change(ADD, 4, transition=IMPLICIT)
    )
    assert rules.apply(THREE, change(REMOVE, 0, 0)) == ConfState(
        (1, 2, 3), (1, 2, 3), auto_leave=True
    )


def test_several_changes_go_through_a_joint_configuration_that_leaves_by_itself() -> None:
    joint = rules.apply(THREE, change(ADD, 4, 5))
    assert joint == ConfState((1, 2, 3, 4, 5), (1, 2, 3), auto_leave=True)
    assert rules.apply(joint, ConfChange()) == ConfState(voters=(1, 2, 3, 4, 5))


@pytest.mark.parametrize(("transition", "auto_leave"), [(IMPLICIT, True), (EXPLICIT, False)])
def test_one_change_may_be_joint_on_request(
    transition: ConfChangeTransition, *, auto_leave: bool
) -> None:
    joint = rules.apply(THREE, change(ADD, 4, transition=transition))
    assert joint == ConfState((1, 2, 3, 4), (1, 2, 3), auto_leave=auto_leave)


def test_a_voter_that_becomes_learner_waits_for_the_outgoing_half_to_go() -> None:
    joint = rules.apply(THREE, change(LEARN, 3, transition=EXPLICIT))
    assert joint == ConfState((1, 2), (1, 2, 3), learners_next=(3,))
    assert rules.apply(joint, ConfChange()) == ConfState((1, 2), learners=(3,))


@pytest.mark.parametrize(
    ("conf", "refused"),
    [
        (ConfState(voters=(1,)), change(REMOVE, 1)),
        (THREE, change(REMOVE, 1, 2, 3)),
        (ConfState((1, 2), (1,)), change(ADD, 3)),
        (ConfState((1, 2), (1,)), change(ADD, 3, 4)),
        (THREE, ConfChange()),
        (ConfState(), change(ADD, 1, 2)),
        (THREE, change(ADD, -1)),
        (ConfState(), change(ADD, 0)),
    ],
)
def test_what_a_configuration_does_not_allow_is_refused(
    conf: ConfState, refused: ConfChange
) -> None:
    with pytest.raises(ConfigError):
        rules.apply(conf, refused)


singles = st.builds(ConfChangeSingle, st.sampled_from(ConfChangeType), st.integers(1, 6))
changes = st.builds(
    ConfChange, st.lists(singles, max_size=4).map(tuple), st.sampled_from(ConfChangeTransition)
)


@given(st.lists(changes, max_size=8))
def test_every_configuration_reached_is_sound_and_meets_the_one_before(
    steps: list[ConfChange],
) -> None:
    """Two quorums of neighbouring configurations share a voter (Raft, 6)."""
    conf = THREE
    for step in steps:
        try:
            following = rules.apply(conf, step)
        except ConfigError:
            continue
        rules.check(following)
        ids = range(1, 7)
        for bits in range(1 << 6):
            some = {node: bool(bits >> (node - 1) & 1) for node in ids}
            others = {node: not vote for node, vote in some.items()}
            both = (
                joint_vote(conf.voters, conf.voters_outgoing, some),
                joint_vote(following.voters, following.voters_outgoing, others),
            )
            assert both != (VoteResult.WON, VoteResult.WON)
        conf = following


@pytest.mark.parametrize(
    "conf",
    [
        ConfState(voters=(2, 1)),
        ConfState(voters=(1, 1)),
        ConfState(voters=(0, 1)),
        ConfState(learners=(1,)),
        ConfState((1, 2), learners=(2,)),
        ConfState((1, 2), (3,), learners=(3,)),
        ConfState((1, 2), (3,), learners_next=(4,)),
        ConfState((1, 2), (1, 2), learners_next=(2,)),
        ConfState((1, 2), auto_leave=True),
    ],
)
def test_a_configuration_that_no_change_leads_to_is_found_out(conf: ConfState) -> None:
    with pytest.raises(ConfigError):
        rules.check(conf)


@given(changes)
def test_a_change_survives_its_encoding(one: ConfChange) -> None:
    assert ConfChange.decode(one.encode()) == one


def test_no_bytes_are_the_empty_change_that_leaves_a_joint_configuration() -> None:
    """As etcd decodes it."""
    assert ConfChange.decode(b"") == ConfChange()
    joint = ConfState((1, 2), (1, 2, 3))
    assert rules.apply(joint, ConfChange.decode(b"")) == ConfState(voters=(1, 2))


@pytest.mark.parametrize("data", [b"\xff", b"\x93\x90\x07\xc4\x00"])
def test_bytes_that_are_no_change_are_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptState, match="configuration change"):
        ConfChange.decode(data)
