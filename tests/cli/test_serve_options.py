"""`mas serve`'s options: each wins over the configuration's word, and together they have to make sense."""

from pathlib import Path

import pytest

from mas.cli.process import override
from mas.config import Config, ListenConfig, NodeConfig, PeerConfig
from mas.errors import ConfigError

JOINING = {"role": "rm", "node_id": 7, "join": "tm:8008"}


def test_nothing_said_changes_nothing() -> None:
    config = Config(node=NodeConfig(data_dir="d"), listen=ListenConfig(rm=4))
    assert override(config, dict.fromkeys(("role", "hold", "join", "address", "rm_port"))) == config


def test_what_is_said_wins() -> None:
    config = override(
        Config(node=NodeConfig(data_dir="d", host="rack")),
        JOINING
        | {
            "data_dir": Path("e"),
            "cluster_id": "b",
            "address": "me:1234",
            "secret_file": "s",
            "rm_port": 50,
            "tls_dir": Path("t"),
            "database": "mas7",
            "hold": "2, 1",
        },
    )
    node = config.node
    assert (node.id, node.role, node.join, node.hold) == (7, "rm", "tm:8008", (2, 1))
    assert (node.data_dir, node.cluster_id, node.host) == ("e", "b", "rack")
    assert (node.address, node.secret_file) == ("me:1234", "s")
    assert (config.listen.peer, config.listen.rm) == (1234, 50)
    assert (config.tls.directory, config.storage.database) == ("t", "mas7")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (JOINING | {"role": None}, "node.role is 'all'"),
        (JOINING | {"join": "tm"}, "node.join is 'tm'"),
        (JOINING | {"address": "me"}, "node.address is 'me'"),
        (JOINING | {"address": ":1"}, "node.address is ':1'"),
        (JOINING | {"hold": "1;2"}, "--hold is '1;2': expected ids like 1,2,3"),
        (JOINING | {"hold": "0"}, "hold"),
        (JOINING | {"node_id": 0}, ">= 1"),
        ({"hold": "1"}, "without node.join"),
        ({"rm_port": 70_000}, "<= 65535"),
    ],
)
def test_what_makes_no_sense_together_is_refused(given: dict, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override(Config(), given)
    assert words in str(caught.value)


def test_a_node_with_peers_does_not_join() -> None:
    config = Config(peers=(PeerConfig(id=1, address="a:1"), PeerConfig(id=7, address="b:1")))
    with pytest.raises(ConfigError, match="and so are peers"):
        override(config, JOINING)
