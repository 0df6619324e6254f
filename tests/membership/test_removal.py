"""Who has to know of a removal before the one removed may go."""

import pytest

from mas.errors import Unavailable
from mas.membership.removal import is_removal_known
from mas.rpc.messages import ReplicaState, ReplicaView

pytestmark = pytest.mark.asyncio

RUNNING, BEHIND, STOPPED = ReplicaState.RUNNING, ReplicaState.BEHIND, ReplicaState.STOPPED


def says(
    applied: int,
    *voters: int,
    learners: tuple[int, ...] = (),
    state: ReplicaState = RUNNING,
) -> ReplicaView:
    return ReplicaView(0, 1, 0, state, applied=applied, voters=voters, learners=learners)


KNOWS = says(9, 1, 2, 3)


class Buckets:
    def __init__(self, views: dict[int, ReplicaView]) -> None:
        self._views = views

    async def query(
        self, bucket: int, request: object, timeout: float, *, replica: int = 0
    ) -> ReplicaView:
        if replica not in self._views:
            raise Unavailable("no answer")
        return self._views[replica]


@pytest.mark.parametrize(
    ("views", "known"),
    [
        ({1: KNOWS, 2: KNOWS, 3: KNOWS}, True),
        ({1: KNOWS, 2: KNOWS}, True),
        ({1: KNOWS}, False),
        ({}, False),
        ({1: KNOWS, 2: says(8, 1, 2, 3)}, False),
        ({1: KNOWS, 2: says(9, 1, 2, 3, 4)}, False),
        ({1: KNOWS, 2: says(9, 1, 2, 3, learners=(4,))}, False),
        ({1: KNOWS, 2: says(9, 1, 2, 3, state=STOPPED)}, False),
        ({1: KNOWS, 2: says(9, 1, 2, 3, state=BEHIND)}, True),
        ({1: KNOWS, 4: KNOWS, 5: KNOWS}, False),
    ],
    ids=[
        "all",
        "a majority",
        "one",
        "none",
        "not applied",
        "counts it still",
        "teaches it still",
        "stopped",
        "behind",
        "others",
    ],
)
async def test_a_majority_of_those_who_stay_has_to_know(
    views: dict[int, ReplicaView], *, known: bool
) -> None:
    assert await is_removal_known(Buckets(views), 1, 4, (1, 2, 3), 9) is known  # type: ignore[arg-type]
