"""A leader's view of one peer: what it may send, and where it goes back to."""

from mas.raft import ProgressState
from mas.raft.progress import Progress


def replicating(match: int, max_inflight: int = 2) -> Progress:
    progress = Progress(match + 1, max_inflight, is_learner=False)
    progress.acknowledged(match)
    progress.become_replicate()
    return progress


def test_a_probe_waits_for_its_answer() -> None:
    progress = Progress(5, 2, is_learner=False)
    progress.sent(0, 0)
    assert not progress.paused
    progress.sent(3, 0)
    assert progress.paused
    assert progress.next == 5
    assert progress.acknowledged(4)
    assert not progress.paused


def test_a_window_fills_and_empties() -> None:
    progress = replicating(4)
    progress.sent(2, 0)
    assert (progress.next, progress.paused) == (7, False)
    progress.sent(1, 0)
    assert (progress.next, progress.paused, progress.window_full) == (8, True, True)
    assert progress.acknowledged(6)
    progress.free_window(6)
    assert not progress.window_full
    assert progress.next == 8


def test_a_stale_acknowledgement_is_no_news() -> None:
    progress = replicating(4)
    assert not progress.acknowledged(4)
    assert not progress.acknowledged(2)
    assert progress.match == 4


def test_a_rejection_sends_a_replicating_peer_back_to_what_matches() -> None:
    progress = replicating(4)
    progress.sent(3, 6)
    assert not progress.rejected(4, 2)
    assert progress.rejected(6, 5)
    assert (progress.state, progress.next, progress.sent_commit) == (ProgressState.PROBE, 5, 4)


def test_a_rejected_probe_goes_back_to_the_hint_and_never_behind_the_match() -> None:
    progress = Progress(10, 2, is_learner=False)
    progress.sent(1, 0)
    assert not progress.rejected(7, 2)
    assert progress.paused
    assert progress.rejected(9, 3)
    assert (progress.next, progress.paused) == (4, False)


def test_what_was_acknowledged_and_is_refused_now_is_not_sent_again_at_once() -> None:
    """A peer that has lost its log refuses whatever follows its match: a message and its refusal
    must not chase each other.
    """
    progress = Progress(10, 2, is_learner=False)
    progress.acknowledged(3)
    progress.become_probe()
    progress.sent(1, 0)
    assert not progress.rejected(3, 0)
    assert (progress.next, progress.paused) == (4, True), "until the peer is heard of again"


def test_after_a_snapshot_probing_goes_on_behind_it() -> None:
    progress = replicating(4)
    progress.become_snapshot(20)
    assert (progress.paused, progress.status().pending_snapshot) == (True, 20)
    progress.become_probe()
    assert (progress.next, progress.paused, progress.status().pending_snapshot) == (21, False, 0)


def test_a_failed_snapshot_is_forgotten() -> None:
    progress = replicating(4)
    progress.become_snapshot(20)
    progress.pending_snapshot = 0
    progress.become_probe()
    assert progress.next == 5


def test_a_commit_that_the_peer_can_not_use_is_not_lacking() -> None:
    progress = replicating(4)
    assert progress.lacks_commit(3)
    progress.sent(0, 3)
    assert not progress.lacks_commit(3)
    assert progress.lacks_commit(9)
    progress.sent_commit = 4
    assert not progress.lacks_commit(9)
