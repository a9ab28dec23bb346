import ast
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOORS = {
    "api.py",
    "cli.py",
    "errors.py",
    "exit_codes.py",
    "__init__.py",
    "__main__.py",
}
MOST_ROOMS = {"privimage": 16, "artifact": 6}


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.level:
                yield "relative import"
            # `from privimage import manifest` names the module in its list
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms(package):
    return {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}


def arrows(package):
    """Room: the rooms that it imports from."""
    found = {}
    for room in rooms(package):
        files = (ROOT / package / room).rglob("*.py")
        names = {
            m.split(".")[1]
            for f in files
            for m in imported_modules(f)
            if m.startswith(package + ".")
        }
        found[room] = (names & rooms(package)) - {room}
    return found


@pytest.mark.parametrize("package", sorted(MOST_ROOMS))
def test_imports_between_rooms_point_one_way(package):
    above = arrows(package)
    assert sum(map(len, above.values())) >= len(above)  # they were found
    TopologicalSorter(above).prepare()  # CycleError names the rooms of a circle


@pytest.mark.parametrize("package", sorted(MOST_ROOMS))
def test_only_doors_stand_outside_of_the_rooms_and_no_two_files_share_a_name(package):
    assert len(rooms(package)) <= MOST_ROOMS[package]
    assert {path.name for path in (ROOT / package).glob("*.py")} <= DOORS
    names = [p.stem for p in (ROOT / package).rglob("*.py") if not p.stem.startswith("__")]
    assert [name for name, times in Counter(names).items() if times > 1] == []


def test_what_the_guarantee_rests_on_knows_neither_speed_nor_the_run():
    assert arrows("privimage")["privacy"] <= {"data", "files", "machine"}


def test_the_library_never_imports_the_artifact():
    files = [*(ROOT / "privimage").rglob("*.py"), *ROOT.glob("example*.py")]
    for path in files:
        assert not any(m.split(".")[0] == "artifact" for m in imported_modules(path)), path


def test_no_file_is_longer_than_400_lines():
    for folder in ("privimage", "artifact", "tests", "bench", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 400, path
