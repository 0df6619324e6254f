"""A few RawNodes wired to each other, and a host that does at once what each Ready asks for.

For tests that tell one story; hardship by chance is in `simulation.py`.
"""

from collections.abc import Callable, Iterable
from typing import Any

from mas.raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    Config,
    ConfState,
    Entry,
    EntryType,
    HardState,
    MemoryStorage,
    Message,
    MessageType,
    RawNode,
    ReadState,
    Ready,
    Role,
    Snapshot,
    SnapshotMetadata,
)


class FixedDice:
    """Draws the same number each time: node n waits n ticks longer than the shortest timeout."""

    def __init__(self, value: int) -> None:
        self.value = value

    def randrange(self, stop: int, /) -> int:
        return self.value % stop


class Member:
    """One node, its storage, and what its host has applied, read and sent."""

    def __init__(self, node_id: int, storage: MemoryStorage, **settings: Any) -> None:
        self.id = node_id
        self.storage = storage
        self.settings = settings
        self.applied: list[Entry] = []
        self.reads: list[ReadState] = []
        self.readies: list[Ready] = []
        self.start()

    def start(self, **more: Any) -> None:
        """Start, or start again, from what the storage holds."""
        settings = {"rng": FixedDice(self.id), **self.settings, **more}
        self.node = RawNode(Config(id=self.id, **settings), self.storage)

    @property
    def status(self) -> Any:
        return self.node.status()

    def persist(self, ready: Ready) -> None:
        """Write what a Ready asks for."""
        if ready.snapshot is not None:
            self.storage.apply_snapshot(ready.snapshot)
        self.storage.append(ready.entries)
        if ready.hard_state is not None:
            self.storage.set_hard_state(ready.hard_state)

    def apply(self, ready: Ready) -> None:
        """Apply committed entries, configuration changes too."""
        self.applied += ready.committed_entries
        self.reads += ready.read_states
        for entry in ready.committed_entries:
            if entry.type == EntryType.CONF_CHANGE:
                conf = self.node.apply_conf_change(ConfChange.decode(entry.data))
                self.storage.set_conf_state(conf)

    def take(self) -> list[Message]:
        """Handle every Ready; the messages that they hold."""
        messages: list[Message] = []
        while self.node.has_ready():
            ready = self.node.ready()
            self.readies.append(ready)
            self.persist(ready)
            messages += ready.messages
            self.apply(ready)
            self.node.advance(ready)
        return messages

    def hear(self, kind: MessageType, from_: int, **fields: Any) -> list[Message]:
        """Step one message; what is sent because of it."""
        self.node.step(Message(kind, self.id, from_, **fields))
        return self.take()


class Group:
    """Members that talk; `drops` decides what the network loses."""

    def __init__(self, *voters: int, learners: tuple[int, ...] = (), **settings: Any) -> None:
        conf = ConfState(voters=voters, learners=learners)
        self.settings = settings
        self.members: dict[int, Member] = {}
        self.drops: Callable[[Message], bool] = lambda _message: False
        self.sent: list[Message] = []
        for node_id in sorted(voters + learners):
            self.add(node_id, MemoryStorage(conf))

    def __getitem__(self, node_id: int) -> Member:
        return self.members[node_id]

    def add(self, node_id: int, storage: MemoryStorage) -> Member:
        self.members[node_id] = Member(node_id, storage, **self.settings)
        return self.members[node_id]

    def deliver(self, messages: Iterable[Message] = ()) -> None:
        """Carry messages, and what they lead to, until nobody has anything to do."""
        waiting = list(messages)
        while True:
            for member in list(self.members.values()):
                waiting += member.take()
            if not waiting:
                return
            self.sent += waiting
            passing = [m for m in waiting if m.to in self.members and not self.drops(m)]
            waiting = []
            for message in passing:
                self.members[message.to].node.step(message)

    def elect(self, node_id: int) -> Member:
        """Make a node leader."""
        self[node_id].node.campaign()
        self.deliver()
        assert self[node_id].status.role is Role.LEADER
        return self[node_id]

    def propose(self, node_id: int, *data: bytes) -> None:
        for one in data:
            self[node_id].node.propose(one)
        self.deliver()

    def tick(self, count: int, *nodes: int) -> None:
        """So many ticks for these nodes, or all, everything being delivered between."""
        for _ in range(count):
            for node_id in nodes or tuple(self.members):
                self[node_id].node.tick()
            self.deliver()

    def isolate(self, *nodes: int) -> None:
        """Cut these nodes off from the others, and from each other."""
        self.drops = lambda message: message.from_ in nodes or message.to in nodes

    def heal(self) -> None:
        self.drops = lambda _message: False


def change(
    kind: ConfChangeType, *nodes: int, transition: ConfChangeTransition = ConfChangeTransition.AUTO
) -> ConfChange:
    """The same change of several members."""
    return ConfChange(tuple(ConfChangeSingle(kind, node) for node in nodes), transition)


def stored(
    terms: Iterable[int],
    conf: ConfState | None = None,
    hard_state: HardState | None = None,
) -> MemoryStorage:
    """A storage whose log has entries of these terms, from 1 on."""
    storage = MemoryStorage(conf if conf is not None else ConfState(voters=(1, 2, 3)))
    entries = [Entry(index, term) for index, term in enumerate(terms, start=1)]
    storage.append(entries)
    last_term = entries[-1].term if entries else 0
    storage.set_hard_state(hard_state if hard_state is not None else HardState(last_term))
    return storage


def snapshot_of(index: int, term: int, conf: ConfState, data: bytes = b"") -> Snapshot:
    return Snapshot(SnapshotMetadata(index, term, conf), data)
