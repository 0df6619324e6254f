"""Whole groups under seeded hardship, and broken cores that the same hardship must find out."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from mas.raft import (
    Entry,
    Message,
    MessageType,
    RaftError,
    Snapshot,
    core,
    log,
    read_only,
)
from mas.raft.quorum import majority_index
from tests.raft.simulation import Faults, Simulation

pytestmark = pytest.mark.sim

SIZES = (3, 5, 1, 2, 4)


def simulate(seed: int) -> Simulation:
    """One seed's life of a group."""
    simulation = Simulation(seed, voters=SIZES[seed % len(SIZES)])
    simulation.run()
    return simulation


@pytest.mark.parametrize("seed", range(60))
def test_a_group_keeps_its_promises_and_recovers(seed: int) -> None:
    assert simulate(seed).committed


def test_the_lives_are_hard() -> None:
    """What the default run goes through: a simulation in which nothing happens finds nothing."""
    lives = [simulate(seed) for seed in range(20)]
    assert sum(life.leaders_elected for life in lives) > 60
    assert sum(life.reads_answered for life in lives) > 1000
    assert sum(len(life.hosts) for life in lives) > 80
    assert sum(life.committed for life in lives) > 2000


def test_one_seed_is_one_run() -> None:
    first, second = simulate(7), simulate(7)
    assert first.history() == second.history()
    assert first.history() != simulate(12).history()


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_a_group_goes_on_without_a_leader_that_never_comes_back(first: int) -> None:
    """It may be the only one that knew a change to be committed."""
    for seed in range(first, first + 20):
        Simulation(seed, voters=SIZES[seed % len(SIZES)]).run(lose_leader=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_groups_go_on_without_a_leader_that_never_comes_back() -> None:
    for seed in range(5000, 6000):
        Simulation(seed, voters=SIZES[seed % len(SIZES)]).run(lose_leader=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(1000, 4000, 250))
def test_many_groups_keep_their_promises_and_recover(first: int) -> None:
    for seed in range(first, first + 250):
        simulate(seed)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_long_lives_keep_their_promises_and_recover() -> None:
    for seed in range(12):
        Simulation(seed, voters=5, faults=Faults(drop=0.1, crash=0.01)).run(10_000, 8_000)


# -- mutants: each breaks one rule, and must be found within so many seeds --------------------

Break = Callable[[pytest.MonkeyPatch], None]


def count_entries_of_earlier_terms(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(core.Raft, "_may_commit", lambda _self, index: index > 0)


def vote_for_everybody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(core.Raft, "_may_vote_for", lambda _self, _message: True)


def forget_the_vote(patch: pytest.MonkeyPatch) -> None:
    become_follower = core.Raft._become_follower

    def forgetful(self: core.Raft, term: int, leader: int) -> None:
        become_follower(self, term, leader)
        self.vote = 0

    patch.setattr(core.Raft, "_become_follower", forgetful)


def vote_for_shorter_logs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(log.Log, "is_up_to_date", lambda _self, _term, _index: True)


def keep_conflicting_entries(patch: pytest.MonkeyPatch) -> None:
    def held(self: log.Log, index: int, entries: tuple[Entry, ...]) -> int:
        return min(len(entries), max(0, self.last_index - index))

    patch.setattr(log.Log, "_count_held", held)


def accept_behind_any_entry(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(log.Log, "matches", lambda self, index, _term: index <= self.last_index)


def take_what_was_replaced_for_persisted(patch: pytest.MonkeyPatch) -> None:
    def persisted(self: log.Log, last: Entry) -> None:
        self.stable = max(self.stable, min(last.index, self.last_index))

    patch.setattr(log.Log, "persisted", persisted)


def commit_by_minority(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(core, "joint_index", lambda incoming, _outgoing: max(incoming))


def commit_by_one_half(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(core, "joint_index", lambda incoming, _outgoing: majority_index(incoming))


def count_own_log_unsynced(patch: pytest.MonkeyPatch) -> None:
    append_own = core.Raft._append_own

    def hasty(self: core.Raft, *arguments: Any) -> None:
        append_own(self, *arguments)
        self._progress[self.id].acknowledged(self._log.last_index)
        self._commit_if_possible()

    patch.setattr(core.Raft, "_append_own", hasty)


def count_own_vote_unsynced(patch: pytest.MonkeyPatch) -> None:
    ask_for_votes = core.Raft._ask_for_votes

    def hasty(self: core.Raft, *arguments: Any) -> None:
        ask_for_votes(self, *arguments)
        self.own_vote_due = False
        self._poll(self.id, granted=True)

    patch.setattr(core.Raft, "_ask_for_votes", hasty)


def campaign_over_unapplied_change(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(core.Raft, "_has_unapplied_conf_change", lambda _self: False)


def change_twice_at_once(patch: pytest.MonkeyPatch) -> None:
    append_conf_change = core.Raft._append_conf_change

    def hasty(self: core.Raft, data: bytes) -> None:
        append_conf_change(self, data)
        self._pending_conf_index = 0

    patch.setattr(core.Raft, "_append_conf_change", hasty)


def drop_what_was_acknowledged_for_a_snapshot(patch: pytest.MonkeyPatch) -> None:
    def restore(self: core.Raft, snapshot: Snapshot) -> bool:
        if snapshot.metadata.index <= self._log.committed:
            return False
        self._log.restore(snapshot)
        self._switch(snapshot.metadata.conf_state)
        return True

    patch.setattr(core.Raft, "_restore", restore)


def tell_a_commit_beyond_the_match(patch: pytest.MonkeyPatch) -> None:
    send = core.Raft._send

    def boastful(self: core.Raft, message: Message) -> None:
        if message.type == MessageType.HEARTBEAT:
            message = msgspec.structs.replace(message, commit=self._log.committed)
        send(self, message)

    patch.setattr(core.Raft, "_send", boastful)


def read_without_asking_a_quorum(patch: pytest.MonkeyPatch) -> None:
    def confirmed(self: read_only.ReadRounds, _round: int) -> list[read_only.PendingRead]:
        return [self._newest.pop(key) for key in list(self._newest)]

    patch.setattr(read_only.ReadRounds, "confirmed", confirmed)


def read_before_the_first_commit(patch: pytest.MonkeyPatch) -> None:
    def read_at_once(self: core.Raft, read: read_only.PendingRead) -> None:
        read.index = self._log.committed
        self._reads.add(read)

    patch.setattr(core.Raft, "_read", read_at_once)


def answer_a_repeated_context_with_the_old_index(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(read_only.ReadAnswers, "withdraw", lambda _self, _context: 0)


# Each with the seeds that it takes, and some to spare.
MUTANTS: list[tuple[Break, int]] = [
    (count_entries_of_earlier_terms, 10),
    (vote_for_everybody, 10),
    (forget_the_vote, 40),
    (vote_for_shorter_logs, 10),
    (keep_conflicting_entries, 20),
    (accept_behind_any_entry, 20),
    (commit_by_minority, 5),
    (commit_by_one_half, 40),
    (count_own_log_unsynced, 5),
    (count_own_vote_unsynced, 60),
    (campaign_over_unapplied_change, 60),
    (change_twice_at_once, 20),
    (tell_a_commit_beyond_the_match, 5),
    (read_before_the_first_commit, 20),
    (answer_a_repeated_context_with_the_old_index, 40),
]
RARELY_FATAL: list[tuple[Break, int]] = [
    (take_what_was_replaced_for_persisted, 400),
    (drop_what_was_acknowledged_for_a_snapshot, 600),
    (read_without_asking_a_quorum, 600),
]


def seeds_to_find(seeds: int) -> int | None:
    """The first seed that finds the core broken."""
    for seed in range(seeds):
        try:
            simulate(seed)
        except (AssertionError, RaftError):
            return seed
    return None


@pytest.mark.parametrize(("break_it", "seeds"), MUTANTS)
def test_a_broken_core_is_found_out(
    break_it: Break, seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it(monkeypatch)
    assert seeds_to_find(seeds) is not None


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("break_it", "seeds"), RARELY_FATAL)
def test_a_core_whose_fault_is_rarely_fatal_is_found_out(
    break_it: Break, seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it(monkeypatch)
    assert seeds_to_find(seeds) is not None
