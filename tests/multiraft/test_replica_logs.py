"""Which logs a replica may start from."""

import pytest

from mas.errors import CorruptData, LostLog
from mas.multiraft.replica_logs import check_database
from mas.raft import (
    Entry,
    MemoryStorage,
)


def test_database_must_fit_the_log() -> None:
    storage = MemoryStorage()
    storage.append([Entry(1, 1), Entry(2, 3)])

    check_database(1, storage, 0, 0)
    check_database(1, storage, 2, 3)
    with pytest.raises(LostLog):
        check_database(1, storage, 3, 3)
    with pytest.raises(CorruptData, match="don't belong together"):
        check_database(1, storage, 2, 2)
