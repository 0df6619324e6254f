"""Faults put back into the production source: each must be found within a stated number of seeds.

Some were in the product once, and were found by others than the simulator; the rest break one rule each.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from mas.coordinator.reads import Reads
from mas.coordinator.waiting import Wait
from mas.ledger import Ledger
from mas.network.buckets import BucketRouter
from mas.resource import AccountService, reads
from mas.resource.anchors import Anchors
from mas.resource.undecided import SetAside
from mas.sim.system.plan import FAULTS
from mas.sim.system.world import Options
from mas.transaction import participant
from tests.sim.mutants import Mutant, applied

TICKS = 60
EVERYTHING = Options(ticks=TICKS, faults=tuple(FAULTS))
LATE = Options(ticks=100, faults=("delay", "transfer"))
CRASHES = Options(ticks=100, faults=("crash",))
DRILL = Options(ticks=150, drill="quorum")

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
    # -- that were in the product --------------------------------------------------------------------
    Fault(
        "bank 1: a read leaves out what its anchor calls undecided, each at another moment",
        (
            (
                Anchors._on_waited,
                "if not isinstance(word, Open):",
                "if word is not Open.UNANSWERED:",
            ),
        ),
        "aren't linearizable",
        LATE,
        1,
        20,
    ),
    Fault(
        "bank 3: a statement doesn't wait for what is prepared on its account",
        ((reads.shown, "return ledger.prepared_on((request.number,))", "return []"),),
        "lacks",
        EVERYTHING,
        1,
        10,
    ),
    Fault(
        "twopc A2: a mark that was set aside comes behind its end",
        (
            (
                AccountService._answer,
                "self._have_settled(answer.xids)",
                "asyncio.get_running_loop().call_later(1.0, self._submit_own, instruction)",
            ),
            (Ledger._mark, "if _is_overtaken(account, token):", "if False:"),
        ),
        "is marked with",
        LATE,
        1,
        20,
    ),
    Fault(
        "twopc B2: what waits for one anchor waits as long as its asker does",
        ((SetAside._ask, "_PATIENCE_SECONDS if legs", "5.0 if legs"),),
        "are allowed",
        DRILL,
        1,
        5,
    ),
    Fault(
        "twopc B3: a wrong bucket is asked again without a pause",
        ((Wait.pause, "if self._tries:", "if False:"),),
        "instructions",
        CRASHES,
        1,
        20,
    ),
    Fault(
        "twopc C4: an account that its bucket doesn't show yet is told not to exist",
        (
            (
                Reads._page,
                "_not_here(number) if view is None else view",
                "view",
            ),
        ),
        "found none",
        CRASHES,
        1,
        20,
    ),
    # -- that break a rule -----------------------------------------------------------------------------
    Fault(
        "rule 6: what was lost sight of is sent a second time",
        (
            (
                BucketRouter._give_up,
                "self._finish(submission)",
                "self._finish(submission)\n    if submission.left: self._start(_Submission(submission.bucket, submission.chunk, submission.on_answer, submission.deadline + 5), 0); return",
            ),
        ),
        "",
        EVERYTHING,
        1,
        20,
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
        "rule 11: no outcome is taken for a no",
        ((participant.instruct, "return None", "return Abort(xid)"),),
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
]
