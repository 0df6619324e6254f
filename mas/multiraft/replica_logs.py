"""The stored logs of this node's replicas: made, checked as a replica starts, and erased when it has left.

A log is a promise: what a node has voted for and acknowledged counts for the others. So a log that can't be this
cluster's, or has lost what it had acknowledged, is refused, and an erasure keeps term and vote.
"""

from collections.abc import Container, Sequence

import msgspec

from mas.errors import CorruptData, LostLog
from mas.multiraft.group_log import lost_acknowledged
from mas.multiraft.members import Members, is_member_behind, read_members
from mas.multiraft.ports import RaftLog
from mas.multiraft.snapshot_receiver import settle_note
from mas.multiraft.writer import LogWriter
from mas.raft import ConfState, HardState, Storage


class OpenLog(msgspec.Struct, frozen=True):
    """Holds a log that a replica may start from."""

    storage: Storage
    members: Members
    removed_at: int
    """The index of the change behind which this node's log was erased, 0 where it never was."""


class ReplicaLogs:
    """Makes, opens and erases the logs of one node."""

    def __init__(self, node: int, log: RaftLog, writer: LogWriter, running: Container[int]) -> None:
        """`running`: the groups that this node takes part in now."""
        self._node = node
        self._log = log
        self._writer = writer
        self._running = running

    @property
    def groups(self) -> list[int]:
        """All groups that the log holds anything of, if only the term and vote of one that was left."""
        return self._log.groups()

    def open(
        self, group_id: int, voters: Sequence[int], *, applied: int, applied_term: int
    ) -> OpenLog:
        """Open a group's log, or make it where there is none, for `RaftHost.add_group`, whose errors it raises."""
        if group_id not in self._log.groups():
            if applied:
                raise _lost_log(group_id, applied, 0)
            self._create_at_once(group_id, voters)
        proof = self._log.lost(group_id)
        if proof:
            raise lost_acknowledged(group_id, self._node, proof)
        settle_note(self._log, group_id, applied)
        storage = self._log.storage(group_id)
        check_founders(group_id, storage, _first_members(group_id, voters))
        check_database(group_id, storage, applied, applied_term)
        return OpenLog(storage, read_members(storage, applied), self._log.removed_at(group_id))

    async def create(self, group_id: int, voters: Sequence[int], *, applied: int) -> None:
        """Make a group's log before an `add_group` while the host runs, since that would block for its write."""
        if group_id not in self._log.groups() and not applied:
            conf_state = _first_members(group_id, voters)
            await self._writer.write(lambda: self._writer.batch.create(group_id, conf_state))

    def is_member_behind(self, group_id: int, index: int) -> bool:
        """Return whether the log makes this node a member again behind `index`, where it was removed.

        Such a node may have acknowledged what counts, before it has heard that it may: it must not leave. A damaged log
        doesn't tell, so the answer is no.
        """
        if group_id not in self._log.groups():
            return False
        try:
            return is_member_behind(self._log.storage(group_id), index, self._node)
        except CorruptData:
            return False

    def holds_entries(self, group_id: int) -> bool:
        """Return whether there is more of the group than the term and vote that its erasure leaves behind."""
        if group_id not in self._log.groups():
            return False
        try:
            return (
                not self._log.removed_at(group_id) or self._log.storage(group_id).last_index() > 0
            )
        except CorruptData:
            return True

    async def erase(self, group_id: int, voters: Sequence[int], *, removed_at: int) -> None:
        """Erase the log of a group that this node has left, damaged or not, but keep its term and vote.

        If the node becomes a member again, its log begins anew and its votes still hold, so its id needn't be another.
        Members that don't know of its removal at `removed_at` may still count what it had acknowledged. So it has no part
        in elections until its log says that it was added again, because by then it holds all of that again. Its removal
        must be committed before this is called, and the AccountDB must have lost the bucket's rows: a database ahead of
        its log would look like a lost log.

        Raises:
            CorruptData: term and vote can't be read: this node can't hold the group again under its id.
        """
        assert removed_at > 0, (
            "a log is erased behind the entry that removed its node, and for nothing else"
        )
        assert group_id not in self._running, f"group {group_id} hasn't left"
        await self._writer.write(lambda: None)  # what was in flight is in the log now
        hard_state = self._log.hard_state(group_id)
        conf_state = _first_members(group_id, voters)

        def erase() -> None:
            batch = self._writer.batch
            batch.drop(group_id)
            batch.create(group_id, conf_state, removed_at=removed_at)
            batch.set_hard_state(group_id, HardState(hard_state.term, hard_state.vote))

        await self._writer.write(erase)

    def write_lost(self, group_id: int, proof: str) -> None:
        """Have it on the disk that a group's log has lost what this node had acknowledged: no later start opens it."""
        self._writer.batch.set_lost(group_id, proof)
        self._writer.submit(sync=True)

    def _create_at_once(self, group_id: int, voters: Sequence[int]) -> None:
        batch = self._log.batch()
        batch.create(group_id, _first_members(group_id, voters))
        # Durable with the group's first vote or entry: until then nobody has heard of it, and it can be made anew.
        batch.commit(sync=False)


def check_founders(group: int, storage: Storage, founders: ConfState) -> None:
    """Refuse a log that holds all since the group's beginning, and began with other voters.

    Raises:
        CorruptData: the log is another group's.
    """
    began = storage.initial_state()[1]
    if storage.first_index() == 1 and began != founders:
        raise CorruptData(
            f"bucket {group}: its log began with the voters {list(began.voters)}, and the cluster was founded with "
            f"{list(founders.voters)}: this isn't a log of this cluster. Give this node the data directory that it had"
        )


def check_database(group: int, storage: Storage, applied: int, applied_term: int) -> None:
    """Refuse a log that the AccountDB's state can't have come from (rule 28, snapshots).

    Raises:
        LostLog: the database is ahead of the log.
        CorruptData: they hold different entries at the same index.
    """
    last = storage.last_index()
    if applied > last:
        raise _lost_log(group, applied, last)
    held = storage.first_index() - 1 <= applied
    if held and applied_term and storage.term(applied) != applied_term:
        raise CorruptData(
            f"bucket {group}: the AccountDB has applied index {applied} of term {applied_term}, and the "
            f"log holds it with term {storage.term(applied)}: they don't belong together. Give "
            "this node the database or the data directory that it had"
        )


def _lost_log(group: int, applied: int, last: int) -> LostLog:
    return LostLog(
        f"bucket {group}: the AccountDB has applied index {applied}, and the log ends at {last}: "
        "the log was lost, and what this node has promised with it. Remove the node from the "
        "bucket, clear its data and add it again under a new id"
    )


def _first_members(group_id: int, voters: Sequence[int]) -> ConfState:
    assert voters, f"bucket {group_id} began with nobody"
    return ConfState(voters=tuple(sorted(voters)))
