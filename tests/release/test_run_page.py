"""The page that shows a run: what is on it, what must not be, and how it looks in a browser."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from privimage import cli
from privimage.errors import ConfigError, DataInvalidError, RunFolderError
from privimage.release.checksums import published_files
from privimage.release.run_page import MARK, write_run_page
from privimage.release.verify import verify_run

HOSTILE = "<script>alert(1)</script>\x1b[31m"


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished / "run", tmp_path / "run")


def published(run, folder):
    """The files that the statement releases, and nothing else."""
    released = json.loads((run / "privacy_statement.json").read_text())["released"]
    for name in published_files(run, released):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(run / name, folder / name)
    return folder


def test_the_page_is_one_file_with_promise_images_classes_and_curves(run):
    text = write_run_page(run).read_text()
    outside = re.findall(r"""(?:src|href|action)\s*=\s*["']?(.{14})|url\(|@import|<link""", text)
    assert {*outside} == {"data:image/png"}
    assert "<script" not in text
    statement = json.loads((run / "privacy_statement.json").read_text())
    target = statement["target"]
    assert f"({target['epsilon']:g}, {target['delta']:g})-differentially private" in text
    with np.load(run / "images.npz") as arrays:
        names, num = arrays["class_names"], len(arrays["images"])
    assert text.count("<h3>") == len(names)
    assert text.count('alt="synthetic image') == min(num, 16 * len(names))
    chosen = json.loads((run / "query/selection.json").read_text())["classes"]
    assert "pre-trained on " + ", ".join(next(iter(chosen.values()))) in text
    assert text.count("<polyline") == 3
    assert "No guarantee" not in text


def test_it_holds_only_what_is_released(run, tmp_path):
    text = write_run_page(run).read_text()
    assert write_run_page(published(run, tmp_path / "published")).read_text() == text
    record = json.loads((run / "record.json").read_text())
    assert "For the owner alone" not in text
    assert "Scores and times" not in text
    assert str(record["timings_seconds"]["pretrain"]) not in text


def test_a_file_that_a_run_keeps_back_is_not_shown_where_it_lies(run):
    path = run / "privacy_statement.json"
    statement = json.loads(path.read_text())
    for name in ("stats.jsonl", "query/selection.json"):  # as where a clock ended a training
        del statement["released"][name]
    path.write_text(json.dumps(statement))
    text = write_run_page(run).read_text()
    assert "<polyline" not in text
    assert "pre-trained on" not in text
    assert "The chosen public classes" not in text


def test_the_owners_page_is_private_and_says_so(run, tmp_path):
    page = write_run_page(run, for_owner=True)
    assert page == run / "private/page.html"
    assert page.stat().st_mode & 0o077 == 0
    text = page.read_text()
    assert "do not publish it" in text
    assert "noise_multiplicity" in text
    with pytest.raises(RunFolderError, match="leave --private out"):
        write_run_page(published(run, tmp_path / "published"), for_owner=True)


def test_a_run_without_a_guarantee_says_nothing_else_first(run):
    path = run / "privacy_statement.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"insecure": True}))
    text = write_run_page(run).read_text()
    assert "No guarantee holds" in text
    assert "differentially private:" not in text


def test_names_from_outside_do_nothing(run):
    with np.load(run / "images.npz") as arrays:
        content = dict(arrays)
    content["class_names"] = np.array([HOSTILE, *content["class_names"][1:]])
    np.savez(run / "images.npz", **content)
    text = write_run_page(run).read_text()
    assert "<script" not in text
    assert "\x1b" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[31m" in text


def test_verifying_is_not_disturbed_and_the_page_may_be_made_again(run):
    before = [(check.what, check.answer) for check in verify_run(run)]
    page = write_run_page(run)
    write_run_page(run)
    assert [(check.what, check.answer) for check in verify_run(run)] == before
    page.write_text("<p>my own page")
    with pytest.raises(ConfigError, match="is no page of a run"):
        write_run_page(run)
    assert page.read_text() == "<p>my own page"


def test_what_is_no_run_and_what_was_damaged_is_named(run, tmp_path):
    with pytest.raises(RunFolderError, match="holds no finished run"):
        write_run_page(tmp_path)
    with pytest.raises(ConfigError, match="is not a folder"):
        write_run_page(run, tmp_path / "absent" / "page.html")
    path = run / "privacy_statement.json"
    for damage in ({"mechanisms": [{}]}, {"released": 3}, {"target": "ten"}):
        path.write_text(json.dumps(json.loads(path.read_text()) | damage))
        with pytest.raises(DataInvalidError, match="copy the folder again"):
            write_run_page(run)
    assert not (run / "page.html").exists()


def test_the_command_names_the_page(monkeypatch, run, tmp_path, capsys):
    page = tmp_path / "mine.html"
    monkeypatch.setattr("sys.argv", ["privimage", "show", str(run), "--out", str(page)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"{page}: open it in a browser\n"
    assert MARK in page.read_text()


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs a browser: chromium or chrome")
@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, False), (390, True)])
def test_a_browser_shows_it_without_overflow_in_light_and_dark(run, tmp_path, width, dark):
    page, picture = write_run_page(run), tmp_path / "page.png"
    # the page itself tells whether it is wider than the window
    text = page.read_text().replace("</body>", "<script>" + TELL_WIDTH + "</script></body>")
    page.write_text(text)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    options += ["--force-dark-mode"] * dark + [f"--user-data-dir={tmp_path}/profile"]
    options += [f"--window-size={width},900", f"--screenshot={picture}", page.as_uri()]
    subprocess.run([str(BROWSER), *options], check=True, capture_output=True, timeout=120)
    corner = Image.open(picture).convert("RGB").getpixel((1, 1))
    assert corner == ((20, 24, 29) if dark else (255, 255, 255))  # red where it overflows


TELL_WIDTH = """
if (document.documentElement.scrollWidth > window.innerWidth)
  document.body.style.background = "#f00";
"""
