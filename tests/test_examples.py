import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def said_by(example, folder):
    """What an example prints; its run lies in `folder`."""
    command = [sys.executable, str(ROOT / example)]
    place = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_example_makes_digits_that_teach_a_classifier(tmp_path):
    said = said_by("example.py", tmp_path)
    accuracy = re.search(r"on real digits ([\d.]+)%", said)
    assert accuracy
    assert float(accuracy[1]) > 40  # about 65; by chance 10
    assert (tmp_path / "runs" / "example" / "privacy_statement.md").is_file()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_example_in_memory_says_what_was_spent_and_assumed(tmp_path):
    said = said_by("example_in_memory.py", tmp_path)
    assert "[500, 1, 8, 8]" in said
    assert "'epsilon': 9." in said


@pytest.mark.parametrize(("example", "most"), [("example.py", 60), ("example_in_memory.py", 15)])
def test_an_example_is_short_enough_to_be_copied(example, most):
    lines = (ROOT / example).read_text().splitlines()
    assert len(lines) <= most
    assert not any("fmt:" in line for line in lines)
