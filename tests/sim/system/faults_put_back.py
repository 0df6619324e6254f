"""Faults put back into the production source: each must be found within a stated number of seeds.

Those that name no rule were in the product once; the others break the rule that they name. A fault that is
mended twice over is put back wholly: each of its mends is taken out.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from mas.coordinator import queries
from mas.coordinator.queries import Queries
from mas.coordinator.reads import Reads
from mas.daemon import joining, replicas
from mas.ledger import Ledger
from mas.membership import Membership
from mas.multiraft import group
from mas.raft import core
from mas.resource import reads
from mas.resource.reader import Reader
from mas.sim.system.plan import FAULTS
from mas.sim.system.world import Options
from mas.transaction import participant
from tests.sim.mutants import Mutant, applied

TICKS = 60
EVERYTHING = Options(ticks=TICKS, faults=tuple(FAULTS))
FORGETFUL = Options(ticks=TICKS, faults=("crash", "store"))
LATE = Options(ticks=TICKS, faults=("delay",))
READS = Options(ticks=TICKS, drill="reads")
CREATIONS = Options(ticks=TICKS, drill="creations")
ATTEMPTS = Options(ticks=TICKS, drill="attempts")
CHANGES = Options(ticks=TICKS, drill="changes")
MOVED = Options(ticks=150, faults=("members", "partition"))
LATE_WORDS = Options(ticks=100, faults=("members", "delay"))
FILES = Options(ticks=60, faults=("files",))
OLDER = Options(ticks=60, faults=("older",))

# Each read asks the anchors for itself, once, and adds what they call committed.
_ASK_ONCE = """
        from mas.ledger import Batch, QueryRecord
        from mas.rpc.messages import Rejected
        from mas.transaction.participant import settle
        legs = self._legs.values()
        for anchor in {one.anchor: None for one in legs}:
            asked = [one for one in legs if one.anchor == anchor]
            def hear(i, answer, asked=asked):
                if not isinstance(answer, Rejected):
                    self._on_outcome(asked[i].xid, settle(asked[i], answer))
            looks = tuple([QueryRecord(one.payment_id) for one in asked])
            self._anchors._buckets.submit(anchor, Batch(b"", 0, looks), hear)
"""


_LOCKED_FIRST = """
    if any(mark.mode is LockMode.EXCLUSIVE for mark in account.marks):
        return _LOCK_CONFLICT
    content = _hash_change(set_account)
"""
_CONFLICT_AT_ONCE = """
        if answer is not None and answer.code is Code.LOCK_CONFLICT:
            return answer
        if answer is None:
"""

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
        "bank 1: a read counts what is undecided as not there",
        (
            (
                reads.Noted._wait,
                "self._anchors.wait(self._legs.values(), self._on_outcome)",
                _ASK_ONCE,
            ),
            (Reader._note, "if not noted.is_decided:", "if False:"),
        ),
        "aren't linearizable",
        READS,
        4,
        10,
    ),
    Fault(
        "bank 3: a statement doesn't wait for what is prepared on its account",
        ((reads.shown, "return rows.prepared_on((request.number,))", "return []"),),
        "lacks",
        LATE,
        1,
        10,
    ),
    Fault(
        "the statement of an account that has been created says that there is none",
        (
            (
                reads.shown,
                "return rows.prepared_on((request.number,))",
                "return [one for one in rows.prepared_on((request.number,)) if one.kind is not Kind.CREATION]",
            ),
            (
                Reads.postings,
                'assert isinstance(reply, Postings), f"{reply} in answer to a read of postings"',
                "if not reply.found: return None",
            ),
        ),
        "says that it doesn't exist",
        CREATIONS,
        1,
        3,
    ),
    Fault(
        "a committed read of an account that has been created says that there is none",
        ((Reads._page, "_not_here(number) if view is None else view", "view"),),
        "found none",
        CREATIONS,
        1,
        3,
    ),
    Fault(
        "a dead attempt is told as the payment's outcome",
        (
            (
                Queries.read_payment,
                "answer.code not in _STATUS",
                "answer.code not in (*_STATUS, Code.ABORTED)",
            ),
            (
                queries._result,
                "_STATUS.get(answer.code, Status.UNKNOWN)",
                "{**_STATUS, Code.ABORTED: Status.ABORTED}.get(answer.code, Status.UNKNOWN)",
            ),
        ),
        "to be ABORTED by asking for it",
        ATTEMPTS,
        1,
        5,
    ),
    Fault(
        "an administrator's change that is sent again is carried out again",
        ((Queries.set_account, "if not change.change_id:", "if False:"),),
        "have no order",
        CHANGES,
        2,
        10,
    ),
    Fault(
        "a change that was carried out is told to have met a lock",
        (
            (
                Ledger._set_account,
                "content = _hash_change(set_account)",
                _LOCKED_FIRST,
            ),
            (
                Queries.set_account,
                "if answer is None:",
                _CONFLICT_AT_ONCE,
            ),
        ),
        "have no order",
        CHANGES,
        4,
        10,
    ),
    Fault(
        "a change whose answers are all lost is told to have done nothing",
        ((Queries._answer_from, "if tries.may_be_done:", "if False:"),),
        "have no order",
        CHANGES,
        1,
        3,
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
        ((Ledger._reserve, "row.debits_pending -= amount", "row.debits_pending -= 0"),),
        "has reserved",
        EVERYTHING,
        1,
        3,
    ),
    Fault(
        "a removed replica leaves by its own word",
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
                Queries.set_account,
                "answer = await self._change_in_turn(change, tries) or answer",
                "pass",
            ),
        ),
        "marks outlive a change",
        FORGETFUL,
        21,
        60,
    ),
    Fault(
        "a replica that is told that it lost what it had acknowledged goes on",
        ((group.RaftGroup.step, "if self.votes_suspended:", "if True:"),),
        "is behind",
        OLDER,
        1,
        4,
    ),
    Fault(
        "words of an earlier life count for the new one",
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
        "a file that names other founders than the first start had is believed",
        ((joining._check_founders, "if says != was:", "if False:"),),
        "other founders",
        FILES,
        1,
        3,
    ),
    Fault(
        "nodes that were founded otherwise talk to each other",
        ((Membership._check_founders, "if ours.founders != members.founders:", "if False:"),),
        "",
        FILES,
        1,
        3,
    ),
]
