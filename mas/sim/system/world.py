"""The whole system on virtual time: production coordinators, lock services, resource managers, ledgers and Raft hosts.

Simulated is what they stand on: connections, disks, databases, stores, clocks and dice; and the clients that use them. A run is
hardship, then calm, in which everything must come to its end; then the judge.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random

import msgspec

from mas.config import BucketConfig, Config, NodeConfig, PeerConfig, Role
from mas.ledger import BucketRow, Token
from mas.multiraft import RaftGroup
from mas.sim.process import Process
from mas.sim.system.books import Posted
from mas.sim.system.clients import Clients
from mas.sim.system.faults import Nemesis
from mas.sim.system.history import Facts, judge, judge_bound
from mas.sim.system.node import TICK_MS, Node
from mas.sim.system.plan import (
    DRILL_BOUND_SECONDS,
    MEASURED,
    MEETINGS,
    Plan,
    draw,
    draw_drill,
    draw_meeting,
)
from mas.sim.system.shadow import Shadows
from mas.sim.system.wires import Weather, Wires
from mas.sim.trace import WORLD, Trace
from mas.storage.raft_log.value import GroupLog

BUCKETS = 3
_CALM_SECONDS = 90.0
"""From the end of all faults until nothing is under way any more: resolvers ask each 30 s at the latest."""
_LOOK_SECONDS = 0.25
_ASKED_PER_CALL = 50
"""Instructions about one payment that a call of a client may lead to: some seconds of questions, each after a pause."""
_LAST_TRIES = 3
_LAST_MARKS_SECONDS = 15.0
"""From the last change of accounts until no mark is left: a lease, where a release was lost, and some."""
_SHOWN = 5
"""Of the judge's findings."""


class Options(msgspec.Struct, frozen=True):
    """What is simulated."""

    nodes: int = 5
    """Resource managers. Five hold three replicas of each bucket, spread; three hold all."""
    ticks: int = 150
    """Of hardship, at 100 ms; what follows is as long as the cluster needs to recover."""
    faults: tuple[str, ...] = ()
    """The classes that may strike."""
    drill: str = ""
    """One of `DRILLS` or `MEETINGS`, instead."""


class Outcome(msgspec.Struct, frozen=True):
    """How a run went."""

    violation: str
    """The promise that was broken; empty where all held."""
    digest: str
    lines: tuple[str, ...]
    """The last events."""
    seconds: float
    events: int
    calls: int
    committed: int
    """Payments."""
    refused: int
    crashes: int
    files_refused: int
    """Starts that came to nothing, since a configuration named other founders than the first start had."""
    rebuilt: int
    """Replicas that were stopped, since they had lost what they had acknowledged, and were built anew."""
    reads: int
    statements: int
    holds: int
    unknown: int
    """Tries of payments that nobody answered, or that were answered UNKNOWN."""


class World:
    """One seed's cluster, from its start to its last check."""

    def __init__(self, seed: int, options: Options, folder: Path, kept: int | None) -> None:
        loop = asyncio.get_running_loop()
        self.seed = seed
        self.plan = _draw(self._dice("plan"), options)
        self.trace = Trace(loop, kept)
        self.processes: list[Process] = []
        self.wires = Wires(loop, self._dice("wires"), self.trace)
        self.placement = _place(options.nodes)
        self._options = options
        self._folder = folder
        self._loop = loop
        self._outside = contextvars.copy_context()
        self._opened = 0.0
        first = options.nodes + 1 if self.plan.managers_apart else 1
        manager_ids = (first, first + 1)
        self.lock_node = first
        self.nodes: list[Node] = self._make_nodes(manager_ids)
        self._shadows = Shadows(self.buckets, self.trace)
        self._clients = Clients(self, self._dice("clients"))
        self._nemesis = Nemesis(self, self._dice("nemesis"))

    # -- the life of a cluster -----------------------------------------------------------------

    async def run(self) -> Outcome:
        """Hardship, calm, and the verdict."""
        self._loop.set_exception_handler(self._on_error)
        with self.trace.hear_logs(hide=str(self._folder)):
            self.trace.add(WORLD, f"begins: faults: {', '.join(self.plan.classes) or 'none'}")
            self._nemesis.mistakes.mistype_first()
            for node in self.nodes:
                node.start()
            tasks = [self._loop.create_task(self.wires.run())]
            await self._clients.open_accounts()
            self._opened = self._loop.time()
            self.wires.weather = self.plan.weather
            tasks += [
                self._loop.create_task(self._clients.run(client))
                for client in range(1, self.plan.clients + 1)
            ]
            nemesis = self._loop.create_task(self._nemesis.run())
            await self._wait(self._options.ticks * TICK_MS / 1000)
            nemesis.cancel()
            if not self.trace.violation:
                await self._recover()
            for task in tasks:
                task.cancel()
            if not self.trace.violation:
                self._judge()
            outcome = self._outcome()
            await self._bury()
        return outcome

    async def _wait(self, seconds: float) -> None:
        """For so long, or until a promise is broken."""
        try:
            async with asyncio.timeout(seconds):
                await self.trace.ended.wait()
        except TimeoutError:
            return

    async def _recover(self) -> None:
        """All faults end; then everybody is served, and everything that was begun ends, within the bound."""
        self.trace.add(WORLD, "calms down")
        self._clients.is_closing = True
        self.wires.heal()
        self.wires.weather = Weather()
        for node in self.nodes:
            node.database.is_away = node.store.is_away = False
            if node.has_buckets:
                node.disk.fails_next_sync = False
            if node.is_up and node.expects_rollback:
                node.kill()  # it would notice with its next flush, and may have nothing to flush
            if node.is_up:
                node.process.defuse()
                node.process.thaw()
            else:
                node.start()
        self._nemesis.mistakes.stop_mistyping()
        began = self._loop.time()
        while not self.trace.violation:
            await self._wait(_LOOK_SECONDS)
            left = [*self._unsettled(), *self._nemesis.replicas.give_back()]
            if not left:
                break
            if self._loop.time() - began > _CALM_SECONDS:
                self.trace.violate(
                    WORLD, f"{_CALM_SECONDS:.0f} s after the last fault: {'; '.join(left[:_SHOWN])}"
                )
        if not self.trace.violation:
            await self._ask_last()

    async def _ask_last(self) -> None:
        """Whoever asks now is answered, at his second or third try at the latest."""
        clients = self._clients
        for number in {**clients.frozen, **self._marked()}:
            await self._insist(partial(clients.set_frozen, 0, number, frozen=False))
        await self._wait_for_marks()
        await self._insist(partial(clients.read_all, 0, list(clients.numbers)))
        looks = [partial(clients.look_at, 0, request) for request in clients.requests.values()]
        await asyncio.gather(*[self._insist(look) for look in looks])

    async def _wait_for_marks(self) -> None:
        """Marks that nobody knows of have gone with the change of their account, and those of changes go (rule 34,
        escrow mode).
        """
        until = self._loop.time() + _LAST_MARKS_SECONDS
        while not self.trace.violation and (marked := self._marked()):
            if self._loop.time() > until:
                self.trace.violate(WORLD, f"marks outlive a change of their accounts: {marked}")
            await self._wait(_LOOK_SECONDS)

    def _marked(self) -> dict[str, tuple[Token, ...]]:
        return {
            number: account.marks
            for books in self._shadows.books.buckets.values()
            for number, account in books.accounts.items()
            if account.marks
        }

    async def _insist(self, ask: Callable[[], Awaitable[bool]]) -> None:
        for _ in range(_LAST_TRIES):
            if await ask():
                return
        self.trace.violate(WORLD, "a client isn't answered though all is well")

    def _unsettled(self) -> list[str]:
        """Find what of all that was begun hasn't ended."""
        left = [
            f"manager {node.id} doesn't coordinate yet"
            for node in self.managers
            if node.coordinator is None
        ]
        if not any(manager.store.has_lost for manager in self.managers):
            left += [f"{number} is marked with {marks}" for number, marks in self._marked().items()]
        for bucket, shadow in self._shadows.by_bucket.items():
            books = self._shadows.books.buckets.get(bucket)
            if books is None:
                left.append(f"bucket {bucket} has committed nothing")
                continue
            if books.legs:
                left.append(f"bucket {bucket} has {len(books.legs)} legs prepared")
            for node in self.nodes:
                rows = node.database.rows.get(bucket)
                if bucket in node.groups and (rows is None or rows.bucket.applied < shadow.applied):
                    left.append(f"node {node.id} is behind in bucket {bucket}")
        return left

    def _judge(self) -> None:
        books = self._shadows.books
        postings: dict[str, list[Posted]] = {}
        for each in books.buckets.values():
            for number, lines in each.postings.items():
                key = f"{number} of bucket {each.bucket}" if number.startswith("@") else number
                postings.setdefault(key, []).extend(lines)
        for node in self.nodes:
            for bucket, rows in node.database.rows.items():
                self.trace.require(
                    node.id,
                    rows.state_hash() == rows.bucket.state_hash,
                    "the rows of bucket {} in its database aren't those of their hash",
                    bucket,
                )
        found = judge(self._clients.history, Facts(books.records, postings))
        if self.plan.drill in MEASURED:
            found += self._judge_bound()
        found += self._judge_questions()
        for fault in found[:_SHOWN]:
            self.trace.violate(WORLD, fault)

    def _judge_bound(self) -> list[str]:
        bucket_of = {
            number: bucket
            for bucket, books in self._shadows.books.buckets.items()
            for number in books.accounts
        }
        troubles = self._nemesis.quorum.troubles
        tries = [one for one in self._clients.history.tries if one.began > self._opened]
        return list(judge_bound(tries, bucket_of, troubles, DRILL_BOUND_SECONDS))

    def _judge_questions(self) -> list[str]:
        """Nobody asks the buckets about a payment again and again without a pause."""
        calls: dict[bytes, int] = {}
        history = self._clients.history
        about = [each.payment_id for each in history.tries]
        about += [each.payment_id for each in history.looks]
        about += [each.payment_id for each in history.cancels]
        for payment_id in about:
            calls[payment_id] = calls.get(payment_id, 0) + 1
        return [
            f"payment {payment_id.hex()[:8]} has cost {asked} instructions, for {calls.get(payment_id, 0)} calls of clients"
            for payment_id, asked in self._shadows.asked.items()
            if asked > _ASKED_PER_CALL * (1 + calls.get(payment_id, 0))
        ]

    async def _bury(self) -> None:
        """Cancel everything that is left, dead or alive: what it does now, nobody sees."""
        for process in self.processes:
            process.is_dead = True
            process.bury()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- what others ask of it -----------------------------------------------------------------

    @property
    def buckets(self) -> tuple[int, ...]:
        """All of them."""
        return tuple(self.placement)

    @property
    def managers(self) -> Sequence[Node]:
        """The processes that coordinate."""
        return [node for node in self.nodes if node.coordinates]

    def on_group(self, node: Node, group: RaftGroup) -> None:
        """A replica takes part in a group; but one that was founded otherwise has no part in anything."""
        if node.mistyped != group.id:
            self._shadows.listen(group)

    def on_flushed(self, node: int, bucket: BucketRow) -> None:
        """A replica's state is durable."""
        [mistyped] = [each.mistyped for each in self.nodes if each.id == node]
        if mistyped != bucket.bucket:
            self._shadows.on_flushed(node, bucket)

    def on_note(self, node: Node) -> None:
        """The installation of a snapshot begins or ends."""
        self._nemesis.processes.on_note(node)

    def on_erased(self, node: Node, bucket: int, removed_at: int) -> None:
        """A replica may go once a majority of those who stay has its removal's commit on the disk: they can do without it."""
        stay = node.roster.holders()[bucket].voters
        know = [
            each.id
            for each in self.nodes
            if each.id in stay and _has_committed(each.disk.durable.get(bucket), removed_at)
        ]
        self.trace.add(node.id, f"erases bucket {bucket}, nodes {know} of {list(stay)} know")
        self.trace.require(
            node.id,
            node.id not in stay and 2 * len(know) > len(stay),
            "erases its replica of bucket {}, and of those who stay, {}, only {} know that it was removed",
            bucket,
            list(stay),
            know,
        )

    def on_answer(self, node: Node, *, is_creation: bool) -> None:
        """A manager has just said that a payment is committed."""
        self._nemesis.processes.on_answer(node, is_creation=is_creation)

    def on_death(self, node: Node) -> None:
        """It comes back after a while."""
        seconds = self.plan.restart_seconds * (1 + node.dice.randrange(1000)) / 1000
        self._loop.call_later(seconds, self._restart, node, context=self._outside)

    # -- inside --------------------------------------------------------------------------------

    def _restart(self, node: Node) -> None:
        if not node.is_up:
            node.start()

    def _make_nodes(self, managers: tuple[int, ...]) -> list[Node]:
        holders = range(1, self._options.nodes + 1)
        ids = sorted({*holders, *managers})
        peers = tuple(
            PeerConfig(
                id=node,
                address=f"node{node}:1",
                roles=(Role.RM,) if node in holders else (Role.TM,),
            )
            for node in ids
        )
        buckets = tuple(
            BucketConfig(id=bucket, voters=voters) for bucket, voters in self.placement.items()
        )
        nodes = []
        for node_id in ids:
            node = Node(
                self,
                Config(
                    node=NodeConfig(id=node_id, address=f"node{node_id}:1"),
                    peers=peers,
                    buckets=buckets,
                ),
                has_buckets=node_id in holders,
                coordinates=node_id in managers,
            )
            node.make_disk(self._folder / str(node_id))
            nodes.append(node)
        return nodes

    def _dice(self, stream: str) -> Random:
        return Random(f"{self.seed} {stream}")  # noqa: S311  (nobody's secret)

    def _on_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        self.trace.violate(WORLD, f"{context.get('message')}: {error!r}")

    def _outcome(self) -> Outcome:
        history, records = self._clients.history, self._shadows.books.records.values()
        return Outcome(
            violation=self.trace.violation,
            digest=self.trace.digest(),
            lines=tuple(self.trace.lines()),
            seconds=self._loop.time(),
            events=self.trace.count,
            calls=sum(len(getattr(history, name)) for name in history.__struct_fields__),
            committed=sum(record.outcome.name == "COMMITTED" for record in records),
            refused=sum(record.outcome.name == "REFUSED" for record in records),
            crashes=sum(node.crashes for node in self.nodes),
            files_refused=sum(node.files_refused for node in self.nodes),
            rebuilt=len(self._nemesis.replicas.rebuilt),
            reads=sum(read.is_known for read in history.reads),
            statements=sum(one.is_known for one in history.statements),
            holds=len(history.holds),
            unknown=sum(not one.is_answered for one in history.tries),
        )


def _draw(dice: Random, options: Options) -> Plan:
    if options.drill in MEETINGS:
        return draw_meeting(dice, options.drill)
    return draw_drill(dice, options.drill) if options.drill else draw(dice, options.faults)


def _has_committed(log: GroupLog | None, index: int) -> bool:
    return log is not None and max(log.hard_state.commit, log.start) >= index


def _place(nodes: int) -> dict[int, tuple[int, ...]]:
    """Three replicas of each bucket, so that of five nodes two may be missed by one bucket alone."""
    if nodes < 5:
        return dict.fromkeys(range(1, BUCKETS + 1), (1, 2, 3))
    return {1: (1, 2, 3), 2: (3, 4, 5), 3: (1, 2, 5)}
