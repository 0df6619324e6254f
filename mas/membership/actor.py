"""The membership actor: owns this process's roster, keeps it on disk, and tells every peer what is news to it.

    own groups, the register, peers' frames ──► merge ──► transport, bucket client, replicas of this node
                                                   └────► news to all other peers; the file

News spreads by telling everybody what one didn't know oneself, and a peer that connects hears everything: so it
ends, and nobody needs to be asked. What finds no room on its way is told again with all the rest (`tell_all`). What a
node is told here is never more than a hint of where to look, but for one thing: that its own replica of a bucket has
been removed, which its group can't tell it any more.
"""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from mas.channels import Channel
from mas.errors import NetworkError, PeerRefused
from mas.limits import NODE_STORE_BYTES
from mas.membership.ports import Peers, RosterStore
from mas.membership.roster import BucketMembers, Roster, decode_roster
from mas.runtime import Actor

_log = logging.getLogger(__name__)

WIPED, MALFORMED = "wiped", "malformed"
"""Of `mas.network.handshake.Refusal`."""

_encode = msgspec.msgpack.Encoder().encode


class Membership(Actor):
    """This process's knowledge of the cluster. `roster` changes on the loop alone."""

    name = "membership"

    def __init__(self, node: int, roster: Roster, peers: Peers, store: RosterStore) -> None:
        self.node = node
        self._peers = peers
        self._store = store
        self._handlers: list[Callable[[], None]] = []
        self._connected: dict[int, None] = {}
        self._dialled: dict[int, str] = {}
        self._unsaved = asyncio.Event()
        self._disagreements: dict[int, str] = {}
        """What was said last of peers whose cluster was founded otherwise."""
        self.roster = roster

    # -- doors, called on the loop -------------------------------------------------------------

    def on_change(self, handler: Callable[[], None]) -> None:
        """Have `handler()` called behind every change of the roster, and now."""
        self._handlers.append(handler)
        handler()

    def learn(self, other: Roster, *, source: int = 0) -> None:
        """Take in what is news, and tell it to everybody but `source`."""
        roster, news = self.roster.merge(other)
        if news.is_empty():
            return
        self.roster = roster
        self._unsaved.set()
        self._dial()
        frame = _encode(news)
        for peer in self._connected:
            if peer != source:
                self._send(peer, frame)
        for handler in self._handlers:
            handler()

    def learn_members(self, members: BucketMembers) -> None:
        """A group of this node has applied another membership."""
        known = self.roster.holders().get(members.bucket)
        if known is None or (known.voters, known.learners) != (members.voters, members.learners):
            self.learn(Roster(buckets=(members,)))

    def recognise(self, node: int, store: bytes) -> None:
        """A peer has proved its id; fits `mas.network.handshake.Recognise`.

        A node that holds replicas, or may, has promised votes and acknowledged entries: come back without its data it
        would break its word, so it is refused for ever. A coordinator holds none, and may come back as it likes.

        Raises:
            PeerRefused: it had another store when it was met first, or what it names is none.
        """
        if len(store) != NODE_STORE_BYTES:
            raise PeerRefused(
                f"node {node} names a store of {len(store)} bytes: expected {NODE_STORE_BYTES}",
                MALFORMED,
            )
        if not self.roster.may_hold(node):
            return
        known = self.roster.store_of(node)
        if not known:
            self.learn(Roster(stores=((node, store),)))
            self.save()  # before anything that it promises counts here
        elif known != store:
            raise PeerRefused(
                f"node {node} has come back without the data directory that it had, and with it lost what it had promised: "
                f"give it its directory back, or take it out (`mas admin node drain {node}`, then `retire {node}`) and "
                "join a new node under a new id",
                WIPED,
            )

    def on_frame(self, peer: int, payload: bytes) -> None:
        """A frame of the ROSTER channel.

        Raises:
            NetworkError: it isn't one, or is about a cluster that was founded with other buckets, or other voters.
        """
        other = decode_roster(payload)
        try:
            self._check_founders(peer, other)
        except NetworkError as error:
            if self._disagreements.get(peer) != str(error):
                self._disagreements[peer] = str(error)
                _log.critical("%s", error)
            raise
        self._disagreements.pop(peer, None)
        self.learn(other, source=peer)

    def tell_all(self) -> None:
        """Everything to everybody, now and then: so that a peer that was too slow for some news isn't without it for long."""
        frame = _encode(self.roster)
        for peer in self._connected:
            self._send(peer, frame)

    def on_peer(self, peer: int, up: bool) -> None:  # noqa: FBT001  (the transport's callback)
        """Whoever connects hears everything."""
        if up:
            self._connected[peer] = None
            self._send(peer, _encode(self.roster))
        else:
            self._connected.pop(peer, None)

    def can_reach(self, node: int) -> bool:
        """Tell whether there is a connection with the node; oneself is always there."""
        return node == self.node or node in self._connected

    def start(self) -> None:
        """Have the transport dial everybody who is known."""
        self._dial()

    def save(self) -> None:
        """Have on disk what is known now, before something rests on it. Blocks for one small synced write."""
        self._store.write(self.roster)
        self._unsaved.clear()

    async def run(self) -> None:
        """Keep the roster on disk, until cancelled."""
        while True:
            await self._unsaved.wait()
            self.save()

    # -- inside --------------------------------------------------------------------------------

    def _check_founders(self, peer: int, other: Roster) -> None:
        """Two logs of a bucket that begin with other voters could have two leaders, and lose what one of them acknowledged."""
        known = self.roster.holders()
        for members in other.buckets:
            ours = known.get(members.bucket)
            if ours is None:
                raise NetworkError(
                    f"node {peer} speaks of bucket {members.bucket}, and node {self.node} knows of {list(known)}: give "
                    "all nodes the same buckets, none is made after the cluster's creation"
                )
            if ours.founders != members.founders:
                raise NetworkError(
                    f"bucket {members.bucket} was founded with the voters {list(members.founders)} by node {peer}'s word, "
                    f"and with {list(ours.founders)} by node {self.node}'s: one of their configuration files is wrong. "
                    "Stop the node whose file differs from all others'. In a new cluster, mend the file and give all nodes "
                    "empty data directories; in one that holds money, put a new node in its place (`mas serve --join`)"
                )

    def _dial(self) -> None:
        """Know, and dial, every node that belongs to the cluster, and no other."""
        for node, row in self.roster.nodes().items():
            if node == self.node:
                continue
            dialled = self._dialled.get(node)
            wanted = None if row.retired else row.address
            if dialled == wanted:
                continue
            if dialled is not None:
                self._peers.remove_peer(node)
                del self._dialled[node]
            if wanted is not None:
                self._peers.add_peer(node, wanted)
                self._dialled[node] = wanted

    def _send(self, peer: int, frame: bytes) -> None:
        if not self._peers.send(peer, Channel.ROSTER, frame):
            _log.info("node %d doesn't hear the news now: it will before long", peer)
