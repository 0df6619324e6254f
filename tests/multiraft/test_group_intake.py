"""What users ask of a group reaches its core once, or comes back over error_c."""

from types import SimpleNamespace
from typing import Any

import pytest

from mas.errors import NotLeading, Overloaded
from mas.limits import TURN_BYTES_MAX
from mas.multiraft.group_intake import GroupIntake, Proposal
from mas.raft import NotLeader, ProposalDropped


class Core:
    """Takes proposals until `error` is set, and notes the rounds of reads."""

    def __init__(self) -> None:
        self.proposed: list[bytes] = []
        self.rounds: list[bytes] = []
        self.error: Exception | None = None
        self.lead_transferee = 0

    def propose(self, data: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.proposed.append(data)

    def read_index(self, context: bytes) -> None:
        self.rounds.append(context)

    def status(self) -> Any:
        return SimpleNamespace(lead_transferee=self.lead_transferee)


@pytest.fixture
def core() -> Any:
    return Core()


@pytest.fixture
def intake() -> GroupIntake:
    return GroupIntake(7)


def test_a_turn_takes_proposals_in_order_up_to_its_bytes(core: Any, intake: GroupIntake) -> None:
    large = bytes(TURN_BYTES_MAX // 2)
    for number in range(3):
        intake.propose_c.put(Proposal(number, large))

    intake.take_proposals(core)
    assert len(core.proposed) == 2
    assert not intake.is_idle, "the third waits for the next turn"
    intake.take_proposals(core)

    assert len(core.proposed) == 3
    assert intake.is_idle
    assert not len(intake.error_c)


@pytest.mark.parametrize(
    ("error", "transferee", "expected", "leader"),
    [
        (NotLeader("led elsewhere", 3), 0, NotLeading, 3),
        (ProposalDropped("too much waits"), 0, Overloaded, None),
        (ProposalDropped("leadership moves"), 2, NotLeading, 2),
    ],
    ids=["follower", "full", "transfer"],
)
def test_a_proposal_that_is_not_taken_says_whom_to_ask(
    core: Any,
    intake: GroupIntake,
    error: Exception,
    transferee: int,
    expected: type[Exception],
    leader: int | None,
) -> None:
    core.error, core.lead_transferee = error, transferee
    intake.propose_c.put(Proposal(5, b"a"))

    intake.take_proposals(core)

    [refused] = intake.error_c.drain_nowait()
    assert (refused.number, refused.read, type(refused.error)) == (5, False, expected)
    assert getattr(refused.error, "leader", None) == leader


def test_reads_of_a_turn_share_a_round_that_answers_them_once(
    core: Any, intake: GroupIntake
) -> None:
    for number in (1, 2):
        intake.reads.put(number)
    intake.take_reads(core)
    intake.take_reads(core)
    [context] = core.rounds
    assert not intake.is_idle, "the round is under way"

    assert intake.finish_round(context) == (1, 2)

    assert intake.finish_round(context) == ()
    assert intake.is_idle


def test_a_round_that_was_refused_answers_nobody_when_it_is_confirmed(
    core: Any, intake: GroupIntake
) -> None:
    intake.reads.put(1)
    intake.take_reads(core)
    intake.reads.put(2)

    intake.refuse_rounds(leader=3)

    [refused] = intake.error_c.drain_nowait()
    assert (refused.number, refused.read, refused.error.leader) == (1, True, 3)
    assert intake.finish_round(core.rounds[0]) == ()
    assert intake.reads.drain_nowait() == [2], "it waits for a round of its own"


def test_refusals_without_room_wait_and_none_is_lost(core: Any, intake: GroupIntake) -> None:
    core.error = NotLeader("led elsewhere", 3)
    room = 1_024
    for start in (0, room):
        for number in range(start, start + room):
            intake.propose_c.put(Proposal(number, b""))
        intake.take_proposals(core)
    assert intake.is_refusing

    first = intake.error_c.drain_nowait()
    intake.send_refusals()

    both = first + intake.error_c.drain_nowait()
    assert [refused.number for refused in both] == list(range(2 * room))
    assert not intake.is_refusing


def test_a_stopped_replica_refuses_whatever_waits_or_is_under_way(
    core: Any, intake: GroupIntake
) -> None:
    intake.reads.put(1)
    intake.take_reads(core)
    intake.reads.put(2)
    intake.propose_c.put(Proposal(3, b"a"))

    intake.refuse_all("bucket 7 is stopped on this node")

    refused = {(one.number, one.read) for one in intake.error_c.drain_nowait()}
    assert refused == {(1, True), (2, True), (3, False)}
    assert intake.is_idle


def test_an_owner_that_is_gone_keeps_nobody_waiting(core: Any, intake: GroupIntake) -> None:
    intake.error_c.close()
    core.error = NotLeader("led elsewhere", 3)
    intake.propose_c.put(Proposal(1, b"a"))

    intake.take_proposals(core)

    assert not intake.is_refusing
