import io
import json
import signal
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from privimage import cli
from privimage.commands import planning, synthesize
from privimage.machine.terminal.plain_text import escaped
from privimage.stages import pipeline, time_budget
from privimage.stages.estimate import Cost
from tests import toy_settings

TIME_GIVEN = planning.time_given  # the real one, which conftest replaces
ROOT = Path(__file__).parents[1]


def two_classes(folder):
    """Cats and dogs, eight grey images each of 9x12 pixels, as a stranger might have them."""
    generator = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
        for number in range(8):
            pixels = generator.integers(0, 256, (9, 12), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def folder(tmp_path):
    return two_classes(tmp_path / "mine")


TOY = tuple(f"{name}={value}" for name, value in toy_settings.TOY.items())


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["privimage", "synthesize", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code


def arguments_for(folder, out, *settings, epsilon="5", public="glyphs"):
    pairs = [part for setting in settings for part in ("--set", setting)]
    return (
        "--sensitive",
        f"folder:{folder}",
        "--public",
        public,
        "--epsilon",
        epsilon,
        "--out",
        out,
        *pairs,
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished command: the images in `mine`, its run in `out`, and what it printed."""
    place = tmp_path_factory.mktemp("command")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        arguments = arguments_for(two_classes(place / "mine"), place / "out", *TOY)
        assert run(patch, *arguments) == 0
    return place, printed.getvalue()


def test_own_images_become_synthetic_images_with_a_statement(done):
    out, printed = done[0] / "out", done[1]
    assert "(5, 0.001)-differential privacy" in printed
    assert printed.index("budget") < printed.index("done")
    assert sorted(p.name for p in (out / "images").iterdir()) == ["cats", "dogs"]
    assert len(list((out / "images").rglob("*.png"))) == 16
    with np.load(out / "images.npz") as arrays:
        assert arrays["images"].shape == (16, 1, 8, 8)
        assert arrays["class_names"].tolist() == ["cats", "dogs"]
    for name in ("model.safetensors", "privacy_statement.md", "samples.png"):
        assert (out / name).is_file()
    assert json.loads((out / "record.json").read_text())["privacy"]["epsilon"] <= 5


@pytest.mark.slow
def test_several_processes_end_as_one_does(done, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    arguments = arguments_for(done[0] / "mine", tmp_path / "two", *TOY)
    assert run(monkeypatch, *arguments, "--gpus", "2") == 0
    outs = done[0] / "out", tmp_path / "two"
    for out, printed in zip(outs, (done[1], capfd.readouterr().out), strict=True):
        assert [printed.count(title) for title in ("─ budget ─", "─ done ─")] == [1, 1]
        assert len(list((out / "images").rglob("*.png"))) == 16
    one, two = (json.loads((out / "ledger.json").read_text()) for out in outs)
    assert one["events"] == two["events"]
    assert [event["charged"] for event in two["events"]] == [1, 2]
    with np.load(outs[0] / "images.npz") as one, np.load(outs[1] / "images.npz") as two:
        assert one["labels"].tolist() == two["labels"].tolist()


@pytest.mark.slow
def test_a_run_of_given_hours_is_continued_with_the_numbers_that_it_has(
    monkeypatch, folder, tmp_path, capsys
):
    def slow_machine(config, facts, *, only=None):
        steps = config.privacy.num_steps * config.privacy.sampling_rate * facts.public_size
        seconds = {
            "query_network": config.query_network.epochs,
            "pretrain": 0.02 * config.pretrain.num_images,
            "finetune": 0.4 * steps,
            "generate": 0.1 * config.sampling.num_images,
        }
        return {stage: Cost(s) for stage, s in seconds.items() if only is None or stage in only}

    monkeypatch.setattr(time_budget, "estimate", slow_machine)
    by_hand = [s for s in TOY if not s.startswith(("pretrain.num_images", "privacy.num_steps"))]
    arguments = arguments_for(folder, tmp_path / "out", *by_hand)
    assert run(monkeypatch, *arguments, "--hours", "0.05") == 0
    config = (tmp_path / "out" / "config.yaml").read_text()
    ledger = (tmp_path / "out" / "ledger.json").read_bytes()
    assert "hours: 0.05" in config
    for again in ([], ["--hours", "0.05"]):
        assert run(monkeypatch, *arguments, *again) == 0
    assert run(monkeypatch, *arguments, "--hours", "0.5") == 2
    assert (tmp_path / "out" / "config.yaml").read_text() == config
    assert (tmp_path / "out" / "ledger.json").read_bytes() == ledger
    assert "other settings" in capsys.readouterr().err


def test_hours_are_refused_where_nobody_can_tell_how_long_a_run_takes(monkeypatch, capsys, folder):
    monkeypatch.setattr(synthesize, "time_given", TIME_GIVEN)
    arguments = (*arguments_for(folder, "out"), "--hours", "1", "--gpus", "2")
    assert run(monkeypatch, *arguments) == 2
    assert "--hours measures one process" in capsys.readouterr().err
    assert run(monkeypatch, "--preset", "cifar10_eps1", "--hours", "1", "--out", "out") == 2
    assert "already fixes --hours" in capsys.readouterr().err


def test_what_a_run_is_given_without_hours_depends_on_the_device(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert TIME_GIVEN(None) is None
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert TIME_GIVEN(None) == 1
    assert "--hours gives another time" in capsys.readouterr().out


@pytest.mark.parametrize("gpus", ["1", "2"])
def test_a_dry_run_shows_settings_and_budget_and_does_nothing(
    monkeypatch, folder, tmp_path, capsys, gpus
):
    monkeypatch.setattr(synthesize, "launch", None)
    out = tmp_path / "out"
    assert run(monkeypatch, *arguments_for(folder, out), "--dry-run", "--gpus", gpus) == 0
    printed = capsys.readouterr().out
    assert "image_size: 8" in printed
    assert "dp_sgd: noise multiplier" in printed
    assert not out.exists()


def test_a_dry_run_opens_no_private_image(monkeypatch, folder, tmp_path, capsys):
    for path in folder.rglob("*.png"):
        path.write_bytes(b"no image")
    declared = ("--image-size", "8", "--color", "grey")
    arguments = (*arguments_for(folder, tmp_path / "out", *TOY), *declared)
    assert run(monkeypatch, *arguments, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "public_size: 16" in printed
    assert run(monkeypatch, *arguments) == 4
    assert "is not a readable image" in capsys.readouterr().err


HOSTILE = "x\x1b[31m\u202e\r[/x][bold]"
SHOWN = r"x\x1b[31m\u202e\r[/x][bold]"


def test_paths_and_names_of_classes_are_shown_as_text(monkeypatch, folder, tmp_path, capsys):
    name = HOSTILE.replace("/", "")
    (folder / "cats").rename(folder / name)
    out = tmp_path / HOSTILE / "[/y]"
    assert run(monkeypatch, *arguments_for(folder, out, *TOY)) == 0
    said = "".join(capsys.readouterr())
    assert f"{SHOWN}/[/y]/model.safetensors" in said
    assert all(line.isprintable() for line in said.split("\n"))
    card = (out / "model_card.md").read_text()
    assert escaped(name) in card
    assert all(line.isprintable() for line in card.split("\n"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--sensitive", f"folder:{HOSTILE}", "--public", "glyphs", "--epsilon", "5", "--out", "x"),
        ("--sensitive", HOSTILE, "--public", HOSTILE, "--epsilon", "5", "--out", HOSTILE),
        ("--preset", HOSTILE, "--out", HOSTILE),
        ("--preset", "cifar10_eps1", "--set", HOSTILE, "--out", HOSTILE),
        ("--preset", "cifar10_eps1", "--set", f"{HOSTILE}=1", "--out", HOSTILE),
        ("--preset", "cifar10_eps1", "--set", f"seed={HOSTILE}", "--out", HOSTILE),
        ("--epsilon", HOSTILE, "--out", "x"),
        (f"--{HOSTILE}", "--out", "x"),
        (HOSTILE, "--out", "x"),
    ],
)
def test_a_mistake_in_what_was_typed_is_one_line_of_text(monkeypatch, tmp_path, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) in (2, 4)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert error.strip().isprintable()


def test_sigterm_stops_a_run_and_says_how_to_go_on(monkeypatch, folder, tmp_path, capsys):
    def stopped(*args, **kwargs):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(pipeline, "run_pipeline", stopped)
    assert run(monkeypatch, *arguments_for(folder, tmp_path / "out", *TOY)) == 143
    assert "the same command continues" in capsys.readouterr().err


@pytest.mark.parametrize("gpus", ["1", "2"])
@pytest.mark.parametrize(
    ("changes", "code", "part"),
    [
        ({"public": "glyfs"}, 2, "did you mean glyphs"),
        ({"folder": "nowhere"}, 4, "nowhere"),
        ({"epsilon": "-1"}, 2, "epsilon is -1"),
        ({"settings": ("privacy.query_noise_multiplier=0.1",)}, 2, "epsilon"),
        ({"settings": ("selection.classes_per_label=60",)}, 2, "use at most"),
        ({"settings": ("privacy.nois=1",)}, 2, "privacy.nois: unknown"),
        ({"settings": ("privacy",)}, 2, "section.key=value"),
        ({"settings": ("sampling.num_images=1",)}, 2, "at least 2"),
        ({"public": "cifar100"}, 4, "cifar100"),
    ],
)
def test_a_mistake_is_one_line_with_its_exit_code_and_leaves_nothing(
    monkeypatch, folder, tmp_path, capsys, changes, code, part, gpus
):
    monkeypatch.setattr(synthesize, "launch", None)
    monkeypatch.setenv("PRIVIMAGE_DATA", str(tmp_path / "empty"))
    out = tmp_path / "out"
    arguments = arguments_for(
        tmp_path / changes["folder"] if "folder" in changes else folder,
        out,
        *changes.get("settings", ()),
        epsilon=changes.get("epsilon", "5"),
        public=changes.get("public", "glyphs"),
    )
    assert run(monkeypatch, *arguments, "--gpus", gpus) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert part in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_other_settings_in_a_folder_that_has_spent_are_refused(done, monkeypatch, capsys):
    monkeypatch.setattr(synthesize, "launch", None)
    monkeypatch.setattr(synthesize, "show_estimate", None)  # it would come after the refusal
    place, _ = done
    more = arguments_for(place / "mine", place / "out", *TOY, "privacy.num_steps=3")
    for gpus in (1, 2):
        assert run(monkeypatch, *more, "--gpus", gpus) == 2
        error = capsys.readouterr().err
        assert "already spent privacy budget with other settings of privacy" in error
        assert error.count("\n") == 1


def test_a_finished_run_is_not_timed_again(done, monkeypatch):
    monkeypatch.setattr(synthesize, "show_estimate", None)
    assert run(monkeypatch, *arguments_for(done[0] / "mine", done[0] / "out", *TOY)) == 0


def test_a_dry_run_names_what_images_and_settings_show_together(
    monkeypatch, folder, tmp_path, capsys
):
    monkeypatch.setattr(synthesize, "show_estimate", None)
    wrong = arguments_for(folder, tmp_path / "out", *TOY, "privacy.delta=0.5")
    assert run(monkeypatch, *wrong, "--dry-run") == 2
    assert "needs a delta below" in capsys.readouterr().err


def test_a_corrupt_image_is_named(monkeypatch, folder, tmp_path, capsys):
    path = folder / "dogs" / "3.png"
    path.write_bytes(path.read_bytes()[:60])
    assert run(monkeypatch, *arguments_for(folder, tmp_path / "out")) == 4
    assert "dogs/3.png" in capsys.readouterr().err
