"""No file is read in a way that could run code: what the sources may not call, by their syntax."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    *(
        path
        for folder in ("privimage", "artifact", "bench")
        for path in (ROOT / folder).rglob("*.py")
    ),
    *ROOT.glob("example*.py"),
]
# called under these names, whatever the module is called by
FORBIDDEN = {"eval", "exec", "compile", "extractall", "unsafe_load", "full_load", "load_all"}
# these unpickle without saying so
FORBIDDEN |= {"broadcast_object_list", "all_gather_object", "gather_object", "scatter_object_list"}
FORBIDDEN |= {"recv_object_list", "load_state_dict_from_url"}
FORBIDDEN_MODULES = {"marshal", "shelve", "joblib", "dill", "cloudpickle"}
# the one place for pickle itself: an unpickler that refuses all names but three, behind a checksum
UNPICKLER = ROOT / "privimage" / "data" / "public" / "cifar.py"
# yaml.load with the one loader that is safer than safe_load
YAML = ROOT / "privimage" / "files" / "plain_yaml.py"


def faults_of(source: str, path: Path) -> list[str]:
    """What is wrong with one file, with the line."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names.append(getattr(node, "module", None) or "")
            modules = {name.split(".")[0] for name in names}
            if modules & FORBIDDEN_MODULES or ("pickle" in modules and path != UNPICKLER):
                faults.append(f"line {node.lineno}: imports {', '.join(names)}")
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if fault := _call_fault(name, given, path):
                faults.append(f"line {node.lineno}: {fault}")
    return faults


def _call_fault(name: str, given: dict[str | None, str], path: Path) -> str | None:
    module, _, function = name.rpartition(".")
    if function in FORBIDDEN and not (function in ("eval", "compile") and module):
        return f"calls {name}"  # model.eval(), re.compile() and torch.compile() are others
    if name == "torch.load" and given.get("weights_only") != "True":
        return "torch.load without weights_only=True"
    if given.get("allow_pickle", "False") != "False":
        return f"{name} with allow_pickle={given['allow_pickle']}"
    if name == "yaml.load" and (path, given.get("Loader")) != (YAML, "_PlainLoader"):
        return "yaml.load; use privimage.files.plain_yaml"
    if module == "pickle" and function in ("load", "loads"):
        return f"calls {name}"
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_reads_a_file_in_a_way_that_could_run_code(path):
    assert faults_of(path.read_text(), path) == []


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "archive.extractall(folder, filter='data')",
        "eval(text)",
        "exec(text)",
        "distributed.broadcast_object_list(objects)",
        "torch.hub.load_state_dict_from_url(url)",
        "import pickle",
        "from pickle import loads",
        "from joblib import load",
    ],
)
def test_each_unsafe_way_is_seen(source):
    assert len(faults_of(source, ROOT / "privimage" / "cli.py")) == 1


def readers_of_pickles() -> set[str]:
    """Sources that read a format which is a pickle, by whatever careful reader."""
    return {
        str(path.relative_to(ROOT))
        for path in FILES
        if "bench" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call | ast.ClassDef)
        and any(word in ast.unparse(node) for word in ("torch.load(", "pickle.Unpickler"))
    }


def test_the_documents_name_every_reader_of_pickles_and_deny_none():
    deviations = (ROOT / "docs" / "deviations.md").read_text()
    (row,) = re.findall(r"^\| foreign files \|.*$", deviations, re.MULTILINE)
    assert {*re.findall(r"`(privimage/[\w/]+\.py)`", row)} == readers_of_pickles()
    for page in (*(ROOT / "docs").glob("*.md"), ROOT / "README.md"):
        assert "never unpickled" not in page.read_text(), page


def test_what_only_looks_alike_is_let_through():
    source = "model.eval(); re.compile('x'); np.load(p, allow_pickle=False); json.load(file)"
    assert faults_of(source, ROOT / "privimage" / "cli.py") == []
