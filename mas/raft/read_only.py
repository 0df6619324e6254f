"""Reads that wait for proof: on a leader for a quorum, on a follower for its leader's answer.

A context may repeat, and a host can't tell two answers of one context apart. So an answer is
given only where it is good for the newest read of its context: an older read waits with the newer.
"""

from mas.raft.messages import ReadState

# A follower's reads whose answers are awaited; the oldest are forgotten, and then never answered.
MAX_FORWARDED = 1 << 12


class PendingRead:
    """The reads of one reader and context, waiting for `round` to be confirmed."""

    __slots__ = ("context", "count", "index", "number", "reader", "round")

    def __init__(self, reader: int, number: int, context: bytes, count: int = 1) -> None:
        self.reader = reader
        self.number = number
        self.context = context
        self.count = count
        self.index = 0
        self.round = 0


class ReadRounds:
    """A leader's reads, in rounds: all reads of a turn are confirmed by one exchange of heartbeats.

    A round is numbered once it begins. Who answers round n has confirmed every round before it too,
    so that a lost heartbeat costs nothing but time (dissertation, 6.4).
    """

    __slots__ = ("_newest", "last_round", "unsent")

    def __init__(self) -> None:
        self._newest: dict[tuple[int, bytes], PendingRead] = {}  # rounds ascend
        self.last_round = 0
        self.unsent = False

    def __bool__(self) -> bool:
        return bool(self._newest)

    def add(self, read: PendingRead) -> None:
        """Add a read to the next round."""
        key = read.reader, read.context
        older = self._newest.pop(key, None)
        if older is not None:
            read.count += older.count
            read.number = max(read.number, older.number)
        read.round = self.last_round + 1
        self._newest[key] = read
        self.unsent = True

    def begin_round(self) -> None:
        """Close the round: what comes now belongs to the next."""
        self.last_round += 1
        self.unsent = False

    def confirmed(self, last_round: int) -> list[PendingRead]:
        """Take out the reads of every round up to `last_round`."""
        answered = []
        for read in self._newest.values():
            if read.round > last_round:
                break
            answered.append(read)
        for read in answered:
            del self._newest[read.reader, read.context]
        return answered


class ForwardedReads:
    """A follower's reads on their way to the leader and back, numbered.

    The first number is the caller's: a node that restarts must not take an answer to a read of its
    earlier life for one of this life's.
    """

    __slots__ = ("_next_number", "_waiting")

    def __init__(self, first_number: int) -> None:
        self._waiting: dict[bytes, tuple[int, int]] = {}  # context: number of the newest, how many
        self._next_number = first_number

    def add(self, context: bytes, count: int) -> int:
        """Begin a read, and return its number."""
        _, older = self._waiting.pop(context, (0, 0))
        if len(self._waiting) >= MAX_FORWARDED:
            del self._waiting[next(iter(self._waiting))]
        number = self._next_number
        self._next_number += 1
        self._waiting[context] = number, older + count
        return number

    def answered(self, context: bytes, number: int) -> int:
        """Count the reads that the leader's answer to this one is good for; 0 where a newer one waits."""
        newest = self._waiting.get(context)
        if newest is None or newest[0] != number:
            return 0
        del self._waiting[context]
        return newest[1]

    def forget(self, context: bytes) -> None:
        """Forget all reads: no answer that is on its way is good any longer."""
        self._waiting.pop(context, None)


class ReadAnswers:
    """Answered reads that the host has not taken yet."""

    __slots__ = ("_untaken",)

    def __init__(self) -> None:
        self._untaken: dict[bytes, tuple[int, int]] = {}  # context: index, how many reads

    def __bool__(self) -> bool:
        return bool(self._untaken)

    def add(self, context: bytes, index: int, count: int) -> None:
        """Note that this many reads of a context may be served at `index`."""
        _, older = self._untaken.pop(context, (0, 0))
        self._untaken[context] = index, older + count

    def withdraw(self, context: bytes) -> int:
        """Withdraw answers that are too old for a newer read; return how many reads wait again."""
        _, count = self._untaken.pop(context, (0, 0))
        return count

    def take(self) -> tuple[ReadState, ...]:
        """Hand everything to the host."""
        if not self._untaken:
            return ()
        untaken, self._untaken = self._untaken, {}
        return tuple(
            ReadState(index, context)
            for context, (index, count) in untaken.items()
            for _ in range(count)
        )
