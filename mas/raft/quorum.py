"""The arithmetic of majorities, simple and joint. Pure functions over what each voter has said.

A joint decision needs a majority of both halves (Raft, section 6; dissertation, 4.3). An empty
half agrees to everything, so that a simple configuration is a joint one with nothing outgoing.
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum

# An index above any log's: what an empty half has reached.
EVERYTHING = (1 << 63) - 1


class VoteResult(IntEnum):
    """Where an election stands."""

    PENDING = 0
    LOST = 1
    WON = 2


def majority_index(indexes: list[int]) -> int:
    """Return the highest index that a majority has reached, given what each voter has reached."""
    if not indexes:
        return EVERYTHING
    return sorted(indexes)[(len(indexes) - 1) // 2]


def joint_index(incoming: list[int], outgoing: list[int]) -> int:
    """Return the highest index that a majority of both halves has reached."""
    return min(majority_index(incoming), majority_index(outgoing))


def majority_vote(voters: Sequence[int], votes: Mapping[int, bool]) -> VoteResult:
    """Count an election among `voters`; a voter that isn't in `votes` has not answered."""
    needed = len(voters) // 2 + 1
    granted = missing = 0
    for voter in voters:
        vote = votes.get(voter)
        if vote is None:
            missing += 1
        elif vote:
            granted += 1
    if granted >= needed or not voters:
        return VoteResult.WON
    return VoteResult.PENDING if granted + missing >= needed else VoteResult.LOST


def joint_vote(
    incoming: Sequence[int], outgoing: Sequence[int], votes: Mapping[int, bool]
) -> VoteResult:
    """Count an election among both halves: won in both, or lost in either."""
    results = majority_vote(incoming, votes), majority_vote(outgoing, votes)
    if VoteResult.LOST in results:
        return VoteResult.LOST
    return min(results)
