"""What membership needs of the world: peers to tell, a store for the roster, and buckets to ask."""

from collections.abc import Callable
from typing import Protocol

from mas.ledger.instructions import Answer, Batch
from mas.membership.roster import Roster
from mas.rpc.messages import Rejected, Reply, Request


class Peers(Protocol):
    """Frames to other nodes, and who they may be."""

    def send(self, peer: int, channel: int, payload: bytes) -> bool:
        """Never waits. False: nothing was sent."""

    def add_peer(self, node: int, address: str = "") -> None:
        """Know a node, and dial it."""

    def remove_peer(self, node: int) -> None:
        """Forget a node, and hang up."""


class Buckets(Protocol):
    """Whichever node leads a bucket."""

    def submit(
        self, bucket: int, batch: Batch, on_answer: Callable[[int, Answer | Rejected], None]
    ) -> None:
        """Send once; calls back once for each position, on the loop."""

    async def query(
        self, bucket: int, request: Request, timeout: float, *, replica: int = 0
    ) -> Reply:
        """Ask the bucket's leader, or the named replica alone, again and again until `timeout` seconds are over. Raises `Unavailable`."""

    def leader(self, bucket: int) -> int:
        """The node that probably leads this bucket."""


class RosterStore(Protocol):
    """Keeps the roster beyond the life of the process."""

    def write(self, roster: Roster) -> None:
        """Replace the roster that is kept; blocks for one small synced write. Raises `DataDirectoryError`."""
