"""What the Raft core refuses, as exceptions: each says what happened, what was expected and what to do.

A message or a call that raises one of these has changed nothing. A broken invariant of our own is an
`AssertionError` instead, and stops the replica.
"""

from typing import ClassVar

from mas.errors import MasError


class RaftError(MasError):
    """The root of what `mas.raft` raises."""


class ConfigError(RaftError):
    """A configuration, of a node or of the group's members, that can't be."""


class NotLeader(RaftError):
    """Only a leader takes this; `leader` is a hint, 0 where unknown. The core never forwards proposals."""

    retryable: ClassVar[bool] = True

    def __init__(self, message: str = "this node is not the leader", leader: int = 0) -> None:
        super().__init__(message)
        self.leader = leader


class ProposalDropped(RaftError):
    """Not taken by a leader, and not in its log: the same proposal may be tried again."""

    retryable: ClassVar[bool] = True


class Compacted(RaftError):
    """The log no longer holds this index: a snapshot stands for it."""


class Unavailable(RaftError):
    """The log doesn't hold this index yet, or there is no snapshot to give out now."""

    retryable: ClassVar[bool] = True


class IllegalMessage(RaftError):
    """A message that no correct peer sends."""


class LostAcknowledged(IllegalMessage):
    """A message of this node's own term or a later one that proves, if its sender is a member, that what this node had
    acknowledged is gone from its log: it must not vote any more.
    """


class CorruptState(RaftError):
    """What was persisted can't be a state of Raft."""
