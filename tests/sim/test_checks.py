"""The checks themselves: each broken promise, as it would be seen from outside, is called by its name."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any

from mas.multiraft import Leadership, Restored
from mas.raft import (
    ConfState,
    Entry,
    HardState,
    Message,
    MessageType,
    SnapshotMetadata,
)
from mas.sim import run_virtual
from mas.sim.checks import Checks
from mas.sim.disk import Disk, SimLog
from mas.sim.history import Operation
from mas.sim.leases import Leases
from mas.sim.machine import Command, State, encode_command
from mas.sim.trace import Trace
from mas.storage.raft_log.value import GroupLog, Restore

CONF = ConfState(voters=(1, 2, 3))
LEASE_SECONDS = 0.5


def entry(index: int, term: int = 1) -> Entry:
    return Entry(index, term, data=encode_command(Command(index, 1, index)))


class Scene:
    """Three nodes' disks, and who watches them."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.trace = Trace(self.loop)
        self.disks: dict[int, Disk] = {}
        self.checks = Checks(
            {1: CONF}, self.disks, self.trace, lambda _group: self._leases(), self.loop.time
        )
        self.logs = {}
        for node in CONF.voters:
            self.disks[node] = Disk(node, Path(), Random(1), self.checks, on_note=lambda: None)
            self.logs[node] = SimLog(self.disks[node])
            batch = self.logs[node].batch()
            batch.create(1, CONF)
            batch.commit(sync=True)

    def _leases(self) -> Leases:
        return Leases(LEASE_SECONDS, lambda _node: self.loop.time(), self.trace.violate)

    def write(
        self, node: int, *entries: Entry, hard_state: HardState | None = None, sync: bool = True
    ) -> None:
        batch = self.logs[node].batch()
        batch.append(1, entries)
        if hard_state is not None:
            batch.set_hard_state(1, hard_state)
        batch.commit(sync=sync)

    def write_all(self, *entries: Entry) -> None:
        for node in self.disks:
            self.write(node, *entries, hard_state=HardState(entries[-1].term, 1, 0))

    def say(self, kind: MessageType, sender: int, to: int, **fields: Any) -> None:
        self.checks.on_sent(sender, [(1, Message(kind, to, sender, **fields))])

    def hear(self, kind: MessageType, sender: int, to: int, **fields: Any) -> None:
        self.checks.on_received(to, [(1, Message(kind, to, sender, **fields))])

    def hand_out(self, node: int, *entries: Entry) -> None:
        self.checks.on_committed(node, 1, entries)


def violation(script: Callable[[Scene], Coroutine[Any, Any, None] | None]) -> str:
    """What the checks say of a script."""

    async def main() -> str:
        scene = Scene()
        result = script(scene)
        if result is not None:
            await result
        return scene.trace.violation

    return run_virtual(main())


def test_all_is_well() -> None:
    def script(scene: Scene) -> None:
        scene.write_all(entry(1), entry(2))
        scene.say(MessageType.APPEND, 1, 2, term=1, commit=2)
        scene.say(MessageType.APPEND_RESPONSE, 2, 1, term=1, index=2)
        scene.hand_out(1, entry(1), entry(2))
        scene.checks.on_applied(1, 1, State().apply(entry(1)))
        scene.hand_out(2, entry(1), entry(2))
        scene.checks.on_leadership(1, 1, Leadership(1, 1, leading=True))

    assert violation(script) == ""


def test_two_leaders_of_a_term() -> None:
    def script(scene: Scene) -> None:
        scene.write_all(entry(1))
        scene.say(MessageType.HEARTBEAT, 1, 2, term=1)
        scene.say(MessageType.HEARTBEAT, 3, 2, term=1)

    assert "leads term 1, which node 1 leads" in violation(script)


def test_two_votes_in_a_term() -> None:
    def script(scene: Scene) -> None:
        scene.write_all(entry(1))
        scene.hear(MessageType.VOTE, 1, 2, term=1)
        scene.say(MessageType.VOTE_RESPONSE, 2, 1, term=1)
        scene.hear(MessageType.VOTE, 3, 2, term=1)
        scene.say(MessageType.VOTE_RESPONSE, 2, 3, term=1)

    assert "votes for 1 and 3 in term 1" in violation(script)


def test_a_term_that_isnt_synced() -> None:
    def script(scene: Scene) -> None:
        scene.write(1, hard_state=HardState(2, 1, 0), sync=False)
        scene.say(MessageType.VOTE, 1, 2, term=2)

    assert "speaks in term 2, and term 0 is synced" in violation(script)


def test_an_acknowledgement_that_isnt_synced() -> None:
    def script(scene: Scene) -> None:
        scene.write_all(entry(1))
        scene.write(2, entry(2), sync=False)
        scene.say(MessageType.APPEND_RESPONSE, 2, 1, term=1, index=2)

    assert "acknowledges index 2, and its synced log ends at 1" in violation(script)


def test_a_leader_without_a_committed_entry() -> None:
    def script(scene: Scene) -> None:
        for node in (1, 2):
            scene.write(node, entry(1), hard_state=HardState(1, 1, 0))
        scene.hand_out(1, entry(1))
        scene.write(3, hard_state=HardState(2, 3, 0))
        scene.say(MessageType.HEARTBEAT, 3, 2, term=2)

    assert "leads term 2 without entry 1 of term 1" in violation(script)


def test_an_old_entry_committed_by_counting() -> None:
    def script(scene: Scene) -> None:
        scene.write_all(entry(1))
        scene.write(1, entry(2, 2), hard_state=HardState(2, 1, 0))
        scene.say(MessageType.HEARTBEAT, 1, 2, term=2, commit=1)

    assert "leads term 2 and commits entry 1 of term 1 by counting" in violation(script)


def test_an_entry_that_no_quorum_holds() -> None:
    def script(scene: Scene) -> None:
        scene.write(1, entry(1), hard_state=HardState(1, 1, 0))
        scene.hand_out(1, entry(1))

    assert "handed entry 1 of term 1, which no quorum holds" in violation(script)


def test_an_entry_that_isnt_in_the_own_log() -> None:
    def script(scene: Scene) -> None:
        for node in (1, 2):
            scene.write(node, entry(1))
        scene.hand_out(1, entry(1))
        scene.hand_out(3, entry(1))

    assert "node 3: group 1: is handed entry 1 of term 1, which isn't in its" in violation(script)


def test_another_entry_than_others_got() -> None:
    def script(scene: Scene) -> None:
        scene.write(1, entry(1))
        scene.write(2, entry(1))
        scene.write(3, entry(1, 2))
        scene.hand_out(1, entry(1))
        scene.hand_out(3, entry(1, 2))

    assert "is handed entry 1 of term 2, where others got one of term 1" in violation(script)


def test_two_entries_of_one_index_and_term() -> None:
    def script(scene: Scene) -> None:
        scene.write(1, entry(1))
        scene.write(2, Entry(1, 1, data=b"other"))

    assert "has another entry 1 of term 1" in violation(script)


def test_a_hard_state_that_goes_back() -> None:
    for worse in (HardState(2, 1, 3), HardState(3, 2, 3), HardState(3, 1, 2)):

        def script(scene: Scene, worse: HardState = worse) -> None:
            scene.write(1, hard_state=HardState(3, 1, 3))
            scene.write(1, hard_state=worse)

        assert "goes back from" in violation(script), worse


def test_a_restart_in_an_earlier_term() -> None:
    def script(scene: Scene) -> None:
        scene.write(1, hard_state=HardState(3, 1, 0))
        scene.say(MessageType.VOTE, 1, 2, term=3)
        scene.checks.groups[1].on_start(1, scene.disks[2].durable[1], State())

    assert "comes back in term 0, and was in term 3" in violation(script)


def test_a_log_cut_beyond_the_database() -> None:
    def script(scene: Scene) -> None:
        scene.write_all(entry(1), entry(2), entry(3))
        scene.disks[1].databases[1] = State(applied=1, term=1)
        batch = scene.logs[1].batch()
        batch.compact(1, 2)
        batch.commit(sync=True)

    assert "has a log that begins behind 2, and a database at 1" in violation(script)


def test_a_database_ahead_of_its_log() -> None:
    def script(scene: Scene) -> None:
        scene.disks[1].databases[1] = State(applied=5, term=1)
        scene.checks.on_stored(scene.disks[1])

    assert "has a database at 5, a log that ends at 0, and no note" in violation(script)


def test_entries_dropped_for_a_snapshot_that_the_log_holds() -> None:
    def script(scene: Scene) -> None:
        scene.write_all(entry(1), entry(2))
        before = scene.disks[1].durable[1]
        restore = Restore(SnapshotMetadata(1, 1, CONF))
        after = GroupLog(CONF, before.hard_state, None, 1, 1, 1)
        scene.checks.on_write(scene.disks[1], 1, before, after, restore)

    assert "drops entries up to 2 for a snapshot of 1" in violation(script)


def test_a_state_that_no_other_replica_has() -> None:
    def script(scene: Scene) -> None:
        scene.write_all(entry(1))
        scene.hand_out(1, entry(1))
        scene.checks.on_applied(2, 1, State(applied=1, term=1, length=1, digest=5))

    assert "node 2: group 1: has a state at 1 that no other replica has" in violation(script)


def test_a_snapshot_that_isnt_in_the_database() -> None:
    def script(scene: Scene) -> None:
        scene.checks.on_restored(1, 1, State(), Restored(7, 1, CONF))

    assert "is told of a snapshot at 7, and its database is at 0" in violation(script)


def test_a_write_handed_out_twice() -> None:
    def script(scene: Scene) -> None:
        again = Entry(2, 1, data=entry(1).data)
        scene.write_all(entry(1), again)
        scene.hand_out(1, entry(1), again)

    assert "is handed write 1 for the second time" in violation(script)


def test_a_read_older_than_what_was_committed() -> None:
    def script(scene: Scene) -> None:
        scene.write_all(entry(1))
        scene.hand_out(1, entry(1))
        read = Operation(number=9, group=1, node=2, kind="read", asked=0.0)
        scene.checks.on_question(read)
        scene.checks.on_answer(read)

    assert "reads 0 items, and 1 were committed when it was asked" in violation(script)


def test_a_vote_within_the_leaders_lease() -> None:
    async def script(scene: Scene, wait: float, context: bytes = b"") -> None:
        scene.write_all(entry(1))
        scene.write(2, hard_state=HardState(2, 1, 0))
        scene.hear(MessageType.HEARTBEAT, 1, 2, term=1)
        await asyncio.sleep(wait)
        scene.hear(MessageType.VOTE, 3, 2, term=2, context=context)
        scene.say(MessageType.VOTE_RESPONSE, 2, 3, term=2)

    found = violation(lambda scene: script(scene, LEASE_SECONDS - 0.1))
    assert "VOTE_RESPONSE to node 3 in term 2 within its leader's lease" in found
    assert violation(lambda scene: script(scene, LEASE_SECONDS + 0.1)) == ""
    assert violation(lambda scene: script(scene, 0.1, b"transfer")) == ""


def test_a_restart_ends_a_lease() -> None:
    def script(scene: Scene) -> None:
        scene.write_all(entry(1))
        scene.write(2, hard_state=HardState(2, 1, 0))
        scene.hear(MessageType.HEARTBEAT, 1, 2, term=1)
        scene.checks.groups[1].on_start(2, scene.disks[2].durable[1], State())
        scene.hear(MessageType.PRE_VOTE, 3, 2, term=3)
        scene.say(MessageType.PRE_VOTE_RESPONSE, 2, 3, term=3)

    assert violation(script) == ""


def test_a_candidate_that_nobody_has_heard_of_has_no_leader() -> None:
    """It was asked to take over, died as its own vote was synced, and still hears its old leader."""

    def script(scene: Scene) -> None:
        scene.write_all(entry(1))
        scene.hear(MessageType.TIMEOUT_NOW, 1, 2, term=1)
        scene.write(2, hard_state=HardState(2, 2, 0))
        scene.checks.groups[1].on_start(2, scene.disks[2].durable[1], State())
        scene.hear(MessageType.HEARTBEAT, 1, 2, term=1)
        scene.hear(MessageType.PRE_VOTE, 3, 2, term=3)
        scene.say(MessageType.PRE_VOTE_RESPONSE, 2, 3, term=3)

    assert violation(script) == ""


def test_what_is_heard_while_a_snapshot_ends_a_core_is_no_lease() -> None:
    def script(scene: Scene) -> None:
        scene.write_all(entry(1))
        scene.disks[2].databases[1] = State(applied=1, term=1)
        batch = scene.logs[2].batch()
        batch.restore(1, SnapshotMetadata(1, 1, CONF))
        batch.commit(sync=True)
        scene.hear(MessageType.HEARTBEAT, 1, 2, term=1)
        scene.hear(MessageType.PRE_VOTE, 3, 2, term=2)
        scene.say(MessageType.PRE_VOTE_RESPONSE, 2, 3, term=2)

    assert violation(script) == ""
