"""What a bucket's leader does unasked: the first entry, old legs' outcomes, and the end of incarnations long silent."""

from mas.ledger import CloseIncarnation, Genesis
from mas.resource.anchors import Anchors
from mas.resource.proposals import Proposals
from mas.resource.replica import Replica
from mas.resource.settings import ResourceSettings
from mas.runtime import Clock
from mas.transaction.participant import Resolver

_RESOLVE_SECONDS = 0.25
# A node may hold a thousand buckets: one that has nothing to resolve looks seldom.
_IDLE_SECONDS = 1.0
_INCARNATION_SILENT_SECONDS = 24 * 3600.0
_CLOSE_AGAIN_SECONDS = 60.0


class BucketResolver:
    """Looks now and then at what a bucket's leader has to end by itself."""

    def __init__(
        self,
        replica: Replica,
        proposals: Proposals,
        anchors: Anchors,
        clock: Clock,
        settings: ResourceSettings,
    ) -> None:
        self._replica = replica
        self._proposals = proposals
        self._anchors = anchors
        self._clock = clock
        self._genesis = Genesis(settings.cluster, replica.bucket, settings.buckets)
        self._legs = Resolver(settings.lock_timeout)
        # When each coordinator's incarnation was last heard of, in monotonic seconds.
        self._heard: dict[bytes, float] = {}

    def lead(self) -> None:
        """This node leads from now on: all ages begin again (rule 12, time decides no outcome)."""
        now, rows = self._clock.monotonic(), self._replica.rows
        self._legs.lead(now, rows.legs)
        self._heard = dict.fromkeys(rows.incarnations(), now)
        self._begin_bucket()

    def on_heard(self, incarnation: bytes) -> None:
        """This incarnation of a coordinator has sent something."""
        self._heard[incarnation] = self._clock.monotonic()

    async def look(self) -> None:
        """Wait a while; then ask the anchors of legs older than the lock timeout (rule 11, the resolver), and close what is silent."""
        legs = self._replica.rows.legs
        await self._clock.sleep(_RESOLVE_SECONDS if legs else _IDLE_SECONDS)
        if not self._replica.leading:
            return
        self._begin_bucket()  # where the group had no room for it at the start
        now = self._clock.monotonic()
        self._legs.observe(now, self._replica.rows.legs)
        for old in self._legs.due(now):
            self._anchors.ask_to_settle(old, abort=True)
        self._close_silent(now)

    def _begin_bucket(self) -> None:
        """Propose the first entry of a new bucket (rule 20, genesis); a second one changes nothing."""
        if not self._replica.rows.bucket.buckets:
            self._proposals.add_own(self._genesis)
            self._proposals.send()

    def _close_silent(self, now: float) -> None:
        silent = [
            incarnation
            for incarnation, heard in self._heard.items()
            if now - heard > _INCARNATION_SILENT_SECONDS
        ]
        still_open = set(self._replica.rows.incarnations()) if silent else ()
        for incarnation in silent:
            if incarnation in still_open:
                # Again a little later: nothing is done while a leg of it is prepared, or where the group has no room.
                self._heard[incarnation] += _CLOSE_AGAIN_SECONDS
                self._proposals.add_own(CloseIncarnation(incarnation))
            else:
                del self._heard[incarnation]
        if silent:
            self._proposals.send()
