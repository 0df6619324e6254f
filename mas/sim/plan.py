"""What a run has to bear: classes of faults, and how hard each seed makes them.

Every seed leaves some classes out and makes others worse: faults that are always all there hide one another.
"""

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from mas.runtime import Dice
from mas.sim.network import Weather

T = TypeVar("T")

FAULTS = {
    "drop": "frames are lost",
    "delay": "frames, writes and flushes take long",
    "duplicate": "frames come again",
    "reorder": "frames overtake one another, and outlive their receiver",
    "partition": "lines are cut in one direction or both, with notice or silently",
    "crash": "nodes die between any two awaits, lose what isn't synced, and come back",
    "fsync": "a sync of the log fails",
    "database": "databases are away for a while",
    "damage": "a synced record of a log is damaged, or a snapshot's file",
    "clock": "clocks run at different speeds, and calendars jump",
    "pause": "nodes stand still for a while",
    "members": "learners and voters come and go, one by one and jointly",
    "transfer": "leadership is handed over",
    "disk": "disks have no room for snapshots, fail or are slow at their files, or hang at a write of the log",
    "compact": "logs are cut close behind what is flushed, and nodes left behind, so that they need snapshots",
}
"""The classes, for `mas sim --faults`."""

_ALWAYS_DRAWN = frozenset({"compact", "clock"})


class Plan(msgspec.Struct, frozen=True):
    """How hard one seed's life is."""

    classes: tuple[str, ...]
    """The faults that strike in it."""
    weather: Weather
    election_tick: int
    log_margin_entries: int
    log_seconds: float
    """A write of the log takes up to so long."""
    flush_seconds: float
    snapshot_padding: int
    pause_between: float
    """Seconds between two strikes, on average."""
    restart_seconds: float
    operations_per_second: int


def draw(dice: Dice, allowed: Sequence[str]) -> Plan:
    """A life, with faults of these classes."""
    classes = tuple(
        name for name in FAULTS if name in allowed and (name in _ALWAYS_DRAWN or dice.randrange(3))
    )
    slow = "delay" in classes
    return Plan(
        classes=classes,
        weather=Weather(
            drop=pick(dice, (1, 5, 20)) if "drop" in classes else 0,
            duplicate=pick(dice, (1, 10)) if "duplicate" in classes else 0,
            reorder=pick(dice, (1, 10)) if "reorder" in classes else 0,
            delay_seconds=pick(dice, (0.005, 0.05, 0.2)) if slow else 0.002,
        ),
        election_tick=pick(dice, (5, 7, 10)),
        log_margin_entries=pick(dice, (1, 3, 10)) if "compact" in classes else 1_000_000,
        log_seconds=pick(dice, (0.002, 0.02, 0.2)) if slow else 0.002,
        flush_seconds=pick(dice, (0.1, 1.0, 5.0)) if slow else 0.2,
        snapshot_padding=pick(dice, (0, 0, 0, 600_000)),
        pause_between=pick(dice, (0.3, 1.0, 2.5)),
        restart_seconds=pick(dice, (0.2, 1.0, 4.0)),
        operations_per_second=pick(dice, (10, 30)),
    )


def pick(dice: Dice, choices: Sequence[T]) -> T:
    """One of them, each as likely."""
    return choices[dice.randrange(len(choices))]
