"""The lock table, by examples and as a state machine. Rows L1 to L9 and T26 are of the crash matrix."""

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from mas.ledger.instructions import LockMode, Token, compatible
from mas.locks.table import Ended, Event, Expired, Grant, Granted, LockTable, TimedOut, Withdrawn

X, E, S = LockMode.EXCLUSIVE, LockMode.ESCROW, LockMode.SHARED


class Driver:
    """A table, and a clock to hand it."""

    def __init__(self, epoch: int = 1) -> None:
        self.table = LockTable(epoch, waiters_max=5_000)
        self.now = 0.0

    def ask(
        self, owner: str, locks: str, mode: LockMode = X, until: float = 100.0, lease: float = 10.0
    ) -> list[Event]:
        _, events = self.table.ask(
            owner.encode(), tuple(locks), mode, until=until, lease=lease, now=self.now
        )
        return events

    def granted(self, owner: str, locks: str, mode: LockMode = X, lease: float = 10.0) -> Grant:
        (event,) = self.ask(owner, locks, mode, lease=lease)
        assert isinstance(event, Granted)
        return event.grant

    def release(self, owner: str) -> list[Event]:
        return self.table.release(owner.encode(), self.now)

    def at(self, now: float) -> list[Event]:
        self.now = now
        return self.table.expire(now)


def owners(events: list[Event]) -> list[str]:
    return [event.grant.owner.decode() for event in events if isinstance(event, Granted)]


def test_a_free_lock_is_granted_at_once() -> None:
    grant = Driver().granted("one", "ba")
    assert grant.locks == ("a", "b")
    assert grant.token == Token(1, 1, X)
    assert grant.deadline == 10.0


def test_l3_the_next_holder_has_a_newer_token() -> None:
    driver = Driver()
    first = driver.granted("one", "a")
    driver.ask("two", "a")
    ended, granted = driver.at(10.0)
    assert ended == Expired(first)
    assert isinstance(granted, Granted)
    assert granted.grant.token > first.token


def test_l5_an_old_holder_cannot_release_the_new_ones_lock() -> None:
    driver = Driver()
    old = driver.granted("one", "a")
    driver.ask("two", "a")
    driver.at(10.0)
    assert driver.table.release_lock("a", b"one", old.token, driver.now) == []
    assert driver.release("one") == []
    (holder,) = driver.table.holders("a")
    assert holder.owner == b"two"
    assert driver.table.release_lock("a", b"two", old.token, driver.now) == []
    assert driver.table.release_lock("a", b"two", holder.token, driver.now)


def test_l6_two_that_name_two_locks_in_either_order_both_end() -> None:
    driver = Driver()
    driver.granted("holder", "a")
    assert driver.ask("one", "ab") == driver.ask("two", "ba") == []
    assert owners(driver.release("holder")) == ["one"]
    assert owners(driver.release("one")) == ["two"]


def test_l6_outsiders_that_take_locks_one_by_one_are_parted_by_time() -> None:
    driver = Driver()
    driver.granted("one", "a")
    driver.granted("two", "b")
    assert driver.ask("one", "b", until=3.0) == driver.ask("two", "a", until=4.0) == []
    assert [type(event) for event in driver.at(3.0)] == [TimedOut]
    driver.release("one")
    assert [grant.owner for grant in driver.table.holders("a")] == [b"two"]


def test_l9_a_thousand_waiters_are_served_in_turn() -> None:
    driver = Driver()
    driver.granted("0", "a")
    for i in range(1, 1001):
        assert driver.ask(str(i), "a") == []
    for i in range(1000):
        assert owners(driver.release(str(i))) == [str(i + 1)]


def test_l9_waiters_are_bounded() -> None:
    table = LockTable(1, waiters_max=2)
    for owner in (b"1", b"2", b"3"):
        assert table.has_room(["a", "b"])
        table.ask(owner, ("a",), X, until=9.0, lease=9.0, now=0.0)
    assert not table.has_room(["b", "a"])
    assert table.has_room(["b"])


def test_t26_a_thousand_payments_pass_together_and_then_the_readers() -> None:
    driver = Driver()
    driver.granted("administrator", "m")
    payments = [f"payment-{i}" for i in range(1000)]
    for i, payment in enumerate(payments):
        driver.ask(payment, "m", E)
        if i == 500:
            driver.ask("reader", "m", S)
    assert owners(driver.release("administrator")) == payments
    assert driver.ask("late reader", "m", S) == driver.ask("late payment", "m", E) == []
    for payment in payments[:-1]:
        assert owners(driver.release(payment)) == []
    assert owners(driver.release(payments[-1])) == ["reader", "late reader"]
    assert owners(driver.release("reader")) == []
    assert owners(driver.release("late reader")) == ["late payment"]


def test_payments_take_others_along_from_lock_to_lock_past_whoever_is_between() -> None:
    driver = Driver()
    driver.granted("administrator", "a")
    driver.granted("reader of c", "c", S)
    driver.ask("first", "ab", E)
    driver.ask("reader of a", "a", S)
    driver.ask("reader of b", "b", S)
    driver.ask("second", "bd", E)
    driver.ask("reader of d", "d", S)
    driver.ask("third", "d", E)
    driver.ask("not free", "ac", E)
    assert owners(driver.release("administrator")) == ["first", "second", "third"]
    assert owners(driver.release("reader of c")) == [], "it passes nobody alone"


def test_a_reader_is_passed_only_by_payments_that_join_one_before_it() -> None:
    driver = Driver()
    driver.granted("administrator", "a")
    driver.ask("reader", "a", S)
    driver.ask("payment", "a", E)
    assert owners(driver.release("administrator")) == ["reader"]
    assert owners(driver.release("reader")) == ["payment"]


def test_rule_34_no_other_mode_passes_an_escrow_that_holds() -> None:
    driver = Driver()
    driver.granted("payment", "a", E)
    assert driver.ask("reader", "a", S) == []
    assert driver.ask("another payment", "a", E) == [], "nor does a payment pass a waiting reader"
    assert owners(driver.at(10.0)) == ["reader"]


def test_a_waiter_that_gives_up_lets_those_behind_it_in() -> None:
    driver = Driver()
    driver.granted("reader", "a", S)
    driver.ask("writer", "a", X, until=1.0)
    assert driver.ask("another reader", "a", S) == []
    timed_out, granted = driver.at(1.0)
    assert isinstance(timed_out, TimedOut)
    assert owners([granted]) == ["another reader"]


def test_release_withdraws_what_still_waits() -> None:
    driver = Driver()
    driver.granted("one", "a")
    driver.ask("two", "a")
    assert [type(event) for event in driver.release("two")] == [Withdrawn]
    assert owners(driver.release("one")) == []


def test_an_owner_that_asks_again_hears_what_it_holds() -> None:
    driver = Driver()
    first = driver.granted("one", "ab")
    driver.now = 5.0
    assert driver.granted("one", "ba") == first
    assert driver.ask("one", "a") == [], "another set is another request"


def test_one_lock_of_several_can_be_let_go() -> None:
    driver = Driver()
    grant = driver.granted("one", "ab")
    driver.ask("two", "a")
    ended, granted = driver.table.release_lock("a", b"one", grant.token, driver.now)
    assert isinstance(ended, Ended)
    assert ended.grant.locks == ("a",)
    assert owners([granted]) == ["two"]
    (rest,) = driver.table.holders("b")
    assert rest.token == grant.token
    (expired,) = [event for event in driver.at(10.0) if event.grant.owner == b"one"]
    assert expired.grant.locks == ("b",)


def test_l8_a_restored_lease_runs_on_and_its_epoch_is_never_granted_again() -> None:
    driver = Driver(epoch=5)
    old = driver.table.restore(b"outsider", "a", Token(4, 999, X), 3.0)
    assert driver.ask("next", "a") == []
    expired, granted = driver.at(3.0)
    assert expired == Expired(old)
    assert isinstance(granted, Granted)
    assert granted.grant.token == Token(5, 1, X)


class LockTableMachine(RuleBasedStateMachine):
    """Whatever is asked, in whatever order: one mode a lock, in turn, tokens that only grow, nobody forgotten."""

    requests = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.table = LockTable(3, waiters_max=4)
        self.waiting: dict[int, tuple[tuple[str, ...], LockMode, float]] = {}
        self.held: dict[int, Grant] = {}
        self.last = Token(0, 0)

    def take(self, events: list[Event]) -> None:
        joined: set[str] = set()
        for event in events:
            match event:
                case Granted(grant):
                    self.take_grant(grant, joined)
                    if grant.token.mode is E:
                        joined.update(grant.locks)
                case Ended(grant) | Expired(grant):
                    if isinstance(event, Expired):
                        assert grant.deadline <= self.now
                    del self.held[grant.number]
                case TimedOut(number):
                    assert self.waiting.pop(number)[2] <= self.now
                case Withdrawn(number):
                    del self.waiting[number]

    def take_grant(self, grant: Grant, joined: set[str]) -> None:
        locks, mode, _ = self.waiting.pop(grant.number)
        assert grant.locks == locks
        assert grant.token.mode is mode
        assert (grant.token.epoch, grant.token.counter) > (self.last.epoch, self.last.counter)
        self.last = grant.token
        for number, (others, other_mode, _) in self.waiting.items():
            if number < grant.number and not compatible(mode, other_mode):
                overtaken = set(others) & set(locks)
                assert mode is E or not overtaken, "it passed an earlier one"
                assert overtaken <= joined, "it passed an earlier one, joining nobody"
        self.held[grant.number] = grant

    @rule(
        target=requests,
        locks=st.sets(st.sampled_from("abc"), min_size=1),
        mode=st.sampled_from(LockMode),
        wait=st.integers(0, 5),
        lease=st.integers(1, 5),
    )
    def ask(self, locks: set[str], mode: LockMode, wait: int, lease: int) -> object:
        if not self.table.has_room(locks):
            return multiple()
        number, events = self.table.ask(
            b"owner %d" % (self.table._last_number + 1),
            tuple(locks),
            mode,
            until=self.now + wait,
            lease=lease,
            now=self.now,
        )
        self.waiting[number] = (tuple(sorted(locks)), mode, self.now + wait)
        self.take(events)
        return number

    @rule(number=consumes(requests))
    def release(self, number: int) -> None:
        self.take(self.table.release(b"owner %d" % number, self.now))

    @rule(number=consumes(requests))
    def cancel(self, number: int) -> None:
        self.take(self.table.cancel(number, self.now))

    @rule(seconds=st.integers(0, 3))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.take(self.table.expire(self.now))

    @invariant()
    def holders_of_a_lock_go_together(self) -> None:
        for lock in "abc":
            holders = self.table.holders(lock)
            assert holders == [each for each in self.held.values() if lock in each.locks]
            for i, one in enumerate(holders):
                assert all(compatible(one.token.mode, other.token.mode) for other in holders[:i])

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        earlier: list[tuple[tuple[str, ...], LockMode]] = []
        for locks, mode, _ in self.waiting.values():
            in_the_way = [(each.locks, each.token.mode) for each in self.held.values()] + earlier
            assert any(
                set(locks) & set(others) and not compatible(mode, other)
                for others, other in in_the_way
            )
            earlier.append((locks, mode))

    @invariant()
    def it_counts_and_keeps_what_it_must(self) -> None:
        statistics = self.table.statistics()
        assert (statistics.held, statistics.waiting) == (len(self.held), len(self.waiting))
        assert len(self.table._numbers) == len(self.held) + len(self.waiting)
        assert all(len(self.table._waits._queues.get(lock, ())) <= 4 for lock in "abc")


TestLockTable = LockTableMachine.TestCase
