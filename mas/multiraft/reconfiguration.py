"""Changes of a group's members and leader: which may be proposed, and who can take over or be promoted.

Pure functions over a `Status` of the group's core, so that each can be tested without a group.
"""

from collections.abc import Iterable

from mas.errors import InvalidRequest, Unavailable
from mas.raft import (
    ConfChange,
    ConfChangeType,
    ConfigError,
    ProgressState,
    Role,
    Status,
    confchange,
)
from mas.raft.quorum import VoteResult, joint_vote


def removes(change: ConfChange, node: int) -> bool:
    """Return whether the change takes the node's vote: by removing it, or by making it a learner."""
    return any(
        one.node_id == node and one.type is not ConfChangeType.ADD_NODE for one in change.changes
    )


def check_quorum_after(group: int, status: Status, change: ConfChange) -> None:
    """Refuse a change that leaves too few voters that answer: once it is committed nobody could take it back.

    A node that doesn't lead knows of nobody who answers, and lets the change pass: its core refuses it.

    Raises:
        Unavailable: the voters that answer would be no quorum.
    """
    if status.role is not Role.LEADER:
        return
    try:
        after = confchange.apply(status.conf_state, change)
    except ConfigError:
        return  # the core says it better
    answering = {
        node: True
        for node, progress in status.progress.items()
        if progress.recent_active or node == status.id
    }
    if joint_vote(after.voters, after.voters_outgoing, answering) is not VoteResult.WON:
        raise Unavailable(
            f"bucket {group} would have the voters {list(after.voters)}, of which only "
            f"{[node for node in after.voters if node in answering]} answer: bring the others back first"
        )


def check_voter(group: int, voters: tuple[int, ...], node: int) -> None:
    """Refuse a transfer of leadership to a node that can't lead.

    Raises:
        InvalidRequest: the node isn't a voter of the group.
    """
    if node not in voters:
        raise InvalidRequest(
            f"node {node} is no voter of bucket {group}, whose voters are {list(voters)}"
        )


def transfer_candidates(status: Status) -> tuple[int, ...]:
    """Return the voters that hold all that is committed and so can take over at once; nobody during a transfer."""
    if status.lead_transferee:
        return ()
    return tuple(
        node
        for node, progress in status.progress.items()
        if node in status.conf_state.voters
        and node != status.id
        and progress.state is ProgressState.REPLICATE
        and progress.match >= status.commit
    )


def longest_log(status: Status) -> int:
    """Return the voter that answers and has the longest log beside the leader's, 0 where none answers."""
    others = [
        (progress.match, node)
        for node, progress in status.progress.items()
        if not progress.is_learner and progress.recent_active and node != status.id
    ]
    return max(others)[1] if others else 0


def caught_up_learner(status: Status, learners: Iterable[int], index: int) -> int:
    """Return the first of the learners that answers and holds the log up to `index`, 0 where none does."""
    for node in learners:
        progress = status.progress.get(node)
        if (
            progress is not None
            and progress.state is ProgressState.REPLICATE
            and progress.recent_active
            and progress.match >= index
        ):
            return node
    return 0
