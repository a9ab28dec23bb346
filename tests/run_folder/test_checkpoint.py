"""States of interrupted work: replaced whole, checked by hash, used for their own stage only."""

import math

import pytest
import torch

from privimage.errors import RunFolderError
from privimage.run_folder import checkpoint as module
from privimage.run_folder.checkpoint import (
    NOT_KEPT,
    Checkpoint,
    about_weights,
    is_undamaged,
    save_weights,
    weights_are_insecure,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "states" / "stage.pt"


def state(number):
    return {"step": number, "weights": {"a": torch.full((100,), float(number))}}


def test_the_last_state_comes_back(path):
    kept = Checkpoint(path, belongs_to={"seed": 1})
    assert kept.load() is None
    for number in range(3):
        kept.save(state(number))
    found = Checkpoint(path, belongs_to={"seed": 1}).load()
    assert found is not None
    assert found["step"] == 2
    assert torch.equal(found["weights"]["a"], torch.full((100,), 2.0))


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "grown"])
def test_a_damaged_state_is_passed_over_for_the_one_before(path, damage):
    kept = Checkpoint(path)
    kept.save(state(1))
    kept.save(state(2))
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-300] ^= 4
    else:
        content = {"cut": content[:-1], "emptied": b"", "grown": content + b"x"}[damage]
    path.write_bytes(content)
    found = kept.load()
    assert found is not None
    assert found["step"] == 1


def test_with_both_damaged_work_starts_again(path):
    kept = Checkpoint(path)
    kept.save(state(1))
    kept.save(state(2))
    for file in path.parent.iterdir():
        file.write_bytes(b"nothing")
    assert kept.load() is None


def test_a_state_serves_the_stage_that_it_was_saved_for_only(path):
    Checkpoint(path, belongs_to={"rate": 0.1}).save(state(1))
    assert Checkpoint(path, belongs_to={"rate": 0.2}).load() is None
    assert Checkpoint(path, belongs_to={"rate": 0.1}).load() is not None


def test_a_state_that_cannot_be_written_leaves_the_one_before(path, monkeypatch):
    kept = Checkpoint(path)
    kept.save(state(1))

    def full(*_args, **_kwargs):
        raise RunFolderError("no space")

    monkeypatch.setattr(module, "write_durably", full)
    with pytest.raises(RunFolderError):
        kept.save(state(2))
    found = kept.load()
    assert found is not None
    assert found["step"] == 1


def test_saving_takes_no_more_than_its_share_of_the_time(path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    write = module.write_durably

    def slowly(*args, **settings):
        write(*args, **settings)
        clock[0] += 2.0

    monkeypatch.setattr(module, "write_durably", slowly)
    kept = Checkpoint(path, time_share=0.1)
    for _ in range(1000):
        clock[0] += 0.5
        if kept.is_due():
            kept.save(state(1))
    # 500 s of work allow 50 s of saving; the first save is free of the rule
    assert 0.08 < (clock[0] - 500) / 500 <= 0.105


def test_what_is_kept_after_every_step_and_what_is_never_due(path):
    always, never = Checkpoint(path, time_share=math.inf), Checkpoint(path, time_share=0)
    for number in range(3):
        assert always.is_due()
        assert not never.is_due()
        always.save(state(number))


def test_without_a_path_nothing_is_kept():
    NOT_KEPT.save(state(1))
    assert NOT_KEPT.load() is None
    assert not NOT_KEPT.is_due()


def test_a_saved_state_is_checked_without_being_unpacked(path):
    Checkpoint(path, belongs_to={"rate": 0.1}).save(state(1))
    assert is_undamaged(path)
    content = path.read_bytes()
    for place in (3, 120, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert not is_undamaged(path)
    for other in (b"", b"anything", content[:100]):
        path.write_bytes(other)
        assert not is_undamaged(path)


def test_the_same_weights_are_the_same_bytes_whatever_is_said_about_them(tmp_path):
    about = {"network": {"width": 3}, "class_names": ["cats"]}
    weights = {name: torch.arange(3.0) for name in "abc"}
    contents = set()
    for number in range(10):
        path = tmp_path / f"{number}.safetensors"
        save_weights(path, weights, insecure=True, about=about)
        contents.add(path.read_bytes())
    assert len(contents) == 1
    found, shapes = about_weights(tmp_path / "0.safetensors")
    assert found == about | {"insecure": True}
    assert shapes == dict.fromkeys("abc", (3,))
    assert weights_are_insecure(tmp_path / "0.safetensors")
