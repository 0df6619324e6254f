"""The AccountService: one actor per bucket, between the requests of coordinators and the bucket's ledger.

    requests ─► Admission ─► Proposals ─► Raft group ─► commit_c ─► Applier ─► replies
            └─► Reader ───────────────────────────────────────────────┬──► replies
                                                                      └─► Flusher ─► AccountDB

What waits when it wakes becomes one proposal; what is committed is applied in order; an answer is given only for what
this leader proposed itself and has seen applied, to whoever asked for it. The service decides nothing: the ledger
does, and every replica applies alike (rule 16, admission). Whatever waits for a payment's outcome asks its anchor by `Anchors`.
"""

from collections.abc import Awaitable, Callable
from typing import NoReturn

import msgspec

from mas.ledger.rows import ResidentState
from mas.multiraft.events import Committed, Leadership, ReadReady, Restored
from mas.resource.admission import Admission
from mas.resource.anchors import Anchors
from mas.resource.applier import Applier
from mas.resource.contention import Contention
from mas.resource.follow_up import FollowUp
from mas.resource.ports import AccountDB, Group
from mas.resource.proposals import Proposals
from mas.resource.reader import Reader
from mas.resource.relay import Relay
from mas.resource.replica import Replica, writer_mark
from mas.resource.reply_to import SendReply
from mas.resource.resolver import BucketResolver
from mas.resource.settings import ResourceSettings
from mas.rpc.messages import BucketRequest, PassOn, Submit
from mas.rpc.ports import Buckets
from mas.runtime import Actor, Clock, Mailbox, Supervisor

_REQUESTS_WAITING = 65_536


class Ports(msgspec.Struct, frozen=True):
    """The world of one bucket's service."""

    group: Group
    database: AccountDB
    buckets: Buckets
    reply: SendReply
    proposer: int
    """A number that this process drew at its start: it marks its proposals, and its writes (rule 25, conditional flush)."""


class AccountService(Actor):
    """Serves one bucket on this node, as its leader or as a follower."""

    def __init__(
        self,
        bucket: int,
        resident: ResidentState,
        ports: Ports,
        clock: Clock,
        settings: ResourceSettings,
    ) -> None:
        self.name = f"account-service-{bucket}"
        self.bucket = bucket
        self.requests: Mailbox[tuple[int, BucketRequest]] = Mailbox(
            f"{self.name}.requests", _REQUESTS_WAITING
        )
        group, database, reply = ports.group, ports.database, ports.reply
        self._group = group
        self._supervisor = Supervisor()
        self._relay = Relay(bucket, ports.buckets, reply)
        self._replica = replica = Replica(
            bucket, resident, group, database, writer_mark(ports.proposer), clock, settings
        )
        self._proposals = proposals = Proposals(group, ports.proposer, reply, clock)
        follow_up = FollowUp(replica, proposals, reply)
        anchors = Anchors(ports.buckets, settings.read_patience, follow_up.settle)
        contention = Contention(replica, anchors, follow_up.propose_again, reply)
        self._contention = contention
        self._resolver = BucketResolver(replica, proposals, anchors, clock, settings)
        self._reader = Reader(replica, group, database, proposals, anchors, reply, clock)
        self._admission = Admission(
            replica, proposals, contention, self._resolver, reply, clock, settings
        )
        self._applier = Applier(
            replica, proposals, anchors, contention, self._reader.on_applied, reply, clock, settings
        )

    async def run(self) -> None:
        """Serve until cancelled."""
        turns: dict[str, Callable[[], Awaitable[None]]] = {
            "propose": self._take_requests,
            "commit": self._take_events,
            "error": self._take_refusals,
            "flush": self._replica.flush,
            "load": self._reader.load,
            "statement": self._reader.read_flushed,
            "resolve": self._resolver.look,
            "filter": self._replica.fill_filter,
        }
        async with self._supervisor as supervisor:
            for name, turn in turns.items():
                supervisor.spawn(f"{self.name}.{name}", _forever(turn))
            await supervisor.wait()

    # -- turns -------------------------------------------------------------------------------------------

    async def _take_requests(self) -> None:
        """Make one proposal, and one read index, of what queued up since the last turn."""
        for peer, request in await self.requests.drain():
            if isinstance(request, PassOn):
                out_of_reach, request = request.leader, request.message
                # Where another one leads by now, whoever asks is told so like everybody, and may reach that one.
                leadership = self._replica.leadership
                if leadership.leader == out_of_reach and not leadership.leading:
                    self._relay.pass_on(peer, request, self._supervisor)
                    continue
            if isinstance(request, Submit):
                self._admission.admit(peer, request)
            else:
                self._reader.take(peer, request)
        self._proposals.send()
        self._reader.begin()

    async def _take_events(self) -> None:
        """Apply what is committed, and hand on what else the group says, in its order."""
        for event in await self._group.commit_c.drain():
            match event:
                case Committed():
                    await self._applier.apply(event.entries)
                case Leadership():
                    self._on_leadership(event)
                case ReadReady():
                    self._reader.on_ready(event)
                case Restored():
                    await self._on_restored(event)

    async def _take_refusals(self) -> None:
        """Turn away what the group did not take."""
        for refused in await self._group.error_c.drain():
            asker = self._reader if refused.read else self._proposals
            asker.on_refused(refused)
        self._proposals.send()

    def _on_leadership(self, leadership: Leadership) -> None:
        """Answer that what an earlier leadership proposed and lost sight of is unknown (rule 39, unknown results)."""
        self._replica.leadership = leadership
        self._proposals.give_up(leadership.leader)
        self._contention.give_up()
        if leadership.leading:
            self._resolver.lead()

    async def _on_restored(self, restored: Restored) -> None:
        """A snapshot is in the database: memory starts from there, and events that waited for it never come."""
        self._on_leadership(Leadership(restored.term, 0, leading=False))
        self._reader.give_up()
        await self._replica.reopen()
        self._reader.restart()


async def _forever(turn: Callable[[], Awaitable[None]]) -> NoReturn:
    while True:
        await turn()
