"""Every error that MAS raises, as one tree.

A refusal of the domain ("insufficient funds") is a result and never an exception; a broken invariant is an
`AssertionError` and a bug of ours. What is left is here, and each class says two things that a caller
acts on: whose fault it was (its branch), and whether the same call may be tried again (`retryable`).

    MasError
    ├── InvalidRequest            the caller's: mend the request
    │   ├── Unauthenticated
    │   ├── PermissionDenied
    │   ├── NotFound
    │   └── NotSupported
    ├── ConfigError               the operator's: mend configuration or command line
    │   └── DataDirectoryError
    ├── Unavailable               nobody's, for now: nothing has happened, try again
    │   ├── Overloaded
    │   │   └── MailboxFull
    │   ├── MailboxClosed
    │   └── NotLeading
    ├── RequestFailed             the server's: asking again would do the same, nothing has changed
    ├── OutcomeUnknown            it may or may not have happened: ask again by the same key
    │   └── DeadlineExceeded
    ├── NetworkError
    │   └── PeerRefused
    ├── StorageError              this replica or node can't go on
    │   ├── CorruptData
    │   ├── LostLog
    │   ├── UnknownVersion
    │   ├── WriteHangs            the process must end, and not wait for the write
    │   └── DatabaseUnavailable   the AccountDB or TM store is away: flushes wait, nothing is lost
    └── RaftError                 see `mas.raft`
"""

from typing import ClassVar


class MasError(Exception):
    """The root: says what happened, what was expected and what to do."""

    retryable: ClassVar[bool] = False


class InvalidRequest(MasError):
    """The request can't be carried out as it is; nothing has changed."""


class Unauthenticated(InvalidRequest):
    """No token, or one that is wrong or has expired."""


class PermissionDenied(InvalidRequest):
    """The token is good, and isn't allowed to do this."""


class NotFound(InvalidRequest):
    """What the request names isn't there."""


class NotSupported(InvalidRequest):
    """The request is well formed, and this version can't do it."""


class ConfigError(MasError):
    """The configuration or the command line can't be used."""


class DataDirectoryError(ConfigError):
    """The data directory can't be written, is in use, or belongs to another cluster or node."""


class Unavailable(MasError):
    """Not possible now, and nothing has happened: try again."""

    retryable = True


class Overloaded(Unavailable):
    """A bounded queue is full, or the database is too far behind."""


class MailboxFull(Overloaded):
    """An actor's mailbox has no room."""


class MailboxClosed(Unavailable):
    """The actor behind the mailbox is stopping."""


class NotLeading(Unavailable):
    """This node doesn't lead the bucket; `leader` is a hint, 0 where unknown."""

    def __init__(self, message: str, leader: int = 0) -> None:
        super().__init__(message)
        self.leader = leader


class RequestFailed(MasError):
    """The server failed on this request by a fault of its own; nothing has changed, and asking again would do the same."""


class OutcomeUnknown(MasError):
    """It may or may not have happened: ask again by the same idempotency key."""

    retryable = True


class DeadlineExceeded(OutcomeUnknown):
    """The caller's deadline passed before an outcome was known."""


class NetworkError(MasError):
    """A peer can't be reached, or the connection broke."""

    retryable = True


class PeerRefused(NetworkError):
    """A peer of another cluster, with another secret, or with an unknown id.

    `reason` is one word of `mas.network.handshake.Refusal`.
    """

    retryable = False

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class StorageError(MasError):
    """This replica or node can't go on with what it has stored."""


class CorruptData(StorageError):
    """A checksum is wrong, or what was stored can't be a state of this program."""


class LostLog(StorageError):
    """The database is ahead of the log: the log was lost (rule 28, snapshots)."""


class UnknownVersion(StorageError):
    """The log holds an entry of a newer program: run that program on this node (rule 16, admission)."""


class WriteHangs(StorageError):
    """The disk doesn't answer a write of the log: the process must end, without waiting for it."""


class DatabaseUnavailable(StorageError):
    """The AccountDB or the TM store doesn't answer; what was accepted waits in the log."""

    retryable = True
