"""`mas sim`: what it prints, how it ends, and what it says to a command line that can't be used."""

import pytest
from click.testing import CliRunner, Result

from mas.cli import cli
from mas.ledger import Ledger
from mas.multiraft.writer import LogWriter
from tests.sim.mutants import MUTANTS, Mutant, applied

pytestmark = pytest.mark.sim

[NO_SYNC] = [mutant for mutant in MUTANTS if mutant.function == LogWriter.run]
"""Found by any seed, as soon as somebody votes."""
SEED = "1"
NO_MONEY = Mutant(
    "post what isn't there",
    Ledger._post,
    "balance = row.balance + amount",
    "balance = row.balance + amount + 1",
    1,
    1,
)
"""Found by any seed, as soon as somebody opens an account."""


def mas(*arguments: str) -> Result:
    return mas_sim("--world", "raft", *arguments)


def mas_sim(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, ["sim", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def test_one_seed_says_how_it_went() -> None:
    result = mas("--seed", "3", "--ticks", "30", "--faults", "none")
    assert result.exit_code == 0
    assert result.stdout.startswith("Seed 3: ")
    assert " 0 crashes, " in result.stdout
    assert result.stdout.endswith("Every promise was kept.\n")
    assert result.stdout == mas("--seed", "3", "--ticks", "30", "--faults", "none").stdout


def test_a_trace_is_shown_where_it_is_asked_for() -> None:
    result = mas("--seed", "3", "--ticks", "30", "--faults", "none", "--trace")
    assert result.exit_code == 0
    assert "HEARTBEAT term 1" in result.stdout
    assert "is asked to read in group 1" in result.stdout
    assert 100 < len(result.stdout.splitlines()) <= 405


def test_a_seed_that_fails_ends_with_what_was_broken_and_how_to_see_it_again() -> None:
    with applied(NO_SYNC):
        result = mas("--seed", SEED)
        assert result.exit_code == 1
        *trace, _summary, failed, again = result.stdout.splitlines()
        assert failed.startswith("FAILED at ")
        assert any("VIOLATION: group " in line for line in trace)
        assert again == (
            f"Again: mas sim --world raft --seed {SEED} --nodes 3 --ticks 150 --faults all"
        )
        assert mas_sim(*again.split()[3:]).stdout == result.stdout
    assert mas("--seed", SEED).exit_code == 0


def test_many_seeds_end_with_a_count() -> None:
    result = mas("--seeds", "1..25", "--ticks", "10", "--faults", "drop, crash", "--nodes", "5")
    assert result.exit_code == 0
    assert result.stdout.startswith("25 seeds, 0 failed: ")
    assert result.stderr == "25 of 25 seeds, 0 failed\n"


def test_one_that_fails_among_many_is_named() -> None:
    with applied(NO_SYNC):
        result = mas("--seeds", f"{SEED}..{SEED}")
    assert result.exit_code == 1
    named, again, count = result.stdout.splitlines()
    assert named.startswith(f"Seed {SEED} FAILED at ")
    assert again.startswith(f"Again: mas sim --world raft --seed {SEED} --nodes 3 ")
    assert count.startswith("1 seeds, 1 failed: ")


def test_the_whole_system_is_simulated_unless_somebody_says_otherwise() -> None:
    arguments = ("--seed", "3", "--ticks", "20", "--faults", "none")
    result = mas_sim(*arguments)
    assert result.exit_code == 0
    assert " payments committed and " in result.stdout
    assert result.stdout.endswith("Every promise was kept.\n")
    assert mas_sim(*arguments, "--trace").stdout.endswith(result.stdout)


def test_a_seed_of_the_whole_system_that_fails_says_how_to_see_it_again() -> None:
    with applied(NO_MONEY):
        result = mas_sim("--seed", "1", "--ticks", "30", "--faults", "none")
    assert result.exit_code == 1
    assert "FAILED at " in result.stdout
    again = "Again: mas sim --seed 1 --nodes 5 --ticks 30 --faults none\n"
    assert result.stdout.endswith(again)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "say which: --seed N for one run, or --seeds A..B for many"),
        (("--seed", "1", "--seeds", "1..2"), "say which"),
        (("--seed", "x"), "'x' is not a valid integer"),
        (("--seed", "-1"), "-1 is not in the range"),
        (("--seeds", "7"), "'7' is no range of seeds: expected A..B, like 1..300"),
        (("--seeds", "9..3"), "'9..3' holds no seed"),
        (("--seeds", "1..9999999999"), "more than 1000000"),
        (("--seed", "1", "--nodes", "4"), "'4' is not one of '3', '5'"),
        (("--seed", "1", "--ticks", "0"), "0 is not in the range"),
        (
            ("--seed", "1", "--faults", "drop,fire"),
            "there are no faults 'fire': expected all, none",
        ),
        (("--seed", "1", "--faults", ""), "there are no faults ''"),
        (("--seed", "1", "--drill", "pause"), "a drill is one of the whole system"),
        (
            ("--seed", "1", "--world", "system", "--drill", "paws"),
            "there is no drill 'paws': expected one of pause, quorum,",
        ),
    ],
)
def test_a_command_line_that_cant_be_used(arguments: tuple[str, ...], said: str) -> None:
    result = mas(*arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
