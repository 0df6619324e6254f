"""Two replicas and the naive reference are told the same, in any order of instructions: they never differ.

One replica flushes and evicts after every entry and so loads all that it needs; the other keeps all in memory, and now and
then restarts from what it has flushed.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mas.ledger import (
    NONE_LEFT_OUT,
    Abort,
    Answer,
    Body,
    CloseIncarnation,
    Code,
    Commit,
    Decide,
    Instruction,
    Kind,
    Mark,
    Prepare,
    QueryRecord,
    Reason,
    RecordRefusal,
    RegisterNode,
    Resolve,
    RetireNode,
    SetAccount,
    Token,
    Unmark,
)
from mas.limits import BALANCE_MAX
from tests.ledger.harness import OTHER_TC, TC, Bank, pid, prepare, xid
from tests.ledger.reference import Reference

RICH = BALANCE_MAX - 50
OPENING = {"a": 60, "b": 0, "c": RICH}
LIMITS = {"a": 0, "b": 20, "c": 0}

numbers = st.sampled_from(["a", "b", "c"])
amounts = st.integers(-80, 80).filter(bool)
legs = st.lists(st.tuples(numbers, amounts), min_size=1, max_size=3, unique_by=lambda leg: leg[0])
strange = st.sampled_from([(), (), (), (), (), (), (("nobody", 1),)])
counters = st.integers(1, 12)
incarnations = st.sampled_from([TC, OTHER_TC])
payments = st.integers(1, 6).map(pid)
attempts = st.integers(1, 3)
nodes = st.integers(4, 6)
registrations = st.builds(
    RegisterNode,
    nodes,
    st.sampled_from(["here:1", "there:1"]),
    st.sampled_from([("all",), ("tc", "rm")]),
    st.just("rack 1"),
    st.sampled_from([b"s" * 16, b"t" * 16]),
)


def say(answer: Answer) -> Code | Reason:
    return answer.reason if answer.code is Code.REFUSED else answer.code


class LedgerMachine(RuleBasedStateMachine):
    """Instructions of two coordinators, resolvers and administrators, as they may come."""

    @initialize()
    def open(self) -> None:
        self.evicting, self.keeping = Bank(keep=0), Bank()
        self.reference = Reference(dict(LIMITS))
        self.marks = 0
        self.tokens: dict[str, Token] = {}
        for number, balance in OPENING.items():
            for bank in (self.evicting, self.keeping):
                bank.open((number, balance), overdraft_limit=LIMITS[number])
            self.reference.posted.append((number, balance))
        self.pending: Prepare | Decide | None = None
        self.waits_for: tuple[bytes, ...] = ()

    def tell(
        self,
        instruction: Instruction,
        expected: Code | Reason | None,
        left_out: tuple[bytes, ...] = (),
    ) -> None:
        """Both replicas say the same, and what the reference says where it says something."""
        answer = self.evicting.one(instruction, sender=b"", left_out=left_out)
        assert self.keeping.one(instruction, sender=b"", left_out=left_out) == answer
        if expected is not None:
            assert say(answer) is expected, f"{instruction}: {answer}"
        if answer.code is Code.PENDING_ON and isinstance(instruction, Prepare | Decide):
            self.pending, self.waits_for = instruction, answer.xids

    def room_for_more(self) -> bool:
        """The reference tries every subset of what is prepared."""
        return len(self.reference.prepared) < 6

    @precondition(room_for_more)
    @rule(legs=legs, more=strange, counter=counters, incarnation=incarnations)
    def prepare(self, legs: list, more: tuple, counter: int, incarnation: bytes) -> None:
        i = prepare(1, *legs, *more, xid=xid(counter, incarnation))
        self.tell(i, self.reference.prepare(i))

    @precondition(lambda self: self.pending is not None and self.room_for_more())
    @rule(data=st.data())
    def propose_again(self, data: st.DataObject) -> None:
        """Rule 15: some of what it waited for may have been decided, newer legs may have come."""
        i, self.pending = self.pending, None
        undecided = [one for one in self.waits_for if one in self.reference.prepared]
        left_out = tuple(one for one in undecided if data.draw(st.booleans()))
        left_out = left_out or NONE_LEFT_OUT
        judge = self.reference.prepare if isinstance(i, Prepare) else self.reference.decide
        self.tell(i, judge(i, left_out), left_out)

    @rule(counter=counters, incarnation=incarnations, time=st.integers(1, 99))
    def commit(self, counter: int, incarnation: bytes, time: int) -> None:
        one = xid(counter, incarnation)
        self.tell(Commit(one, time), self.reference.commit(one))

    @rule(counter=counters, incarnation=incarnations)
    def abort(self, counter: int, incarnation: bytes) -> None:
        one = xid(counter, incarnation)
        self.tell(Abort(one), self.reference.abort(one))

    @rule(
        payment=payments,
        attempt=attempts,
        legs=legs,
        more=strange,
        counter=counters,
        local=st.booleans(),
    )
    def decide(
        self, payment: bytes, attempt: int, legs: list, more: tuple, counter: int, *, local: bool
    ) -> None:
        """Its own legs are all of them where they sum to zero by a leg of ours, else the rest is elsewhere."""
        own = (*legs, *more)
        rest = -sum(amount for _, amount in own)
        body = Body(Kind.PAYMENT, "USD", (*own, ("far", rest)))
        if local and len(legs) > 1 and not more:
            last = (legs[-1][0], legs[-1][1] + rest)
            own = (*legs[:-1], last)
            body = Body(Kind.PAYMENT, "USD", own)
        positions = tuple(range(len(own)))
        hashed = bytes(repr(body), "ascii")[-32:]
        participants = () if body.legs == own else (2,)
        i = Decide(xid(counter), payment, attempt, body, hashed, participants, positions)
        self.tell(i, self.reference.decide(i))

    @rule(payment=payments, attempt=attempts, payer=st.sampled_from(["a", "b", "nobody"]))
    def end(self, payment: bytes, attempt: int, payer: str) -> None:
        body = Body(Kind.PAYMENT, "USD", ((payer, -1), ("far", 1)))
        i = RecordRefusal(
            payment, Kind.PAYMENT, payer, attempt, Reason.ACCOUNT_FROZEN, "", body, b"ended"
        )
        self.tell(i, self.reference.end(i))

    @rule(payment=payments, payer=st.sampled_from(["a", "b"]))
    def cancel(self, payment: bytes, payer: str) -> None:
        i = RecordRefusal(payment, Kind.PAYMENT, payer, 0, Reason.CANCELLED)
        self.tell(i, self.reference.end(i))

    @rule(payment=payments, attempt=attempts, counter=counters)
    def ask(self, payment: bytes, attempt: int, counter: int) -> None:
        self.tell(
            Resolve(payment, attempt, xid(counter), b""), self.reference.ask(payment, attempt)
        )

    @rule(payment=payments, payer=st.sampled_from(["a", "b"]))
    def look(self, payment: bytes, payer: str) -> None:
        self.tell(QueryRecord(payment, payer), self.reference.look(payment, payer))

    @rule(number=numbers, frozen=st.booleans())
    def freeze(self, number: str, *, frozen: bool) -> None:
        i = SetAccount(number, frozen=frozen)
        self.tell(i, self.reference.set_account(i))

    @rule(number=numbers, marked=st.booleans())
    def mark(self, number: str, *, marked: bool) -> None:
        if marked != (number in self.reference.marked):
            change = self.reference.marked.append if marked else self.reference.marked.remove
            change(number)
        self.marks += marked
        # One that was taken away isn't set again (rule 34): each has a token of its own.
        token = self.tokens[number] = (
            Token(1, self.marks) if marked else self.tokens.get(number, Token(1, 0))
        )
        self.tell((Mark if marked else Unmark)(number, token), None)

    @rule(i=registrations)
    def register(self, i: RegisterNode) -> None:
        self.tell(i, self.reference.register(i))

    @rule(node=nodes)
    def retire(self, node: int) -> None:
        self.tell(RetireNode(node), self.reference.retire(node))

    @rule(mark=counters, incarnation=incarnations)
    def raise_low_water(self, mark: int, incarnation: bytes) -> None:
        self.reference.raise_mark(incarnation, mark)
        for bank in (self.evicting, self.keeping):
            bank.do(low_water=mark, sender=incarnation)

    @precondition(lambda self: len(self.reference.posted) > 25)
    @rule()
    def close_incarnation(self) -> None:
        """Seldom, since nothing more comes of it then."""
        prepared = any(one.startswith(OTHER_TC) for one in self.reference.prepared)
        if not prepared:
            self.reference.raise_mark(OTHER_TC, 1 << 48)
        self.tell(CloseIncarnation(OTHER_TC), Code.UNCHANGED if prepared else None)

    @rule()
    def flush(self) -> None:
        self.keeping.flush()

    @rule()
    def restart(self) -> None:
        self.keeping.flush()
        self.keeping.restart()

    @invariant()
    def all_agree(self) -> None:
        if not hasattr(self, "reference"):
            return
        assert self.evicting.ledger.rows.state_hash() == self.keeping.ledger.rows.state_hash()
        assert self.evicting.database.state_hash() == self.evicting.ledger.rows.state_hash()
        for number, account in self.keeping.accounts().items():
            if not number.startswith("@"):
                assert account.balance == self.reference.balance(number)
        assert sorted(self.keeping.ledger.rows.legs) == sorted(self.reference.prepared)
        assert self.keeping.all_postings == self.evicting.all_postings
        rows = self.keeping.ledger.rows.bucket.nodes
        assert rows == self.evicting.ledger.rows.bucket.nodes
        assert [row.node for row in rows] == sorted(self.reference.nodes)
        for row in rows:
            node = self.reference.nodes[row.node]
            said = node.said or RegisterNode(row.node, "", ())
            assert row.retired == node.retired
            assert row.address == said.address
            assert (row.roles, row.host, row.store) == (said.roles, said.host, said.store)

    def teardown(self) -> None:
        """Rebuilt from its write sets alone, the state is the same."""
        if hasattr(self, "keeping"):
            before = self.keeping.ledger.rows.state_hash()
            self.keeping.flush()
            assert self.keeping.database.state_hash() == before
            self.keeping.restart()
            self.keeping.check()
            assert self.keeping.ledger.rows.state_hash() == before


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(stateful_step_count=60)
