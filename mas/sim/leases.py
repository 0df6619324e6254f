"""The promise of check-quorum (Raft, end of section 6): who has heard of its leader lately helps nobody to depose it.

A leader's lease, and a group's quiet when a cut-off node comes back, rest on it. Seen from outside: a node that got its
leader's word less than an election timeout ago, by its own clock, grants no vote and no pre-vote that was asked for then,
unless the leader itself hands over.
"""

from collections.abc import Callable

import msgspec

from mas.raft import Message, MessageType

_FROM_A_LEADER = frozenset({MessageType.APPEND, MessageType.HEARTBEAT})
_REQUESTS = {
    MessageType.PRE_VOTE: MessageType.PRE_VOTE_RESPONSE,
    MessageType.VOTE: MessageType.VOTE_RESPONSE,
}
_GRANTS = frozenset(_REQUESTS.values())
# Two ticks may be due behind the leader's word, and the next is due at any time.
_SPARE_TICKS = 3
# A candidate is silent until its own vote is synced. What its old leader says meanwhile is nothing to it.
_CANDIDACY_SECONDS = 2.0


class _Knowledge(msgspec.Struct):
    """What a node must know by what has reached it."""

    term: int = 0
    heard: float = float("-inf")
    """When it last got its leader's word, by its own clock."""
    stands_for: int = 0
    """The term that it may be a candidate of already, unheard by anybody."""
    stands_until: float = float("-inf")
    is_ending: bool = False
    """A snapshot is in its log: whatever it hears until it has begun anew, it forgets."""


class Leases:
    """One group's."""

    def __init__(
        self, seconds: float, now: Callable[[int], float], violate: Callable[[int, str], None]
    ) -> None:
        """`seconds` of an election timeout; `now` is a node's own clock."""
        self._seconds = seconds
        self._now = now
        self._violate = violate
        self._nodes: dict[int, _Knowledge] = {}
        self._asked: dict[tuple[int, int, MessageType, int], bool] = {}
        """By node, candidate, answer and term: whether this may be granted."""

    @staticmethod
    def of_ticks(ticks: int, tick_seconds: float) -> float:
        """The seconds of an election timeout that a lease can be held to."""
        return (ticks - _SPARE_TICKS) * tick_seconds

    def on_received(self, node: int, message: Message) -> None:
        """The message reaches the node's host now."""
        knows = self._nodes.setdefault(node, _Knowledge())
        kind = message.type
        if kind in _REQUESTS:
            key = node, message.from_, _REQUESTS[kind], message.term
            is_later = message.term > knows.term
            in_lease = is_later and self._in_lease(node, knows) and not message.context
            self._asked[key] = self._asked.get(key, False) or not in_lease
            if not in_lease and kind is MessageType.VOTE:
                self._learn(knows, message.term)
        elif kind in _FROM_A_LEADER:
            now = self._now(node)
            may_stand = message.term < knows.stands_for and now < knows.stands_until
            if message.term >= knows.term and not (may_stand or knows.is_ending):
                knows.term, knows.heard = message.term, now
        elif kind is MessageType.TIMEOUT_NOW:
            self._stand(node, knows, message.term + 1)
        elif message.reject:
            knows.term = max(knows.term, message.term)
            knows.heard = float("-inf")
        elif kind is not MessageType.PRE_VOTE_RESPONSE:
            self._learn(knows, message.term)

    def on_sent(self, node: int, message: Message) -> None:
        """The node says this."""
        kind = message.type
        if kind in _REQUESTS:
            knows = self._nodes.setdefault(node, _Knowledge())
            self._stand(node, knows, message.term)
            if kind is MessageType.VOTE:
                self._learn(knows, message.term)
        elif kind in _GRANTS and not message.reject:
            may_grant = self._asked.get((node, message.to, kind, message.term), False)
            if not may_grant:
                whom = f"{kind.name} to node {message.to} in term {message.term}"
                self._violate(node, f"{whom} within its leader's lease")

    def forget(self, node: int, term: int) -> None:
        """The node begins anew in this term, and follows nobody."""
        knows = self._nodes.setdefault(node, _Knowledge())
        knows.term = max(knows.term, term)
        knows.heard = float("-inf")
        knows.is_ending = False

    def end(self, node: int) -> None:
        """The node is about to begin anew."""
        knows = self._nodes.setdefault(node, _Knowledge())
        knows.heard = float("-inf")
        knows.is_ending = True

    def _stand(self, node: int, knows: _Knowledge, term: int) -> None:
        knows.heard = float("-inf")
        knows.stands_for = term
        knows.stands_until = self._now(node) + _CANDIDACY_SECONDS

    def _in_lease(self, node: int, knows: _Knowledge) -> bool:
        return self._now(node) - knows.heard < self._seconds

    def _learn(self, knows: _Knowledge, term: int) -> None:
        if term > knows.term:
            knows.term, knows.heard = term, float("-inf")
