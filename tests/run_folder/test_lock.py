"""The lock of a run folder: one holder, and no charge once it is lost."""

import pytest

from privimage.errors import RunFolderError
from privimage.run_folder.lock import locked
from privimage.settings.config import load_config
from privimage.stages.pipeline import run_pipeline


def replaced(path):
    path.unlink()
    path.touch()


def moved(path):
    path.parent.rename(path.parent.with_name("elsewhere"))


def linked(path):
    path.rename(path.with_name("held"))
    path.symlink_to("held")


LOSSES = [lambda path: path.unlink(), replaced, moved, linked]


def test_one_process_at_a_time_holds_a_folder(tmp_path):
    with locked(tmp_path) as check:
        check()
        with pytest.raises(RunFolderError, match="in use"), locked(tmp_path):
            pass
        check()
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("lose", LOSSES, ids=["removed", "replaced", "moved", "linked"])
def test_a_lock_that_was_removed_or_replaced_is_noticed(tmp_path, lose):
    folder = tmp_path / "run"
    with locked(folder) as check:
        lose(folder / ".lock")
        with pytest.raises(RunFolderError, match="was removed or replaced"):
            check()


def test_a_link_in_the_place_of_the_lock_is_refused_and_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("content")
    folder = tmp_path / "run"
    folder.mkdir()
    for target in (victim, tmp_path / "not there"):
        (folder / ".lock").symlink_to(target)
        with pytest.raises(RunFolderError, match="is a link"), locked(folder):
            pass
        (folder / ".lock").unlink()
    assert victim.read_text() == "content"
    assert not (tmp_path / "not there").exists()


@pytest.mark.parametrize("lose", [LOSSES[0], replaced], ids=["removed", "replaced"])
def test_a_run_ends_at_the_next_charge_after_its_lock_is_lost_and_can_be_continued(
    toy_settings, tmp_path, lose
):
    config, charged = load_config(toy_settings), []

    def watch(stage, done, total):
        if stage == "finetune":
            charged.append(done)
            if done == 1:
                lose(tmp_path / ".lock")

    with pytest.raises(RunFolderError, match="repeat the command"):
        run_pipeline(config, tmp_path, progress=watch)
    assert charged == [1]
    assert run_pipeline(config, tmp_path)["privacy"]["steps"] == 3


def test_what_a_crash_left_of_a_charge_does_not_close_the_folder(tmp_path):
    (tmp_path / ".ledger.json.after-0123456789abcdef").symlink_to(".ledger.json.proposal")
    with locked(tmp_path):
        pass
