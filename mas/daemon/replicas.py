"""The replicas of this node: opened, served, and let go again as the roster says.

    roster says that this node holds a bucket ──► database opened ─► group added ─► AccountService served
    roster says that it holds it no more      ──► those who stay asked ─► group left ─► service ended ─► rows erased
                                                  ─► log erased (not term and vote)

A replica that was removed goes on, and votes, until a quorum of those who stay has applied its removal (`removal`).
What rests on the roster's word rests on its file: no replica is erased before the removal is known there, and none
whose log says that it was added again since. An end that has begun is ended first, whatever the roster says by then.
A replica that can't be opened, or is damaged, is stopped: the node's others go on, and the bucket's others too.
"""

import asyncio
import logging

import msgspec

from mas.errors import (
    CorruptData,
    DatabaseUnavailable,
    StorageError,
    Unavailable,
    UnknownVersion,
)
from mas.ledger.rows import BucketRow
from mas.membership import BucketMembers, Membership, is_removal_known
from mas.multiraft import RaftGroup, RaftHost
from mas.raft import CorruptState
from mas.resource import (
    AccountService,
    Ports,
    ReplicaAdmin,
    ResourceSettings,
    writer_mark,
)
from mas.resource.members import all_voters
from mas.resource.ports import AccountDB
from mas.rpc.ports import Buckets
from mas.rpc.server import BucketServer
from mas.runtime import Actor, Clock, Supervisor

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0
_REMOVED = "removed from the bucket: what is left of it here is being erased"


class ReplicaParts(msgspec.Struct, frozen=True):
    """What a node's replicas are made of."""

    membership: Membership
    host: RaftHost
    database: AccountDB
    server: BucketServer
    members: ReplicaAdmin
    buckets: Buckets
    proposer: int
    """A number that this process drew at its start."""


class Replicas(Actor):
    """Holds what the roster says that this node holds."""

    name = "replicas"

    def __init__(
        self,
        node: int,
        parts: ReplicaParts,
        clock: Clock,
        settings: ResourceSettings,
        supervisor: Supervisor,
    ) -> None:
        self._node = node
        self._membership = parts.membership
        self._host = parts.host
        self._database = parts.database
        self._server = parts.server
        self._stopped = parts.members.stopped
        self._buckets = parts.buckets
        self._proposer = parts.proposer
        self._clock = clock
        self._settings = settings
        self._supervisor = supervisor
        self._served: dict[int, asyncio.Task[None]] = {}
        self._leaving: dict[int, int] = {}
        """Buckets whose group has been left here, and whose rows and log aren't erased yet: the index of the change
        that says so."""
        self._known: dict[int, int] = {}
        """Buckets of which a quorum knows that this node was removed: the index by which that was asked."""
        self._asking: dict[int, int] = {}
        """Buckets of which that is being asked, likewise."""
        self._changed = asyncio.Event()
        parts.host.on_members(self._on_members)

    async def open_all(self) -> None:
        """Before the host runs: everything that this node holds, or hasn't left yet.

        Raises:
            StorageError: the database can't be used.
        """
        for members in self._membership.roster.buckets:
            bucket = members.bucket
            stays = members.index > 0 and self._host.logs.holds_entries(bucket)
            if self._node in members.holders or stays:
                await self._open(members, host_runs=False)
            elif bucket in self._host.logs.groups:
                self._stopped[bucket] = _REMOVED
        self._membership.on_change(self._changed.set)

    async def run(self) -> None:
        """Follow the roster, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            for bucket in self._membership.roster.holders():
                await self._follow(bucket)

    # -- inside --------------------------------------------------------------------------------

    async def _follow(self, bucket: int) -> None:
        """As the roster says now: it may have changed while another bucket was opened, or left."""
        try:
            if bucket in self._leaving:
                await self._erase(bucket)
            members = self._membership.roster.holders()[bucket]
            self._host.introduce(bucket, members.holders)
            if self._node in members.holders:
                if bucket not in self._served and self._stopped.get(bucket, _REMOVED) == _REMOVED:
                    await self._open(members, host_runs=True)
            elif bucket in self._served or bucket in self._stopped:
                await self._leave(members)
        except (Unavailable, DatabaseUnavailable) as error:
            _log.warning("bucket %d: %s", bucket, error)
            await self._clock.sleep(_RETRY_SECONDS)
            self._changed.set()

    async def _open(self, members: BucketMembers, *, host_runs: bool) -> None:
        bucket = members.bucket
        kept = await self._database.open(bucket, writer_mark(self._proposer))
        applied, term = kept.bucket.applied, kept.bucket.term
        try:
            self._check_rows(kept.bucket)
            if host_runs:
                await self._host.logs.create(bucket, members.founders, applied=applied)
            group = self._host.add_group(
                bucket, members.founders, applied=applied, applied_term=term
            )
        except (CorruptData, CorruptState) as error:
            # This replica stops, and the others go on with their quorum.
            _log.critical("bucket %d is not served on this node: %s", bucket, error)
            self._stopped[bucket] = str(error)
            return
        group.introduce(members.holders)
        ports = Ports(group, self._database, self._buckets, self._server.reply, self._proposer)
        service = AccountService(bucket, kept, ports, self._clock, self._settings)
        self._server.add(bucket, service.requests.offer)
        self._served[bucket] = self._supervisor.spawn(service.name, self._serve(service, group))
        self._stopped.pop(bucket, None)

    def _check_rows(self, row: BucketRow) -> None:
        """Raises CorruptData where the database is of another cluster, as its first entry says (rule 20, genesis)."""
        ours = self._settings.cluster, self._settings.buckets
        if row.buckets and (row.cluster, row.buckets) != ours:
            raise CorruptData(
                f"its rows are of cluster {row.cluster!r} with {row.buckets} buckets, and this node is of {ours[0]!r} with "
                f"{ours[1]}: give this node the database and the configuration that belong together"
            )

    async def _serve(self, service: AccountService, group: RaftGroup) -> None:
        """Until cancelled. What a bucket's own entries or rows raise stops this replica, and none else of the node.

        Raises:
            StorageError: the node's database failed, which all its buckets share.
        """
        try:
            await service.run()
        except Exception as error:
            if isinstance(error, StorageError) and not isinstance(
                error, UnknownVersion | CorruptData
            ):
                raise
            self._server.remove(service.bucket)
            group.isolate(error)

    async def _leave(self, members: BucketMembers) -> None:
        """Nothing is waited for between the look at the log and the last that is said for the group."""
        bucket = members.bucket
        if not members.index:
            self._stopped[bucket] = (
                f"the roster says that bucket {bucket} began with the voters {list(members.founders)} and has them "
                f"still, and node {self._node} has a log of it: nothing is erased. Give this node the roster.json "
                "that it had"
            )
            _log.critical("bucket %d: %s", bucket, self._stopped[bucket])
            return
        if self._known.get(bucket) != members.index:
            self._ask(members)
            return
        if self._host.logs.is_member_behind(bucket, members.index):
            _log.info("bucket %d: removed, and added again: the replica stays", bucket)
            return
        self._membership.save()
        self._host.leave_group(bucket)
        _log.info("bucket %d: this node holds it no more, its replica here is erased", bucket)
        self._stopped[bucket] = _REMOVED
        self._leaving[bucket] = members.index
        await self._erase(bucket)

    def _ask(self, members: BucketMembers) -> None:
        """Have those who stay asked, beside everything else, until a quorum of them knows or the roster says otherwise."""
        if self._asking.get(members.bucket) != members.index:
            self._asking[members.bucket] = members.index
            name = f"replicas.leave.{members.bucket}"
            self._supervisor.spawn(name, self._ask_until_known(members))

    async def _ask_until_known(self, members: BucketMembers) -> None:
        bucket, index = members.bucket, members.index
        while self._membership.roster.holders()[bucket].index == index:
            if await is_removal_known(self._buckets, bucket, self._node, members.voters, index):
                self._known[bucket] = index
                break
            _log.info("bucket %d: removed here, and too few of the others know yet", bucket)
            await self._clock.sleep(_RETRY_SECONDS)
        if self._asking.get(bucket) == index:
            del self._asking[bucket]
        self._changed.set()

    async def _erase(self, bucket: int) -> None:
        """Erase what is left of a replica here: stop the writer, delete the rows, then delete the log.

        Order matters, because a database ahead of its log would look like a lost log.
        """
        self._server.remove(bucket)
        service = self._served.pop(bucket, None)
        if service is not None:
            service.cancel()
            await asyncio.wait([service])
        await self._database.erase(bucket)
        founders = self._membership.roster.holders()[bucket].founders
        try:
            await self._host.logs.erase(bucket, founders, removed_at=self._leaving[bucket])
        except CorruptData as error:
            self._stopped[bucket] = (
                f"{error}. Its term and vote are lost too: retire this node, and join a new one under a new id"
            )
        else:
            del self._stopped[bucket]
        del self._leaving[bucket]

    def _on_members(self, group: RaftGroup) -> None:
        conf = group.members.newest
        self._membership.learn_members(
            BucketMembers(
                group.id,
                self._membership.roster.holders()[group.id].founders,
                group.members.changed_at,
                all_voters(conf),
                conf.learners,
            )
        )
