"""Many timers for the price of one: slots of what is due together, and pauses that grow."""

from mas.coordinator.deadlines import SLOT_SECONDS, Deadlines, Pauses


class Item:
    def __init__(self) -> None:
        self.slot = 0


def test_an_item_is_due_once_never_early_and_at_most_a_slot_late() -> None:
    deadlines: Deadlines[Item] = Deadlines()
    item = Item()
    deadlines.add(item, 10.0)

    assert deadlines.due(9.999) == []
    assert deadlines.due(10.0 + SLOT_SECONDS) == [item]
    assert deadlines.due(99.0) == []


def test_items_come_in_the_order_of_their_slots() -> None:
    deadlines: Deadlines[Item] = Deadlines()
    late, early = Item(), Item()
    deadlines.add(late, 7.0)
    deadlines.add(early, 3.0)

    assert deadlines.all() == [early, late]
    assert deadlines.due(100.0) == [early, late]


def test_an_item_taken_out_is_never_due() -> None:
    deadlines: Deadlines[Item] = Deadlines()
    item, other = Item(), Item()
    deadlines.add(item, 1.0)
    deadlines.add(other, 1.0)

    deadlines.remove(item)
    deadlines.remove(item)

    assert deadlines.due(2.0) == [other]
    deadlines.remove(other)


def test_pauses_double_up_to_the_longest() -> None:
    pauses: Pauses[str] = Pauses(0.5, 3.0)
    for tries in range(5):
        pauses.add(f"try {tries}", tries, 0.0)

    assert pauses.over(0.4) == []
    assert pauses.over(0.5) == ["try 0"]
    assert pauses.over(1.9) == ["try 1"]
    assert pauses.over(2.0) == ["try 2"]
    assert pauses.over(3.0) == ["try 3", "try 4"]
    assert len(pauses) == 0
