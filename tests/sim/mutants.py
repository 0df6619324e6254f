"""Patches to the production source: each breaks one promise, and the simulator must find it out.

A patch replaces a text within one function, which must be there exactly once: a function that has changed since makes
its mutant fail, rather than leave the mutant harmless.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType
from typing import Any, NamedTuple

from mas.multiraft import (
    actor,
    group,
    group_intake,
    members,
    snapshot_receiver,
    snapshot_sender,
    writer,
)
from mas.raft import core, log, quorum, read_only
from mas.storage.raft_log import value


class Mutant(NamedTuple):
    """A function, a text of its source, and what stands there instead."""

    name: str
    function: Callable[..., Any]
    old: str
    new: str
    seed: int
    """It was last found by this one."""
    seeds: int
    """It is found by one of the seeds from 1 to this."""


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """The patch holds for everybody, until left."""
    function = inspect.unwrap(mutant.function)
    assert isinstance(function, FunctionType)
    before = function.__code__
    function.__code__ = _patched(function, mutant)
    try:
        yield
    finally:
        function.__code__ = before


def _patched(function: FunctionType, mutant: Mutant) -> CodeType:
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(mutant.old) == 1, f"{mutant.name}: {mutant.old!r} isn't there once"
    tree = ast.parse(source.replace(mutant.old, mutant.new))
    [definition] = tree.body
    assert isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef)
    definition.decorator_list = []
    names: dict[str, Any] = {}
    exec(compile(tree, inspect.getfile(function), "exec"), function.__globals__, names)
    return names[definition.name].__code__


MUTANTS = [
    Mutant(
        "skip the sync",
        writer.LogWriter.run,
        "batch.commit, sync=sync",
        "batch.commit, sync=False",
        1,
        3,
    ),
    Mutant(
        "count entries of earlier terms",
        core.Raft._may_commit,
        "index >= self._first_of_term",
        "index > 0",
        66,
        240,
    ),
    Mutant(
        "grant two votes a term",
        core.Raft._may_vote_for,
        "self.vote == message.from_ or (self.vote == NOBODY and self.leader == NOBODY)",
        "True",
        6,
        60,
    ),
    Mutant(
        "ignore a conflict",
        log.Log._count_held,
        "if not self.matches(entry.index, entry.term):",
        "if entry.index > self.last_index:",
        1,
        40,
    ),
    Mutant(
        "drop the lease check",
        core.Raft._in_lease,
        "self.leader != NOBODY",
        "False",
        16,
        80,
    ),
    Mutant(
        "acknowledge before the write is synced",
        actor.RaftHost._write,
        "if message.type is MessageType.APPEND:",
        "if message.type is not MessageType.SNAPSHOT:",
        1,
        5,
    ),
    Mutant(
        "advance before the write",
        actor.RaftHost._write,
        "self._writer.submit(finish, sync=True)",
        "finish()\n    self._writer.submit(sync=True)",
        1,
        5,
    ),
    Mutant(
        "don't write term and vote",
        actor.RaftHost._write,
        "if hard_state is not None:",
        "if False:",
        1,
        5,
    ),
    Mutant(
        "cut the log beyond what is flushed",
        group.RaftGroup.may_cut,
        "min(self.flushed, self.apply_queue.pushed)",
        "self.apply_queue.pushed",
        1,
        20,
    ),
    Mutant(
        "swap rows without a note",
        snapshot_receiver.SnapshotReceiver._install,
        "set_note(group.id, note)",
        "set_note(group.id, None)",
        1,
        20,
    ),
    Mutant(
        "forget the vote with a snapshot",
        value.GroupLog.restore,
        "hard_state=self.hard_state,",
        "hard_state=HardState(self.hard_state.term, 0, self.hard_state.commit),",
        1,
        30,
    ),
    Mutant(
        "start with the first membership",
        members.read_members,
        "if entry.type is EntryType.CONF_CHANGE:",
        "if False:",
        34,
        80,
    ),
    Mutant(
        "read without asking a quorum",
        read_only.ReadRounds.confirmed,
        "if read.round > last_round:",
        "if False:",
        9,
        200,
    ),
    Mutant(
        "read before the term's first commit",
        core.Raft._read,
        "if self._log.committed < self._first_of_term:",
        "if False:",
        22,
        200,
    ),
    Mutant(
        "vote for shorter logs",
        log.Log.is_up_to_date,
        "(last_term, last_index) >= (self.last_term, self.last_index)",
        "True",
        1,
        20,
    ),
    Mutant(
        "commit what one node has",
        quorum.majority_index,
        "(len(indexes) - 1) // 2",
        "-1",
        1,
        5,
    ),
    Mutant(
        "tell a commit beyond the match",
        core.Raft._broadcast_heartbeat,
        "min(progress.match, committed)",
        "committed",
        3,
        20,
    ),
    Mutant(
        "refuse what was taken",
        group_intake.GroupIntake.take_proposals,
        "core.propose(data)",
        "core.propose(data)\n            self._refuse(Refused(number, NotLeading(str(number))))",
        1,
        5,
    ),
    Mutant(
        "propose twice",
        group_intake.GroupIntake.take_proposals,
        "core.propose(data)",
        "core.propose(data)\n            core.propose(data)",
        1,
        5,
    ),
    Mutant(
        "start behind what the log says is committed",
        group.RaftGroup.__init__,
        "start = max(applied, storage.first_index() - 1)",
        "start = max(applied, storage.initial_state()[0].commit)",
        8,
        20,
    ),
    Mutant(
        "wait for a disk that hangs",
        writer.LogWriter.watch,
        "if looks > _LOOKS:",
        "if False:",
        2,
        20,
    ),
    Mutant(
        "end a process for a file that can't be written",
        snapshot_receiver.SnapshotReceiver._write_piece,
        "except OSError as error:",
        "except ZeroDivisionError as error:",
        17,
        120,
    ),
    Mutant(
        "end a process for an export that fails",
        snapshot_sender.SnapshotSender._export,
        "except (StorageError, OSError) as error:",
        "except ZeroDivisionError as error:",
        17,
        60,
    ),
]
