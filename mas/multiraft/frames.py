"""Frames between hosts: all groups' messages of a turn to one peer travel together, heartbeats too.

A frame carries the sender's clock, from which a leader that is off finds its group's median (rule 12, time decides no
outcome), and one of each tick a host heartbeat for the groups that are quiescent.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

import msgspec

from mas.channels import Channel
from mas.decoding import msgpack_decoder
from mas.errors import NetworkError
from mas.limits import BUCKET_ID_MAX, TURN_BYTES_MAX, TURN_INSTRUCTIONS_MAX
from mas.multiraft.ports import Peers
from mas.raft import Message, MessageType
from mas.raft.messages import Counter

# What a message and an entry take beside their data, roughly: enough to bound a frame by.
_MESSAGE_BYTES = 64
_ENTRY_BYTES = 16


_Groups = Annotated[bytes, msgspec.Meta(max_length=BUCKET_ID_MAX // 8 + 1)]


class HostHeartbeat(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Speaks once a tick for all groups that have nothing else to say (`quiescence`).

    `quiet` and `quiescent` are sets of groups: bit n, counted from the first byte's lowest, stands for group n.
    """

    quiet: _Groups
    """The sender leads these, and has nothing for the receiver."""
    quiescent: _Groups
    """These are quiescent at the sender, led by the receiver."""
    leads: Annotated[int, msgspec.Meta(ge=0, le=BUCKET_ID_MAX)]
    """How many groups the sender leads."""
    drains: bool
    """The sender is about to stop, and is to lead no more."""


class RaftFrame(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One frame of the RAFT channel; `messages` name the group each is for, and come before the host heartbeat."""

    version: Literal[1]
    clock_us: Counter
    messages: tuple[tuple[int, Message], ...]
    heartbeat: HostHeartbeat | None = None


_encoder = msgspec.msgpack.Encoder()
decode_frame = msgpack_decoder(
    RaftFrame,
    "a Raft frame",
    NetworkError,
    "expected version 1; let all nodes run versions that understand each other",
)
"""The frame in these bytes. Raises `NetworkError`."""


def encode_frame(
    clock_us: int, messages: Sequence[tuple[int, Message]], heartbeat: HostHeartbeat | None = None
) -> bytes:
    """Return the bytes of a `RaftFrame`."""
    return _encoder.encode((1, clock_us, messages, heartbeat))


class Outbox:
    """Gathers what a turn sends, by peer.

    An APPEND without entries tells a follower how far it may apply, which no client waits for: it needs no frame of its
    own, and its answer none either. It rides with the next frame to that peer, or with the next tick's.
    """

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._waiting: dict[int, list[tuple[int, Message]]] = {}
        self._riding: dict[int, dict[int, Message]] = {}

    def add(self, group: int, message: Message) -> None:
        """Add a message to what is sent at the end of the turn."""
        if message.type is MessageType.APPEND:
            riding = self._riding.setdefault(message.to, {})
            if not message.entries:
                riding[group] = message
                return
            riding.pop(group, None)  # this one says it too
        self._waiting.setdefault(message.to, []).append((group, message))

    def send(
        self, clock_us: int, heartbeats: Mapping[int, HostHeartbeat], *, with_riders: bool
    ) -> list[tuple[int, Message]]:
        """Send it all, one frame a peer unless that grows too long. Return what was not sent, for the groups to know.

        `heartbeats` go with the peers' last frames. `with_riders`: also where only riders wait.
        """
        waiting, self._waiting = self._waiting, {}
        for peer, riding in self._riding.items():
            if riding and (with_riders or peer in waiting):
                waiting.setdefault(peer, []).extend(riding.items())
                riding.clear()
        for peer in heartbeats:
            waiting.setdefault(peer, [])
        lost: list[tuple[int, Message]] = []
        for peer, messages in waiting.items():
            *parts, last = _cut(_joined(messages))
            frames = [(part, encode_frame(clock_us, part)) for part in parts]
            frames.append((last, encode_frame(clock_us, last, heartbeats.get(peer))))
            for part, payload in frames:
                if not self._peers.send(peer, Channel.RAFT, payload):
                    lost.extend(part)
        return lost


def _joined(messages: list[tuple[int, Message]]) -> list[tuple[int, Message]]:
    """Join a group's APPENDs that continue each other, since its core sends one for each proposal of the turn."""
    joined: list[tuple[int, Message]] = []
    size = 0
    for group, message in messages:
        own = sum(len(entry.data) for entry in message.entries)
        if joined and size + own <= TURN_BYTES_MAX and _continues(*joined[-1], group, message):
            first = joined[-1][1]
            entries = first.entries + message.entries
            both = msgspec.structs.replace(first, entries=entries, commit=message.commit)
            joined[-1] = group, both
            size += own
        else:
            joined.append((group, message))
            size = own
    return joined


def _continues(group: int, first: Message, next_group: int, message: Message) -> bool:
    return (
        first.type is message.type is MessageType.APPEND
        and (group, first.term) == (next_group, message.term)
        and message.index == first.index + len(first.entries)
    )


def _cut(messages: list[tuple[int, Message]]) -> Iterator[list[tuple[int, Message]]]:
    """Cut messages into parts, at least one, each of at most a turn's messages and bytes or one message (rule 38,
    bounded turns).
    """
    start = size = 0
    for position, (_, message) in enumerate(messages):
        own = _MESSAGE_BYTES + sum(_ENTRY_BYTES + len(entry.data) for entry in message.entries)
        is_full = size + own > TURN_BYTES_MAX or position - start == TURN_INSTRUCTIONS_MAX
        if is_full and position > start:
            yield messages[start:position]
            start, size = position, 0
        size += own
    yield messages[start:]
