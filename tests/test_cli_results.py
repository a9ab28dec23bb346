"""The commands for what a run left, as people type them."""

import shutil

import pytest

from privimage import cli


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
        f"{folder}: all 14 checks that were made hold; 1 could not be made, for want of the "
        "files named above."
    )
    picture = folder / "samples.png"
    picture.write_bytes(picture.read_bytes() + b"more")
    assert command(monkeypatch, "verify", folder) == 7
    said = capsys.readouterr()
    assert "FAILED    published files are unchanged: samples.png was changed" in said.out
    assert said.err.startswith(f"error: {folder} is not what it says: 2 of 15 checks failed")
    assert said.err.count("\n") == 1


def test_a_folder_that_holds_no_run_is_a_mistake_of_use(monkeypatch, tmp_path, capsys):
    assert command(monkeypatch, "verify", tmp_path) == 2
    assert "has neither ledger.json nor privacy_statement.json" in capsys.readouterr().err


def test_the_help_shows_an_example_and_the_codes(monkeypatch, capsys):
    assert command(monkeypatch, "verify", "--help") == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "privimage verify runs/mine" in words
    assert "Exit code 0: all holds; 7: something does not" in words
