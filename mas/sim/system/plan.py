"""What the whole system has to bear in one seed's life."""

from collections.abc import Sequence

import msgspec

from mas.runtime import Dice
from mas.sim.plan import pick
from mas.sim.system.wires import Weather

FAULTS = {
    "drop": "frames are lost",
    "delay": "frames, writes and flushes take long",
    "duplicate": "frames of consensus come again",
    "reorder": "frames of consensus overtake one another",
    "partition": "lines are silent in one direction or both, or connections break and don't come back for a while",
    "crash": "processes die between any two awaits, lose what isn't synced, and come back",
    "fsync": "a sync of the log fails",
    "database": "AccountDBs are away for a while",
    "rollback": "AccountDBs go back to what they held some time ago",
    "store": "TM stores are away, or go back, or are lost",
    "clock": "clocks run at different speeds, and calendars jump",
    "pause": "processes stand still for a while",
    "transfer": "leadership is handed over",
    "compact": "logs are cut close behind what is flushed, so that who was away needs a snapshot",
    "members": "replicas are removed and erased, and added again",
    "quorum": "one bucket has no majority for a while, and the others have one",
    "older": "a node's whole directory is put back from an older copy",
    "files": "a node begins, or starts again, with a configuration that names other founders than the others'",
}
"""The classes, for `mas sim --faults`."""

_FEW = 3
_DRAWN_LAST = ("older", "files")
"""So that all else of a seed's life is drawn as without them."""
_ALWAYS_DRAWN = frozenset({"clock", "compact"})


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
    """A piece of a database's work takes up to a quarter of that."""
    pause_between: float
    """Seconds between two strikes, on average."""
    restart_seconds: float
    cached_rows: int
    lock_timeout: float
    locking: str
    managers_apart: bool
    """Whether coordinators have processes of their own, or live with resource managers."""
    clients: int
    pause_client: float
    """Seconds between two calls of a client, on average."""
    drill: str = ""
    """One of `DRILLS`: patient clients, who only do what it needs."""
    meeting: str = ""
    """What all clients are after; empty: each has an appetite of its own (`MEETINGS`)."""

    @property
    def is_drill(self) -> bool:
        """Whether something is measured, rather than everything tried."""
        return bool(self.drill)


DRILLS = {
    "pause": "leaders stand still, one at a time: every payment is answered within the bound",
    "quorum": "one bucket at a time has no majority: every payment that it has no part in is answered within the bound",
    "nonsense": "instructions that mean nothing are committed: nobody dies, and every payment is answered within the bound",
    "transit": "one bucket at a time has no majority, and clients spend what is on its way to them: every payment that spends "
    "nothing from there is answered within the bound",
    "locks": "one bucket at a time has no majority, and outsiders lock accounts that its payments are under way to: no "
    "mark stays",
    "openings": "managers die when they have told of a new account, and somebody asks for it at once: nobody asks its "
    "bucket again and again",
}
"""What `mas sim --drill` measures."""

MEASURED = ("pause", "quorum", "nonsense", "transit")
"""The drills with a bound for each payment."""

LONG = ("transit", "locks")
"""The drills whose faults last longer than anybody waits for a bucket's answer."""

_STRUCK = {"transit": "quorum", "locks": "quorum", "openings": "crash"}
"""The fault of a drill that isn't named for it."""

MEETINGS = {
    "reads": "payments from several anchors credit one account while linearizable reads of it overlap them, and leadership moves",
    "creations": "whoever has created an account looks at it at once, and its bucket is told late",
    "attempts": "payments whose attempts die young are asked for while they are tried again",
    "changes": "one operator freezes an account and another thaws it, an outsider locks it, and answers get lost",
}
"""Drills in which calls meet that seldom do elsewhere; the judge has the last word."""

_MEETING_CLASSES = {
    "reads": ("delay", "transfer"),
    "creations": ("delay", "crash"),
    "attempts": ("delay", "partition"),
    "changes": ("delay", "partition"),
}

DRILL_BOUND_SECONDS = 2.5
"""An election of at most a second or two in a row, and what follows."""


def draw_drill(dice: Dice, drill: str) -> Plan:
    """A life that is easy but for one fault."""
    return Plan(
        classes=(_STRUCK.get(drill, drill),),
        weather=Weather(),
        election_tick=5,
        log_margin_entries=100,
        log_seconds=0.002,
        flush_seconds=0.02,
        pause_between=0.5 if drill in LONG else pick(dice, (1.0, 3.0)),
        restart_seconds=8.0 if drill == "openings" else 1.0,
        cached_rows=1_000,
        lock_timeout=5.0 if drill == "openings" else pick(dice, (0.5, 2.0)),
        locking="escrow",
        managers_apart=True,
        clients=8,
        pause_client=1.0 if drill == "transit" else 0.05,
        drill=drill,
    )


def draw_meeting(dice: Dice, meeting: str) -> Plan:
    """A life in which clients meet, with just the faults that make it a close thing."""
    return Plan(
        classes=_MEETING_CLASSES[meeting],
        weather=Weather(delay_seconds=pick(dice, (0.02, 0.05))),
        election_tick=5,
        log_margin_entries=100,
        log_seconds=pick(dice, (0.01, 0.03)),
        flush_seconds=0.02,
        pause_between=0.15 if meeting == "reads" else 0.5,
        restart_seconds=0.5,
        cached_rows=1_000,
        lock_timeout=0.1 if meeting == "attempts" else 2.0,
        locking="escrow",
        managers_apart=True,
        clients=8,
        pause_client=0.02,
        meeting=meeting,
    )


def draw(dice: Dice, allowed: Sequence[str]) -> Plan:
    """A life, with faults of these classes; where they are few, all of them strike."""
    classes = tuple(
        name
        for name in FAULTS
        if name in allowed
        and name not in _DRAWN_LAST
        and (len(allowed) <= _FEW or name in _ALWAYS_DRAWN or dice.randrange(3) == 0)
    )
    slow = "delay" in classes
    plan = Plan(
        classes=classes,
        weather=Weather(
            drop=pick(dice, (1, 3)) if "drop" in classes else 0,
            duplicate=pick(dice, (1, 10)) if "duplicate" in classes else 0,
            reorder=pick(dice, (1, 10)) if "reorder" in classes else 0,
            delay_seconds=pick(dice, (0.01, 0.05)) if slow else 0.002,
        ),
        election_tick=pick(dice, (5, 7, 10)),
        log_margin_entries=pick(dice, (1, 10)) if "compact" in classes else 100,
        log_seconds=pick(dice, (0.005, 0.02)) if slow else 0.002,
        flush_seconds=pick(dice, (0.1, 1.0)) if slow else 0.02,
        pause_between=pick(dice, (0.5, 1.5, 3.0)),
        restart_seconds=pick(dice, (0.2, 1.0, 3.0)),
        cached_rows=pick(dice, (2, 10, 1_000)),
        lock_timeout=pick(dice, (0.5, 2.0)),
        locking=pick(dice, ("escrow", "escrow", "escrow", "exclusive")),
        managers_apart=bool(dice.randrange(2)),
        clients=pick(dice, (4, 8)),
        pause_client=pick(dice, (0.05, 0.2)),
    )
    last = [
        name
        for name in _DRAWN_LAST
        if name in allowed and (len(allowed) <= _FEW or dice.randrange(3) == 0)
    ]
    return msgspec.structs.replace(plan, classes=(*classes, *last))
