"""A node's directory, put back from an older copy: log, rows, roster and store agree, so that no start can see it.

The node has lost votes that it gave and entries that it acknowledged, and nobody can know before its leader tells it so.
That it does harm until then is no fault of the product: so the world keeps from the others what a node says that would
do harm, until its log holds again what it had. What it says of elections, then, and whatever is of an earlier term.
"""

from collections.abc import Mapping

import msgspec

from mas.channels import Channel
from mas.membership import Roster
from mas.multiraft.frames import decode_frame
from mas.raft import Message, MessageType
from mas.sim.disk import Disk
from mas.sim.system.wires import Transport
from mas.storage.raft_log.value import GroupLog

_OF_ELECTIONS = frozenset(
    {
        MessageType.VOTE,
        MessageType.VOTE_RESPONSE,
        MessageType.PRE_VOTE,
        MessageType.PRE_VOTE_RESPONSE,
        MessageType.TIMEOUT_NOW,
    }
)


class Copy(msgspec.Struct, frozen=True):
    """All that a node keeps, as it was at one moment."""

    logs: dict[int, GroupLog]
    rows: dict[int, bytes]
    roster: Roster
    store: bytes

    def fits(self, logs: Mapping[int, GroupLog]) -> bool:
        """Tell whether the node holds the same replicas still, and none was erased since."""
        lives = [
            {group: log.removed_at for group, log in each.items()} for each in (self.logs, logs)
        ]
        return lives[0] == lives[1]


class Had(msgspec.Struct, frozen=True):
    """What a log held that was put back."""

    term: int
    last_term: int
    last: int

    @classmethod
    def of(cls, log: GroupLog) -> "Had":
        """This log, before."""
        return cls(log.hard_state.term, log.term(log.last), log.last)

    def is_held(self, log: GroupLog | None) -> bool:
        """Tell whether the log holds all again that counts: a leader has it, and a newer one's log does."""
        if log is None or log.hard_state.term < self.term:
            return False
        return (log.term(log.last), log.last) >= (self.last_term, self.last)

    def may_be_said(self, message: Message, log: GroupLog | None) -> bool:
        """Tell whether the message does no harm, with what the log holds now."""
        if message.term < self.term:
            return False
        if self.is_held(log):
            # It may have given another its vote of that term.
            return message.type is not MessageType.VOTE_RESPONSE or message.term > self.term
        return message.type not in _OF_ELECTIONS


class Gag:
    """A node's transport, for its host. Fits `mas.multiraft.ports.Peers`."""

    def __init__(self, transport: Transport, had: Mapping[int, Had], disk: Disk) -> None:
        self._transport = transport
        self._had = had
        self._disk = disk

    def send(self, peer: int, channel: int, payload: bytes) -> bool:
        """False: nothing was sent."""
        if channel == Channel.RAFT and self._had:
            frame = decode_frame(payload)
            messages = tuple(filter(self._may_be_said, frame.messages))
            payload = msgspec.msgpack.encode(msgspec.structs.replace(frame, messages=messages))
        return self._transport.send(peer, channel, payload)

    def is_connected(self, peer: int) -> bool:
        """Tell whether a frame to this peer has a way to go."""
        return self._transport.is_connected(peer)

    def _may_be_said(self, item: tuple[int, Message]) -> bool:
        group, message = item
        had = self._had.get(group)
        return had is None or had.may_be_said(message, self._disk.written.get(group))
