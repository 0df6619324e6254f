"""Hints for recovery: one write for many, none for what is over meanwhile, and never waited for (rule 40)."""

import asyncio

import pytest

from mas.coordinator import pending as module
from mas.coordinator.pending import PendingWriter
from mas.errors import DatabaseUnavailable
from mas.ledger.instructions import Prepare
from mas.runtime import Supervisor, SystemClock
from mas.transaction.attempt import Attempt, NotePending
from tests.coordinator.cluster import Store
from tests.transaction.runs import ANCHOR, OTHER, Run


class SlowStore(Store):
    """Its writes wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def create_transaction_entries(self, entries: object) -> None:
        await self.gate.wait()
        await super().create_transaction_entries(entries)  # type: ignore[arg-type]


def note() -> Attempt:
    run = Run().start()
    (noted,) = run.take(NotePending)
    assert run.one(Prepare)
    return noted.attempt


async def until(condition: object) -> None:
    while not condition():  # type: ignore[operator]
        await asyncio.sleep(0.001)


@pytest.mark.asyncio
async def test_an_entry_says_what_a_restart_needs() -> None:
    store = Store()
    notes = PendingWriter(store, SystemClock())
    noted = note()
    async with Supervisor() as supervisor:
        supervisor.spawn("notes", notes.run())
        notes.note(noted)
        await until(lambda: store.entries)

    (entry,) = store.entries.values()
    assert (entry.anchor, entry.participants, entry.attempt) == (ANCHOR, (OTHER,), 1)
    assert entry.payment_id == noted.payment_id
    assert entry.body_hash == noted.body_hash


@pytest.mark.asyncio
async def test_what_is_over_before_its_write_is_never_written() -> None:
    store = SlowStore()
    notes = PendingWriter(store, SystemClock())
    first, second, third = note(), note(), note()
    second.xid, third.xid = b"2" * 16, b"3" * 16
    async with Supervisor() as supervisor:
        supervisor.spawn("notes", notes.run())
        notes.note(first)
        await asyncio.sleep(0)
        notes.note(second)
        notes.note(third)
        notes.settled(second.xid)
        store.gate.set()
        await until(lambda: third.xid in store.entries)
        notes.settled(first.xid)
        notes.settled(third.xid)
        await until(lambda: not store.entries)

    assert set(store.ever) == {first.xid, third.xid}


@pytest.mark.asyncio
async def test_a_store_that_is_away_costs_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NOTES_MAX", 2)
    store = Store()
    notes = PendingWriter(store, SystemClock())
    for counter in range(5):
        noted = note()
        noted.xid = bytes((counter,)) * 16
        notes.note(noted)

    assert notes.dropped == 3


@pytest.mark.asyncio
async def test_notes_go_on_when_the_store_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.001)
    store = Store()
    store.is_away = True
    notes = PendingWriter(store, SystemClock())
    async with Supervisor() as supervisor:
        supervisor.spawn("notes", notes.run())
        notes.placed("A", 1)
        await until(lambda: store.calls)
        with pytest.raises(DatabaseUnavailable):
            await store.pending_entries()
        store.is_away = False
        notes.placed("B", 2)
        await until(lambda: "B" in store.directory)
