"""The one command for a GPU, as far as a machine without one can tell that it would run."""

import json
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bench():
    """Modules of bench/, which its scripts import from beside them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "bench")
        yield import_module("on_gpu"), import_module("gpu_tables")


@pytest.fixture
def pages(tmp_path, bench):
    """Copies of the pages, and results of a GPU that has measured hours alone."""
    (tmp_path / "docs").mkdir()
    for page in bench[1].PAGES:
        shutil.copy(ROOT / page, tmp_path / page)
    (tmp_path / "hours_cuda.md").write_text("| hours |\n|---|\n| 7 |\n")
    document = {"hours": {"CIFAR-10": 7.25}, "environment": {"device_name": "A CARD"}}
    (tmp_path / "hours_cuda.json").write_text(json.dumps(document))
    steps = [
        {"name": "hours", "status": "done"},
        {"name": "sampling", "status": "cut off after 70 s"},
    ]
    (tmp_path / "on_gpu.json").write_text(json.dumps({"steps": steps}))
    return tmp_path


def test_a_dry_run_reads_every_step_and_shows_the_pages_without_changing_them(bench):
    before = [(ROOT / page).read_text() for page in bench[1].PAGES]
    command = ["bash", ROOT / "bench/on_gpu.sh", sys.executable, "--dry-run", "--compiled"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    speed, readme = done.stdout.split("== docs/speed.md would have:")[1].split("== README.md")
    for words in (
        "Hours of the paper's settings",
        "| folded, bfloat16, compiled |",
        "Sampling: batch 512",
    ):
        assert words in speed
    assert "A MADE-UP GPU" in readme
    assert "vmap over images" not in done.stdout  # a row that --only leaves out
    assert [(ROOT / page).read_text() for page in bench[1].PAGES] == before
    assert not [*(ROOT / "bench/results").glob("*cuda*made*")]


def test_without_a_gpu_nothing_is_done_and_the_way_to_try_it_is_named(bench, monkeypatch):
    on_gpu, _ = bench
    monkeypatch.setattr(on_gpu.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["on_gpu.py"])
    with pytest.raises(SystemExit, match="no CUDA device; --dry-run"):
        on_gpu.main()


def test_the_limits_add_up_to_less_than_eight_minutes(bench):
    assert sum(step.limit for step in bench[0].EAGER) < 8 * 60


def test_a_step_that_fails_or_takes_too_long_is_named_and_ends_nothing(bench):
    on_gpu, _ = bench
    slow = on_gpu.taken(on_gpu.Step("slow", ("-c", "import time; time.sleep(60)"), 0.2))
    assert slow["status"] == "cut off after 0.2 s"
    bad = on_gpu.taken(on_gpu.Step("bad", ("-c", "raise SystemExit(3)"), 60))
    assert bad["status"] == "failed with exit status 3"


def test_what_was_measured_is_merged_once_however_often(bench, pages):
    _, gpu_tables = bench
    gpu_tables.merge(pages, pages)
    once = [(pages / page).read_text() for page in gpu_tables.PAGES]
    gpu_tables.merge(pages, pages)
    assert [(pages / page).read_text() for page in gpu_tables.PAGES] == once
    speed, readme = once
    assert "| 7 |" in speed
    assert "Not measured: sampling (cut off after 70 s)." in speed
    assert "On A CARD the paper's settings take about these hours: CIFAR-10 7.2" in readme
    assert "nothing was measured on one yet" not in readme
    assert len(readme.splitlines()) <= 121
    unmerged = (ROOT / "README.md").read_text()
    assert readme.split("<!-- gpu")[0] == unmerged.split("<!-- gpu")[0]
    assert readme.split("<!-- /gpu -->")[1] == unmerged.split("<!-- /gpu -->")[1]


def test_a_page_without_its_comments_is_refused_by_name(bench, pages):
    (pages / "README.md").write_text("# nothing\n")
    with pytest.raises(SystemExit, match=re.escape(f"{pages / 'README.md'} needs one <!-- gpu")):
        bench[1].merge(pages, pages)


def test_tables_of_an_earlier_gpu_are_gone_before_another_measures(bench, pages):
    bench[1].clear(pages)
    assert {path.name for path in pages.iterdir()} == {"docs", "README.md", "on_gpu.json"}
