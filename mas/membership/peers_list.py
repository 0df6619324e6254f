"""Keeps the TM store's peers list what the roster says: bucket -> the addresses of its replicas, the leader's first."""

import asyncio
import logging

from mas.errors import DatabaseUnavailable
from mas.membership.actor import Membership
from mas.membership.ports import Buckets, PeersListStore
from mas.runtime import Actor, Clock

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0


class PeersList(Actor):
    """Writes the list anew whenever it differs."""

    name = "peers-list"

    def __init__(
        self, membership: Membership, buckets: Buckets, store: PeersListStore, clock: Clock
    ) -> None:
        self._membership = membership
        self._buckets = buckets
        self._store = store
        self._clock = clock
        self._changed = asyncio.Event()
        membership.on_change(self._changed.set)

    async def run(self) -> None:
        """Write until cancelled."""
        written: dict[int, str] = {}
        while True:
            await self._changed.wait()
            self._changed.clear()
            wanted = self._list()
            if wanted == written:
                continue
            try:
                await self._store.set_peers_list(wanted)
                written = wanted
            except DatabaseUnavailable as error:
                _log.warning("the peers list can't be written, it is tried again: %s", error)
                self._changed.set()
                await self._clock.sleep(_RETRY_SECONDS)

    def _list(self) -> dict[int, str]:
        nodes = self._membership.roster.nodes()
        listed: dict[int, str] = {}
        for bucket, members in self._membership.roster.holders().items():
            leader = self._buckets.leader(bucket)
            holders = sorted(members.holders, key=lambda node: (node != leader, node))
            listed[bucket] = ",".join(nodes[node].address for node in holders if node in nodes)
        return listed
