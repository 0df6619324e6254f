"""`mas demo`: a cluster of four processes, some payments, a kill -9 in the middle, and the count of the money.

Whatever it says it has checked; a check that fails ends it with the reason and a status that isn't 0.
"""

import asyncio
from collections.abc import Sequence

import click

from mas.api.tokens import Role
from mas.client import Client, Payment, Receipt
from mas.errors import MasError
from mas.money import format_amount
from mas.rpc.messages import AccountView
from mas.runtime import SystemClock
from mas.testing.audit import Audit, audit
from mas.testing.local_cluster import LocalCluster, Node

_CURRENCY = "USD"
_NAMES = ("alice", "bob", "carol", "dave", "erin", "frank")
_OPENING = 100_000
_PAYMENTS = 500
_CONCURRENT = 50
_AMOUNT = 7
_FAILOVER_SECONDS = 30.0


class DemoFailed(MasError):
    """Something that the demo shows isn't so."""


def run() -> None:
    """Show a cluster at work.

    Raises:
        MasError: a check failed, or the cluster can't be started.
    """
    asyncio.run(_demo())


async def _demo() -> None:
    clock = SystemClock()
    started = clock.monotonic()
    _title("A cluster: one transaction manager, three resource managers, three buckets on each")
    async with LocalCluster() as cluster, cluster.client() as operator:
        for node in cluster.nodes.values():
            _say(f"node {node.id} ({node.role}) is process {node.pid}")
        _say(f"gRPC with TLS and tokens on {cluster.address}; ready after {_since(clock, started)}")
        demo = _Demo(cluster, operator, clock)
        await demo.open_accounts()
        await demo.pay_here_and_there()
        await demo.refuse()
        await demo.pay_concurrently()
        await demo.kill_a_leader()
        await demo.restart_it()
        money = await demo.count()
    total = _money(money.total[_CURRENCY])
    click.secho(
        f"\n{money.payments - len(_NAMES)} payments, one kill -9, no cent lost: {total} put in, {total} there, "
        f"on every replica alike. ({_since(clock, started)})",
        fg="green",
        bold=True,
    )


class _Demo:
    def __init__(self, cluster: LocalCluster, operator: Client, clock: SystemClock) -> None:
        self._cluster = cluster
        self._operator = operator
        self._clock = clock
        self._paid = 0
        self._accounts: dict[str, AccountView] = {}
        self._tokens: dict[str, str] = {}
        self._victim: Node | None = None

    async def open_accounts(self) -> None:
        _title("Accounts, placed by the bucket that is next")
        for name in _NAMES:
            new = await self._operator.create_account(name, _OPENING)
            _check(new.receipt.committed, f"{name} isn't opened: {new.receipt}")
            account = self._accounts[name] = await self._operator.account(name)
            _say(f"{name:6} {_money(account.balance):>12}  in bucket {account.bucket}")

    async def pay_here_and_there(self) -> None:
        _title("One payment within a bucket, one across two")
        payer = self._accounts["alice"]
        others = [account for account in self._accounts.values() if account is not payer]
        near = next(account for account in others if account.bucket == payer.bucket)
        far = next(account for account in others if account.bucket != payer.bucket)
        async with self._cluster.client("account:alice") as alice:
            for payee in (near, far):
                receipt = await alice.pay("alice", payee.number, "12.50")
                _check(
                    receipt.committed, f"the payment to {payee.number} isn't committed: {receipt}"
                )
                self._paid += 1
                _say(
                    f"alice -> {payee.number}: 12.50 USD, bucket {payer.bucket} to {payee.bucket}: {receipt.status.name}"
                )

    async def refuse(self) -> None:
        _title("One that alice can't afford")
        before = await self._operator.account("alice")
        async with self._cluster.client("account:alice") as alice:
            receipt = await alice.pay("alice", "bob", "1000000.00")
        after = await self._operator.account("alice")
        _check(not receipt.committed and receipt.final, f"it isn't refused: {receipt}")
        _check(after.balance == before.balance, "alice's balance has changed")
        _say(
            f"alice -> bob: 1000000.00 USD: {receipt.status.name} ({receipt.reason.name}); "
            f"alice still has {_money(after.balance)}"
        )

    async def pay_concurrently(self) -> None:
        _title(f"{_PAYMENTS} payments, {_CONCURRENT} at a time")
        started = self._clock.monotonic()
        receipts = await self._pay_all("calm")
        elapsed = self._clock.monotonic() - started
        _check(all(receipt.committed for receipt in receipts), "not all of them are committed")
        _say(f"all COMMITTED in {elapsed:.2f} s: {len(receipts) / elapsed:.0f} payments/s")

    async def kill_a_leader(self) -> None:
        bucket = self._accounts["alice"].bucket
        _title(f"{_PAYMENTS} more, and kill -9 of the node that leads bucket {bucket}, alice's")
        victim = self._victim = self._cluster.nodes[await self._leader_of(bucket)]
        receipts = await self._pay_all("storm", kill=victim)
        _check(not victim.is_running(), "the node survived its death")
        _check(
            all(receipt.committed for receipt in receipts),
            f"not all of them are committed: {[r for r in receipts if not r.committed][:3]}",
        )
        _say(
            "all COMMITTED: those that lost their answer asked again by their keys, and were paid once"
        )
        _say(f"node {await self._leader_of(bucket)} leads bucket {bucket} now")

    async def restart_it(self) -> None:
        assert self._victim is not None
        _title(f"Node {self._victim.id} comes back and catches up")
        started = self._clock.monotonic()
        await self._cluster.restart(self._victim)
        await audit(self._operator)
        _say(f"it holds what the others hold after {_since(self._clock, started)}")

    async def count(self) -> Audit:
        _title("The money, counted from each replica's own database")
        money = await audit(self._operator)
        expected = _OPENING * len(_NAMES)
        for view in money.views:
            _say(
                f"bucket {view.bucket}: {_money(view.balances.get(_CURRENCY, 0)):>12} in {view.accounts} accounts, "
                f"index {view.applied}, state hash {view.state_hash[:16]}"
            )
        _check(
            money.total == {_CURRENCY: expected},
            f"the balances sum to {money.total}, and {expected} was put in",
        )
        made = money.payments - len(_NAMES)
        _check(made == self._paid, f"{made} payments are recorded, and {self._paid} were answered")
        return money

    async def _pay_all(self, name: str, kill: Node | None = None) -> list[Receipt]:
        """Everybody pays everybody, in turn; `kill` dies when a fifth of it is done."""
        numbers = [*self._accounts]
        payments = [
            Payment(
                payer=numbers[i % len(numbers)],
                payee=numbers[(i + 1 + i // len(numbers) % (len(numbers) - 1)) % len(numbers)],
                amount=_AMOUNT,
                key=f"{name}-{i}",
            )
            for i in range(_PAYMENTS)
        ]
        storming = asyncio.Event()
        async with self._cluster.client("operator:demo", Role.GATEWAY) as client:
            if kill is None:
                receipts = await self._pay(client, payments, storming)
            else:
                paying = self._pay(client, payments, storming)
                receipts, _ = await asyncio.gather(paying, self._kill(client, kill, storming))
        self._paid += len(receipts)
        return receipts

    async def _pay(
        self, client: Client, payments: Sequence[Payment], storming: asyncio.Event
    ) -> list[Receipt]:
        """Pay, some at a time; `storming` is set when a fifth of it is done."""
        slots = asyncio.Semaphore(_CONCURRENT)
        done = 0

        async def one(payment: Payment) -> Receipt:
            nonlocal done
            async with slots:
                receipt = await client.pay(
                    payment.payer,
                    payment.payee,
                    payment.amount,
                    key=payment.key,
                    timeout=_FAILOVER_SECONDS,
                )
            done += 1
            if done * 5 >= len(payments):
                storming.set()
            return receipt

        return await asyncio.gather(*(one(payment) for payment in payments))

    async def _kill(self, client: Client, victim: Node, storming: asyncio.Event) -> None:
        """Kill the node in the middle, and time how long its bucket's payer has to wait."""
        await storming.wait()
        self._cluster.kill(victim)
        killed = self._clock.monotonic()
        receipt = await client.pay(
            "alice", "bob", _AMOUNT, key="after the kill", timeout=_FAILOVER_SECONDS
        )
        _check(receipt.committed, f"payments of alice don't flow again: {receipt}")
        self._paid += 1
        _say(
            f"node {victim.id} is dead; alice's payments flow again after {_since(self._clock, killed)}"
        )

    async def _leader_of(self, bucket: int) -> int:
        """The node that leads the bucket by the word of a replica that lives."""
        for replica in (await self._operator.buckets())[bucket]:
            if self._cluster.nodes[replica].is_running():
                view = await self._operator.bucket(bucket, replica)
                if view.leader:
                    return view.leader
        raise DemoFailed(f"bucket {bucket} has no leader")


def _check(holds: object, otherwise: str) -> None:
    if not holds:
        raise DemoFailed(otherwise)


def _money(units: int) -> str:
    return f"{format_amount(units, _CURRENCY)} {_CURRENCY}"


def _since(clock: SystemClock, started: float) -> str:
    return f"{clock.monotonic() - started:.2f} s"


def _title(text: str) -> None:
    click.secho(f"\n{text}", bold=True)


def _say(text: str) -> None:
    click.echo(f"  {text}")
