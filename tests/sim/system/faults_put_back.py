"""Faults put back into the production source: each must be found within a stated number of seeds.

The first was in the product once, and so were those of consensus; the others break one rule each.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from mas.coordinator.questions import Questions
from mas.daemon import joining, replicas
from mas.ledger import Ledger
from mas.membership import Membership
from mas.multiraft import group
from mas.raft import core
from mas.resource import reads
from mas.sim.system.plan import FAULTS
from mas.sim.system.world import Options
from mas.transaction import participant
from tests.sim.mutants import Mutant, applied

TICKS = 60
EVERYTHING = Options(ticks=TICKS, faults=tuple(FAULTS))
FORGETFUL = Options(ticks=TICKS, faults=("crash", "store"))
LATE = Options(ticks=TICKS, faults=("delay",))

MOVED = Options(ticks=150, faults=("members", "partition"))
LATE_WORDS = Options(ticks=100, faults=("members", "delay"))
FILES = Options(ticks=60, faults=("files",))
OLDER = Options(ticks=60, faults=("older",))

Patch = tuple[Callable[..., Any], str, str]


class Fault(NamedTuple):
    """Patches of functions, and the lives in which they are found."""

    name: str
    patches: tuple[Patch, ...]
    words: str
    """What the verdict says."""
    options: Options
    seed: int
    """It was last found by this one."""
    seeds: int
    """It is found by one of the seeds from 1 to this."""


@contextmanager
def put_back(fault: Fault) -> Iterator[None]:
    """The fault is there for everybody, until left."""
    with ExitStack() as stack:
        for function, old, new in fault.patches:
            stack.enter_context(applied(Mutant(fault.name, function, old, new, 1, 1)))
        yield


FAULTS_PUT_BACK = [
    Fault(
        "bank 3: a statement doesn't wait for what is prepared on its account",
        ((reads.shown, "return ledger.prepared_on((request.number,))", "return []"),),
        "lacks",
        LATE,
        1,
        10,
    ),
    Fault(
        "rule 11: the record's outcome is every attempt's",
        (
            (
                participant.instruct,
                "answer.code is _COMMITTED and answer.xid == xid",
                "answer.code is _COMMITTED",
            ),
        ),
        "",
        EVERYTHING,
        1,
        20,
    ),
    Fault(
        "rule 10: a commit that comes again is posted again",
        ((Ledger._commit, "self._settle(legs)", "None"),),
        "",
        EVERYTHING,
        1,
        3,
    ),
    Fault(
        "rule 13: a prepared debit holds nothing",
        ((Ledger._reserve, "row.held -= amount", "row.held -= 0"),),
        "has reserved",
        EVERYTHING,
        1,
        3,
    ),
    Fault(
        "consensus B1: a removed replica leaves by its own word",
        (
            (
                replicas.Replicas._leave,
                "if self._known.get(bucket) != members.index:",
                "if False:",
            ),
        ),
        "only",
        MOVED,
        1,
        10,
    ),
    Fault(
        "rule 34: an administrator's change doesn't pass the mark of a lock that nobody knows of any more",
        (
            (
                Questions.set_account,
                "answer = await self._change_in_turn(change, told) or answer",
                "pass",
            ),
        ),
        "marks outlive a change",
        FORGETFUL,
        21,
        60,
    ),
    Fault(
        "consensus A3: a replica that is told that it lost what it had acknowledged goes on",
        ((group.RaftGroup.step, "if self.abstains:", "if True:"),),
        "is behind",
        OLDER,
        1,
        4,
    ),
    Fault(
        "consensus B2: words of an earlier life count for the new one",
        (
            (
                core.Raft._on_append_response,
                "message.life < progress.life:\n        return\n    if message.life > progress.life:",
                "False:\n        return\n    if False:",
            ),
            (
                group.RaftGroup._promote_learner,
                "max(committed, self.members.changed_at)",
                "committed",
            ),
        ),
        "is behind",
        LATE_WORDS,
        1,
        10,
    ),
    Fault(
        "consensus A1: a file that names other founders than the first start had is believed",
        ((joining._check_founders, "if says != was:", "if False:"),),
        "other founders",
        FILES,
        1,
        3,
    ),
    Fault(
        "consensus A2: nodes that were founded otherwise talk to each other",
        ((Membership._check_founders, "if ours.founders != members.founders:", "if False:"),),
        "",
        FILES,
        1,
        3,
    ),
]
