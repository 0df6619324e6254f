"""Leaders spread evenly, move a few at a time, and then stay."""

from typing import TYPE_CHECKING

import pytest

from mas.multiraft import RaftGroup
from mas.raft import ConfChange, ConfChangeSingle, ConfChangeType, Role

if TYPE_CHECKING:
    from tests.multiraft.conftest import Cluster, Node

pytestmark = pytest.mark.asyncio

LOOK = 40


def led(node: "Node") -> list[int]:
    groups = node.host.groups.values()
    return [group.id for group in groups if group.role is Role.LEADER]


def counts(cluster: "Cluster") -> list[int]:
    return sorted(len(led(node)) for node in cluster.nodes.values() if node.is_running)


async def even(cluster: "Cluster", total: int) -> None:
    """Return once all groups are led, by all running nodes alike."""

    def is_even() -> bool:
        found = counts(cluster)
        return sum(found) == total and found[-1] - found[0] <= 1

    await cluster.wait(is_even, 20)


async def stays(cluster: "Cluster") -> None:
    """Three looks later every group is where it was."""
    before = [led(node) for node in cluster.nodes.values()]
    node = cluster.nodes[1]
    until = node.host._quiescence._now + 5 * LOOK
    await cluster.wait(lambda: node.host._quiescence._now > until)
    assert [led(node) for node in cluster.nodes.values()] == before


async def uneven(cluster: "Cluster", groups: int, *, look: int = LOOK) -> "Node":
    """Three nodes, one of which is just back and leads nothing."""
    await cluster.start(groups=groups, balance_tick=look)
    for group in range(1, groups + 1):
        await cluster.leader(group)
    back = cluster.nodes[3]
    await back.kill()
    for group in range(1, groups + 1):
        await cluster.leader(group)
    await cluster.restart(back)
    await cluster.wait(lambda: all(group.leader for group in back.host.groups.values()))
    return back


async def test_a_node_that_is_back_leads_its_part_again_and_then_nothing_moves(
    cluster: "Cluster",
) -> None:
    back = await uneven(cluster, 10)

    await even(cluster, 10)

    assert len(led(back)) in (3, 4)
    await stays(cluster)


async def test_nothing_is_lost_while_leaders_move(cluster: "Cluster") -> None:
    await uneven(cluster, 6)
    number = 0
    while counts(cluster)[0] < 2:
        for group in range(1, 7):
            leader = await cluster.leader(group)
            leader.machines[group].group.propose(number, b"%d" % number)
        number += 1
        turns = leader.host.statistics().turns
        await cluster.wait(lambda turns=turns, host=leader.host: host.statistics().turns > turns)

    for group in range(1, 7):
        await cluster.wait(lambda group=group: is_whole(cluster, group, number))


def is_whole(cluster: "Cluster", group: int, number: int) -> bool:
    """Every node has applied all that was proposed and not refused, once."""
    machines = [node.machines[group] for node in cluster.nodes.values()]
    refused = [one.number for machine in machines for one in machine.refused]
    expected = [b"%d" % one for one in range(number) if one not in refused]
    return bool(expected) and all(sorted(m.data) == sorted(expected) for m in machines)


async def one_leads(cluster: "Cluster", groups: int) -> "Node":
    """One node leads all groups, which rest, and would look for itself no sooner than asked."""
    await cluster.start(groups=groups)
    for group in range(1, groups + 1):
        await cluster.leader(group)
    one = max(cluster.nodes.values(), key=lambda node: len(led(node)))
    for node in cluster.followers(one):
        for group in led(node):
            node.host.groups[group].transfer_leadership(one.id)
    await cluster.wait(lambda: len(led(one)) == groups and not one.host._quiescence.awake)
    one.host._balancer._period = 0
    return one


async def test_no_more_is_moved_than_makes_it_even(cluster: "Cluster") -> None:
    giver = await one_leads(cluster, 10)

    assert giver.host._balancer._even_out() == 6

    await even(cluster, 10)
    assert len(led(giver)) == 4


async def test_a_look_moves_a_bounded_number(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mas.multiraft.leader_balancer._MOVES_PER_LOOK", 2)
    giver = await one_leads(cluster, 12)

    assert giver.host._balancer._even_out() == 2

    handing = [
        group
        for group in giver.host.groups.values()
        if group.status().raft.lead_transferee or group.role is not Role.LEADER
    ]
    assert len(handing) == 2
    assert {group.status().raft.lead_transferee for group in handing} == {
        node.id for node in cluster.followers(giver)
    }, "each goes to whoever leads least by then"


async def test_where_much_is_to_be_moved_the_next_look_is_soon(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mas.multiraft.leader_balancer._MOVES_PER_LOOK", 2)
    giver = await one_leads(cluster, 12)
    balance = giver.host._balancer
    balance._period, balance._ticks_left = 20, 1_000_000
    await cluster.wait(lambda: len(giver.host._quiescence.candidate_loads(steady_for=20)) == 2)

    balance.tick(1_000_000)

    assert balance._ticks_left == giver.host._config.election_tick


async def test_a_node_just_back_gets_nothing_yet(cluster: "Cluster") -> None:
    back = await uneven(cluster, 6, look=400)
    giver = cluster.nodes[1]
    await cluster.wait(lambda: 3 in giver.host._quiescence.candidate_loads(steady_for=0))

    for node in cluster.followers(back):
        node.host._balancer._even_out()

    assert 3 not in giver.host._quiescence.candidate_loads(steady_for=400)
    assert all(
        group.status().raft.lead_transferee != 3
        for node in cluster.followers(back)
        for group in node.host.groups.values()
    )


async def test_who_is_behind_or_no_voter_is_no_transfer_candidate(
    cluster: "Cluster", make_node: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RaftGroup, "_promote_learner", lambda _group: None)
    await cluster.start(nodes=(1, 2, 3))
    leader = await cluster.leader()
    learner = make_node(4, cluster.network, cluster.folder)
    await learner.start({1: (1, 2, 3)})
    single = ConfChangeSingle(ConfChangeType.ADD_LEARNER, 4)
    leader.machines[1].group.change_members(ConfChange((single,)))
    await cluster.wait(lambda: 4 in learner.host.groups[1].status().raft.conf_state.learners)
    behind, able = (node for node in cluster.followers(leader) if node is not learner)
    await cluster.wait(lambda: len(leader.host.groups[1].transfer_candidates()) == 2)
    behind.log.gate.clear()

    await cluster.propose(leader, b"a")

    assert leader.host.groups[1].transfer_candidates() == (able.id,)
    behind.log.gate.set()


async def test_a_silent_node_is_no_transfer_candidate(cluster: "Cluster") -> None:
    await cluster.start(groups=2)
    leader = await cluster.leader()
    silent, other = cluster.followers(leader)
    transfer_candidates = leader.host._quiescence.candidate_loads
    await cluster.wait(
        lambda: sorted(transfer_candidates(steady_for=0)) == sorted((silent.id, other.id))
    )

    cluster.network.cut.append(silent.id)

    await cluster.wait(lambda: list(transfer_candidates(steady_for=0)) == [other.id])


async def test_a_node_that_drains_gives_to_all_alike(cluster: "Cluster") -> None:
    leaving = await one_leads(cluster, 9)

    leaving.host.transfer_leadership()

    await cluster.wait(lambda: counts(cluster) == [0, 4, 5])
    assert led(leaving) == []


async def test_a_node_that_drains_gets_nothing_back(cluster: "Cluster") -> None:
    await cluster.start(groups=9, balance_tick=LOOK)
    for group in range(1, 10):
        await cluster.leader(group)
    await even(cluster, 9)
    leaving = cluster.nodes[3]

    leaving.host.transfer_leadership()

    await cluster.wait(lambda: counts(cluster) == [0, 4, 5])
    assert led(leaving) == []
    await stays(cluster)


async def test_a_node_that_drains_gives_on_what_comes_to_it(cluster: "Cluster") -> None:
    await cluster.start(balance_tick=LOOK)
    leader = await cluster.leader()
    leaving = cluster.followers(leader)[0]
    leaving.host.transfer_leadership()

    leader.host.groups[1].transfer_leadership(leaving.id)

    await cluster.wait(lambda: led(leaving))
    await cluster.wait(lambda: not led(leaving))
