"""A group's memberships, as its log tells them."""

from mas.multiraft.members import Members, read_members
from mas.raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    ConfState,
    Entry,
    EntryType,
    MemoryStorage,
)


def conf_change(index: int, kind: ConfChangeType, node: int) -> Entry:
    data = ConfChange((ConfChangeSingle(kind, node),)).encode()
    return Entry(index, 1, EntryType.CONF_CHANGE, data)


def test_membership_is_read_from_the_log() -> None:
    storage = MemoryStorage(ConfState(voters=(1, 2)))
    storage.append(
        [
            Entry(1, 1),
            conf_change(2, ConfChangeType.ADD_LEARNER, 3),
            conf_change(3, ConfChangeType.ADD_NODE, 3),
            conf_change(4, ConfChangeType.REMOVE_NODE, 1),
        ]
    )

    members = read_members(storage, 3)

    assert members.at(1) == ConfState(voters=(1, 2))
    assert members.at(2) == ConfState(voters=(1, 2), learners=(3,))
    assert members.newest == members.at(3) == ConfState(voters=(1, 2, 3))


def test_a_change_that_was_refused_changes_nothing() -> None:
    storage = MemoryStorage(ConfState(voters=(1,)))
    storage.append([conf_change(1, ConfChangeType.REMOVE_NODE, 1)])

    assert read_members(storage, 1).newest == ConfState(voters=(1,))


def test_old_memberships_are_forgotten() -> None:
    members = Members(0, ConfState(voters=(1,)))
    members.changed(5, ConfState(voters=(1, 2)))
    members.changed(9, ConfState(voters=(1, 2, 3)))

    members.forget_before(7)

    assert members.at(7) == members.at(8) == ConfState(voters=(1, 2))
    assert members.at(9) == ConfState(voters=(1, 2, 3))
