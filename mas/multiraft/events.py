"""What passes between a group and whoever keeps its state: over propose_c, commit_c and error_c.

`commit_c` is ordered: a change of leadership stands where it happened among the committed entries.
"""

import msgspec

from mas.errors import MasError
from mas.raft import ConfState, Entry


class Committed(msgspec.Struct, frozen=True, gc=False):
    """Entries to apply, in order, already in this node's own synced log (rule 21, apply what is synced). Configuration
    changes and empty ones included.
    """

    entries: tuple[Entry, ...]


class Leadership(msgspec.Struct, frozen=True, gc=False):
    """This group's leader as this node knows it, 0 for none; `leading` where it is this node and a term's first entry is applied."""

    term: int
    leader: int
    leading: bool


class ReadReady(msgspec.Struct, frozen=True, gc=False):
    """Reads asked for with these numbers may be answered once `index` is applied."""

    numbers: tuple[int, ...]
    index: int


class Restored(msgspec.Struct, frozen=True, gc=False):
    """The AccountDB holds another state now: drop all memory and start from it."""

    index: int
    term: int
    conf_state: ConfState


CommitEvent = Committed | Leadership | ReadReady | Restored


class Refused(msgspec.Struct, frozen=True, gc=False):
    """Says over error_c that the group didn't take this proposal or read (`NotLeading`, `Overloaded`), and never will."""

    number: int
    error: MasError
    read: bool = False
