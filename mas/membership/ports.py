"""What membership needs of the world beside the buckets: peers to tell, and a store for the roster."""

from typing import Protocol

from mas.membership.roster import Roster


class Peers(Protocol):
    """Frames to other nodes, and who they may be."""

    def send(self, peer: int, channel: int, payload: bytes) -> bool:
        """Never waits. False: nothing was sent."""

    def add_peer(self, node: int, address: str = "") -> None:
        """Know a node, and dial it."""

    def remove_peer(self, node: int) -> None:
        """Forget a node, and hang up."""


class RosterStore(Protocol):
    """Keeps the roster beyond the life of the process."""

    def write(self, roster: Roster) -> None:
        """Replace the roster that is kept; blocks for one small synced write. Raises `DataDirectoryError`."""
