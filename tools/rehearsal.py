"""A reviewer's hour, rehearsed: a release is unpacked, and what its documents say is typed.

    python -m tools.rehearsal ARCHIVE --python .venv/bin/python     without an engine
    python -m tools.rehearsal ARCHIVE --docker                      in the image that it builds

There is no repository, no GPU, no image set and no network (`docker build` alone needs one). Each
command is timed; the rehearsal passes if each exits with 0 and no verdict is FAIL or TREND. Times
off by more than 30 % are reported, no more: they are of another machine.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from tools.document_steps import Step, steps_of
from tools.rehearsal_table import Done, facts_of, table_of

QUICK_SECONDS = 12
LIMIT_SECONDS = 3 * 3600  # of one command
OF_THE_ENGINE = ("DOCKER_HOST", "DOCKER_BUILDKIT")
VERDICT = re.compile(r"^(PASS|TREND|FAIL|INCONCLUSIVE|EXECUTES|NOT RUN)  ", re.M)
# what a new network namespace lacks, and processes that talk to each other need
LOOPBACK = (
    "import fcntl, os, socket, struct, sys; "
    "fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sH22x', b'lo', 0x41)); "
    "os.execvp(sys.argv[1], sys.argv[1:])"
)
NO_NETWORK = (
    ("unshare", "--net", sys.executable, "-c", LOOPBACK),
    ("unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", LOOPBACK),
)


def main() -> None:
    options = parsed()
    try:
        with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
            table, is_good = rehearse(options, Path(folder))
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f"error: {error}")
    print(table)
    options.out.write_text(table)
    sys.exit(not is_good)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("archive", type=Path, help="privimage-VERSION.tar.gz of `make release`")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--python", type=Path, help="one that has the packages of requirements.txt")
    way.add_argument("--docker", action="store_true", help="in the image, with the engine here")
    parser.add_argument("--only", type=re.compile, help="commands that this expression finds")
    parser.add_argument("--quick", action="store_true", help=f"of {QUICK_SECONDS} s at most")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, default=Path("rehearsal.md"), help="the table"
    )
    options = parser.parse_args()
    if not options.archive.is_file():
        parser.error(f"{options.archive} is no file; `make release` writes one into dist")
    return options


def rehearse(options: argparse.Namespace, folder: Path) -> tuple[str, bool]:
    """The table, in Markdown, and whether everything went well."""
    tree = unpacked(options.archive, folder / "read")
    groups = steps_of(tree, docker=options.docker)
    steps, left_out = chosen(groups, only=options.only, quick=options.quick)
    prefix = () if options.docker else cut_off()
    python = None if options.docker else options.python
    facts = facts_of(tree, python=python, is_cut_off=options.docker or bool(prefix))
    done: list[Done] = []
    for document, those in groupby(steps, key=lambda step: step.document):
        place = unpacked(options.archive, folder / Path(document).stem)  # each starts from nothing
        environment = clean_environment(folder)
        if options.docker:
            environment["PATH"] = f"{docker_shim(folder)}:{environment['PATH']}"
        else:
            install(options.python, place)
        for one in follow(list(those), place, folder, environment, prefix):
            done.append(one)  # and kept at once, for a rehearsal may be stopped
            options.out.write_text(table_of(done, left_out, facts))
    return table_of(done, left_out, facts), bool(done) and all(one.is_good for one in done)


def chosen(
    groups: Sequence[Sequence[Step]], *, only: re.Pattern[str] | None, quick: bool
) -> tuple[list[Step], list[tuple[Step, str]]]:
    """The steps to take, and the others with the reason; a line rests on those before it."""
    kept: list[Step] = []
    left_out: list[tuple[Step, str]] = []
    for group in groups:
        is_cut = False
        for step in group:
            reason = ""
            if step.needs:
                reason = f"needs {step.needs}"
            elif only and not only.search(step.command) and not step.is_preparation:
                reason = "not asked for"
            elif quick and not step.is_preparation:
                is_cut = is_cut or (step.stated or 0) > QUICK_SECONDS
                reason = "takes longer, or rests on what does" if is_cut else ""
            left_out += [(step, reason)] if reason else []
            kept += [] if reason else [step]
    worth = {step.document for step in kept if not step.is_preparation}
    return [step for step in kept if step.document in worth], left_out


def unpacked(archive: Path, folder: Path) -> Path:
    folder.mkdir()
    subprocess.run(["tar", "-xzf", archive, "-C", folder], check=True)
    (tree,) = folder.iterdir()
    return tree


def follow(
    steps: Sequence[Step],
    tree: Path,
    folder: Path,
    environment: dict[str, str],
    prefix: Sequence[str],
) -> Iterator[Done]:
    """One after the other, as in one shell: what a line exports is there for the next."""
    state = folder / "state.sh"
    state.write_text("")
    shell = '. "$0"; eval "$1"; status=$?; export -p >"$0"; exit $status'
    before: set[str] = set()
    for step in steps:
        print(f"{step.place}: {step.command}", file=sys.stderr, flush=True)
        started = time.monotonic()
        ran = subprocess.run(
            [*prefix, "bash", "-c", shell, str(state), step.command],
            cwd=tree, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", timeout=LIMIT_SECONDS,
        )  # fmt: skip
        seconds = time.monotonic() - started
        verdict = ["", *VERDICT.findall(ran.stdout)][-1]
        yield Done(step, ran.returncode, seconds, verdict, ran.stdout, step.command in before)
        before.add(step.command)


def clean_environment(folder: Path) -> dict[str, str]:
    """A home that is empty, no GPU, no paths or data of whoever rehearses."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    kept = {name: os.environ[name] for name in OF_THE_ENGINE if name in os.environ}
    return kept | {
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "CUDA_VISIBLE_DEVICES": "",
        "PIP_NO_INDEX": "1",
    }


def cut_off() -> tuple[str, ...]:
    """What starts a command without a network; empty where this machine does not allow it."""
    for prefix in NO_NETWORK:
        try:
            if subprocess.run([*prefix, "true"], capture_output=True).returncode == 0:
                return prefix
        except FileNotFoundError:
            break
    return ()


def install(python: Path, tree: Path) -> None:
    """`.venv` as `make setup` leaves it, but with the packages that `python` has."""
    environment = tree / ".venv"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    subprocess.run([python, "-m", "venv", "--without-pip", environment], check=True)
    (own,) = environment.glob("lib/python*/site-packages")
    (own / "packages_that_were_given.pth").write_text(packages.stdout)
    inside = environment / "bin/python"
    pip = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    pip += ["--no-deps", "--no-build-isolation", "--editable", tree]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(pip, env=clean, check=True)
    pytest = environment / "bin/pytest"
    pytest.write_text('#!/bin/sh\nexec "$(dirname "$0")/python" -m pytest "$@"\n')
    pytest.chmod(0o755)
    (environment / ".installed").touch()


def docker_shim(folder: Path) -> Path:
    """A `docker` that adds what this machine's builds need, and to every run what cuts it off and,
    as the documents say, the user who owns `runs`.
    """
    shim = folder / "bin"
    shim.mkdir(exist_ok=True)
    build, real = os.environ.get("DOCKER_BUILD_FLAGS", ""), shutil.which("docker")
    (shim / "docker").write_text(
        "#!/bin/bash\nset -eu\nverb=$1\nshift\ncase $verb in\n"
        f"  build) set -- {build} \"$@\" ;;\n"
        '  run) set -- --env NVIDIA_VISIBLE_DEVICES=void "$@"\n'
        '    case "$*" in *--network*) ;; *) set -- --network none "$@" ;; esac\n'
        '    case "$*" in *--user*) ;; *) set -- --user "$(id -u):$(id -g)" "$@" ;; esac ;;\n'
        f'esac\nexec "{real}" "$verb" "$@"\n'
    )  # fmt: skip
    (shim / "docker").chmod(0o755)
    return shim


if __name__ == "__main__":
    main()
