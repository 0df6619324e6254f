"""Every room has a floor and a place on the map: a new folder is a decision, not an accident."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _rooms() -> set[str]:
    """The rooms that are there: folders and files under mas/ that hold code."""
    folders = {
        path.name
        for path in (ROOT / "mas").iterdir()
        if path.is_dir() and path.name != "__pycache__" and any(path.glob("**/*.py"))
    }
    return folders | {path.stem for path in (ROOT / "mas").glob("[a-z]*.py")}


def _floors() -> list[list[str]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [re.findall(r"\w+", layer) for layer in layers]


def test_every_room_has_a_floor() -> None:
    known = {room for floor in _floors() for room in floor}
    assert _rooms() <= known


def test_no_room_has_two_floors() -> None:
    rooms = [room for floor in _floors() for room in floor]
    assert len(rooms) == len(set(rooms))


def test_the_map_shows_every_floor_from_the_top() -> None:
    table = (ROOT / "mas" / "README.md").read_text().split("| --- |", 1)[1].split("\n\n", 1)[0]
    shown = re.findall(r"`(\w+)`", "\n".join(row.split("|")[2] for row in table.splitlines()[1:]))
    assert shown == [room for floor in _floors() for room in floor]
