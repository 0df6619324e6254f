"""Lock service, router, resource managers and ledgers together, on a virtual loop: no mark outlives its holder.

Each room's own tests speak for the others. Here they are joined: a bucket asks anchors about what a mark waits for while the
lock service gives up, buckets lose their leaders, what was proposed is lost sight of, and payments come to their
ends or are left to the resolver.
"""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from mas.channels import Channel
from mas.errors import MasError
from mas.ids import home_bucket
from mas.ledger import (
    Abort,
    Account,
    Answer,
    Batch,
    Body,
    Code,
    Commit,
    Decide,
    Instruction,
    Kind,
    LockMode,
    Prepare,
    RejectReason,
    SetAccount,
)
from mas.locks import ACCOUNT, GlobalLockService, LockSettings
from mas.resource import AccountService, Ports, ResourceSettings
from mas.rpc.client import BucketClient
from mas.rpc.messages import ChangeMembers, ReadReplica, Rejected, ReplicaState, ReplicaView
from mas.rpc.server import BucketServer
from mas.runtime import Supervisor
from mas.sim import VirtualClock, run_virtual
from tests.locks.harness import ALICE, BOB, BUCKETS, TC, StoredLocks, make_xid, until
from tests.resource.harness import FakeDatabase, FakeGroup

SEEDS = (1, 4, 9, 12)
TM = 9
"""The node of the lock service, and of whoever pays."""


class Net:
    """Frames arrive in the order of their sending, some milliseconds later."""

    def __init__(self, dice: Random) -> None:
        self.dice = dice
        self.handlers: dict[tuple[int, int], Callable[[int, bytes], None]] = {}
        self._last: dict[tuple[int, int], float] = {}

    def carry(self, sender: int, peer: int, channel: int, payload: bytes) -> None:
        loop = asyncio.get_running_loop()
        when = max(loop.time() + self.dice.uniform(0.001, 0.02), self._last.get((sender, peer), 0))
        self._last[sender, peer] = when
        loop.call_at(when, self.handlers[peer, channel], sender, payload)


class End:
    """One node's way into the net."""

    def __init__(self, net: Net, node: int) -> None:
        self._net, self._node = net, node

    def send(self, peer: int, channel: int, payload: bytes) -> bool:
        self._net.carry(self._node, peer, channel, payload)
        return True

    def is_connected(self, peer: int) -> bool:
        return True


class Bucket:
    """A resource manager with one bucket, which its node leads, most of the time."""

    def __init__(self, bucket: int, net: Net, clock: VirtualClock) -> None:
        self.bucket, self.clock = bucket, clock
        self.group, self.database = FakeGroup(), FakeDatabase()
        self.router = make_router(net, bucket, clock)
        self.server = BucketServer(End(net, bucket), self.answer)
        net.handlers[bucket, Channel.REQUEST] = self.server.on_frame
        self.is_led = False
        self.service: AccountService

    async def open(self) -> None:
        kept = await self.database.open(self.bucket, self.bucket.to_bytes(8, "big"))
        ports = Ports(self.group, self.database, self.router, self.server.reply, self.bucket)  # type: ignore[arg-type]
        settings = ResourceSettings("walk", BUCKETS, lock_timeout=5.0)
        self.service = AccountService(self.bucket, kept, ports, self.clock, settings)
        self.server.add(self.bucket, self.service.requests.offer)

    def answer(self, request: ReadReplica | ChangeMembers) -> ReplicaView:
        """As the members' door does."""
        leader = self.bucket if self.is_led else 0
        return ReplicaView(
            request.request,
            self.bucket,
            self.bucket,
            ReplicaState.RUNNING,
            leader=leader,
            term=self.group.term,
        )

    def lead(self, leading: bool = True) -> None:
        self.is_led = leading
        leader = self.bucket if leading else 0
        self.group.lead(term=self.group.term + 1, leading=leading, leader=leader)

    def account(self, number: str) -> Account:
        account = self.service._replica.rows.account(number)
        assert isinstance(account, Account)
        return account


def make_router(net: Net, node: int, clock: VirtualClock) -> BucketClient:
    replicas = {bucket: [bucket] for bucket in range(1, BUCKETS + 1)}
    router = BucketClient(End(net, node), replicas, clock=clock, dice=Random(node))
    net.handlers[node, Channel.REPLY] = router.on_reply
    return router


class Walk:
    """What a seed does to ALICE, who lives in bucket 1 and is paid by BOB of bucket 2."""

    def __init__(self, seed: int) -> None:
        self.dice = Random(seed)
        self.clock = VirtualClock(asyncio.get_running_loop())
        net = Net(self.dice)
        self.buckets = {i: Bucket(i, net, self.clock) for i in range(1, BUCKETS + 1)}
        self.router = make_router(net, TM, self.clock)
        self.locks = GlobalLockService(
            "tm",
            buckets=self.router,
            store=StoredLocks(),
            clock=self.clock,
            settings=LockSettings(BUCKETS),
        )
        self.counter = 0
        self.is_over = False
        self.granted = 0
        self.denied = 0

    def until_later(self, shortest: float, longest: float) -> Awaitable[None]:
        return asyncio.sleep(self.dice.uniform(shortest, longest))

    async def tell(self, bucket: int, instruction: Instruction) -> Answer | Rejected:
        told: asyncio.Future[Answer | Rejected] = asyncio.get_running_loop().create_future()
        batch = Batch(TC, 0, (instruction,))
        self.router.submit(bucket, batch, lambda _, answer: told.set_result(answer))
        return await told

    async def open(self, supervisor: Supervisor) -> None:
        for each in self.buckets.values():
            await each.open()
            supervisor.spawn(f"bucket-{each.bucket}", each.service.run())
            each.lead()
        for number in (ALICE, BOB):
            home, xid = home_bucket(number, BUCKETS), self.xid()
            body = Body(Kind.CREATION, "USD", ((number, 1_000),))
            answer = await self.tell(
                home, Decide(xid, xid, 1, body, b"h", (), (0,), account_bucket=home)
            )
            assert isinstance(answer, Answer)
            assert answer.code is Code.COMMITTED, answer
        supervisor.spawn("locks", self.locks.run())
        await until(lambda: self.locks._book is not None)

    def xid(self) -> bytes:
        self.counter += 1
        return make_xid(TC, self.counter)

    async def pay(self) -> None:
        """To ALICE, by BOB: some payments end, some are ended, some are left to the resolver."""
        while not self.is_over:
            await self.until_later(0.05, 0.6)
            xid, key, chance = self.xid(), self.xid(), self.dice.random()
            prepare = Prepare(xid, key, 1, b"h", 2, (1,), Kind.PAYMENT, "USD", ((ALICE, 1),))
            answer = await self.tell(1, prepare)
            if isinstance(answer, Answer) and answer.code is Code.PREPARED and chance < 0.5:
                body = Body(Kind.PAYMENT, "USD", ((BOB, -1), (ALICE, 1)))
                decided = await self.tell(2, Decide(xid, key, 1, body, b"h", (1,), (0,)))
                if isinstance(decided, Answer) and decided.code is Code.COMMITTED:
                    await self.tell(1, Commit(xid, decided.time_us))
            elif chance < 0.8 and isinstance(answer, Answer):
                await self.tell(1, Abort(xid))

    async def lock(self, name: int) -> None:
        while not self.is_over:
            owner = b"outsider-%d" % name
            mode = self.dice.choice([LockMode.EXCLUSIVE, LockMode.SHARED])
            patience, lease = self.dice.uniform(0.2, 2.0), self.dice.uniform(1.0, 3.0)
            try:
                await self.locks.acquire_locks(
                    owner, [ACCOUNT + ALICE], mode, patience, marked=True, durable=True, lease=lease
                )
            except MasError:
                self.denied += 1
            else:
                self.granted += 1
                await self.until_later(0.0, 0.5)
            if self.dice.random() < 0.7:
                self.locks.release(owner)
            await self.until_later(0.0, 1.0)

    async def disturb(self) -> None:
        """Leaders go; what was on its way may be committed behind that, answered to nobody."""
        while not self.is_over:
            await self.until_later(0.5, 3.0)
            bucket = self.buckets[self.dice.choice([1, 2, 2])]
            bucket.group.held = []
            await self.until_later(0.0, 0.3)
            bucket.lead(False)
            await self.until_later(0.1, 6.0)
            bucket.group.release()
            bucket.lead()


async def walk(seed: int) -> Walk:
    """Half a minute of hardship, then peace."""
    async with Supervisor() as supervisor:
        world = Walk(seed)
        await world.open(supervisor)
        acts = [world.pay(), world.pay(), world.disturb(), *[world.lock(i) for i in range(3)]]
        tasks = [supervisor.spawn(f"act-{i}", act) for i, act in enumerate(acts)]
        await asyncio.sleep(30)
        world.is_over = True
        await asyncio.wait(tasks)
        await asyncio.sleep(80)
        alice = world.buckets[1]
        assert alice.account(ALICE).marks == (), f"seed {seed}: a mark is left"
        assert not alice.service._replica.rows.legs, f"seed {seed}: a leg is left"
        change = SetAccount(ALICE, frozen=True)
        answer = await world.tell(1, change)
        assert isinstance(answer, Answer), answer
        assert answer.code is Code.DONE
        await supervisor.stop()
    return world


@pytest.mark.parametrize("seed", SEEDS)
def test_no_mark_outlives_its_holder_whatever_happens(seed: int) -> None:
    world = run_virtual(walk(seed))
    assert world.granted, "nobody was granted anything: nothing was tried"
    assert world.denied, "nobody gave up while the marks were on their way"


def test_a_mark_whose_anchor_has_no_leader() -> None:
    """The schedule itself: the lock service gives up while its mark waits for a leg's anchor, and the anchor comes back."""

    async def story() -> None:
        async with Supervisor() as supervisor:
            world = Walk(1)
            await world.open(supervisor)
            alice, anchor = world.buckets[1], world.buckets[2]
            xid = world.xid()
            legs = ((ALICE, 1),)
            await world.tell(1, Prepare(xid, xid, 1, b"h", 2, (1,), Kind.PAYMENT, "USD", legs))
            anchor.lead(False)
            with pytest.raises(MasError):
                await world.locks.acquire_locks(
                    b"o", [ACCOUNT + ALICE], LockMode.EXCLUSIVE, 1.0, marked=True, lease=3.0
                )
            assert alice.service._applier._anchors.is_asked, "its bucket has asked about the leg"
            anchor.lead()
            await asyncio.sleep(80)
            assert alice.account(ALICE).marks == ()
            late = await world.tell(1, SetAccount(ALICE, frozen=True))
            assert late == Answer(Code.DONE, state=late.state)  # type: ignore[union-attr]
            await supervisor.stop()

    run_virtual(story())


def test_a_mark_lost_sight_of_is_unknown() -> None:
    """What the walks rely on: an answer may be lost behind an entry that is applied."""

    async def story() -> None:
        async with Supervisor() as supervisor:
            world = Walk(1)
            await world.open(supervisor)
            alice = world.buckets[1]
            alice.group.held = []
            asked = supervisor.spawn("ask", world.tell(1, SetAccount(ALICE, frozen=True)))
            await until(lambda: alice.group.held)
            alice.lead(False)
            answer = await asked
            assert isinstance(answer, Rejected)
            assert answer.why is RejectReason.UNKNOWN
            alice.group.release()
            await until(lambda: alice.account(ALICE).frozen)
            await supervisor.stop()

    run_virtual(story())
