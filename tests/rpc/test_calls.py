"""A call ends by its own reply, or with its node's connection; what isn't its reply reaches nobody."""

from random import Random

import pytest

from mas.errors import NetworkError
from mas.rpc.calls import Call, Calls


class Question(Call[str]):
    """Is answered by words of its own first letter."""

    kind = str

    def __init__(self, node: int, letter: str) -> None:
        super().__init__(node)
        self.letter = letter
        self.heard: list[str] = []

    def accepts(self, reply: str) -> bool:
        return reply.startswith(self.letter)

    def on_reply(self, reply: str) -> None:
        self.heard.append(reply)

    def on_lost(self, detail: str) -> None:
        self.heard.append(detail)


def test_a_reply_finds_its_call_from_its_node_alone() -> None:
    calls: Calls[Question, str] = Calls(Random(1))
    one, other = Question(1, "a"), Question(2, "a")
    numbers = calls.add(one), calls.add(other)

    calls.on_reply(1, numbers[0], "apple")
    calls.on_reply(1, numbers[1], "ash")
    calls.on_reply(1, numbers[1] + 1, "aspen")

    assert one.heard == ["apple"]
    assert other.heard == []


def test_a_call_that_has_ended_hears_nothing() -> None:
    calls: Calls[Question, str] = Calls(Random(1))
    question = Question(1, "a")
    number = calls.add(question)
    calls.remove(question)
    calls.on_reply(1, number, "apple")
    assert question.heard == []
    assert not calls


def test_an_answer_to_what_was_not_asked_is_its_nodes_fault() -> None:
    calls: Calls[Question, str] = Calls(Random(1))
    number = calls.add(Question(1, "a"))
    with pytest.raises(NetworkError, match="node 1 answers a str with str"):
        calls.on_reply(1, number, "birch")


def test_a_broken_connection_ends_its_nodes_calls() -> None:
    calls: Calls[Question, str] = Calls(Random(1))
    here, there = Question(1, "a"), Question(2, "a")
    calls.add(here)
    calls.add(there)
    calls.lose(2)
    assert here.heard == []
    assert there.heard == ["the connection with node 2 broke"]


def test_two_lives_number_their_calls_differently() -> None:
    numbers = {Calls[Question, str](Random(seed)).add(Question(1, "a")) for seed in range(9)}
    assert len(numbers) == 9
