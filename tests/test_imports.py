import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# who may import whom inside privimage; these top-level modules serve everybody
BASE = {"errors", "durable", "plain_files", "hardware", "checkpoint", "world", "synced_norm"}
ALLOWED = {
    "data": set(),
    "privacy": set(),
    "semantics": {"data", "privacy"},
    "diffusion": {"data"},
    "training": {"data", "privacy", "semantics", "diffusion", "config"},
    "evaluation": {"data", "semantics", "diffusion", "config"},
    "audit": {
        "data",
        "privacy",
        "semantics",
        "diffusion",
        "training",
        "config",
        "budget",
        "pipeline",
    },
}


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


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_inside_the_library_point_one_way(package):
    files = sorted((ROOT / "privimage" / package).glob("*.py"))
    assert len(files) > 1
    for path in files:
        for module in imported_modules(path):
            if module.startswith("privimage."):
                other = module.split(".")[1]
                assert other in ALLOWED[package] | BASE | {package}, f"{path.name}: {module}"


def test_the_library_never_imports_the_artifact():
    files = [*(ROOT / "privimage").rglob("*.py"), ROOT / "example.py"]
    for path in files:
        assert not any(m.split(".")[0] == "artifact" for m in imported_modules(path)), path


def test_no_file_is_longer_than_400_lines():
    for folder in ("privimage", "artifact", "tests", "bench"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 400, path


def test_the_example_fits_in_100_lines():
    assert len((ROOT / "example.py").read_text().splitlines()) <= 100
