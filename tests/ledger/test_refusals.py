"""One row for each thing a ledger says no to, and for which of two it says (rules 3, 10, 13, 18, 34)."""

import pytest

from mas.ledger import (
    AccountState,
    Answer,
    Batch,
    Body,
    BucketRow,
    Code,
    Decide,
    Kind,
    Ledger,
    Mark,
    NodeRow,
    Prepare,
    Proposal,
    Reason,
    RegisterNode,
    ResidentState,
    RetireNode,
    SetAccount,
    Token,
)
from mas.limits import BALANCE_MAX, NODES_MAX
from tests.ledger.harness import (
    BUCKET,
    HASH,
    HOME_ELSEWHERE,
    HOME_HERE,
    Bank,
    decide,
    pid,
    prepare,
    xid,
)

MARK = Token(1, 5)
ALL_IN_ONE = (
    ("frozen", 1),
    ("closed", 1),
    ("euro", 1),
    ("marked", 1),
    ("poor", -11),
    ("nobody", 1),
)


@pytest.fixture
def bank() -> Bank:
    """A bank with an account for every reason to say no.

    poor has 10; debtor has 10 and may owe 5; full has the greatest balance; waiting has 10, of which 6 are held, and 4
    on their way, by the undecided payments 900 and 901; making is being created by 902; 6 of leaving are held by 903.
    """
    bank = Bank()
    bank.open(("poor", 10), ("full", BALANCE_MAX), ("frozen", 10), ("closed", 0))
    bank.open(
        ("marked", 10), ("waiting", 10), ("crowded", BALANCE_MAX - 10), ("leaving", BALANCE_MAX)
    )
    bank.open(("debtor", 10), overdraft_limit=5)
    bank.open(("owing", 0), overdraft_limit=5)
    bank.open(("empty", 0), ("coming", 0), ("rich", 0))
    bank.do(decide(800, ("owing", -5), ("rich", 5)), prepare(904, ("coming", 6)))
    bank.open(("euro", 10), currency="EUR")
    bank.do(SetAccount("frozen", frozen=True), SetAccount("closed", closed=True))
    bank.do(Mark("marked", MARK))
    bank.do(prepare(900, ("waiting", -6)), prepare(901, ("waiting", 4), ("crowded", 6)))
    bank.do(prepare(902, ("making", 0), kind=Kind.CREATION), prepare(903, ("leaving", -6)))
    return bank


# What a leg meets, alone in its payment.
LEGS = [
    (("poor", -10), None),
    (("poor", -11), Reason.INSUFFICIENT_FUNDS),
    (("debtor", -15), None),
    (("debtor", -16), Reason.INSUFFICIENT_FUNDS),
    (("full", 1), Reason.BALANCE_LIMIT),
    (("full", -1), None),
    (("frozen", 1), Reason.ACCOUNT_FROZEN),
    (("frozen", -1), Reason.ACCOUNT_FROZEN),
    (("closed", 1), Reason.ACCOUNT_CLOSED),
    (("euro", 1), Reason.CURRENCY_MISMATCH),
    (("nobody", 1), Reason.WRONG_BUCKET),
    (("marked", 1), Reason.LOCK_CONFLICT),
    # 10, of which 6 may go and to which 4 may come.
    (("waiting", -4), None),
    (("waiting", -5), "pending"),
    (("waiting", -14), "pending"),
    (("waiting", -15), Reason.INSUFFICIENT_FUNDS),
    # 10 are free, of which 6 may be taken.
    (("crowded", 4), None),
    (("crowded", 5), "pending"),
    (("crowded", 10), "pending"),
    (("crowded", 11), Reason.BALANCE_LIMIT),
    # Full, but 6 may go.
    (("leaving", 6), "pending"),
    (("leaving", 7), Reason.BALANCE_LIMIT),
    (("making", 1), "pending"),
]


@pytest.mark.parametrize(("leg", "expected"), LEGS)
def test_a_leg_in_phase_1(bank: Bank, leg: tuple[str, int], expected: Reason | str | None) -> None:
    answer = bank.one(prepare(1, leg))
    match expected:
        case None:
            assert answer.code is Code.PREPARED
            assert xid(1) in bank.ledger.rows.legs
            return
        case "pending":
            assert (answer.code, answer.reason) == (Code.PENDING_ON, Reason.NONE)
        case Reason.WRONG_BUCKET | Reason.LOCK_CONFLICT:
            assert (answer.code.name, answer.reason) == (expected.name, expected)
        case _:
            assert (answer.code, answer.reason, answer.detail) == (Code.REFUSED, expected, leg[0])
    assert xid(1) not in bank.ledger.rows.legs


@pytest.mark.parametrize(("leg", "expected"), LEGS)
def test_the_anchors_own_leg(
    bank: Bank, leg: tuple[str, int], expected: Reason | str | None
) -> None:
    """The same judgement, which the anchor writes into its record (rule 6)."""
    answer = bank.one(decide(1, leg, ("elsewhere", -leg[1]), own=(0,)))
    record = bank.ledger.rows.record(pid(1))
    match expected:
        case None:
            assert (answer.code, answer.xid) == (Code.COMMITTED, xid(1))
        case "pending":
            assert (answer.code, record) == (Code.PENDING_ON, None)
            return
        case Reason.WRONG_BUCKET:
            assert (answer.code, record) == (Code.WRONG_BUCKET, None)
            return
        case Reason.LOCK_CONFLICT:
            assert (answer.code, answer.reason, answer.attempt) == (Code.ABORTED, expected, 1)
            assert answer.xid == xid(1)
        case _:
            assert (answer.code, answer.reason, answer.detail) == (Code.REFUSED, expected, leg[0])
    assert (record.outcome, record.reason, record.attempt) == (answer.code, answer.reason, 1)


@pytest.mark.parametrize("count", range(1, len(ALL_IN_ONE) + 1))
def test_of_several_legs_the_gravest_speaks(bank: Bank, count: int) -> None:
    """Where a directory is wrong nothing is recorded; where a lock is, no outcome is; and a leg refused for
    good refuses the payment, whatever its other legs wait for. Among equals the first leg speaks."""
    pending, legs = ("waiting", -5), ALL_IN_ONE[:count]
    answer = bank.one(prepare(1, pending, *legs))
    expected = {1: Reason.ACCOUNT_FROZEN, 2: Reason.ACCOUNT_FROZEN, 3: Reason.ACCOUNT_FROZEN}
    last = Reason.WRONG_BUCKET if count == len(ALL_IN_ONE) else Reason.LOCK_CONFLICT
    assert answer.reason is expected.get(count, last)
    assert bank.one(prepare(2, *reversed(legs), pending)).reason is (
        answer.reason
        if count > 3
        else [Reason.ACCOUNT_FROZEN, Reason.ACCOUNT_CLOSED, Reason.CURRENCY_MISMATCH][count - 1]
    )


def test_several_legs_wait_for_all_that_any_of_them_waits_for(bank: Bank) -> None:
    answer = bank.one(prepare(1, ("crowded", 5), ("waiting", -5), ("making", 1)))
    assert (answer.code, answer.xids) == (Code.PENDING_ON, (xid(900), xid(901), xid(902)))


OPENINGS = [
    ("making", 0, Code.PENDING_ON, Reason.NONE),
    ("poor", 0, Code.REFUSED, Reason.ACCOUNT_EXISTS),
    ("new", BALANCE_MAX, Code.PREPARED, Reason.NONE),
    ("new", BALANCE_MAX + 1, Code.REFUSED, Reason.BALANCE_LIMIT),
    ("new", -1, Code.FAILED, Reason.NONE),
]


@pytest.mark.parametrize(("number", "opening", "code", "reason"), OPENINGS)
def test_an_opening_in_phase_1(
    bank: Bank, number: str, opening: int, code: Code, reason: Reason
) -> None:
    answer = bank.one(prepare(1, (number, opening), kind=Kind.CREATION))
    assert (answer.code, answer.reason) == (code, reason)
    assert (xid(1) in bank.ledger.rows.legs) == (code is Code.PREPARED)


def creation(number: str, place: int, **rest: object) -> Decide:
    own = (0,) if place == BUCKET else ()
    return decide(1, (number, 0), own=own, kind=Kind.CREATION, account_bucket=place, **rest)


CLAIMS = [
    (HOME_HERE[0], 2, Code.COMMITTED, Reason.NONE),
    (HOME_HERE[0], BUCKET, Code.COMMITTED, Reason.NONE),
    (HOME_HERE[1], 2, Code.REFUSED, Reason.ACCOUNT_EXISTS),
    (HOME_HERE[1], BUCKET, Code.REFUSED, Reason.ACCOUNT_EXISTS),
    (HOME_HERE[2], BUCKET, Code.PENDING_ON, Reason.NONE),
    (HOME_ELSEWHERE[0], 2, Code.WRONG_BUCKET, Reason.WRONG_BUCKET),
]


@pytest.mark.parametrize(("number", "place", "code", "reason"), CLAIMS)
def test_a_claim(number: str, place: int, code: Code, reason: Reason) -> None:
    """Rules 18 and 20: claimed once, here, or the bucket is wrong."""
    bank = Bank()
    bank.do(decide(800, (HOME_HERE[1], 0), own=(), kind=Kind.CREATION, account_bucket=3))
    bank.do(prepare(801, (HOME_HERE[2], 0), kind=Kind.CREATION))
    answer = bank.one(creation(number, place))
    assert (answer.code, answer.reason) == (code, reason)
    assert bank.ledger.rows.claim(number) == {Code.COMMITTED: place, Code.REFUSED: 3}.get(code)


CHANGES = [
    (SetAccount("poor", frozen=True), Code.DONE, Reason.NONE),
    (SetAccount("poor", frozen=False), Code.UNCHANGED, Reason.NONE),
    (SetAccount("poor", overdraft_limit=1), Code.DONE, Reason.NONE),
    (SetAccount("poor", overdraft_limit=-1), Code.FAILED, Reason.NONE),
    (SetAccount("nobody", frozen=True), Code.WRONG_BUCKET, Reason.WRONG_BUCKET),
    (SetAccount("making", frozen=True), Code.PENDING_ON, Reason.NONE),
    (SetAccount("waiting", frozen=True), Code.DONE, Reason.NONE),
    (SetAccount("waiting", closed=True), Code.REFUSED, Reason.LEGS_PREPARED),
    # Closed is for good, and nothing of it changes any more.
    (SetAccount("closed", closed=True), Code.UNCHANGED, Reason.NONE),
    (SetAccount("closed", closed=False), Code.REFUSED, Reason.ACCOUNT_CLOSED),
    (SetAccount("closed", frozen=False), Code.REFUSED, Reason.ACCOUNT_CLOSED),
    (SetAccount("closed", frozen=True, closed=True), Code.REFUSED, Reason.ACCOUNT_CLOSED),
    (SetAccount("closed", overdraft_limit=0), Code.REFUSED, Reason.ACCOUNT_CLOSED),
    (SetAccount("poor", closed=False), Code.UNCHANGED, Reason.NONE),
    # Only what is empty can be closed: neither money nor a debt is left where nobody can reach it.
    (SetAccount("poor", closed=True), Code.REFUSED, Reason.ACCOUNT_NOT_EMPTY),
    (SetAccount("owing", closed=True), Code.REFUSED, Reason.ACCOUNT_NOT_EMPTY),
    (SetAccount("empty", closed=True), Code.DONE, Reason.NONE),
    (SetAccount("coming", closed=True), Code.REFUSED, Reason.LEGS_PREPARED),
    (SetAccount("debtor", overdraft_limit=0), Code.DONE, Reason.NONE),
    (SetAccount("marked", frozen=True), Code.LOCK_CONFLICT, Reason.LOCK_CONFLICT),
    (SetAccount("marked", frozen=True, token=MARK), Code.DONE, Reason.NONE),
    (SetAccount("poor", frozen=True, token=MARK), Code.LOCK_CONFLICT, Reason.LOCK_CONFLICT),
]


@pytest.mark.parametrize(("change", "code", "reason"), CHANGES)
def test_an_administrators_change(
    bank: Bank, change: SetAccount, code: Code, reason: Reason
) -> None:
    before = bank.accounts().get(change.account)
    answer = bank.one(change)
    assert (answer.code, answer.reason) == (code, reason)
    after = bank.accounts().get(change.account)
    if code in (Code.DONE, Code.UNCHANGED):
        state = AccountState(after.frozen, after.closed, after.overdraft_limit)
        assert answer.state == state, "who asks is told what the account is now"
    if code is Code.DONE:
        assert after.version == before.version + 1
    else:
        assert after == before


def test_a_limit_is_not_lowered_below_what_is_owed_or_reserved() -> None:
    """Rule 13; and the reason says which of the two."""
    bank = Bank()
    bank.open(("debtor", 0), ("payee", 0), overdraft_limit=10)
    bank.do(decide(1, ("debtor", -3), ("payee", 3)), prepare(2, ("debtor", -4)))
    assert bank.one(SetAccount("debtor", overdraft_limit=2)).reason is Reason.INSUFFICIENT_FUNDS
    assert bank.one(SetAccount("debtor", overdraft_limit=6)).reason is Reason.LEGS_PREPARED
    assert bank.one(SetAccount("debtor", overdraft_limit=7)).code is Code.DONE


FIRST = Body(Kind.PAYMENT, "USD", (("a", -1), ("b", 1)), reference="rent")
BODIES = [
    (FIRST, "body hash only"),
    (Body(Kind.PAYMENT, "USD", (("a", -2), ("b", 2)), reference="rent"), "amount"),
    (Body(Kind.PAYMENT, "USD", (("a", -1), ("c", 1)), reference="rent"), "payee"),
    (Body(Kind.PAYMENT, "USD", (("c", -1), ("b", 1)), reference="rent"), "payer"),
    (Body(Kind.PAYMENT, "EUR", (("a", -1), ("b", 1)), reference="rent"), "currency"),
    (Body(Kind.PAYMENT, "USD", (("a", -1), ("b", 1)), 5, "rent"), "overdraft_limit"),
    (Body(Kind.PAYMENT, "USD", (("a", -1), ("b", 1))), "reference"),
    (Body(Kind.PAYMENT, "EUR", (("a", -2), ("c", 2))), "currency, reference, payee, amount"),
    (Body(Kind.PAYMENT, "USD", (("a", -2), ("b", 1), ("c", 1)), reference="rent"), "legs"),
    (Body(Kind.PAYMENT, "USD", (("b", 1), ("a", -1)), reference="rent"), "legs"),
    (Body(Kind.WITHDRAWAL, "USD", (("a", -1), ("b", 1)), reference="rent"), "kind"),
]


@pytest.mark.parametrize(("body", "fields"), BODIES)
def test_a_key_reused_names_what_differs(body: Body, fields: str) -> None:
    """Rule 6: an outcome answers its own body alone."""
    bank = Bank()
    bank.open(("a", 10), ("b", 10), ("c", 10))
    bank.do(Decide(xid(1), pid(1), 1, FIRST, HASH, (), (0, 1)))
    same = body is FIRST
    answer = bank.one(Decide(xid(2), pid(1), 1, body, HASH if same else b"another", (), (0, 1)))
    if same:
        assert (answer.code, answer.xid) == (Code.COMMITTED, xid(1))
    else:
        assert (answer.code, answer.detail) == (Code.KEY_REUSED, fields)


def test_a_prepare_is_judged_only_where_its_xid_is_new(bank: Bank) -> None:
    """Rule 10: what is prepared, posted or over says so, whatever the account has come to."""
    bank.do(prepare(1, ("poor", -10)))
    bank.do(SetAccount("poor", frozen=True))
    again: Prepare = prepare(1, ("poor", -10))
    assert bank.one(again).code is Code.PREPARED


STORE, WIPED = b"s" * 16, b"w" * 16
LONGEST = "h" * 255 + ":65535"


def registration(node: int = 4, **changes: object) -> RegisterNode:
    given = {"address": "d:1", "roles": ("rm",), "host": "rack", "store": STORE}
    return RegisterNode(node, **{**given, **changes})


# What a cluster says where node 4 is registered and nodes 1 and 5 are retired, 1 unheard.
REGISTRATIONS = [
    (registration(6), Code.DONE, Reason.NONE),
    (registration(6, store=b""), Code.DONE, Reason.NONE),
    (registration(6, host=""), Code.DONE, Reason.NONE),
    (registration(6, address=LONGEST), Code.DONE, Reason.NONE),
    (registration(6, address="[::1]:1"), Code.DONE, Reason.NONE),
    (registration(2**32 - 1), Code.DONE, Reason.NONE),
    (registration(4), Code.UNCHANGED, Reason.NONE),
    (registration(4, address="d:2"), Code.DONE, Reason.NONE),
    (registration(4, roles=("all",)), Code.DONE, Reason.NONE),
    (registration(4, host=""), Code.DONE, Reason.NONE),
    (registration(4, store=WIPED), Code.REFUSED, Reason.NODE_ID_USED),
    (registration(4, store=b""), Code.REFUSED, Reason.NODE_ID_USED),
    (registration(5), Code.REFUSED, Reason.NODE_ID_USED),
    (registration(5, store=WIPED), Code.REFUSED, Reason.NODE_ID_USED),
    (registration(1), Code.REFUSED, Reason.NODE_ID_USED),
    (registration(1, store=b""), Code.REFUSED, Reason.NODE_ID_USED),
    (RetireNode(4), Code.DONE, Reason.NONE),
    (RetireNode(2), Code.DONE, Reason.NONE),
    (RetireNode(5), Code.UNCHANGED, Reason.NONE),
    (RetireNode(1), Code.UNCHANGED, Reason.NONE),
    # What no border lets through fails, alike on every replica.
    *(
        (registration(6, **{field: value}), Code.FAILED, Reason.NONE)
        for field, values in {
            "address": ("", "d", ":1", "d:", "d:0", "d:65536", "d:x", "d:1\n", "d :1", "é:1"),
            "roles": ((), ("rm",) * 9, ("",), ("r" * 17,), ("r\t",), ("ré",)),
            "host": ("h" * 65, "a\x00", "é"),
            "store": (b"s", b"s" * 15, b"s" * 17),
        }.items()
        for value in values
    ),
    (registration(6, address="h" + LONGEST), Code.FAILED, Reason.NONE),
    (registration(0), Code.FAILED, Reason.NONE),
    (registration(2**32), Code.FAILED, Reason.NONE),
    (RetireNode(0), Code.FAILED, Reason.NONE),
    (RetireNode(2**32), Code.FAILED, Reason.NONE),
]


@pytest.fixture
def cluster() -> Bank:
    bank = Bank()
    bank.do(registration(4), registration(5), RetireNode(5), RetireNode(1))
    return bank


@pytest.mark.parametrize(("change", "code", "reason"), REGISTRATIONS)
def test_a_change_of_the_register(
    cluster: Bank, change: RegisterNode | RetireNode, code: Code, reason: Reason
) -> None:
    row = cluster.ledger.rows.bucket
    before, index = row.nodes, row.nodes_index
    answer = cluster.one(change)
    assert (answer.code, answer.reason) == (code, reason)
    if code is Code.DONE:
        assert row.nodes != before
        assert answer.value == row.nodes_index == row.applied > index
    else:
        assert (row.nodes, row.nodes_index) == (before, index)
        assert answer.value == (index if code is Code.UNCHANGED else 0)


def test_who_may_not_join_is_told_why_and_what_to_do(cluster: Bank) -> None:
    assert cluster.one(registration(4, store=WIPED)).detail == (
        "node 4 was registered, at d:1, with another data directory than this one, which is new or was wiped: "
        "join under a new id"
    )
    assert cluster.one(registration(5)).detail == (
        "node 5 was retired, and an id is used once for all time: join under a new id"
    )


@pytest.mark.parametrize("last", [registration(NODES_MAX), RetireNode(NODES_MAX)])
def test_a_register_has_an_end(last: RegisterNode | RetireNode) -> None:
    bank = Bank()
    bank.do(*(registration(node) for node in range(1, NODES_MAX)))
    assert bank.one(last).code is Code.DONE
    nodes = bank.ledger.rows.bucket.nodes
    answers = bank.do(registration(NODES_MAX + 1), RetireNode(NODES_MAX + 1))
    assert [(answer.code, answer.reason) for answer in answers] == [
        (Code.REFUSED, Reason.TOO_MANY_NODES)
    ] * 2
    assert "no room for node 1001" in answers[0].detail
    assert bank.ledger.rows.bucket.nodes == nodes
    moved = registration(1, address="d:2")
    assert [answer.code for answer in bank.do(moved, RetireNode(2))] == [Code.DONE] * 2
    assert len(bank.ledger.rows.bucket.nodes) == NODES_MAX


def test_another_bucket_keeps_no_register() -> None:
    ledger = Ledger(ResidentState(BucketRow(2), {}, {}))
    for index, change in enumerate((registration(4), registration(0), RetireNode(4)), 1):
        proposal = Proposal(1, 0, 1, 1, (Batch(b"", 0, (change,)),))
        assert ledger.apply(index, 1, proposal) == [
            [Answer(Code.ALARM, detail="bucket 1 keeps the register of nodes, not bucket 2")]
        ]
    assert (ledger.rows.bucket.nodes, ledger.rows.bucket.nodes_index, ledger.rows.state_hash()) == (
        (),
        0,
        0,
    )


def test_the_register_is_what_its_nodes_have_said_in_the_order_of_their_ids(cluster: Bank) -> None:
    cluster.do(registration(3, roles=("tc", "rm"), store=b""))
    cluster.do(registration(4, address="d:9", host=""))
    assert cluster.ledger.rows.bucket.nodes == (
        NodeRow(1, retired=True),
        NodeRow(3, "d:1", ("tc", "rm"), "rack", b""),
        NodeRow(4, "d:9", ("rm",), "", STORE),
        NodeRow(5, "d:1", ("rm",), "rack", STORE, retired=True),
    )


def test_the_register_outlives_its_replica(cluster: Bank) -> None:
    """Written with the bucket's row, whose copy in the write set doesn't change any more."""
    nodes, index = cluster.ledger.rows.bucket.nodes, cluster.ledger.rows.bucket.nodes_index
    writes = cluster.flush()
    cluster.do(RetireNode(4))
    assert (writes.bucket.nodes, writes.bucket.nodes_index) == (nodes, index)
    cluster.restart()
    assert cluster.ledger.rows.bucket.nodes == nodes
    assert cluster.one(registration(5)).code is Code.REFUSED
    assert cluster.one(registration(4)) == Answer(Code.UNCHANGED, value=index)
