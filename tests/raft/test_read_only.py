"""Reads that wait: a context may repeat, and no answer is too old for the newest read of it."""

from mas.raft import ReadState
from mas.raft.read_only import MAX_FORWARDED, ForwardedReads, PendingRead, ReadAnswers, ReadRounds


def read(rounds: ReadRounds, context: bytes, index: int, reader: int = 1) -> None:
    one = PendingRead(reader, 0, context)
    one.index = index
    rounds.add(one)


def answers(rounds: ReadRounds, last_round: int) -> list[tuple[bytes, int, int]]:
    return [(one.context, one.index, one.count) for one in rounds.confirmed(last_round)]


def test_a_round_confirms_every_round_before_it() -> None:
    rounds = ReadRounds()
    read(rounds, b"a", 5)
    rounds.begin_round()
    read(rounds, b"b", 6)
    rounds.begin_round()
    read(rounds, b"c", 7)
    assert answers(rounds, 2) == [(b"a", 5, 1), (b"b", 6, 1)]
    assert rounds
    assert rounds.unsent


def test_a_repeated_context_waits_for_its_newest_read() -> None:
    rounds = ReadRounds()
    read(rounds, b"a", 5)
    read(rounds, b"a", 5, reader=2)
    rounds.begin_round()
    read(rounds, b"a", 8)
    rounds.begin_round()
    assert answers(rounds, 1) == [(b"a", 5, 1)]
    assert answers(rounds, 2) == [(b"a", 8, 2)]
    assert not rounds


def test_only_the_answer_to_the_newest_forwarded_read_counts() -> None:
    reads = ForwardedReads(first_number=7)
    first, second = reads.add(b"a", 1), reads.add(b"a", 1)
    assert (first, second) == (7, 8)
    assert reads.answered(b"a", first) == 0
    assert reads.answered(b"a", second) == 2
    assert reads.answered(b"a", second) == 0


def test_a_forgotten_read_is_not_answered() -> None:
    reads = ForwardedReads(0)
    number = reads.add(b"a", 1)
    reads.forget(b"a")
    assert reads.answered(b"a", number) == 0


def test_an_answer_to_what_was_never_asked_is_none() -> None:
    for number in (-1, 0, 1):
        assert ForwardedReads(0).answered(b"a", number) == 0


def test_forwarded_reads_are_bounded_and_the_oldest_goes() -> None:
    reads = ForwardedReads(0)
    for number in range(MAX_FORWARDED + 1):
        reads.add(b"%d" % number, 1)
    assert len(reads._waiting) == MAX_FORWARDED
    assert reads.answered(b"0", 0) == 0
    assert reads.answered(b"1", 1) == 1


def test_untaken_answers_are_withdrawn_by_a_newer_read() -> None:
    ready = ReadAnswers()
    ready.add(b"a", 5, 2)
    ready.add(b"b", 6, 1)
    assert ready.withdraw(b"a") == 2
    assert ready.take() == (ReadState(6, b"b"),)
    assert ready.take() == ()
    assert not ready
