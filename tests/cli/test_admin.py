"""`mas admin` against a real NodeService over operations of paper: what is asked for, in which order, shown, and for how long."""

import asyncio
import json
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from mas import errors
from mas.cli import cli
from mas.client import Profile, profile
from mas.config import Config, ListenConfig, NodeConfig, TlsConfig, format_config
from mas.files import write_private
from mas.membership import BucketMembers
from mas.rpc.messages import FollowerView, ReplicaState, ReplicaView
from mas.runtime import SystemClock
from tests.api.edge import SECRET, certificate
from tests.api.test_node_service import ROSTER, Operations, serving

LEADER = ReplicaView(
    0,
    1,
    1,
    ReplicaState.RUNNING,
    leading=True,
    leader=1,
    term=5,
    last_index=200,
    applied=199,
    flushed=150,
    voters=(1, 2),
    learners=(4,),
    followers=(FollowerView(4, 100, active=True, snapshot=False),),
)
OWN = ReplicaView(0, 1, 4, ReplicaState.RUNNING, term=5, voters=(1, 2), learners=(4,))


def seen(leader: ReplicaView = LEADER, own: ReplicaView | None = OWN, **of_own: object) -> list:
    if own is None:
        return [leader]
    return [leader, msgspec.structs.replace(own, **of_own)]


VOTES = seen(msgspec.structs.replace(LEADER, voters=(1, 2, 4), learners=()))
ABSENT = msgspec.structs.replace(OWN, state=ReplicaState.ABSENT)


class Script(Operations):
    """Shows one view after the other, the last for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[list[ReplicaView]] = [VOTES]
        self.owns: list[ReplicaView | errors.MasError] = [OWN, ABSENT]

    async def replicas(self, bucket: int) -> list[ReplicaView]:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    async def replica(self, bucket: int, node: int) -> ReplicaView:
        self._note("look at", bucket, node)
        found = self.owns.pop(0) if len(self.owns) > 1 else self.owns[0]
        if isinstance(found, errors.MasError):
            raise found
        return found


class PatientClock(SystemClock):
    """Time passes by what is slept, and never because the machine is busy."""

    def __init__(self) -> None:
        self._slept = 0.0

    def monotonic(self) -> float:
        return self._slept

    async def sleep(self, seconds: float) -> None:
        self._slept += seconds
        await super().sleep(0)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MAS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("mas.runtime.SystemClock", PatientClock)
    write_private(tmp_path / "secret", SECRET)
    (tmp_path / "ca.crt").write_bytes(certificate()[0])
    return tmp_path


@pytest.fixture
def script(home: Path) -> Iterator[Script]:
    """Served on a loop of its own: each command runs a loop too."""
    ready, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    made = Script()
    where: list[str] = []

    async def serve() -> None:
        async with serving(made) as address:
            where.append(address)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(5)
    profile.write(
        Profile(
            "nowhere:1",
            str(home / "ca.crt"),
            node_service=where[0],
            secret_file=str(home / "secret"),
        )
    )
    yield made
    loop.call_soon_threadsafe(stop.set)
    thread.join(5)
    loop.close()


def mas(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, ("admin", *arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    assert "Traceback" not in result.stderr
    return result


# -- looking -------------------------------------------------------------------------------------------


def test_members_for_people(script: Script) -> None:
    script.looks = [seen(own=None)]
    lines = mas("members", "1").stdout.splitlines()
    assert lines[1].split() == ["1", "h1:1", "rm"]
    assert lines[2].split() == ["2", "h2:1", "tm", "rack", "retired"]
    assert lines[-2].split() == ["1", "1", "leader", "5", "199", "150", "running"]
    assert lines[-1].split() == ["1", "4", "learner", "doesn't", "answer"]


def test_members_for_programs(script: Script) -> None:
    stopped = {"state": ReplicaState.STOPPED, "trouble": "damaged"}
    script.looks = [seen(**stopped)]
    tree = json.loads(mas("members", "--json").stdout)
    assert tree["cluster"] == "mas"
    assert [node["node"] for node in tree["nodes"]] == [1, 2, 4]
    assert all(node["store"] is None for node in tree["nodes"])
    assert sorted(tree["buckets"]) == ["1", "2"]
    leader, own = tree["buckets"]["1"]
    assert (leader["leading"], leader["followers"][0]["match"]) == (True, 100)
    assert (own["state"], own["trouble"]) == ("STOPPED", "damaged")
    script.looks = [seen(**stopped)]
    assert "learner" in (line := mas("members", "1").stdout.splitlines()[-1])
    assert line.endswith("stopped: damaged")


# -- adding --------------------------------------------------------------------------------------------


def test_adding_shows_how_the_replica_catches_up(script: Script) -> None:
    nobody = msgspec.structs.replace(LEADER, leading=False)
    waits = (FollowerView(4, 0, active=True, snapshot=True),)
    script.looks = [
        seen(),  # the reply to the change itself
        seen(own=None),
        seen(nobody),
        seen(msgspec.structs.replace(LEADER, followers=waits)),
        seen(received=1 << 19, size=1 << 20),
        seen(received=1 << 19, size=1 << 20),
        seen(state=ReplicaState.STOPPED, trouble="no disk"),
        seen(),
        VOTES,
    ]
    result = mas("replica", "add", "1", "4")
    assert result.exit_code == 0
    assert script.asked == [("add replica", 1, 4)]
    assert result.stdout.splitlines() == [
        "node 4: it doesn't answer yet",
        "node 4: the bucket has no leader at this moment",
        "node 4: waits for a snapshot",
        "node 4: snapshot, 50 % of 1.0 MiB",
        "node 4: no disk",
        "node 4: 100 of 200 entries",
        "node 4 is a voter of bucket 1",
    ]


def test_a_replica_that_does_not_move_is_waited_for_no_longer_than_said(script: Script) -> None:
    """A node that was dead was waited for for ever."""
    grows = [msgspec.structs.replace(LEADER, last_index=200 + n) for n in range(10_000)]
    script.looks = [seen(leader) for leader in grows]
    result = mas("replica", "add", "1", "4", "--timeout", "0.3")
    assert result.exit_code == 3
    assert "nothing moves for 0.3 s (100 of " in result.stderr
    assert len(script.looks) > 9_900, "that the leader's log grows is no move of the replica's"
    script.looks = [seen(own=None)]
    result = mas("replica", "add", "1", "4", "--timeout", "0.3")
    assert result.exit_code == 3
    assert "nothing moves for 0.3 s (it doesn't answer yet)" in result.stderr
    assert "goes on from there" in result.stderr


def test_a_replica_that_moves_is_waited_for(script: Script) -> None:
    script.looks = [seen(received=n, size=100) for n in range(90) for _ in range(2)] + [VOTES]
    result = mas("replica", "add", "1", "4", "--timeout", "0.5")
    assert result.exit_code == 0


def test_a_replica_that_somebody_takes_away_meanwhile_is_not_waited_for(script: Script) -> None:
    script.looks = [seen(), seen(), seen(msgspec.structs.replace(LEADER, learners=()))]
    result = mas("replica", "add", "1", "4")
    assert result.exit_code == 3
    assert "node 4 was taken out of bucket 1 meanwhile" in result.stderr


# -- rebuilding ----------------------------------------------------------------------------------------


def test_rebuilding_takes_out_waits_for_the_erasure_and_adds(script: Script) -> None:
    erasing = {"state": ReplicaState.STOPPED, "trouble": "it is being erased"}
    script.owns = [
        OWN,
        OWN,
        msgspec.structs.replace(OWN, **erasing),
        errors.Unavailable("not connected"),
        ABSENT,
    ]
    result = mas("replica", "rebuild", "1", "4")
    assert result.exit_code == 0
    assert script.asked == [
        ("look at", 1, 4),
        ("remove replica", 1, 4),
        *[("look at", 1, 4)] * 4,
        ("add replica", 1, 4),
    ]
    assert result.stdout.splitlines() == [
        "node 4 is out of bucket 1",
        "node 4: it hasn't heard of its removal yet",
        "node 4: it is being erased",
        "node 4: not connected",
        "its copy is erased; it is built anew from the others",
        "node 4 is a voter of bucket 1",
    ]


def test_a_dead_node_is_not_taken_out_to_be_rebuilt(script: Script) -> None:
    """It was, and then waited for for ever."""
    script.owns = [errors.Unavailable("node 4: not connected")]
    result = mas("replica", "rebuild", "1", "4")
    assert (result.exit_code, result.stdout) == (3, "")
    assert script.asked == [("look at", 1, 4)]


def test_a_node_that_dies_while_it_is_rebuilt_is_given_up(script: Script) -> None:
    script.owns = [OWN, errors.Unavailable("node 4: not connected")]
    result = mas("replica", "rebuild", "1", "4", "--timeout", "0.2")
    assert result.exit_code == 3
    assert "nothing moves for 0.2 s (node 4: not connected)" in result.stderr
    assert ("add replica", 1, 4) not in script.asked


def test_what_has_lost_its_promises_is_not_rebuilt(script: Script) -> None:
    lost = "damaged. Its term and vote are lost too: retire this node, and join a new one"
    script.owns = [OWN, msgspec.structs.replace(OWN, state=ReplicaState.STOPPED, trouble=lost)]
    result = mas("replica", "rebuild", "1", "4")
    assert result.exit_code == 1
    assert "retire this node" in result.stderr
    assert ("add replica", 1, 4) not in script.asked


def test_a_rebuild_without_a_quorum_changes_nothing(script: Script) -> None:
    def refuse(*_: object, timeout: float = 0.0) -> None:
        raise errors.DeadlineExceeded("of which only [1] answer: bring the others back first")

    script.remove_replica = refuse  # type: ignore[method-assign]
    result = mas("replica", "rebuild", "1", "4")
    assert result.exit_code == 3
    assert "bring the others back first" in result.stderr
    assert script.asked == [("look at", 1, 4)]


# -- the others ----------------------------------------------------------------------------------------


def test_removing_transferring_and_retiring(script: Script) -> None:
    assert mas("replica", "remove", "2", "4").stdout == "node 4 holds bucket 2 no more\n"
    assert mas("transfer-leader", "2", "1").stdout == "node 1 leads bucket 2\n"
    retired = mas("node", "retire", "4").stdout
    assert retired == "node 4 has left the cluster; its id is never used again\n"
    assert script.asked == [("remove replica", 2, 4), ("transfer", 2, 1), ("retire", 4)]


def test_draining_takes_a_node_out_of_every_bucket_that_it_holds(script: Script) -> None:
    held = (
        BucketMembers(1, (1,), 9, (1, 4)),
        BucketMembers(2, (1,)),
        BucketMembers(3, (1,), 7, (1,), (4,)),
    )
    script.roster = msgspec.structs.replace(ROSTER, buckets=held)
    result = mas("node", "drain", "4")
    assert script.asked == [("remove replica", 1, 4), ("remove replica", 3, 4)]
    assert result.stdout.splitlines()[-1] == "node 4 holds nothing any more"
    script.roster = msgspec.structs.replace(ROSTER, buckets=())
    assert json.loads(mas("node", "drain", "4", "--json").stdout) == {"node": 4, "buckets": []}
    nobody = mas("node", "drain", "99")
    assert (nobody.exit_code, "there is no node 99" in nobody.stderr) == (1, True)


def test_too_few_are_left_with_a_warning(script: Script) -> None:
    script.looks = [seen(), seen(), seen(received=1, size=3), VOTES]
    result = mas("replica", "remove", "1", "4")
    assert "Warning: bucket 1 has 2 voters now and survives no failure" in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("members",),
        ("replica", "add", "1", "4"),
        ("replica", "remove", "1", "4"),
        ("replica", "rebuild", "1", "4"),
        ("transfer-leader", "1", "4"),
        ("node", "drain", "4"),
        ("node", "retire", "4"),
    ],
)
def test_a_program_gets_json_and_nothing_else(script: Script, command: tuple[str, ...]) -> None:
    script.looks = [seen(), seen(), seen(received=1, size=3), VOTES]
    result = mas(*command, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert isinstance(json.loads(result.stdout), dict)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotFound("there is no bucket 7"), 1),
        (errors.InvalidRequest("it still holds replicas"), 2),
        (errors.Unavailable("no leader"), 3),
        (errors.DeadlineExceeded("it isn't done in time"), 3),
    ],
)
def test_how_a_command_ends(script: Script, error: errors.MasError, code: int) -> None:
    script.fails = error
    for command in (("replica", "remove", "1", "4"), ("node", "retire", "4")):
        result = mas(*command, "--json")
        assert (result.exit_code, result.stdout) == (code, "")
        assert result.stderr == f"Error: {error}\n"


# -- where it is ---------------------------------------------------------------------------------------


def test_a_nodes_configuration_says_where_it_is(script: Script, home: Path) -> None:
    port = int(profile.read().node_service.rpartition(":")[2])
    (home / "tls").mkdir()
    (home / "tls" / "ca.crt").write_bytes(certificate()[0])
    write_private(home / "cluster.secret", SECRET)
    profile.default_path().unlink()
    for role, listen in (("rm", ListenConfig(rm=port)), ("tm", ListenConfig(node_service=port))):
        node = NodeConfig(role=role, data_dir=str(home))
        (home / "mas.toml").write_text(format_config(Config(node=node, listen=listen)))
        assert mas("node", "retire", "4", "--config", str(home / "mas.toml")).exit_code == 0
    assert len(script.asked) == 2


def test_options_say_where_it_is_without_any_profile(script: Script, home: Path) -> None:
    address = profile.read().node_service
    profile.default_path().unlink()
    options = ("--address", address, "--secret-file", str(home / "secret"))
    assert mas("members", *options, "--ca", str(home / "ca.crt")).exit_code == 0
    assert mas("members").exit_code == 2
    no_secret = mas("members", "--address", address)
    assert (no_secret.exit_code, "--secret-file" in no_secret.stderr) == (2, True)


def test_the_secret_never_travels_in_the_clear_unless_one_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a CA it did."""
    from mas.client import operator

    opened: list[bool] = []

    def refuse(address: str, ca: object, *, plaintext: bool) -> None:
        opened.append(plaintext)
        raise errors.ConfigError("as far as this test goes")

    monkeypatch.setattr(operator, "open_channel", refuse)
    bare = ("members", "--address", "h:1", "--secret-file", str(home / "secret"))
    mas(*bare)
    mas(*bare, "--plaintext")
    profile.write(
        Profile("h:1", plaintext=True, node_service="h:1", secret_file=str(home / "secret"))
    )
    mas("members")
    mas("members", "--ca", str(home / "ca.crt"))
    (home / "mas.toml").write_text(format_config(Config(tls=TlsConfig(enabled=False))))
    mas("members", "--config", str(home / "mas.toml"), "--secret-file", str(home / "secret"))
    assert opened == [False, True, True, False, True]


def test_a_profile_without_a_node_service_says_so(home: Path) -> None:
    profile.write(Profile("h:1", secret_file=str(home / "secret")))
    result = mas("members")
    assert (result.exit_code, "--address" in result.stderr) == (2, True)


def test_a_server_that_is_not_there(home: Path) -> None:
    options = ("--address", "127.0.0.1:1", "--secret-file", str(home / "secret"))
    result = mas("members", *options, "--timeout", "0.2")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "there is no connection to 127.0.0.1:1" in result.stderr


def test_whoever_interrupts_is_told_that_it_goes_on(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(talk: Coroutine[Any, Any, object]) -> None:
        talk.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(asyncio, "run", interrupted)
    result = mas("replica", "add", "1", "4")
    assert result.exit_code == 1
    assert "the same command goes on from there" in result.stderr
    assert not script.asked
