import json

import pytest

from privimage.release.training_curves import read_stats, training_curves

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


def test_a_falling_loss_goes_down_from_left_to_right_between_round_ticks():
    (curve,) = training_curves(LOSSES)
    places = [tuple(map(float, p.split(","))) for p in curve.path.removeprefix("M").split()]
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    assert [y for _, y in places] == sorted(y for _, y in places)  # SVG counts downwards
    assert [label for _, label in curve.ticks] == ["0.4", "0.6", "0.8", "1"]
    assert curve.summary.endswith("loss on public images: from 1 at step 1 to 0.333 at 3")


def test_a_value_that_hardly_changes_is_drawn_as_such():
    noise = [
        {"stage": "finetune", "step": s, "noisy_gradient_norm": 2.0 + s / 1000} for s in range(1, 9)
    ]
    (curve,) = training_curves(noise)
    heights = [float(place.split(",")[1]) for place in curve.path.split()]
    assert max(heights) - min(heights) < 3  # of 138


def test_a_single_report_and_hostile_numbers_make_no_fault(tmp_path):
    rows = ['{"stage": "pretrain", "step": 1, "loss": 1e400}']
    rows += ['{"stage": "pretrain", "step": "2", "loss": 1}', '{"stage": [], "step": 3}']
    rows += [f'{{"stage": "pretrain", "step": {10**30}, "loss": 1}}']
    rows += ['{"stage": "finetune", "step": 5, "noisy_gradient_norm": 5e-324}']
    rows += ['{"stage": "query_network", "step": 4, "loss": 3}']
    (tmp_path / "stats.jsonl").write_text("\n".join(rows))
    (curve,) = training_curves(read_stats(tmp_path / "stats.jsonl"))
    assert curve.last_step == 4
    assert "nan" not in curve.path


def test_many_reports_are_thinned_and_the_last_one_stays():
    many = [{"stage": "pretrain", "step": s, "loss": float(s)} for s in range(1, 5001)]
    (curve,) = training_curves(many)
    assert len(curve.path.split()) <= 402
    assert curve.path.split()[-1].startswith("312.0,")


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ((0.3, 9.0), ["0.5", "1", "2", "5"]),
        ((1e-6, 1e5), ["1e-06", "0.001", "1", "1e+03"]),
        ((0.9, 0.95), ["0.8", "0.9", "1", "1.1"]),
    ],
)
def test_ticks_are_round_and_few(values, labels):
    lines = [{"stage": "pretrain", "step": s, "loss": v} for s, v in enumerate(values, 1)]
    (curve,) = training_curves(lines)
    assert [label for _, label in curve.ticks] == labels
