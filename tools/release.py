"""`make release`: one archive of the commit that is checked out, the same bytes every time.

`dist/privimage-VERSION.tar.gz` holds the commit's files, a wheel of them, REVISION (commit and
date), and SHA256SUMS of all that. Nothing in it depends on the clock, the user or the umask: times
are the commit's, names are sorted, owner and modes are fixed. The compressed bytes depend on the
zlib of the Python that writes them, the sums inside do not.
"""

import gzip
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
Files = dict[str, tuple[bytes, bool]]  # name: content, and whether it can be executed
SUMS, REVISION = "SHA256SUMS", "REVISION"


class ReleaseError(Exception):
    """Says what stands in the way of a release, and what to do."""


def main() -> None:
    try:
        path = write_release(ROOT, ROOT / "dist")
    except ReleaseError as error:
        sys.exit(f"error: {error}")
    print(hashlib.sha256(path.read_bytes()).hexdigest(), path)


def write_release(root: Path, dist: Path) -> Path:
    """The archive of the commit checked out at `root`, written into `dist`."""
    commit, date, seconds = clean_commit(root)
    files = committed_files(root, commit)
    version = version_of(files)
    files |= wheel(files, seconds)
    files[REVISION] = (f"{commit} {date}\n".encode(), False)
    files[SUMS] = (sums(files).encode(), False)
    packed = archive(files, f"privimage-{version}", seconds)
    dist.mkdir(exist_ok=True)
    path = dist / f"privimage-{version}.tar.gz"
    part = path.with_suffix(".part")
    part.write_bytes(packed)
    os.replace(part, path)  # never half an archive under that name
    return path


def clean_commit(root: Path) -> tuple[str, str, int]:
    """The commit, its date, and that in seconds; a tree that differs from it is refused."""
    if not (root / ".git").exists():  # a folder above may be a repository, of something else
        raise ReleaseError(f"{root} is no git repository; a release is made from a clone")
    if (
        changed := git(root, "status", "--porcelain", "--untracked-files=normal")
        .decode()
        .splitlines()
    ):
        some = "\n".join(changed[:10])
        raise ReleaseError(
            f"{len(changed)} files differ from the commit; commit, stash or remove them:\n{some}"
        )
    commit, date, seconds = git(root, "log", "-1", "--format=%H %cI %ct").decode().split()
    return commit, date, int(seconds)


def git(root: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, check=True)
    except FileNotFoundError:
        raise ReleaseError("git is not installed") from None
    except subprocess.CalledProcessError as error:
        raise ReleaseError(f"git {' '.join(arguments)}: {error.stderr.decode().strip()}") from None
    return done.stdout


def committed_files(root: Path, commit: str) -> Files:
    """Read from the commit, not from the disk."""
    files: Files = {}
    as_committed = ("-c", "core.autocrlf=false", "-c", "core.eol=lf")
    packed = git(root, *as_committed, "archive", "--format=tar", commit)
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        for member in tar:
            if member.isdir():
                continue
            content = tar.extractfile(member) if member.isfile() else None
            if content is None:
                raise ReleaseError(f"{member.name} is neither a file nor a folder")
            files[member.name] = (content.read(), bool(member.mode & 0o100))
    return files


def version_of(files: Files) -> str:
    """The project's version, which the changelog must know."""
    found = re.search(r'^version = "([^"]+)"$', files["pyproject.toml"][0].decode(), re.M)
    if found is None:
        raise ReleaseError("pyproject.toml has no line: version = ...")
    if f"\n## [{found[1]}]" not in files["CHANGELOG.md"][0].decode():
        raise ReleaseError(f"CHANGELOG.md has no heading for version {found[1]}; add one")
    return found[1]


def wheel(files: Files, seconds: int) -> Files:
    """`wheel/NAME.whl`, built of these files alone by the setuptools that is installed."""
    with tempfile.TemporaryDirectory() as folder:
        source, built = Path(folder) / "source", Path(folder) / "wheel"
        for name, (content, executable) in files.items():
            path = source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o755 if executable else 0o644)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--no-build-isolation", "--no-index", "--no-cache-dir"]
        done = subprocess.run(
            [*command, "--wheel-dir", built, source],
            env={**os.environ, "SOURCE_DATE_EPOCH": str(seconds)},
            umask=0o022,  # modes of the files in a wheel follow it
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise ReleaseError(f"the wheel was not built:\n{done.stdout}{done.stderr}")
        return {f"wheel/{path.name}": (path.read_bytes(), False) for path in built.glob("*.whl")}


def sums(files: Files) -> str:
    """In the form that `sha256sum --check` reads."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, (content, _) in files.items()}
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))


def archive(files: Files, folder: str, seconds: int) -> bytes:
    """A compressed tar of one folder, whose bytes follow from the arguments."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for name, (content, executable) in sorted(files.items()):
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size, member.mtime = len(content), seconds
            member.mode = 0o755 if executable else 0o644
            member.uname = member.gname = "root"
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


if __name__ == "__main__":
    main()
