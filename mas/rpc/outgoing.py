"""Gathers the messages of one turn of the loop, so that they travel as one frame to each peer."""

import asyncio
from collections.abc import Callable, Sequence

from mas.channels import Channel
from mas.rpc.messages import batches, frame_of
from mas.rpc.ports import Peers

Message = tuple[int, bytes]
"""Its number, and what it is encoded."""

OnUnsent = Callable[[int, Sequence[Message]], None]
"""Hears of the messages to a peer that could not be sent."""


class Outgoing:
    """The messages of this turn on one channel."""

    def __init__(self, peers: Peers, channel: Channel, on_unsent: OnUnsent) -> None:
        self._peers = peers
        self._channel = channel
        self._on_unsent = on_unsent
        self._gathered: dict[int, list[Message]] = {}

    def add(self, peer: int, number: int, data: bytes) -> None:
        """Send a message with all else of this turn to the same peer, in as many frames as they need."""
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._send)
        self._gathered.setdefault(peer, []).append((number, data))

    def _send(self) -> None:
        gathered, self._gathered = self._gathered, {}
        for peer, messages in gathered.items():
            for batch in batches(messages, _data_of):
                frame = frame_of([data for _, data in batch])
                if not self._peers.send(peer, self._channel, frame):
                    self._on_unsent(peer, batch)


def _data_of(message: Message) -> bytes:
    return message[1]
