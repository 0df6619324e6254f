"""The judge rejects what can't be, each time for its own reason, and finds nothing where all is well."""

from collections.abc import Sequence

import pytest

from mas.ledger import EXTERNAL, Body, Code, Kind, Posting, Reason, Record
from mas.sim.system.books import Posted
from mas.sim.system.history import (
    NEVER,
    Add,
    Cancel,
    Facts,
    History,
    Hold,
    Look,
    Read,
    Seen,
    Setting,
    Statement,
    Step,
    Try,
    check_seen,
    is_register,
    judge,
    which_were_seen,
)
from mas.transaction.outcome import Status

P, Q, R = (bytes((n,)) * 16 for n in (1, 2, 3))
OPEN_A, OPEN_B = (bytes((n,)) * 16 for n in (10, 11))


def body(payer: str, payee: str, amount: int) -> Body:
    return Body(Kind.PAYMENT, "USD", ((payer, -amount), (payee, amount)))


def creation(number: str, opening: int) -> Body:
    return Body(Kind.CREATION, "USD", ((number, opening),))


class Story:
    """Two accounts of 1,000, opened from 0 to 1, and what happens then."""

    def __init__(self) -> None:
        self.history = History()
        self.facts = Facts({}, {})
        for payment_id, number in ((OPEN_A, "a"), (OPEN_B, "b")):
            self.commit(payment_id, creation(number, 1_000), 0, 1)

    def record(
        self, payment_id: bytes, outcome: Code, its: Body, reason: Reason = Reason.NONE
    ) -> None:
        self.facts.records[payment_id] = Record(payment_id, outcome, its, reason=reason, time_us=7)

    def attempt(
        self,
        payment_id: bytes,
        its: Body,
        began: float,
        ended: float,
        status: Status,
        reason: Reason = Reason.NONE,
    ) -> None:
        self.history.tries.append(
            Try(
                began=began,
                ended=ended,
                payment_id=payment_id,
                body=its,
                status=status,
                reason=reason,
            )
        )

    def commit(self, payment_id: bytes, its: Body, began: float, ended: float) -> None:
        """Tried once, committed, posted, and told."""
        self.attempt(payment_id, its, began, ended, Status.COMMITTED)
        self.record(payment_id, Code.COMMITTED, its)
        legs = list(its.legs)
        if its.kind is Kind.CREATION:
            legs.append((EXTERNAL, -its.legs[0][1]))
        for number, amount in legs:
            self.post(number, payment_id, amount, began)

    def post(self, number: str, payment_id: bytes, amount: int, at: float) -> None:
        lines = self.facts.postings.setdefault(number, [])
        balance = sum(line.posting.amount for line in lines) + amount
        posting = Posting(number, len(lines) + 1, payment_id, amount, balance, 7, "", "")
        lines.append(Posted(posting, 1, at))

    def read(self, number: str, balance: int | None, began: float, ended: float) -> None:
        self.history.reads.append(
            Read(began=began, ended=ended, number=number, balance=balance, is_known=True)
        )

    def verdict(self) -> list[str]:
        return judge(self.history, self.facts)

    def assert_rejected(self, *words: str) -> None:
        found = self.verdict()
        assert len(found) == 1, found
        assert all(word in found[0] for word in words), found


@pytest.fixture
def story() -> Story:
    return Story()


def test_a_true_history_is_accepted(story: Story) -> None:
    story.commit(P, body("a", "b", 10), 1, 3)
    story.attempt(Q, body("a", "b", 9_000), 2, 4, Status.REFUSED, Reason.INSUFFICIENT_FUNDS)
    story.record(Q, Code.REFUSED, body("a", "b", 9_000), Reason.INSUFFICIENT_FUNDS)
    story.read("a", 1_000, 1.5, 2)
    story.read("b", 1_010, 2, 2.5)
    story.read("a", 990, 3.5, 4)
    story.read("nobody", None, 3, 4)
    lines = tuple(
        (i + 1, p, x, b) for i, (p, x, b) in enumerate([(OPEN_A, 1_000, 1_000), (P, -10, 990)])
    )
    story.history.statements.append(
        Statement(began=3.5, ended=4, number="a", lines=lines, is_known=True)
    )
    assert story.verdict() == []


# -- outcomes ----------------------------------------------------------------------------------------


def test_a_commitment_that_nobody_has_recorded(story: Story) -> None:
    story.attempt(P, body("a", "b", 10), 1, 3, Status.COMMITTED)
    story.assert_rejected("told to be COMMITTED", "None")


def test_a_commitment_of_another_body(story: Story) -> None:
    story.commit(P, body("a", "b", 10), 1, 3)
    story.attempt(P, body("a", "b", 11), 1, 3, Status.COMMITTED)
    story.assert_rejected("told to be COMMITTED")


def test_a_refusal_of_what_was_committed(story: Story) -> None:
    story.commit(P, body("a", "b", 10), 1, 3)
    story.attempt(P, body("a", "b", 10), 4, 5, Status.REFUSED, Reason.CANCELLED)
    story.assert_rejected("REFUSED (CANCELLED)")


def test_a_try_that_did_nothing_and_did(story: Story) -> None:
    story.commit(P, body("a", "b", 10), 1, 3)
    story.history.tries[-1].status = Status.ABORTED
    story.assert_rejected("every try of it was told that it had done nothing")


def test_a_cancellation_of_what_was_committed(story: Story) -> None:
    story.commit(P, body("a", "b", 10), 1, 3)
    story.history.cancels.append(
        Cancel(began=2, ended=4, payment_id=P, status=Status.REFUSED, reason=Reason.CANCELLED)
    )
    story.assert_rejected("by cancelling it")


def test_a_key_used_for_the_same_body(story: Story) -> None:
    story.commit(P, body("a", "b", 10), 1, 3)
    story.attempt(P, body("a", "b", 10), 4, 5, Status.KEY_REUSED)
    story.assert_rejected("another body")


def test_an_outcome_that_is_forgotten(story: Story) -> None:
    story.commit(P, body("a", "b", 10), 1, 3)
    story.history.looks.append(Look(began=4, ended=5, payment_id=P, is_known=True))
    story.assert_rejected("heard of none")


def test_c3_an_open_record_told_as_an_outcome(story: Story) -> None:
    story.commit(P, body("a", "b", 10), 1, 6)
    look = Look(began=4, ended=5, payment_id=P, status=Status.ABORTED, is_known=True)
    story.history.looks.append(look)
    story.assert_rejected("ABORTED by asking for it")


def test_an_account_that_was_created_and_isnt_found(story: Story) -> None:
    story.attempt(P, body("a", "b", 10), 2, 3, Status.REJECTED, Reason.ACCOUNT_NOT_FOUND)
    story.assert_rejected("told that they are not")


def test_an_account_that_wasnt_there_when_a_payment_was_begun_first(story: Story) -> None:
    its = body("a", "b", 10)
    for began in (0.5, 2):
        story.attempt(P, its, began, 3, Status.REFUSED, Reason.ACCOUNT_NOT_FOUND)
    story.record(P, Code.REFUSED, its, Reason.ACCOUNT_NOT_FOUND)
    assert story.verdict() == []


# -- postings ----------------------------------------------------------------------------------------


def test_a_payment_that_is_posted_at_one_end(story: Story) -> None:
    story.commit(P, body("a", "b", 10), 1, 3)
    del story.facts.postings["b"][-1]
    story.assert_rejected("is posted as")


def test_a_payment_that_is_posted_twice(story: Story) -> None:
    story.commit(P, body("a", "b", 10), 1, 3)
    story.post("b", P, 10, 4)
    story.assert_rejected("is posted as")


def test_a_refused_payment_that_is_posted(story: Story) -> None:
    its = body("a", "b", 9_000)
    story.attempt(P, its, 2, 4, Status.REFUSED, Reason.INSUFFICIENT_FUNDS)
    story.record(P, Code.REFUSED, its, Reason.INSUFFICIENT_FUNDS)
    story.post("a", P, -9_000, 3)
    story.assert_rejected("is posted as")


def test_funds_that_were_there(story: Story) -> None:
    its = body("a", "b", 1_000)
    story.attempt(P, its, 2, 4, Status.REFUSED, Reason.INSUFFICIENT_FUNDS)
    story.record(P, Code.REFUSED, its, Reason.INSUFFICIENT_FUNDS)
    story.assert_rejected("for want of funds")


def test_funds_that_something_under_way_may_have_held(story: Story) -> None:
    its = body("a", "b", 1_000)
    story.attempt(P, its, 2, 4, Status.REFUSED, Reason.INSUFFICIENT_FUNDS)
    story.record(P, Code.REFUSED, its, Reason.INSUFFICIENT_FUNDS)
    story.attempt(Q, body("a", "b", 1), 3, NEVER, Status.UNKNOWN)
    assert story.verdict() == []


# -- reads -------------------------------------------------------------------------------------------


def test_a_balance_that_nothing_sums_up_to(story: Story) -> None:
    story.commit(P, body("a", "b", 10), 1, 3)
    story.read("a", 991, 2, 4)
    story.assert_rejected("no payments sum up to")


@pytest.mark.parametrize(("balance", "began", "ended"), [(1_000, 4, 5), (990, 1.1, 1.5)])
def test_a_payment_that_is_missing_or_comes_too_soon(
    story: Story, balance: int, began: float, ended: float
) -> None:
    story.commit(P, body("a", "b", 10), 2, 3)
    story.read("a", balance, began, ended)
    story.assert_rejected("no payments sum up to")


def test_bank_1_two_reads_see_two_payments_in_opposite_halves(story: Story) -> None:
    story.commit(P, body("a", "b", 10), 2, 9)
    story.commit(Q, body("a", "b", 100), 2, 9)
    story.read("b", 1_010, 3, 4)
    story.read("b", 1_100, 5, 6)
    story.assert_rejected("aren't linearizable", "the other way round")


def test_a_later_read_that_sees_less(story: Story) -> None:
    story.commit(P, body("a", "b", 10), 2, 9)
    story.read("b", 1_010, 3, 4)
    story.read("b", 1_000, 5, 6)
    story.assert_rejected("aren't linearizable", "has seen less")


def test_a_payment_that_is_seen_without_one_before_it(story: Story) -> None:
    story.commit(P, body("a", "b", 10), 2, 3.5)
    story.commit(Q, body("a", "b", 100), 4, 9)
    story.read("b", 1_100, 3, 6)
    story.assert_rejected("aren't linearizable", "which had been answered")


def test_an_account_that_a_read_doesnt_find(story: Story) -> None:
    story.read("a", None, 2, 3)
    story.assert_rejected("found none")


def seen(*reads: tuple[float, float, Sequence[bytes]]) -> list[Seen]:
    return [Seen(began, ended, frozenset(payments)) for began, ended, payments in reads]


def test_reads_in_an_order_that_their_times_allow() -> None:
    adds = [Add(P, 1, 0, 5), Add(Q, 1, 2, 9)]
    assert check_seen(seen((1, 3, [P]), (2, 4, [P, Q]), (3, 6, [P])), adds) is None


def test_which_payments_a_balance_has_seen() -> None:
    adds = [Add(P, 5, 0, 1), Add(Q, 7, 2, 9), Add(R, 11, 2, NEVER)]
    assert which_were_seen(16, 3, 4, adds) == [frozenset([P, R])]
    assert which_were_seen(11, 3, 4, adds) is None
    assert which_were_seen(5, 1.5, 1.7, adds) == [frozenset([P])]


# -- statements --------------------------------------------------------------------------------------


def statement(story: Story, number: str, length: int | None, began: float, ended: float) -> None:
    lines = None
    if length is not None:
        postings = [line.posting for line in story.facts.postings[number][:length]]
        lines = tuple((p.sequence, p.payment_id, p.amount, p.balance) for p in postings)
    story.history.statements.append(
        Statement(began=began, ended=ended, number=number, lines=lines, is_known=True)
    )


def test_bank_3_a_statement_that_lacks_what_was_answered(story: Story) -> None:
    story.commit(P, body("a", "b", 10), 2, 3)
    statement(story, "b", 1, 4, 5)
    story.assert_rejected("lacks")


def test_c4_a_statement_that_doesnt_find_its_account(story: Story) -> None:
    statement(story, "b", None, 4, 5)
    story.assert_rejected("says that it doesn't exist")


def test_a_statement_that_is_shorter_than_one_before(story: Story) -> None:
    story.commit(P, body("a", "b", 10), 2, 9)
    statement(story, "b", 2, 3, 4)
    statement(story, "b", 1, 5, 6)
    story.assert_rejected("is shorter")


def test_a_statement_of_other_lines(story: Story) -> None:
    statement(story, "b", 1, 4, 5)
    ((sequence, payment_id, amount, balance),) = story.history.statements[0].lines or ()
    story.history.statements[0].lines = ((sequence, payment_id, amount + 1, balance),)
    story.assert_rejected("aren't its postings")


# -- administrators and outsiders --------------------------------------------------------------------


def freeze(story: Story, frozen: bool, began: float, ended: float, **told: bool) -> None:
    story.history.settings.append(
        Setting(began=began, ended=ended, number="a", frozen=frozen, **told)
    )


def read_frozen(story: Story, frozen: bool, began: float, ended: float) -> None:
    story.read("a", 1_000, began, ended)
    story.history.reads[-1].frozen = frozen


def test_c1_a_change_that_is_made_twice(story: Story) -> None:
    freeze(story, True, 1, 9, is_done=True)
    read_frozen(story, True, 2, 3)
    freeze(story, False, 4, 5, is_done=True)
    read_frozen(story, False, 5.5, 5.6)
    read_frozen(story, True, 6, 7)
    story.assert_rejected("have no order")


def test_c1_a_change_that_was_told_to_be_refused(story: Story) -> None:
    freeze(story, True, 1, 2, is_refused=True)
    read_frozen(story, True, 3, 4)
    story.assert_rejected("have no order")


def test_a_change_that_nobody_knows_of_may_be_made_at_any_time(story: Story) -> None:
    freeze(story, True, 1, NEVER)
    read_frozen(story, False, 3, 4)
    read_frozen(story, True, 5, 6)
    assert story.verdict() == []


def test_a_register() -> None:
    one = Step(0, 9, value=True, is_write=True)
    assert is_register([one, Step(1, 2, value=False, is_write=False)])
    assert is_register([one, Step(1, 2, value=True, is_write=False)])
    assert not is_register(
        [Step(0, 1, value=True, is_write=True), Step(2, 3, value=False, is_write=False)]
    )
    assert not is_register([Step(0, 1, value=True, is_write=False)])


def test_a_posting_while_somebody_holds_the_account(story: Story) -> None:
    story.commit(P, body("a", "b", 10), 3, 4)
    story.history.holds.append(Hold(began=1, ended=2, number="a", until=5))
    story.assert_rejected("was held")
