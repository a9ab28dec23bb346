"""`privimage pretrain` and `privimage synthesize --start-from`, as people type them."""

import json
import signal

import pytest

from privimage import api, cli
from privimage.classifiers import query_network
from privimage.commands import synthesize
from privimage.files.durable import file_sha256
from privimage.stages import public_training, semantic, time_budget
from privimage.stages.estimate import Cost
from tests.toy_settings import TOY

NETWORKS = {n: v for n, v in TOY.items() if n.startswith(("query_network.", "network."))}
TRAINING = NETWORKS | {n: TOY[n] for n in ("pretrain.num_images", "performance.num_threads")}
RUN = {name: value for name, value in TOY.items() if name not in NETWORKS}


def command(patch, *arguments, settings):
    pairs = [part for n, v in settings.items() for part in ("--set", f"{n}={v}")]
    patch.setattr("sys.argv", ["privimage", *map(str, arguments), *pairs])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code


def pretrain(patch, out, *more, settings=TRAINING, public="glyphs"):
    facts = ("--public", public, "--image-size", "8", "--color", "grey")
    return command(patch, "pretrain", *facts, "--out", out, *more, settings=settings)


def run(patch, out, *more, settings=RUN, public="glyphs"):
    facts = ("--sensitive", "digits", "--public", public, "--epsilon", "10")
    return command(patch, "synthesize", *facts, "--out", out, *more, settings=settings)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("public") / "weights"
    with pytest.MonkeyPatch.context() as patch:
        assert pretrain(patch, folder) == 0
    return folder


def test_a_run_takes_the_networks_of_its_public_weights_without_being_told_their_shape(
    monkeypatch, weights, tmp_path, capsys
):
    def no_training(*args, **named):
        pytest.fail("a query network was trained")

    monkeypatch.setattr(semantic, "train_query_network", no_training)
    out = tmp_path / "run"
    assert run(monkeypatch, out, "--start-from", weights) == 0
    for name in ("query_network.safetensors", "query_network.json"):
        assert file_sha256(out / name) == file_sha256(weights / name)
    assert "base_channels: 8" in capsys.readouterr().out
    assert run(monkeypatch, out) == 2
    assert "was begun from other public weights" in capsys.readouterr().err
    assert command(monkeypatch, "verify", out, settings={}) == 0


def test_the_command_names_what_a_run_will_name_and_does_nothing_twice(
    monkeypatch, weights, capsys
):
    before = {path: path.read_bytes() for path in weights.rglob("*") if path.is_file()}
    monkeypatch.setattr(public_training, "train_model", None)
    assert pretrain(monkeypatch, weights) == 0
    printed = capsys.readouterr().out
    assert all(file_sha256(path) in printed for path in weights.glob("*.safetensors"))
    assert f"--start-from {weights}" in printed
    assert {path: path.read_bytes() for path in weights.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("more", "changes", "code", "part"),
    [
        (("--public", "glyfs"), {}, 2, "did you mean glyphs"),
        (("--public", "folder:nowhere"), {}, 4, "nowhere"),
        (("--image-size", "9"), {"network.channel_multipliers": "[1,2]"}, 2, "a multiple of 2"),
        (("--sensitive", "digits"), {}, 2, "No such option: --sensitive"),
        ((), {"data.sensitive": "digits"}, 2, "data: unknown"),
        ((), {"privacy.epsilon": 1}, 2, "privacy: unknown"),
        ((), {"hours": 1}, 2, "give --hours"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    monkeypatch, tmp_path, capsys, more, changes, code, part
):
    out = tmp_path / "weights"
    assert pretrain(monkeypatch, out, *more, settings=TRAINING | changes) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert part in error
    assert error.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("more", "changes", "code", "part"),
    [
        (("--start-from", "nowhere"), {}, 4, "has no finished stage query_network"),
        ((), {"network.base_channels": 16}, 2, "give --set network.base_channels=8"),
        (("--image-size", "12"), {}, 2, "give --image-size 8"),
        (("--dry-run",), {"query_network.epochs": 2}, 2, "query_network.epochs"),
        (("--gpus", "2"), {"query_network.epochs": 2}, 2, "query_network.epochs"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_done(
    monkeypatch, weights, tmp_path, capsys, more, changes, code, part
):
    monkeypatch.setattr(synthesize, "launch", None)
    out, start = tmp_path / "run", ("--start-from", weights)
    assert run(monkeypatch, out, *start, *more, settings=RUN | changes) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert part in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_missing_folder_is_named_before_a_private_image_is_read(monkeypatch, tmp_path):
    monkeypatch.setattr(api, "own_images", None)
    assert run(monkeypatch, tmp_path / "run", "--start-from", tmp_path / "nowhere") == 4


def test_a_stopped_command_says_how_to_go_on(monkeypatch, tmp_path, capsys):
    def stopped(*args, **named):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(semantic, "train_query_network", stopped)
    assert pretrain(monkeypatch, tmp_path / "weights") == 143
    assert "the same command continues it" in capsys.readouterr().err
    monkeypatch.setattr(semantic, "train_query_network", query_network.train_query_network)
    assert pretrain(monkeypatch, tmp_path / "weights") == 0


def test_given_hours_go_to_both_networks_and_are_kept_for_the_next_call(
    monkeypatch, tmp_path, capsys
):
    def costs(config, facts, *, only=None):
        seconds = {
            "query_network": 6.0 * config.query_network.epochs,
            "pretrain": config.pretrain.num_images / 100,
        }
        assert only is None or {*only} <= {*seconds}
        return {name: Cost(s) for name, s in seconds.items() if only is None or name in only}

    monkeypatch.setattr(time_budget, "estimate", costs)
    found = {}
    for hours in (0.5, 2.0):
        config, _ = api.public_images(
            "glyphs", image_size=8, color="grey", overrides=dict(NETWORKS), hours=hours
        )
        assert config.query_network.epochs == 1  # as it was set by hand
        found[hours] = 6 + config.pretrain.num_images / 100
    # 95 % of the time, less five seconds for the beginning
    assert found == {h: pytest.approx(0.95 * 3600 * h - 5, rel=0.01) for h in found}


def test_python_does_the_same(weights, tmp_path):
    made = api.pretrain(
        "glyphs", image_size=8, color="grey", folder=tmp_path / "w", settings=TRAINING
    )
    for name in made.files:
        assert file_sha256(tmp_path / "w" / name) == file_sha256(weights / name)
    result = api.synthesize(
        "digits",
        public="glyphs",
        epsilon=10,
        folder=tmp_path / "run",
        settings=RUN,
        start_from=made.folder,
    )
    assert result.statement["start_from"] == json.loads(json.dumps(made.identity))
    assert len(result.images) > 0
