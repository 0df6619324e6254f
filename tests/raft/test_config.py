"""Settings that can't be are refused, by name."""

from typing import Any

import pytest

from mas.raft import Config, ConfigError, MemoryStorage, RawNode, ReadOnlyOption
from tests.raft.group import FixedDice


@pytest.mark.parametrize(
    "setting",
    [
        {"id": 0},
        {"heartbeat_tick": 0},
        {"election_tick": 2, "heartbeat_tick": 2},
        {"max_inflight_msgs": 0},
        {"applied": -1},
        {"max_size_per_msg": -1},
        {"max_committed_size_per_ready": -1},
        {"max_uncommitted_size": -1},
        {"read_only": ReadOnlyOption.LEASE, "check_quorum": False},
    ],
)
def test_a_setting_that_can_not_be_is_refused(setting: dict[str, Any]) -> None:
    config = Config(**{"id": 1, "rng": FixedDice(0), **setting})
    with pytest.raises(ConfigError):
        config.validate()
    with pytest.raises(ConfigError):
        RawNode(config, MemoryStorage())


def test_the_defaults_are_sound() -> None:
    config = Config(id=1, rng=FixedDice(0))
    config.validate()
    assert config.check_quorum
    assert config.pre_vote
    assert config.read_only is ReadOnlyOption.SAFE
