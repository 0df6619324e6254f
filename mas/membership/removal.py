"""When a replica that was removed may go: once so many of those who stay know it that they can do without its vote.

Whoever hasn't applied a removal counts the one removed among the voters. So had it left by its own knowledge, and the few
others who knew died, the rest would wait for its vote for ever, though they are a majority of those who stay. It stays,
and votes, until a quorum of them has applied its removal: every quorum of theirs then has one among it who knows, and
tells the others as it asks for their votes. A member applies a change of the membership only once the commit is on its
disk, so that no restart takes that back.
"""

import asyncio
import logging
from collections.abc import Sequence

from mas.errors import Unavailable
from mas.rpc.messages import ReadReplica, ReplicaState, ReplicaView
from mas.rpc.ports import Buckets

_log = logging.getLogger(__name__)

_ANSWER_SECONDS = 2.0


async def is_removal_known(
    buckets: Buckets, bucket: int, node: int, voters: Sequence[int], index: int
) -> bool:
    """Tell whether a majority of these voters, who are those at `index`, has applied what removed the node up to there."""
    views = await asyncio.gather(*(_ask(buckets, bucket, voter) for voter in voters))
    know = sum(view is not None and _knows(view, node, index) for view in views)
    return 2 * know > len(voters)


async def _ask(buckets: Buckets, bucket: int, voter: int) -> ReplicaView | None:
    try:
        reply = await buckets.query(bucket, ReadReplica(0, bucket), _ANSWER_SECONDS, replica=voter)
    except Unavailable as error:
        _log.info("bucket %d, node %d: %s", bucket, voter, error)
        return None
    assert isinstance(reply, ReplicaView), f"{reply} in answer to a question for a replica"
    return reply


def _knows(view: ReplicaView, node: int, index: int) -> bool:
    is_served = view.state in (ReplicaState.RUNNING, ReplicaState.BEHIND)
    return is_served and view.applied >= index and node not in view.voters + view.learners
