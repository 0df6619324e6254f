"""A member of the cluster as this node's transport knows it: its address, its connections, and why it can't be dialled."""

import asyncio

import msgspec

from mas.network.connection import Connection, ConnectionStatistics


class PeerStatistics(msgspec.Struct, frozen=True):
    """Shows the connections with one peer."""

    peer: int
    address: str
    dialled: ConnectionStatistics | None
    accepted: ConnectionStatistics | None
    connections: int
    """Made so far, both ways."""
    trouble: str
    """Why it can't be dialled; empty where it can."""


class Peer:
    """Holds a member's connections, at most one each way."""

    def __init__(self, node: int, address: str) -> None:
        self.node = node
        self.address = address
        self.dialled: Connection | None = None
        self.accepted: Connection | None = None
        self.connections = 0
        self.trouble = ""
        self.detail = ""
        """What the trouble is, in a sentence."""
        self.task: asyncio.Task[None] | None = None

    def route(self) -> Connection | None:
        """Return the connection to send on: the dialled one, or else the accepted one."""
        return self.dialled or self.accepted

    def attach(self, connection: Connection) -> Connection | None:
        """Take a new connection into use, and return the one whose place it takes."""
        self.connections += 1
        if connection.dialled:
            replaced, self.dialled = self.dialled, connection
        else:
            replaced, self.accepted = self.accepted, connection
        return replaced

    def detach(self, connection: Connection) -> None:
        """Use a connection no more; one that was replaced already changes nothing."""
        if self.dialled is connection:
            self.dialled = None
        if self.accepted is connection:
            self.accepted = None

    def statistics(self) -> PeerStatistics:
        """Return the state of its connections."""
        return PeerStatistics(
            peer=self.node,
            address=self.address,
            dialled=self.dialled.statistics() if self.dialled else None,
            accepted=self.accepted.statistics() if self.accepted else None,
            connections=self.connections,
            trouble=self.trouble,
        )
