"""Faults put back that lose no money: others wait, a mark stays, a replica stops, the cluster works for nothing.

They need meetings that are rare among clients of every kind: each is found by the drill that makes its meeting frequent.
"""

from mas.coordinator.waiting import Wait
from mas.ledger import Ledger
from mas.locks.marks import Marks
from mas.resource.applier import Applier
from mas.resource.contention import Contention
from mas.sim.system.world import Options
from mas.transaction.machine import GlobalTransaction
from tests.sim.system.faults_put_back import Fault

DELAYS_PUT_BACK = [
    Fault(
        "an instruction is carried out without a look at its fields, and asked what it needs without a guard",
        (
            (
                Ledger._carry_out,
                "if wrong := wrong_field(instruction, self.rows.bucket.buckets):",
                "if wrong := '':",
            ),
            (Ledger.missing, "continue", "raise"),
        ),
        "can't be applied",
        Options(ticks=50, drill="nonsense"),
        1,
        2,
    ),
    Fault(
        # The mends of the bucket, the lock service and the ledger are out at once: they cover for one another.
        "a mark that met prepared legs is proposed again, behind its own end, and nothing says that it has ended",
        (
            (
                Applier._answer,
                "self._to_settle[answer.xids] = None\n",
                """
            if type(instruction).__name__ == "Mark" and not batch.left_out:
                from mas.resource.proposals import Item
                def again(reply_to=ReplyTo(reply_to.peer, reply_to.request, (position,)), mark=instruction, left=dict.fromkeys(answer.xids)):
                    def hear(xid, _):
                        left.pop(xid, None)
                        if not left:
                            self._proposals.add(Item.of(Batch(b"", 0, (mark,), (b"",)), reply_to))
                            self._proposals.send()
                    for xid in list(left):
                        self._anchors.ask(self._replica.rows.legs[xid], hear)
                again()
                continue
            self._to_settle[answer.xids] = None
""",
            ),
            (Marks._on_removed, "if answer.code is Code.DONE and", "if False and"),
            (Ledger._unmark, "if account.passed is None or account.passed < token:", "if False:"),
            (Ledger._put_marks, "if mark.mode is LockMode.EXCLUSIVE:", "if False:"),
        ),
        "is marked with",
        Options(ticks=150, drill="locks"),
        1,
        4,
    ),
    Fault(
        "what waits for other payments' anchors waits for the slowest of its turn",
        (
            (
                Contention.add,
                """
        one = rounds.get(item.xids)
        if one is None:
            one = rounds[item.xids] = ContentionRound({}, {}, {})
        one.items[item.instruction.xid] = item
        self._rounds[item.instruction.xid] = one
    for xids, one in rounds.items():
        self._ask(one, [legs[xid] for xid in xids if xid in legs])
""",
                """
        one = rounds.setdefault((), ContentionRound({}, {}, {}))
        one.items[item.instruction.xid] = item
        self._rounds[item.instruction.xid] = one
    for one in rounds.values():
        named = dict.fromkeys(xid for item in one.items.values() for xid in item.xids)
        self._ask(one, [legs[xid] for xid in named if xid in legs])
""",
            ),
            (Contention._ask, "_PATIENCE_SECONDS if legs", "5.0 if legs"),
        ),
        "though its buckets",
        Options(ticks=100, drill="transit"),
        5,
        7,
    ),
    Fault(
        "an account that is about to be opened is looked for again and again without a pause",
        (
            (
                Ledger._absent,
                "Answer(Code.PENDING_ON, xids=xids) if xids else _WRONG_BUCKET",
                "_WRONG_BUCKET",
            ),
            (Wait.pause, "if self._tries:", "if False:"),
            (GlobalTransaction._locate, "Locate(self, self.misplacements)", "Locate(self, 0)"),
        ),
        "instructions",
        Options(ticks=80, drill="openings"),
        1,
        2,
    ),
]
