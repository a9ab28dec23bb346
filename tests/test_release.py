"""What `make release` makes, and that everything which names the release says the same of it."""

import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml

from tools.release import SUMS, ReleaseError, write_release

ROOT = Path(__file__).parents[1]
IGNORED = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
ZENODO = json.loads((ROOT / ".zenodo.json").read_text())
PROJECT = (ROOT / "pyproject.toml").read_text()


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
    """Releases of one commit, from two clones that lie elsewhere and have another umask."""
    folder = tmp_path_factory.mktemp("release")
    shutil.copytree(ROOT, folder / "one", ignore=shutil.ignore_patterns(".git", *IGNORED))
    committed(folder / "one")
    mask = os.umask(0o077)
    try:
        git(folder, "clone", "--quiet", "one", "the_other")
        return [
            write_release(folder / name, folder / name / "dist") for name in ("one", "the_other")
        ]
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
