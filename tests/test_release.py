"""What `make release` makes, and that everything which names the release says the same of it."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest
import yaml

from tools.release import REVISION, SUMS, ReleaseError, write_release

ROOT = Path(__file__).parents[1]
IGNORED = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
ADDED = ("wheel", REVISION, SUMS)  # these tests may run in an unpacked release
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
ZENODO = json.loads((ROOT / ".zenodo.json").read_text())
PROJECT = (ROOT / "pyproject.toml").read_text()

PLAN = ["--public", "glyphs", "--epsilon", "10", "--public-size", "1000", "--classes", "10"]
PLAN += ["--image-size", "8", "--color", "grey"]
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="releases are made with git")


def git(folder, *arguments):
    by = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    date = "2026-01-02T03:04:05+00:00"
    env = {**os.environ, "GIT_COMMITTER_DATE": date, "GIT_AUTHOR_DATE": date}
    subprocess.run(["git", "-C", folder, *by, *arguments], env=env, check=True, capture_output=True)


def committed(folder):
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "all")
    return folder


@pytest.fixture
def small(tmp_path):
    """A repository of a project that is nothing but its version."""
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "pyproject.toml").write_text('[project]\nname = "small"\nversion = "0.1.0"\n')
    (folder / "CHANGELOG.md").write_text("# Changelog\n\n## [0.1.0] - 2026-01-02\n")
    return committed(folder)


def test_everything_that_names_the_version_names_the_same():
    found = re.findall(r'^version = "(.*)"', PROJECT, re.M)
    headings = re.findall(
        r"^## \[([\d.]+)\] - ([\d-]+)$", (ROOT / "CHANGELOG.md").read_text(), re.M
    )
    assert found == [CITATION["version"]] == [ZENODO["version"]] == [headings[0][0]]
    assert str(CITATION["date-released"]) == ZENODO["publication_date"] == headings[0][1]


def test_the_entry_of_the_archive_agrees_with_the_citation():
    assert ZENODO["title"] == CITATION["title"]
    assert ZENODO["description"] == CITATION["abstract"]
    assert ZENODO["upload_type"] == CITATION["type"]
    assert [f'license = "{ZENODO["license"]}"'] == re.findall("^license = .*", PROJECT, re.M)
    assert ZENODO["license"] == CITATION["license"]
    authors = [
        author.get("name") or f"{author['family-names']}, {author['given-names']}"
        for author in CITATION["authors"]
    ]
    assert [creator["name"] for creator in ZENODO["creators"]] == authors
    (paper,) = CITATION["references"]
    (reference,) = ZENODO["references"]
    assert paper["title"] in reference
    for author in paper["authors"]:
        assert f"{author['given-names']} {author['family-names']}" in reference


def test_a_tree_that_differs_from_its_commit_is_refused_by_the_names_of_the_files(small):
    (small / "new.py").write_text("")
    with pytest.raises(ReleaseError, match=r"(?s)commit, stash or remove.*new\.py"):
        write_release(small, small / "dist")
    assert not (small / "dist").exists()


def test_a_release_of_no_repository_or_of_an_unknown_version_is_refused(small, tmp_path):
    (small / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n")
    git(small, "commit", "--all", "--quiet", "--message", "no heading")
    with pytest.raises(ReleaseError, match=r"CHANGELOG.md has no heading for version 0\.1\.0"):
        write_release(small, small / "dist")
    shutil.rmtree(small / ".git")
    with pytest.raises(ReleaseError, match="no git repository"):
        write_release(small, small / "dist")


@pytest.fixture(scope="module")
def two_archives(tmp_path_factory):
    """Releases of one commit; the second under another folder, umask and ends of lines."""
    folder = tmp_path_factory.mktemp("release")
    one, other = folder / "one", folder / "other"
    shutil.copytree(ROOT, one, ignore=shutil.ignore_patterns(".git", *ADDED, *IGNORED))
    first = write_release(committed(one), one / "dist")
    mask = os.umask(0o077)
    try:
        git(folder, "clone", "--quiet", one, other)
        git(other, "config", "core.autocrlf", "true")
        return first, write_release(other, other / "dist")
    finally:
        os.umask(mask)


@pytest.fixture(scope="module")
def unpacked(two_archives, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    subprocess.run(["tar", "-xzf", two_archives[0], "-C", folder], check=True)
    (tree,) = folder.iterdir()
    return tree


@pytest.mark.slow
def test_two_releases_of_a_commit_are_the_same_bytes(two_archives):
    first, second = (path.read_bytes() for path in two_archives)
    assert first == second
    assert first[4:8] == bytes(4)  # gzip's time stamp
    with tarfile.open(two_archives[0]) as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == sorted(m.name for m in members)
    assert {(m.uid, m.gid, m.uname, m.mtime) for m in members} == {(0, 0, "root", 1767323045)}
    assert {m.mode for m in members} == {0o644, 0o755}


@pytest.mark.slow
def test_the_sums_cover_every_file_and_hold(unpacked):
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS], cwd=unpacked, check=True)
    named = {line.split("  ", 1)[1] for line in (unpacked / SUMS).read_text().splitlines()}
    there = {
        path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()
    }
    assert there - named == {SUMS}
    assert named <= there


def environment(folder, *installed):
    """A virtual environment with the packages of this one and, before them, what is installed."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "packages_of_the_tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--no-deps", "--no-build-isolation", "--no-index", *installed]
    subprocess.run(pip, env=without_paths(), check=True)
    return folder / "bin"


def without_paths():
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PRIVIMAGE_CLAIMS")}


def said_by(folder, *command):
    """What a command says that is run in that folder; it must end well."""
    done = subprocess.run(command, cwd=folder, env=without_paths(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_has_the_commands_the_claims_and_what_they_are_judged_by(unpacked, tmp_path):
    (wheel,) = unpacked.glob("wheel/*.whl")
    commands = environment(tmp_path / "environment", wheel)
    where = "import artifact, privimage; print(artifact.__file__, privimage.__file__)"
    files = said_by(tmp_path, commands / "python", "-c", where).split()
    assert [path.startswith(str(tmp_path)) for path in files] == [True, True]
    assert "synthesize" in said_by(tmp_path, commands / "privimage", "--help")
    assert "epsilon" in said_by(tmp_path, commands / "privimage", "plan", *PLAN)
    listed = said_by(tmp_path, commands / "artifact", "list")
    for claim in ROOT.glob("claims/*/claim.yaml"):
        assert claim.parent.name in listed
    assert "0.991583" in said_by(tmp_path, commands / "artifact", "show", "kick_the_tires")
    said_by(tmp_path, commands / "python", "-m", "artifact.claims.estimates")
    records = files[0].replace("__init__.py", "bundle/expected_results/reference_runs")
    said_by(tmp_path, commands / "artifact", "report", "--from", records)
    assert (tmp_path / "runs/report.html").is_file()


@pytest.mark.slow
def test_the_unpacked_tree_is_set_up_and_used_without_a_repository(unpacked, tmp_path):
    tree = shutil.copytree(unpacked, tmp_path / "tree")
    # the last step of `make setup`; those before it download what is pinned
    commands = environment(tree / ".venv", "--editable", tree)
    where = "import artifact; print(artifact.__file__)"
    assert said_by(tmp_path, commands / "python", "-c", where).startswith(str(tree))
    assert "kick_the_tires" in said_by(tmp_path, commands / "artifact", "list")
    assert "epsilon" in said_by(tmp_path, commands / "privimage", "plan", *PLAN)
    (tree / ".venv/.installed").touch()
    for goal in ("demo", "test"):
        steps = said_by(tree, "make", "--dry-run", goal)
        assert ".venv/bin/" in steps
        assert "pip install" not in steps
    documents = ("-m", "pytest", "--quiet", "tests/test_documents.py")
    assert " passed" in said_by(tree, commands / "python", *documents)
    refused = subprocess.run(["make", "release"], cwd=tree, capture_output=True, text=True)
    assert refused.returncode
    assert "a release is made from a clone" in refused.stderr


@pytest.mark.slow
def test_the_cheap_commands_of_its_documents_go_well_without_repository_and_network(
    two_archives, tmp_path
):
    command = [sys.executable, "-m", "tools.rehearsal", two_archives[0], "--quick"]
    command += ["--python", sys.executable, "--out", tmp_path / "table.md"]
    said = said_by(ROOT, *command)
    for line in ("sha256sum", "doctor", "headline_averages", "model_size", "report"):
        assert re.search(rf"{line}.*\| 0 \|", said), line
    assert "NOT rehearsed: whether pip can download" in said
