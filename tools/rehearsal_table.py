"""How a rehearsal went, as one table in Markdown, with the facts that it is to be read with.

Stated and taken times stand side by side; they decide nothing, for the machine is another one.
What was not rehearsed is said: without a network nothing can be known of the download of packages.
"""

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.document_steps import Step

TOLERANCE = 0.3  # of a stated time
START_SECONDS = 2  # of any command; a stated time is not given more finely
BAD_VERDICTS = ("FAIL", "TREND")
SHOWN_LINES = 15  # of what a command said that did not go well
ABOUT_PIP = (
    "`make setup` and `make demo` found a `.venv`, made without a network from the packages of a "
    "Python that was given. NOT rehearsed: whether pip can download the pinned files, and whether "
    "their hashes hold"
)
ABOUT_BUILD = (
    "`docker build` had one: pip downloads the pinned files and checks their hashes, unless the "
    "engine has that layer already, as a build of seconds shows"
)
# what the Python that was given has of what requirements.txt (stdin) pins
VERSIONS = r"""
import sys
from importlib.metadata import version
from packaging.requirements import Requirement
pins = [Requirement(line.strip(" \\\n")) for line in sys.stdin if line[0] not in "# \n"]
pins = [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]
off = [str(pin) for pin in pins if not pin.specifier.contains(version(pin.name).split("+")[0])]
print(f"{len(pins) - len(off)} of {len(pins)} packages as pinned", *off, sep=", not ")
"""


@dataclass(frozen=True)
class Done:
    """How a step went; `seconds` of wall-clock time."""

    step: Step
    exit_code: int
    seconds: float
    verdict: str
    said: str
    is_repeated: bool = False  # the command has run before: it finds its work done

    @property
    def is_good(self) -> bool:
        return self.exit_code == 0 and self.verdict not in BAD_VERDICTS

    @property
    def beside_stated(self) -> str:
        stated = self.step.stated
        if stated is None:
            return "no time stated"
        if self.is_repeated:
            return "repeated"
        off = abs(self.seconds - stated)
        if off <= max(TOLERANCE * stated, START_SECONDS):
            return "as stated"
        ratio = self.seconds / stated
        return "under a tenth of it" if ratio < 0.1 else f"{ratio:.2g} times what is stated"


def facts_of(tree: Path, *, python: Path | None, is_cut_off: bool) -> list[str]:
    """Release, machine, and how it was rehearsed; without `python` in a container."""
    revision = tree / "REVISION"
    commit = revision.read_text().strip() if revision.is_file() else "unknown"
    names = re.findall(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.M)
    cores = len(os.sched_getaffinity(0))
    facts = [f"Release of commit {commit}.", f"Machine: {[*names, 'unknown'][0]}, cores: {cores}."]
    facts += ["No repository, no GPU, no image sets but those of the bundle."]
    if python is None:
        return [*facts, f"In the container, every run without a network; {ABOUT_BUILD}."]
    network = "cut off" if is_cut_off else "NOT cut off: no namespace can be made here"
    return [
        *facts,
        f"Without a container. Network: {network}. {ABOUT_PIP}; {versions(tree, python)}.",
    ]


def versions(tree: Path, python: Path) -> str:
    pins = (tree / "requirements.txt").read_text()
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        [python, "-c", VERSIONS], input=pins, env=clean, capture_output=True, text=True
    )
    last = [*ran.stderr.splitlines(), "nothing was said"][-1]
    return ran.stdout.strip() or f"versions are not known ({last})"


def table_of(done: Sequence[Done], left_out: Sequence[tuple[Step, str]], facts: list[str]) -> str:
    bad = [one for one in done if not one.is_good]
    minutes = sum(one.seconds for one in done) / 60
    text = ["# Rehearsal of a release", "", *(f"* {fact}" for fact in facts), ""]
    text += [
        "| place | command | exit | verdict | expected | took | stated | time |",
        "|---" * 8 + "|",
    ]
    text += ["| " + " | ".join(_cells(one)) + " |" for one in done]
    text += ["", f"{len(done) - len(bad)} of {len(done)} commands went well, in {minutes:.1f} min."]
    for one in bad:
        last = one.said.splitlines()[-SHOWN_LINES:]
        text += ["", f"`{one.step.command}` said last:", "", "```", *last, "```"]
    if left_out:
        text += ["", "Left out:", ""]
        text += [f"* {step.place}: `{step.command}` ({reason})" for step, reason in left_out]
    return "\n".join(text) + "\n"


def _cells(one: Done) -> list[str]:
    step = one.step
    found = [f"{Path(step.document).stem}, {step.place}", f"`{step.command}`", str(one.exit_code)]
    found += [one.verdict or "–", step.verdict or "–"]
    return [*found, _duration(one.seconds), _duration(step.stated), one.beside_stated]


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
