from privimage import manifest
from privimage.durable import write_durably

INPUTS = {"network": {"widths": [8]}, "seed": 0}


def finished_stage(folder):
    manifest.start(folder, "stage", INPUTS)
    write_durably(folder / "result", b"numbers")
    manifest.finish(folder, "stage", INPUTS, ["result"], facts={"seconds": 1.5})


def test_a_finished_stage_with_the_same_inputs_is_done(tmp_path):
    finished_stage(tmp_path)
    assert manifest.is_done(tmp_path, "stage", INPUTS)


def test_a_started_stage_is_not_done(tmp_path):
    write_durably(tmp_path / "result", b"numbers")
    manifest.start(tmp_path, "stage", INPUTS)
    assert not manifest.is_done(tmp_path, "stage", INPUTS)


def test_other_inputs_a_changed_or_a_missing_output_undo_a_stage(tmp_path):
    finished_stage(tmp_path)
    assert not manifest.is_done(tmp_path, "stage", {**INPUTS, "seed": 1})
    assert manifest.was_started_otherwise(tmp_path, "stage", {**INPUTS, "seed": 1})
    (tmp_path / "result").write_bytes(b"other numbers")
    assert not manifest.is_done(tmp_path, "stage", INPUTS)
    (tmp_path / "result").unlink()
    assert not manifest.is_done(tmp_path, "stage", INPUTS)


def test_a_truncated_manifest_counts_as_none(tmp_path):
    finished_stage(tmp_path)
    path = tmp_path / "stages" / "stage.json"
    path.write_text(path.read_text()[:40])
    assert manifest.read(tmp_path, "stage") is None
    assert not manifest.is_done(tmp_path, "stage", INPUTS)
