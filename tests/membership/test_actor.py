"""The membership actor: what is news goes on, what was known doesn't, and what others rest on is on disk first."""

import asyncio
import itertools

import msgspec
import pytest

from mas.channels import Channel
from mas.errors import DataDirectoryError, NetworkError, PeerRefused
from mas.ledger.rows import NodeRow
from mas.membership import BucketMembers, Membership, Roster
from mas.membership.actor import MALFORMED, WIPED
from mas.membership.roster import founding_roster
from mas.network.handshake import Refusal

ROSTER = founding_roster(
    tuple(NodeRow(node, f"h{node}:1", ("rm",)) for node in (1, 2, 3)), {1: (1, 2, 3), 2: (1, 2, 3)}
)
NEWS = Roster(buckets=(BucketMembers(1, (1, 2, 3), 9, (1, 2), ()),))
JOINED = Roster(register_index=4, register=(NodeRow(4, "h4:1", ("rm",), store=b"4" * 16),))


class Peers:
    def __init__(self) -> None:
        self.sent: list[tuple[int, Roster]] = []
        self.dialled: dict[int, str] = {}
        self.full: list[int] = []

    def send(self, peer: int, channel: int, payload: bytes) -> bool:
        assert channel == Channel.ROSTER
        if peer in self.full:
            return False
        self.sent.append((peer, msgspec.msgpack.decode(payload, type=Roster)))
        return True

    def add_peer(self, node: int, address: str = "") -> None:
        assert node not in self.dialled
        self.dialled[node] = address

    def remove_peer(self, node: int) -> None:
        del self.dialled[node]


class RosterFile:
    def __init__(self) -> None:
        self.written: list[Roster] = []
        self.fails: DataDirectoryError | None = None

    def write(self, roster: Roster) -> None:
        if self.fails is not None:
            raise self.fails
        self.written.append(roster)


class World:
    def __init__(self, node: int = 1, roster: Roster = ROSTER) -> None:
        self.peers, self.roster_file = Peers(), RosterFile()
        self.membership = Membership(node, roster, self.peers, self.roster_file)
        self.changes = 0
        self.membership.on_change(self._count)
        self.membership.start()

    def _count(self) -> None:
        self.changes += 1

    def meet(self, *nodes: int) -> None:
        for node in nodes:
            self.membership.on_peer(node, True)
        self.peers.sent.clear()

    def hear(self, peer: int, roster: Roster) -> None:
        self.membership.on_frame(peer, msgspec.msgpack.encode(roster))


def test_everybody_is_dialled_and_whoever_connects_hears_everything() -> None:
    world = World()
    assert world.peers.dialled == {2: "h2:1", 3: "h3:1"}
    world.membership.on_peer(2, True)
    assert world.peers.sent == [(2, ROSTER)]


def test_news_goes_to_all_but_its_source_and_old_news_to_nobody() -> None:
    world = World()
    world.meet(2, 3)
    world.hear(2, NEWS)
    world.hear(2, NEWS)
    world.hear(3, ROSTER)
    assert world.peers.sent == [(3, NEWS)]
    assert world.changes == 2, "at the start, and once"
    assert world.membership.roster.holders()[1].voters == (1, 2)


@pytest.mark.parametrize("index", [0, 9])
def test_a_cluster_that_was_founded_otherwise_is_refused(
    index: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Two files that differed at the creation gave a bucket two leaders of one term, and nobody said so."""
    world = World()
    world.meet(2, 3)
    strange = Roster(buckets=(BucketMembers(1, (3,), index, (3,)),))
    for _ in range(3):
        with pytest.raises(NetworkError, match=r"\[3\] by node 3's word, and with \[1, 2, 3\]"):
            world.hear(3, strange)
    assert world.membership.roster == ROSTER
    assert world.peers.sent == []
    assert len([record for record in caplog.records if record.levelname == "CRITICAL"]) == 1
    world.hear(3, ROSTER)
    with pytest.raises(NetworkError):
        world.hear(3, strange)
    assert len([record for record in caplog.records if record.levelname == "CRITICAL"]) == 2


def test_news_of_few_buckets_are_no_disagreement() -> None:
    world = World()
    world.meet(2, 3)
    world.hear(3, NEWS)
    assert world.membership.roster.holders()[1].index == 9


def test_whoever_is_gone_hears_nothing() -> None:
    world = World()
    world.meet(2, 3)
    world.membership.on_peer(3, False)
    world.hear(2, NEWS)
    assert world.peers.sent == []


def test_news_that_found_no_room_is_told_again() -> None:
    """It was lost until the next connection, and with it a removed node's news of its removal."""
    world = World()
    world.meet(2, 3)
    world.peers.full = [3]
    world.hear(2, NEWS)
    assert world.peers.sent == []
    world.peers.full = []
    world.membership.tell_all()
    assert (3, world.membership.roster) in world.peers.sent


def test_a_node_that_joined_is_dialled_one_that_moved_anew_one_that_left_no_more() -> None:
    world = World()
    world.hear(2, JOINED)
    assert world.peers.dialled[4] == "h4:1"
    moved = (NodeRow(4, "h5:1", ("rm",), store=b"4" * 16),)
    world.hear(2, Roster(register_index=5, register=moved))
    assert world.peers.dialled[4] == "h5:1"
    retired = (NodeRow(2, retired=True), NodeRow(4, "h5:1", retired=True))
    world.hear(2, Roster(register_index=6, register=retired))
    assert world.peers.dialled == {3: "h3:1"}


def test_a_group_of_this_node_is_news_once() -> None:
    world = World()
    world.meet(2)
    changed = BucketMembers(1, (1, 2, 3), 9, (1, 2, 3), (4,))
    world.membership.learn_members(changed)
    world.membership.learn_members(msgspec.structs.replace(changed, index=12))
    world.membership.learn_members(BucketMembers(1, (1, 2, 3), 3, (1, 3)))
    assert world.peers.sent == [(2, Roster(buckets=(changed,)))], "neither older nor the same again"


@pytest.mark.parametrize(
    "roster",
    [
        Roster(buckets=(BucketMembers(3, (1,), 1, (1,)),)),
        Roster(buckets=(BucketMembers(1, (1,), 1, ()),)),
        Roster(register_index=5, register=(NodeRow(5, "h:1"), NodeRow(4, "h:1"))),
    ],
)
def test_a_peers_nonsense_changes_nothing(roster: Roster) -> None:
    """A bucket without voters was an assertion of the router's; a bucket too many would have been held."""
    world = World()
    with pytest.raises(NetworkError):
        world.hear(2, roster)
    with pytest.raises(NetworkError):
        world.membership.on_frame(2, b"\xc1")
    assert world.membership.roster == ROSTER
    assert world.changes == 1


# -- wiped nodes ---------------------------------------------------------------------------------------


def test_a_node_that_comes_back_wiped_is_refused_also_once_it_holds_nothing() -> None:
    """Drained, it was let in again empty-handed beside its living twin."""
    world = World()
    world.membership.recognise(2, b"a" * 16)
    world.membership.recognise(2, b"a" * 16)
    with pytest.raises(
        PeerRefused, match="node 2 has come back without the data directory"
    ) as caught:
        world.membership.recognise(2, b"b" * 16)
    assert caught.value.reason == "wiped"
    gone = (BucketMembers(1, (1, 2, 3), 9, (1, 3)), BucketMembers(2, (1, 2, 3), 9, (1, 3)))
    world.hear(3, Roster(buckets=gone))
    with pytest.raises(PeerRefused):
        world.membership.recognise(2, b"b" * 16)


def test_a_coordinator_may_come_back_without_its_data() -> None:
    manager = (NodeRow(9, "h9:1", ("tm",)),)
    world = World(roster=ROSTER.merge(Roster(founders=manager))[0])
    world.membership.recognise(9, b"a" * 16)
    world.membership.recognise(9, b"b" * 16)


def test_a_store_is_on_disk_before_anything_of_its_node_counts() -> None:
    """A crash behind the first meeting would have let a wiped node vote again."""
    world = World()
    world.membership.recognise(2, b"a" * 16)
    assert world.roster_file.written[-1].store_of(2) == b"a" * 16


def test_what_is_no_store_is_refused() -> None:
    """Kept, it would have spoilt every roster that this node sends."""
    world = World()
    for store in (b"", b"x" * 15, b"x" * 1_000):
        with pytest.raises(PeerRefused, match="expected 16") as caught:
            world.membership.recognise(2, store)
        assert caught.value.reason == "malformed"
    assert world.membership.roster == ROSTER


def test_the_words_are_the_networks() -> None:
    assert {WIPED, MALFORMED} <= set(Refusal)


def test_a_store_is_told_to_the_others() -> None:
    world = World()
    world.meet(3)
    world.membership.recognise(2, b"a" * 16)
    assert world.peers.sent == [(3, Roster(stores=((2, b"a" * 16),)))]


def test_a_node_that_joined_is_known_by_the_register() -> None:
    world = World(roster=ROSTER.merge(JOINED)[0])
    world.membership.recognise(4, b"4" * 16)
    with pytest.raises(PeerRefused):
        world.membership.recognise(4, b"x" * 16)


# -- the file ------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_disk_that_is_full_is_never_passed_over() -> None:
    """Who listens may not see the error of whoever called: the actor fails, and the process with it."""
    world = World()
    world.roster_file.fails = DataDirectoryError("no space left")
    with pytest.raises(DataDirectoryError):
        world.membership.recognise(2, b"a" * 16)
    world.membership.recognise(2, b"a" * 16)
    async with asyncio.timeout(5):
        with pytest.raises(DataDirectoryError):
            await world.membership.run()


@pytest.mark.asyncio
async def test_what_is_learnt_is_kept() -> None:
    world = World()
    task = asyncio.get_running_loop().create_task(world.membership.run())
    await asyncio.sleep(0)
    assert world.roster_file.written == [], "nothing is new"
    world.hear(2, NEWS)
    for _ in itertools.takewhile(lambda _: not world.roster_file.written, range(100)):
        await asyncio.sleep(0)
    assert world.roster_file.written == [world.membership.roster]
    world.membership.save()
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(world.roster_file.written) == 2, "what was saved isn't saved again"
    task.cancel()
