"""How one Raft node behaves: its timeouts in ticks, its limits in bytes, its options."""

from enum import IntEnum
from typing import Protocol

import msgspec

from mas.raft.errors import ConfigError


class Dice(Protocol):
    """The only source of chance; `random.Random` fits."""

    def randrange(self, stop: int, /) -> int:
        """Return a number from 0 up to, not including, `stop`."""
        ...


class ReadOnlyOption(IntEnum):
    """How a leader makes sure that it still leads before it answers a read.

    SAFE asks a quorum, once for each batch of reads (dissertation, 6.4). LEASE trusts the lease that
    check-quorum gives, counted in ticks (6.4.1); a host serves by it only under rule 32.
    """

    SAFE = 0
    LEASE = 1


class Config(msgspec.Struct, kw_only=True):
    """The settings of one node.

    A follower campaigns after `election_tick + rng.randrange(election_tick)` ticks of silence.
    `applied` is the last applied index after a restart; above the persisted commit, whose write needs
    no sync, commit is raised to it (rule 27, commits and members). Sizes are bytes of entry data: `max_size_per_msg` of one
    APPEND (0: one entry), `max_committed_size_per_ready` of what one Ready hands out,
    `max_uncommitted_size` of what a leader holds uncommitted (0: no limit). Each of the three
    admits one entry whatever its size. `life` tells the answers of a replica that was erased and begins
    anew from those of its lives before: it grows with each, and is 0 in the first.
    """

    id: int
    rng: Dice
    election_tick: int = 10
    heartbeat_tick: int = 1
    applied: int = 0
    life: int = 0
    max_size_per_msg: int = 1 << 20
    max_committed_size_per_ready: int = 1 << 22
    max_uncommitted_size: int = 1 << 26
    max_inflight_msgs: int = 256
    check_quorum: bool = True
    pre_vote: bool = True
    read_only: ReadOnlyOption = ReadOnlyOption.SAFE

    def validate(self) -> None:
        """Raise ConfigError at the first setting that can't be."""
        at_least = {
            "id": 1,
            "heartbeat_tick": 1,
            "election_tick": self.heartbeat_tick + 1,
            "max_inflight_msgs": 1,
            "applied": 0,
            "life": 0,
            "max_size_per_msg": 0,
            "max_committed_size_per_ready": 0,
            "max_uncommitted_size": 0,
        }
        for name, least in at_least.items():
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}")
        if self.read_only is ReadOnlyOption.LEASE and not self.check_quorum:
            raise ConfigError(
                "LEASE reads rest on check_quorum, which is off: turn it on or read SAFE"
            )
