"""Settings have one default each, an explanation each, and no misspelling passes for a default."""

import inspect
from pathlib import Path
from typing import get_type_hints

import msgspec
import pytest

from mas import config
from mas.config import Config, format_config, load_config, parse_config
from mas.errors import ConfigError

STRUCTS = [
    value
    for _, value in inspect.getmembers(config, inspect.isclass)
    if issubclass(value, msgspec.Struct)
]

THREE_NODES = """
lock_timeout_seconds = 2
[node]
id = 2
role = "rm"
[[peers]]
id = 1
address = "10.0.0.1:12379"
roles = ["tm"]
[[peers]]
id = 2
address = "[::1]:12379"
[[peers]]
id = 3
address = "node3.example:12379"
[[buckets]]
id = 2
voters = [3, 1, 2]
[[buckets]]
id = 1
voters = [1, 2]

[shares.account]
calls = 7
"""


def test_an_empty_file_is_one_node_that_does_everything() -> None:
    settings = parse_config("")
    assert settings == Config()
    assert settings.node_ids() == (1,)
    listen = settings.listen
    assert (listen.api, listen.gls, listen.node_service) == (9008, 9009, 8008)
    assert (listen.rm, listen.peer) == (50041, 12379)
    assert listen.host == "127.0.0.1"


def test_a_file_names_what_differs() -> None:
    settings = parse_config(THREE_NODES)
    assert settings.node.id == 2
    assert settings.node.role == "rm"
    assert settings.node_ids() == (1, 2, 3)
    assert settings.peers[0].roles == ("tm",)
    assert settings.peers[1].roles == ("all",)
    assert settings.buckets[0].voters == (3, 1, 2)
    assert settings.lock_timeout_seconds == 2.0
    assert settings.raft == Config().raft
    assert settings.shares.account.calls == 7
    assert settings.shares.account.streams == Config().shares.account.streams


@pytest.mark.parametrize("text", ["", THREE_NODES])
def test_what_is_written_reads_back(text: str) -> None:
    settings = parse_config(text)
    assert parse_config(format_config(settings)) == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "lockin = 'escrow'",
            r"unknown key 'lockin' in the top level: known are locking, lock_timeout",
        ),
        ("[node]\nidd = 1", r"unknown key 'idd' in \[node\]: known are id, cluster_id"),
        (
            "[[peers]]\nadress = ''",
            r"unknown key 'adress' in \[peers\]: known are id, address, roles",
        ),
        ("[raft.tick]\nms = 1", r"unknown key 'tick' in \[raft\]"),
        ("locking = 'none'", "locking is 'none': expected one of escrow, exclusive"),
        ("[node]\nrole = 'master'", "node.role is 'master': expected one of all, tm, tc, gls, rm"),
        ("[[peers]]\nid=1\naddress='a:1'\nroles=['x']", "peers.roles is 'x': expected one of all"),
        ("[node]\nid = 0", r">= 1 - at `\$.node.id`"),
        ("[node]\nid = '1'", r"Expected `int`, got `str` - at `\$.node.id`"),
        ("[node.id]\nx = 1", r"Expected `int`, got `object` - at `\$.node.id`"),
        ("[listen]\napi = 65536", r"<= 65535 - at `\$.listen.api`"),
        ("lock_timeout_seconds = 0", r"> 0.0 - at `\$.lock_timeout_seconds`"),
        ("node = 3", r"at `\$.node`"),
        ("[node", "not a TOML file"),
        ("[raft]\nelection_tick = 1", "expected more than raft.heartbeat_tick, 1"),
        ("[[peers]]\nid = 2\naddress = 'a:1'", r"node.id is 1: expected one of the peers \[2\]"),
        ("[[peers]]\nid=1\naddress='a:1'\n[[peers]]\nid=1\naddress='a:2'", "name node 1 twice"),
        ("[[peers]]\nid = 1\naddress = 'a'", "peer 1 is 'a': expected \"host:port\""),
        ("[[peers]]\nid = 1\naddress = ':1'", 'expected "host:port"'),
        ("[[peers]]\nid = 1\naddress = 'a:0'", 'expected "host:port"'),
        ("buckets = []", "without gaps"),
        ("[[buckets]]\nid = 2\nvoters = [1]", "without gaps"),
        ("[[buckets]]\nid = 1\nvoters = []", r"expected some of the nodes \[1\]"),
        ("[[buckets]]\nid = 1\nvoters = [1, 9]", r"voters \[1, 9\]"),
        ("[[buckets]]\nid = 1\nvoters = [1, 1]", "voters of bucket 1 name node 1 twice"),
        ("[tls]\nca_file = 'ca.crt'", "or all of ca_file, cert_file and key_file"),
        ("[jwt]\nalgorithm = 'ES256'", "ES256 needs one"),
        ("[jwt]\nalgorithm = 'none'", "expected one of HS256, RS256, ES256, EdDSA"),
    ],
)
def test_what_is_wrong_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(text)


JOINS = '[node]\nid = 7\nrole = "rm"\njoin = "tm.example:8008"\n'


def test_a_node_that_joins_names_nobody_else() -> None:
    config = parse_config(JOINS + "hold = [2, 9]\n[listen]\npeer = 4000\n")
    assert (config.node.hold, config.address()) == ((2, 9), "127.0.0.1:4000")
    assert config.peers == ()
    named = parse_config(JOINS + 'address = "me:1"\n')
    assert named.address() == "me:1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (JOINS.replace('"rm"', '"tm"'), "node.role is 'tm': expected \"rm\""),
        (JOINS.replace('role = "rm"', ""), "node.role is 'all': expected \"rm\""),
        (
            JOINS + '[[peers]]\nid = 7\naddress = "h:1"\n',
            "and so are peers: expected one of the two",
        ),
        (JOINS.replace(":8008", ""), "node.join is 'tm.example': expected \"host:port\""),
        (JOINS + 'address = "me:99999"\n', "node.address is 'me:99999'"),
        (JOINS + "[listen]\npeer = 0\n", "node.address is '127.0.0.1:0'"),
        (JOINS + "hold = [0]\n", "hold"),
        ("[node]\nhold = [1, 2]\n", "node.hold is [1, 2] without node.join"),
    ],
)
def test_a_join_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    assert message in str(caught.value)


def test_an_even_number_of_voters_is_remarked() -> None:
    assert parse_config("").remarks() == []
    (remark,) = parse_config(THREE_NODES).remarks()
    assert remark.startswith("bucket 1 has 2 voters")


def test_a_node_that_nobody_else_can_reach_is_remarked() -> None:
    alone = THREE_NODES.replace("voters = [1, 2]", "voters = [1]").replace("[::1]", "10.0.0.2")
    (remark,) = parse_config(alone).remarks()
    assert (
        "listen.host is 127.0.0.1, and the others are to find this node at 10.0.0.2:12379" in remark
    )
    assert parse_config(alone + '[listen]\nhost = "10.0.0.2"\n').remarks() == []


def test_a_file_is_named_in_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "mas.toml"
    with pytest.raises(ConfigError, match=r"mas\.toml can't be read"):
        load_config(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"mas\.toml can't be read"):
        load_config(path)
    path.write_text("x = 1")
    with pytest.raises(ConfigError, match=r"mas\.toml: unknown key 'x'"):
        load_config(path)
    path.write_text(THREE_NODES)
    assert load_config(path) == parse_config(THREE_NODES)


@pytest.mark.parametrize("struct", STRUCTS)
def test_every_setting_is_explained(struct: type[msgspec.Struct]) -> None:
    lines = inspect.getsource(struct).splitlines()
    for field in struct.__annotations__:  # what is inherited is explained where it comes from
        if field == "buckets" or get_type_hints(struct)[field] in STRUCTS:
            continue  # a section: explained by its own docstring
        declared = next(n for n, line in enumerate(lines) if line.startswith(f"    {field}: "))
        assert lines[declared + 1].startswith('    """'), f"{struct.__name__}.{field}"


@pytest.mark.parametrize(
    ("role", "buckets", "coordinator", "locks"),
    [
        ("all", True, True, True),
        ("tm", False, True, True),
        ("tc", False, True, False),
        ("gls", False, False, True),
        ("rm", True, False, False),
    ],
)
def test_what_runs_where(role: str, buckets: bool, coordinator: bool, locks: bool) -> None:
    runs = parse_config(f"[node]\nrole = {role!r}").node.role
    assert (runs.runs_buckets, runs.runs_coordinator, runs.runs_locks) == (
        buckets,
        coordinator,
        locks,
    )
