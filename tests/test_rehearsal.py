"""A rehearsal takes what the documents say, as they say it, and misses nothing that goes wrong."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from artifact.claims.registry import load_claims
from artifact.report.pages import experiments_of
from tools.document_steps import Step, steps_of
from tools.rehearsal import chosen, cut_off
from tools.rehearsal_table import Done, table_of
from tools.release import archive

ROOT = Path(__file__).parents[1]
PLAIN, IN_CONTAINER = (
    [s for group in steps_of(ROOT, docker=d) for s in group] for d in (False, True)
)
README = """# Toy

```
make demo    # 3.5 min; all
```

## In a container

```
docker build --tag toy .
```

## More

```
toy --of YOURS
```
"""
PROJECT = '[project]\nname = "toy"\nversion = "1"\n[tool.setuptools]\npackages = []\n'
APPENDIX = """# Appendix

### A.1 Installation

```
make setup
export GREETING=hello
```

### A.2 Basic test

```
test "$GREETING" = hello       # 1 s
```

### A.3 Experiments

**(E1) one, smoke** [1 human-min + 0.1 min † on a laptop + 0.01 GiB disk]

* *Needs:* 1 GiB of memory; GPU memory: none; image sets: bundled.
* *Execution:* `echo "PASS  all is well"`, or `docker run --rm toy run one`
* *Results:* verdict PASS of 2 checks:

**(E2) two, full** [9 human-min + 3 h ★ on one H100 + 1 GiB disk]

* *Needs:* 1 GiB of memory; GPU memory: 20 GiB; image sets: cifar10.
* *Execution:* `false`, or `docker run --rm toy run two`
* *Results:* verdict PASS of 1 check:
"""


def release(folder, appendix=APPENDIX):
    """A release of two documents and a Makefile that has nothing to do."""
    texts = {
        "README.md": README,
        "docs/ARTIFACT-APPENDIX.md": appendix,
        "Makefile": "demo setup:\n\t@echo nothing\n",
        "pyproject.toml": PROJECT,
        "requirements.txt": "# pins\npackaging==0.1 \\\n    --hash=sha256:0\n",
        "REVISION": "a-commit 2026\n",
    }
    path = folder / "toy.tar.gz"
    path.write_bytes(archive({n: (t.encode(), False) for n, t in texts.items()}, "toy-1", 0))
    return path


def rehearsal(archive, *options, out):
    command = [sys.executable, "-m", "tools.rehearsal", archive, "--python", sys.executable]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--out", out, *options], env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


def test_every_command_of_the_documents_is_a_step_with_its_stated_time():
    commands = {step.command: step for step in PLAIN}
    for experiment in experiments_of(load_claims()):
        step = commands[experiment.command]
        assert step.stated is not None
        assert bool(step.needs) == bool(experiment.gpu != "none" or experiment.setting.needs.data)
    for command in ("make demo", "make setup", "artifact doctor", "artifact report"):
        assert command in commands
    assert commands["make demo"].stated == 210
    assert not any("docker" in step.command for step in PLAIN)


def test_in_a_container_the_lines_of_readme_and_those_of_the_experiments_are_taken():
    of_readme = [step.command for step in IN_CONTAINER if step.document == "README.md"]
    assert len(of_readme) == 4
    assert of_readme[0].startswith("docker build")
    experiments = {step.command for step in IN_CONTAINER if step.place.startswith("E")}
    assert experiments == {e.docker_command for e in experiments_of(load_claims())}


def test_a_rehearsal_follows_the_documents_of_a_release_and_leaves_out_what_it_cannot(tmp_path):
    code, said, _ = rehearsal(release(tmp_path), out=tmp_path / "table.md")
    assert code == 0, said
    assert (tmp_path / "table.md").read_text() == said.removesuffix("\n")
    rows = [line.split(" | ") for line in said.splitlines() if " | `" in line]
    assert [row[1] for row in rows][:3] == [
        "`make demo`",
        "`make setup`",
        "`export GREETING=hello`",
    ]
    assert rows[-1][2:7] == ["0", "PASS", "PASS", rows[-1][5], "6.0 s"]
    assert "a-commit" in said
    assert "0 of 1 packages as pinned, not packaging==0.1" in said
    assert "NOT rehearsed: whether pip can download" in said
    assert re.search(r"E2: `false` \(needs a GPU with 20 GiB, cifar10\)", said)
    assert "YOURS" not in said  # README's lines for images of one's own


@pytest.mark.parametrize(
    ("line", "shown"),
    [("false", "| `false` | 1 | – |"), ('echo "FAIL  no"', "| 0 | FAIL |")],
)
def test_an_exit_code_or_a_verdict_that_is_bad_fails_the_rehearsal(tmp_path, line, shown):
    bad = APPENDIX.replace('test "$GREETING" = hello', line)
    options = ("--only", f"{re.escape(line)}$")
    code, said, _ = rehearsal(release(tmp_path, bad), *options, out=tmp_path / "table.md")
    assert code == 1
    assert shown in said
    assert "said last:" in said
    assert "`make demo` |" not in said
    assert "`make demo` (not asked for)" in said


def test_an_archive_that_is_none_is_named_before_anything_is_done(tmp_path):
    (tmp_path / "toy.tar.gz").write_text("no archive")
    for name, message in (("toy.tar.gz", "error: "), ("other", "`make release` writes one")):
        code, said, error = rehearsal(tmp_path / name, out=tmp_path / "table.md")
        assert (code != 0, said) == (True, "")
        assert message in error
        assert "Traceback" not in error
    assert not (tmp_path / "table.md").exists()


def test_a_quick_rehearsal_leaves_out_what_takes_longer_and_all_that_rests_on_it():
    run = Step("d", "A", "run", 210)
    group = [Step("d", "A", "doctor", 5), run, Step("d", "A", "report", 2)]
    kept, left_out = chosen([group, [Step("d", "B", "other", 1)]], only=None, quick=True)
    assert [step.command for step in kept] == ["doctor", "other"]
    assert [step.command for step, _ in left_out] == ["run", "report"]
    assert chosen([[Step("d", "A", "make setup")]], only=None, quick=True)[0] == []


def test_a_time_is_as_stated_within_thirty_percent_and_else_a_multiple():
    def beside(seconds, stated):
        return Done(Step("d", "A", "c", stated), 0, seconds, "", "").beside_stated

    assert [beside(s, 100) for s in (71, 129)] == ["as stated"] * 2
    assert [beside(s, 100) for s in (60, 250)] == [
        "0.6 times what is stated",
        "2.5 times what is stated",
    ]
    assert beside(2.5, 1) == "as stated"
    assert beside(5, None) == "no time stated"
    slow = Done(Step("d", "A", "c", 1), 0, 99, "PASS", "")
    assert "1 of 1 commands went well" in table_of([slow], [], [])


@pytest.mark.skipif(not cut_off(), reason="no namespace can be made here")
def test_commands_have_no_network_but_can_talk_to_themselves():
    program = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); "
        "socket.create_connection(s.getsockname(), timeout=5); print('self'); "
        "print([name for _, name in socket.if_nameindex()])"
    )
    done = subprocess.run(
        [*cut_off(), sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == ["self", "['lo']"]
