"""The arithmetic of majorities, against a count by hand and by brute force."""

from hypothesis import given
from hypothesis import strategies as st

from mas.raft.quorum import (
    EVERYTHING,
    VoteResult,
    joint_index,
    joint_vote,
    majority_index,
    majority_vote,
)

voters = st.sets(st.integers(1, 9), max_size=7).map(lambda ids: tuple(sorted(ids)))
indexes = st.lists(st.integers(0, 12), max_size=7)
votes = st.dictionaries(st.integers(1, 9), st.booleans())


def reached_by_majority(reached: list[int], index: int) -> bool:
    return 2 * sum(one >= index for one in reached) > len(reached)


def outcomes(who: tuple[int, ...], given_votes: dict[int, bool]) -> set[bool]:
    """Whether a majority grants, for every way in which those who are silent may vote."""
    silent = [voter for voter in who if voter not in given_votes]
    results = set()
    for bits in range(1 << len(silent)):
        guess = {voter: bool(bits >> place & 1) for place, voter in enumerate(silent)}
        granted = sum((given_votes | guess)[voter] for voter in who)
        results.add(2 * granted > len(who) or not who)
    return results


@given(indexes)
def test_a_majority_has_reached_its_index_and_no_higher(reached: list[int]) -> None:
    index = majority_index(reached)
    if not reached:
        assert index == EVERYTHING
        return
    assert reached_by_majority(reached, index)
    assert not reached_by_majority(reached, index + 1)


@given(indexes, indexes)
def test_a_joint_index_is_reached_in_both_halves(incoming: list[int], outgoing: list[int]) -> None:
    highest = max(
        index
        for index in range(13)
        if all(not half or reached_by_majority(half, index) for half in (incoming, outgoing))
    )
    assert min(joint_index(incoming, outgoing), 12) == (highest if incoming or outgoing else 12)


@given(voters, votes)
def test_an_election_is_over_once_silence_can_not_change_it(
    who: tuple[int, ...], given_votes: dict[int, bool]
) -> None:
    expected = {
        frozenset({True}): VoteResult.WON,
        frozenset({False}): VoteResult.LOST,
        frozenset({True, False}): VoteResult.PENDING,
    }[frozenset(outcomes(who, given_votes))]
    assert majority_vote(who, given_votes) is expected


@given(voters, voters, votes)
def test_a_joint_election_is_won_in_both_halves_and_lost_in_either(
    incoming: tuple[int, ...], outgoing: tuple[int, ...], given_votes: dict[int, bool]
) -> None:
    halves = {majority_vote(incoming, given_votes), majority_vote(outgoing, given_votes)}
    result = joint_vote(incoming, outgoing, given_votes)
    if VoteResult.LOST in halves:
        assert result is VoteResult.LOST
    elif halves == {VoteResult.WON}:
        assert result is VoteResult.WON
    else:
        assert result is VoteResult.PENDING
