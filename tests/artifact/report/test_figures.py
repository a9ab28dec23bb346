import base64
import json

from artifact.judging.epsilons import Line
from artifact.report.figures import curves_uri, epsilons_uri
from privimage.release.pictures import png_uri, read_stats

LOSSES = [{"stage": "pretrain", "step": s, "loss": 1 / s} for s in (1, 2, 3)]
NORMS = [{"stage": "finetune", "step": s, "noisy_gradient_norm": 2.0} for s in (1, 2)]


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_stage_that_was_resumed_keeps_the_later_report_of_a_step(tmp_path):
    again = [{"stage": "pretrain", "step": s, "loss": 9.0} for s in (2, 3, 4)]
    write(tmp_path / "stats.jsonl", [*LOSSES, *NORMS, *again])
    lines = read_stats(tmp_path / "stats.jsonl")
    assert [row["loss"] for row in lines if row["stage"] == "pretrain"] == [1.0, 9.0, 9.0, 9.0]
    assert [row for row in lines if row["stage"] == "finetune"] == NORMS


def test_lines_that_were_cut_off_are_skipped(tmp_path):
    write(tmp_path / "stats.jsonl", LOSSES)
    with (tmp_path / "stats.jsonl").open("a") as file:
        file.write('{"stage": "pretr\n[1]\n{"step": 4}\n')
    assert read_stats(tmp_path / "stats.jsonl") == LOSSES
    assert read_stats(tmp_path / "absent.jsonl") == []


def test_curves_show_a_panel_for_each_stage_that_reported():
    uri = curves_uri({"good": LOSSES + NORMS, "plain": NORMS})
    assert uri is not None
    svg = base64.b64decode(uri.split(",", 1)[1]).decode()
    assert svg.count('id="axes_') == 2
    assert 'id="legend_1"' in svg
    assert curves_uri({"good": []}) is None


def test_results_over_epsilon_have_a_panel_each_and_the_paper_once_in_the_legend():
    points = ((1.0, 60.0, 0.5), (10.0, 66.0, 0.0))
    paper = Line("the paper", points, is_paper=True)
    accuracies = [Line("CNN accuracy", points), paper, Line("MLP accuracy", points), paper]
    uri = epsilons_uri({"Accuracy": accuracies, "FID": [Line("FID", points)]})
    assert uri is not None
    svg = base64.b64decode(uri.split(",", 1)[1]).decode()
    assert svg.count('id="axes_') == 2
    assert svg.count("<!-- the paper -->") == 1
    assert svg.count('id="legend_') == 1
    assert epsilons_uri({}) is None


def test_only_png_files_are_embedded(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    (tmp_path / "b.png").write_text("<svg onload='alert(1)'/>")
    assert (png_uri(tmp_path / "a.png") or "").startswith("data:image/png;base64,")
    assert png_uri(tmp_path / "b.png") is None
    assert png_uri(tmp_path / "c.png") is None
