"""What README and the appendix tell a reviewer to type, read from them and never written twice.

A step is one line of a block of code, or an experiment of the appendix. Its stated time is the
comment behind the line, or what the experiment's heading says. Alternatives are told apart by what
they call: a line with `docker` belongs to the way over the container, the others to that without.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

README, APPENDIX = "README.md", "docs/ARTIFACT-APPENDIX.md"
# of README the first blocks and these: elsewhere it shows lines with names of the reader's own
README_SECTIONS = ("", "In a container")
SECONDS = {"s": 1, "min": 60, "h": 3600}
STATED = re.compile(r"#.*?\b([\d.]+) (s|min|h)\b")
PREPARATION = ("export ", "mkdir ", "make setup", "docker build ")
EXPERIMENT = re.compile(
    r"^\*\*\(E(?P<number>\d+)\) (?P<claim>\w+), (?P<setting>\w+)\*\* \[[^\]]*? \+ "
    r"(?P<time>[\d.]+) (?P<unit>s|min|h) .*?\]\n"
    r".*?GPU memory: (?P<gpu>[^;]+); image sets: (?P<images>[^\n]+)\.\n"
    r".*?\*Execution:\* `(?P<plain>[^`]+)`, or `(?P<docker>[^`]+)`\n"
    r"(?P<results>\* \*Results:\*[^\n]*)",
    re.M | re.S,
)


@dataclass(frozen=True)
class Step:
    """One command as it stands, with the time (in seconds) and the verdict that are stated."""

    document: str
    place: str
    command: str
    stated: float | None = None
    verdict: str = ""
    needs: str = ""  # what a machine without GPU, data and network lacks for it

    @property
    def is_preparation(self) -> bool:
        return self.command.startswith(PREPARATION) and "&&" not in self.command


def steps_of(tree: Path, *, docker: bool) -> list[list[Step]]:
    """All steps of both documents in their order, in groups that belong together."""
    return [*_of_readme(tree, docker=docker), *_of_appendix(tree, docker=docker)]


def _of_readme(tree: Path, *, docker: bool) -> Iterator[list[Step]]:
    for title, text in _sections((tree / README).read_text(), "## "):
        if title in README_SECTIONS:
            yield from _blocks(text, README, title or "head", docker=docker)


def _of_appendix(tree: Path, *, docker: bool) -> Iterator[list[Step]]:
    for title, text in _sections((tree / APPENDIX).read_text(), "### "):
        place = title.partition(" ")[0]
        experiments = EXPERIMENT.finditer(text)
        yield from ([_experiment(found, docker=docker)] for found in experiments)
        yield from _blocks(text, APPENDIX, place, docker=docker)


def _sections(text: str, mark: str) -> Iterator[tuple[str, str]]:
    """Title and text of each section; what stands before the first has no title."""
    head, *rest = re.split(rf"^{mark}", text, flags=re.M)
    yield "", head
    for section in rest:
        title, _, body = section.partition("\n")
        yield title, body


def _blocks(text: str, document: str, place: str, *, docker: bool) -> Iterator[list[Step]]:
    for block in re.findall(r"^```\n(.*?)^```", text, re.M | re.S):
        lines = block.replace("\\\n", " ").splitlines()
        steps = [_line(line, document, place) for line in lines if line.strip()]
        yield [s for s in steps if ("docker " in s.command) == docker or _is_for_both(s)]


def _is_for_both(step: Step) -> bool:
    return step.command.startswith(("mkdir ", "sha256sum ")) and "docker " not in step.command


def _line(line: str, document: str, place: str) -> Step:
    command = re.sub(r"\s+#.*", "", line).strip()
    found = STATED.search(line)
    stated = float(found[1]) * SECONDS[found[2]] if found else None
    return Step(document, place, command, stated)


def _experiment(found: re.Match[str], *, docker: bool) -> Step:
    verdict = re.search(r"verdict ([A-Z]+(?: RUN)?)\b", found["results"])
    needs = [f"a GPU with {found['gpu']}"] if found["gpu"] != "none" else []
    needs += [found["images"]] if found["images"] not in ("none", "bundled") else []
    return Step(
        APPENDIX,
        f"E{found['number']}",
        found["docker" if docker else "plain"],
        float(found["time"]) * SECONDS[found["unit"]],
        verdict[1] if verdict else "EXECUTES" if "not judged" in found["results"] else "",
        ", ".join(needs),
    )
