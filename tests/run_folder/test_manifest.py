import json
import os

import pytest

from privimage.errors import DataInvalidError
from privimage.files.durable import write_durably
from privimage.run_folder import manifest

INPUTS = {"network": {"widths": [8]}, "seed": 0}


def finished_stage(folder):
    manifest.start(folder, "query", INPUTS)
    write_durably(folder / "query/answer.json", b"numbers")
    manifest.finish(folder, "query", INPUTS, ["query/answer.json"], facts={"seconds": 1.5})


def test_a_finished_stage_with_the_same_inputs_is_done(tmp_path):
    finished_stage(tmp_path)
    assert manifest.is_done(tmp_path, "query", INPUTS)


def test_a_started_stage_is_not_done(tmp_path):
    write_durably(tmp_path / "query/answer.json", b"numbers")
    manifest.start(tmp_path, "query", INPUTS)
    assert not manifest.is_done(tmp_path, "query", INPUTS)


def test_other_inputs_a_changed_or_a_missing_output_undo_a_stage(tmp_path):
    finished_stage(tmp_path)
    assert not manifest.is_done(tmp_path, "query", {**INPUTS, "seed": 1})
    assert manifest.was_started_otherwise(tmp_path, "query", {**INPUTS, "seed": 1})
    (tmp_path / "query/answer.json").write_bytes(b"other numbers")
    assert not manifest.is_done(tmp_path, "query", INPUTS)
    (tmp_path / "query/answer.json").unlink()
    assert not manifest.is_done(tmp_path, "query", INPUTS)


def test_a_truncated_manifest_counts_as_none(tmp_path):
    finished_stage(tmp_path)
    path = tmp_path / "stages" / "query.json"
    path.write_text(path.read_text()[:40])
    assert manifest.read(tmp_path, "query") is None
    assert not manifest.is_done(tmp_path, "query", INPUTS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("outputs", {"../outside": "0" * 64}),
        ("outputs", {"query/answer.json": "0" * 63}),
        ("outputs", {"query/answer.json": None}),
        ("outputs", {"query/Answer.json": "0" * 64}),
        ("inputs", {manifest.TAKEN_OVER: {"../outside": "0" * 64}}),
        ("stage", "finetune"),
        ("charged", True),
        ("charged", -1),
    ],
)
def test_a_manifest_of_anything_but_the_products_of_its_stage_counts_as_none(tmp_path, key, value):
    finished_stage(tmp_path)
    path = tmp_path / "stages" / "query.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert manifest.read(tmp_path, "query") is None
    assert not manifest.is_done(tmp_path, "query", INPUTS)
    assert manifest.results(tmp_path, "query") == {}


def test_a_stage_is_not_done_by_a_link_to_its_output(tmp_path):
    finished_stage(tmp_path)
    answer = tmp_path / "query" / "answer.json"
    answer.rename(tmp_path / "elsewhere")
    answer.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataInvalidError, match="is a link"):
        manifest.is_done(tmp_path, "query", INPUTS)


def test_a_pipe_in_the_place_of_a_manifest_is_not_waited_for(tmp_path):
    finished_stage(tmp_path)
    (tmp_path / "stages" / "query.json").unlink()
    os.mkfifo(tmp_path / "stages" / "query.json")
    assert manifest.read(tmp_path, "query") is None
