"""What may be proposed of a group's members and leader, by its status alone."""

from collections.abc import Mapping

import msgspec
import pytest

from mas.errors import InvalidRequest, Unavailable
from mas.multiraft import reconfiguration
from mas.raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    ConfState,
    ProgressState,
    ProgressStatus,
    Role,
    Status,
)

ADD, LEARN, REMOVE = ConfChangeType.ADD_NODE, ConfChangeType.ADD_LEARNER, ConfChangeType.REMOVE_NODE
LEARNER = 4


def peer(
    match: int = 9,
    *,
    answers: bool = True,
    state: ProgressState = ProgressState.REPLICATE,
    is_learner: bool = False,
) -> ProgressStatus:
    return ProgressStatus(
        match=match,
        next=match + 1,
        state=state,
        paused=False,
        recent_active=answers,
        is_learner=is_learner,
        pending_snapshot=0,
    )


def leader(peers: Mapping[int, ProgressStatus], *, learners: tuple[int, ...] = ()) -> Status:
    """Node 1 leads itself and these; 9 entries are committed, and all of them and one more are in its log."""
    return Status(
        id=1,
        role=Role.LEADER,
        leader=1,
        term=2,
        vote=1,
        commit=9,
        applied=9,
        last_index=10,
        conf_state=ConfState(
            voters=(1, *(node for node in peers if node not in learners)), learners=learners
        ),
        lead_transferee=0,
        progress={1: peer(10, answers=False), **peers},
    )


def change(kind: ConfChangeType, *nodes: int) -> ConfChange:
    return ConfChange(tuple(ConfChangeSingle(kind, node) for node in nodes))


# -- changes of the members ----------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "takes"), [(REMOVE, True), (LEARN, True), (ADD, False)])
def test_a_change_takes_a_nodes_vote_by_removing_or_demoting_it(
    kind: ConfChangeType, takes: bool
) -> None:
    assert reconfiguration.removes(change(kind, 2, 3), 3) is takes
    assert not reconfiguration.removes(change(kind, 2, 3), 1)


@pytest.mark.parametrize(
    ("silent", "removed", "refused"),
    [
        ((), 2, False),
        ((3,), 3, False),  # the silent one goes: the other two go on
        ((3,), 2, True),
        ((2, 3), 3, True),
    ],
)
def test_a_removal_leaves_a_quorum_that_answers_or_is_refused(
    silent: tuple[int, ...], removed: int, refused: bool
) -> None:
    status = leader({node: peer(answers=node not in silent) for node in (2, 3)})

    if refused:
        with pytest.raises(
            Unavailable, match=r"bucket 7 would have the voters .* of which only \[1\] answer"
        ):
            reconfiguration.check_quorum_after(7, status, change(REMOVE, removed))
    else:
        reconfiguration.check_quorum_after(7, status, change(REMOVE, removed))


def test_a_voter_more_may_not_lose_the_quorum_either() -> None:
    status = leader(
        {2: peer(), 3: peer(answers=False), LEARNER: peer(answers=False, is_learner=True)},
        learners=(LEARNER,),
    )

    with pytest.raises(Unavailable, match=r"\[1, 2, 3, 4\], of which only \[1, 2\] answer"):
        reconfiguration.check_quorum_after(7, status, change(ADD, LEARNER))


def test_a_joint_change_needs_a_quorum_of_both_halves() -> None:
    """Nodes 2 and 3 give way to 4 and 5, which answer: of the old half only the leader does."""
    new = {node: peer(is_learner=True) for node in (4, 5)}
    silent = leader({2: peer(answers=False), 3: peer(answers=False), **new}, learners=(4, 5))
    swap = ConfChange(
        tuple(
            ConfChangeSingle(kind, node)
            for kind, nodes in ((REMOVE, (2, 3)), (ADD, (4, 5)))
            for node in nodes
        )
    )

    with pytest.raises(Unavailable, match="bring the others back first"):
        reconfiguration.check_quorum_after(7, silent, swap)


def test_what_the_core_refuses_better_passes() -> None:
    """A node that doesn't lead hears of nobody, and a change that fits no configuration has a message of its own."""
    alone = leader({2: peer(answers=False), 3: peer(answers=False)})
    follower = msgspec.structs.replace(alone, role=Role.FOLLOWER, progress={})

    reconfiguration.check_quorum_after(7, follower, change(REMOVE, 2))
    reconfiguration.check_quorum_after(7, alone, change(REMOVE, 1, 2, 3))


# -- transfers of leadership ---------------------------------------------------------------------


def test_only_a_voter_may_be_named_as_the_next_leader() -> None:
    reconfiguration.check_voter(7, (1, 2, 3), 3)
    with pytest.raises(
        InvalidRequest, match=r"node 4 is no voter of bucket 7, whose voters are \[1, 2, 3\]"
    ):
        reconfiguration.check_voter(7, (1, 2, 3), 4)


def test_voters_that_hold_what_is_committed_can_take_over() -> None:
    status = leader(
        {
            2: peer(9),
            3: peer(8),
            5: peer(9, state=ProgressState.PROBE),
            6: peer(10),
            LEARNER: peer(10, is_learner=True),
        },
        learners=(LEARNER,),
    )

    assert reconfiguration.transfer_candidates(status) == (2, 6)
    under_way = msgspec.structs.replace(status, lead_transferee=2)
    assert reconfiguration.transfer_candidates(under_way) == ()


def test_the_longest_log_is_of_a_voter_that_answers() -> None:
    status = leader(
        {2: peer(7), 3: peer(8), 5: peer(10, answers=False), LEARNER: peer(10, is_learner=True)},
        learners=(LEARNER,),
    )

    assert reconfiguration.longest_log(status) == 3
    assert reconfiguration.longest_log(leader({2: peer(answers=False)})) == 0
    assert reconfiguration.longest_log(leader({})) == 0


# -- promotions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("learner", "promoted"),
    [
        (peer(9), True),
        (peer(8), False),
        (peer(9, answers=False), False),
        (peer(9, state=ProgressState.PROBE), False),
        (peer(9, state=ProgressState.SNAPSHOT), False),
    ],
)
def test_what_a_learner_needs_to_become_a_voter(learner: ProgressStatus, promoted: bool) -> None:
    learner = msgspec.structs.replace(learner, is_learner=True)
    status = leader({2: peer(), LEARNER: learner}, learners=(LEARNER,))

    assert reconfiguration.caught_up_learner(status, (LEARNER,), 9) == (LEARNER if promoted else 0)


def test_the_first_learner_that_has_caught_up_is_promoted() -> None:
    """Node 6 is a learner by the newest membership, and the core knows nothing of it yet."""
    status = leader({4: peer(3, is_learner=True), 5: peer(is_learner=True)}, learners=(4, 5))

    assert reconfiguration.caught_up_learner(status, (6, 4, 5), 9) == 5
