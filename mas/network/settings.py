"""How long a peer transport's steps take at most."""

import msgspec

from mas.network.door import DoorSettings


class TransportSettings(msgspec.Struct, frozen=True):
    """Bounds in seconds."""

    connect: float = 5.0
    """Until a peer that is dialled stands and has shaken hands."""
    door: DoorSettings = DoorSettings()
    """The same for callers, and how many there may be."""
    heartbeat: float = 5.0
    """Of silence, until a peer is pinged; it is taken for dead when half as much later it hasn't answered."""
    close: float = 1.0
    """That a peer has to say goodbye."""
    backoff_min: float = 0.05
    """Before the first new try; each further one waits twice as long, by chance down to half of that."""
    backoff_max: float = 2.0
    backoff_refused: float = 5.0
    """Before a new try at a peer that has refused this node."""
    steady: float = 5.0
    """That a connection lasts, to count as one that works."""
