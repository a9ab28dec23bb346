"""The commands for what a run left, as people type them."""

import json
import shutil
import signal

import pytest

from privimage import cli
from privimage.release import image_writers


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished / "run", tmp_path / "run")


def command(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["privimage", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code


def test_the_command_ends_in_a_sentence_and_a_code_of_its_own(monkeypatch, folder, capsys):
    assert command(monkeypatch, "verify", folder) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last == (
        f"{folder}: all 15 checks that were made hold; 1 could not be made, for want of the "
        "files named above."
    )
    picture = folder / "samples.png"
    picture.write_bytes(picture.read_bytes() + b"more")
    assert command(monkeypatch, "verify", folder) == 7
    said = capsys.readouterr()
    assert "FAILED    published files are unchanged: samples.png was changed" in said.out
    assert said.err.startswith(f"error: {folder} is not what it says: 2 of 16 checks failed")
    assert said.err.count("\n") == 1


def test_a_folder_that_holds_no_run_is_a_mistake_of_use(monkeypatch, tmp_path, capsys):
    assert command(monkeypatch, "verify", tmp_path) == 2
    assert "has neither ledger.json nor privacy_statement.json" in capsys.readouterr().err


def test_the_help_shows_an_example_and_the_codes(monkeypatch, capsys):
    assert command(monkeypatch, "verify", "--help") == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "privimage verify runs/mine" in words
    assert "Exit code 0: all holds; 7: something does not" in words


def test_more_images_are_drawn_by_name(monkeypatch, folder, tmp_path, capsys):
    out = tmp_path / "more"
    assert command(monkeypatch, "sample", folder, "--num", 6, "--label", 4, "--out", out) == 0
    assert f"6 images in {out}; they cost no privacy" in capsys.readouterr().out
    assert len([*(out / "4").glob("*.png")]) == 6


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("--num", "0"), 2, "num_images is 0"),
        (("--label", "x\x1b[31m"), 2, "choose 0, 1, 2"),
        (("--format", "zip"), 2, "choose folder, npz, webdataset"),
        (("--sampler", "euler"), 2, "choose ddim"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    monkeypatch, folder, tmp_path, capsys, arguments, code, part
):
    out = tmp_path / "more"
    assert command(monkeypatch, "sample", folder, "--out", out, *arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert part in error
    assert error.count("\n") == 1
    assert error.strip().isprintable()
    assert not out.exists()


def test_a_stopped_command_leaves_nothing_and_says_so(monkeypatch, folder, tmp_path, capsys):
    def stopped(*args, **kwargs):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(image_writers, "png_of", stopped)
    out = tmp_path / "out" / "more"
    assert command(monkeypatch, "sample", folder, "--out", out) == 143
    assert "nothing was left; the same command begins again" in capsys.readouterr().err
    assert list(out.parent.iterdir()) == []


def test_a_page_is_written_and_said_where(monkeypatch, folder, tmp_path, capsys):
    assert command(monkeypatch, "show", folder) == 0
    assert capsys.readouterr().out == f"{folder / 'page.html'}: open it in a browser\n"
    assert command(monkeypatch, "show", folder, "--private") == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("not for publication")
    assert last == f"{folder / 'private/page.html'}: open it in a browser"
    assert command(monkeypatch, "verify", folder) == 0
    assert command(monkeypatch, "show", folder, "--out", tmp_path / "page.html") == 0
    assert (tmp_path / "page.html").read_bytes() == (folder / "page.html").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("elsewhere",), "holds no finished run"),
        (("run", "--out", "run/images.npz"), "lies among the files of the run"),
        (("run", "--out", "run"), "is a folder"),
        (("run", "--out", "other.html"), "is no page of this command"),
    ],
)
def test_a_page_that_cannot_be_written_is_one_line(
    monkeypatch, folder, tmp_path, capsys, arguments, part
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.html").write_text("another")
    before = sorted(tmp_path.rglob("*"))
    assert command(monkeypatch, "show", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert part in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_numbers_are_said_and_written_with_what_they_do_not_promise(
    monkeypatch, folder, tmp_path, capsys
):
    path = tmp_path / "scores.json"
    arguments = ("evaluate", folder, "--against", "digits", "--no-classifiers", "--json", path)
    assert command(monkeypatch, *arguments) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last.startswith("scores of private real images are not covered by the promise")
    scores = json.loads(path.read_text())
    said = {
        name.strip(): float(value) for name, _, value in (line.partition(":") for line in lines)
    }
    assert said == pytest.approx({n: v for n, v in scores.items() if n != "not_covered"}, rel=1e-3)
    assert scores["num_real_images"] == 360


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("--against", "digitz"), 2, "did you mean digits"),
        (("--against", "folder:nowhere"), 4, "nowhere"),
        (("--against", "digits", "--json", "."), 2, "is a folder"),
        (("--against", "digits", "--num", "1"), 2, "--num"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_one_line(
    monkeypatch, folder, capsys, arguments, code, part
):
    assert command(monkeypatch, "evaluate", folder, *arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert part in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["show", "verify", "sample", "evaluate"])
def test_every_help_shows_an_example(monkeypatch, capsys, name):
    assert command(monkeypatch, name, "--help") == 0
    assert f"privimage {name} runs/mine" in " ".join(capsys.readouterr().out.split())
