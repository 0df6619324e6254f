"""What the host is told at its start; the daemon fills it from `mas.config`."""

from pathlib import Path

import msgspec


class HostConfig(msgspec.Struct, frozen=True, kw_only=True):
    """This node, and the pace of its groups."""

    node: int
    snapshot_folder: Path
    """Snapshots on their way out and in; nothing in it is needed but by a note in the log (rule 28, snapshots)."""
    tick_ms: int = 100
    heartbeat_tick: int = 1
    """Ticks between a leader's heartbeats."""
    election_tick: int = 10
    """Ticks without a leader before a follower stands for election; up to twice that, by chance."""
    balance_tick: int = 100
    """Ticks between two looks at how evenly the leaders are spread, give or take half; a peer has been back for so many
    before it leads more."""
    log_margin_entries: int = 10_000
    """Entries kept behind what the AccountDB durably has (rule 26, durably applied)."""
    log_margin_seconds: float = 60.0
    """Seconds of entries kept likewise, at least."""
    log_write_seconds: float = 20.0
    """A write of the log that hasn't returned for so long ends the process: a disk that hangs is one that has failed."""
    snapshot_idle_seconds: float = 10.0
    """A follower that doesn't fetch for so long is offered its snapshot anew; one not served asks again in a fifth of it."""
