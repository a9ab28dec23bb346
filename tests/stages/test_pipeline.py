import itertools
import json
import os
import secrets
import time
from types import SimpleNamespace

import pytest
import torch
import yaml

from privimage.errors import BudgetError, ConfigError, RunFolderError
from privimage.evaluation import evaluate as evaluate_module
from privimage.evaluation.features import Extractor
from privimage.privacy import accounting
from privimage.privacy.accounting import compute_epsilon
from privimage.release.image_files import load_images
from privimage.run_folder.budget import privacy_plan
from privimage.run_folder.lock import locked
from privimage.settings.config import load_config
from privimage.stages import pipeline
from privimage.stages.pipeline import run_pipeline

PRODUCTS = (
    "config.yaml",
    "finetune.json",
    "images.npz",
    "ledger.json",
    "model.safetensors",
    "model_card.md",
    "privacy_statement.json",
    "privacy_statement.md",
    "query/answer.json",
    "query/chosen_classes.png",
    "query/selection.json",
    "record.json",
    "samples.png",
    "stats.jsonl",
)


@pytest.fixture
def shared(finished):
    """The folder of the public query network, so that it is trained once for all tests."""
    return finished / "shared"


def test_a_run_leaves_all_its_products_and_an_honest_record(toy_settings, tmp_path, shared):
    config = load_config(toy_settings)
    record = run_pipeline(config, tmp_path, shared=shared)
    assert all((tmp_path / name).is_file() for name in PRODUCTS)
    assert record == json.loads((tmp_path / "record.json").read_text())
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    charged = {event["name"]: event["charged"] for event in ledger["events"]}
    assert charged == {"semantic_query": 1, "dp_sgd": 3}
    # the epsilon of the record is that of the ledger, and it uses what was promised
    plan = tuple(privacy_plan(config).mechanisms.values())
    spent = compute_epsilon(plan, delta=1e-4, accountant="rdp")
    assert record["privacy"]["epsilon"] == pytest.approx(spent, rel=1e-12)
    assert 9.99 < record["privacy"]["epsilon"] <= 10
    assert record["privacy"]["epsilon_pld"] < record["privacy"]["epsilon_rdp"]
    by_opacus = record["privacy"]["counted_again"]["opacus"]["epsilon"]
    assert by_opacus == pytest.approx(record["privacy"]["epsilon_rdp"], rel=1e-9)
    assert record["insecure"] is False
    assert 0 <= record["metrics"]["cnn_accuracy"] <= 1
    assert record["metrics"]["frechet_query_network"] > 0
    assert "fid" not in record["metrics"]


def test_the_private_folder_is_closed_and_no_private_image_lies_in_the_run(toy_settings, finished):
    folder = finished / "run"
    assert (folder / "private").stat().st_mode & 0o077 == 0
    assert (folder / "private" / "data_key").stat().st_mode & 0o077 == 0
    sets = pipeline.load_image_sets(load_config(toy_settings))
    needles = [image.numpy().tobytes() for image in sets.sensitive.images[:50]]
    assert sets.real_test is not None
    needles += [image.numpy().tobytes() for image in sets.real_test.images[:50]]
    public_key = json.loads((folder / "ledger.json").read_text())["data_id"].encode()
    hashes = [
        images.fingerprint(key)
        for images in (sets.sensitive, sets.real_test)
        for key in (None, public_key)
    ]
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(needle in content for needle in needles), path
            assert not any(value.encode() in content for value in hashes), path


def test_no_clock_shows_in_what_may_be_published(toy_settings, tmp_path, monkeypatch):
    config = load_config(toy_settings, {"privacy.insecure_for_reproduction": True})
    real = time.monotonic
    for name, speed in (("slow", 1), ("fast", 1000)):
        with monkeypatch.context() as patch:
            # the same key, for it names the images
            patch.setattr(secrets, "token_bytes", lambda num: b"k" * num)
            patch.setattr(time, "monotonic", lambda speed=speed: speed * real())
            run_pipeline(config, tmp_path / name)
    told = json.loads((tmp_path / "slow" / "privacy_statement.json").read_text())
    assert "stats.jsonl" in told["released"]
    for name in (*told["released"], "privacy_statement.md", "privacy_statement.json"):
        slow, fast = (tmp_path / speed / name for speed in ("slow", "fast"))
        assert slow.read_bytes() == fast.read_bytes(), name
    kept = "".join(told["kept_back"])
    for name in ("record.json", "stages/"):  # where times and memory are
        assert name in kept
        assert name not in told["released"]


def test_repeating_a_run_does_no_work_and_spends_nothing(
    toy_settings, tmp_path, shared, monkeypatch
):
    # every stage takes a time that rounds to other figures if it is rounded twice
    clock = itertools.count(0.0, 0.0349997)
    monkeypatch.setattr(pipeline, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    config = load_config(toy_settings)
    first = run_pipeline(config, tmp_path, shared=shared)
    before = (tmp_path / "ledger.json").read_bytes(), (tmp_path / "images.npz").read_bytes()

    def no_work(stage, done, total):
        pytest.fail(f"{stage} ran again")

    second = run_pipeline(config, tmp_path, shared=shared, progress=no_work)
    assert before == (
        (tmp_path / "ledger.json").read_bytes(),
        (tmp_path / "images.npz").read_bytes(),
    )
    assert second["metrics"] == first["metrics"]
    assert second["timings_seconds"] == first["timings_seconds"]


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "generate", "evaluate"])
def test_an_interrupted_run_has_no_record_and_is_continued(toy_settings, tmp_path, shared, stage):
    config = load_config(toy_settings)

    def stop(name, done, total):
        if name == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(config, tmp_path, shared=shared, progress=stop)
    assert not (tmp_path / "record.json").exists()
    record = run_pipeline(config, tmp_path, shared=shared)
    assert record["privacy"]["steps"] == 3
    assert record["privacy"]["epsilon"] <= 10


def test_a_lost_result_of_a_private_stage_is_not_asked_for_twice(toy_settings, donated, shared):
    config, folder = load_config(toy_settings), donated / "run"
    answer = folder / "query" / "answer.json"
    before = answer.read_bytes()
    answer.unlink()
    run_pipeline(config, folder, shared=shared)  # a private copy lies beside the key
    assert answer.read_bytes() == before
    answer.unlink()
    copy = folder / "private" / "query_answer.json"
    for damaged in (copy.read_bytes()[:-9], b"{}", b"[]"):
        copy.write_bytes(damaged)
        with pytest.raises(RunFolderError, match="already spent privacy budget on query"):
            run_pipeline(config, folder, shared=shared)
    copy.unlink()
    with pytest.raises(RunFolderError, match="already spent privacy budget on query"):
        run_pipeline(config, folder, shared=shared)


@pytest.mark.parametrize(
    "overrides",
    [
        {"finetune.learning_rate": 5e-3},
        {"privacy.clip_norm": 1.0},
        {"privacy.epsilon": 20},
        {"privacy.query_noise_multiplier": 20},
        {"seed": 1, "pretrain.num_images": 96},
    ],
)
def test_a_folder_that_has_spent_is_not_used_for_other_settings(
    toy_settings, donated, shared, overrides
):
    folder = donated / "run"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(RunFolderError, match="new run folder"):
        run_pipeline(load_config(toy_settings, overrides), folder, shared=shared)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before


def test_changing_a_public_stage_after_the_private_ones_costs_nothing(
    toy_settings, donated, shared
):
    more = load_config(toy_settings, {"sampling.num_images": 60})
    run_pipeline(more, donated / "run", shared=shared)
    drawn = load_images(donated / "run" / "images.npz")
    assert len(drawn) == 60
    assert torch.bincount(drawn.labels).tolist() == [6] * 10


@pytest.mark.parametrize("strategy", ["none", "random", "all"])
def test_a_baseline_asks_no_query_and_gives_all_budget_to_dp_sgd(
    toy_settings, tmp_path, shared, strategy
):
    config = load_config(toy_settings, {"selection.strategy": strategy})
    record = run_pipeline(config, tmp_path, shared=shared)
    assert record["privacy"]["query_noise_multiplier"] is None
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    assert [event["name"] for event in ledger["events"]] == ["dp_sgd"]
    assert 9.99 < record["privacy"]["epsilon"] <= 10


def test_the_unconditional_mode_has_one_row_and_no_classifiers(toy_settings, tmp_path, shared):
    config = load_config(
        toy_settings, {"data.conditional": False, "selection.classes_per_label": 10}
    )
    record = run_pipeline(config, tmp_path, shared=shared)
    assert {name: len(c) for name, c in record["selection"]["classes"].items()} == {"all": 10}
    assert "cnn_accuracy" not in record["metrics"]
    assert record["metrics"]["frechet_query_network"] > 0


def test_an_insecure_run_repeats_exactly_and_says_what_it_is(toy_settings, tmp_path, shared):
    config = load_config(toy_settings, {"privacy.insecure_for_reproduction": True})
    for name in ("one", "two"):
        record = run_pipeline(config, tmp_path / name, shared=shared)
        assert record["insecure"] is True
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("one", "two")]
    assert weights[0] == weights[1]
    assert "NO" in (tmp_path / "one" / "privacy_statement.md").read_text()


def test_performance_settings_cannot_touch_the_ledger(toy_settings, tmp_path, shared):
    choices = (
        {"micro_batch_size": 3},
        {"strategy": "loop", "precision": "bfloat16", "num_threads": 2},
        {"strategy": "auto", "micro_batch_size": 0, "precision": "auto", "compile": None},
    )
    books = []
    for number, choice in enumerate(choices):
        folder = tmp_path / str(number)
        settings = {f"performance.{name}": value for name, value in choice.items()}
        run_pipeline(load_config(toy_settings, settings), folder, shared=shared)
        books.append(json.loads((folder / "ledger.json").read_text()))
        books[-1].pop("data_id")  # keyed by each run's own secret
    assert books[0] == books[1] == books[2]


@pytest.mark.parametrize(
    ("overrides", "error", "part"),
    [
        ({"selection.classes_per_label": 50}, ConfigError, "use at most"),
        ({"privacy.epsilon": 0.1}, BudgetError, "epsilon"),
        ({"privacy.delta": 0.01}, ConfigError, "needs a delta below"),
        ({"sampling.num_images": 5}, ConfigError, "ask for at least 10"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    toy_settings, tmp_path, overrides, error, part
):
    folder = tmp_path / "run"
    with pytest.raises(error, match=part):
        run_pipeline(load_config(toy_settings, overrides), folder)
    assert not folder.exists()


def test_a_promise_that_another_library_refutes_ends_before_an_image_is_used(
    toy_settings, tmp_path, shared, monkeypatch
):
    curve = accounting._rdp_curve
    monkeypatch.setattr(accounting, "_rdp_curve", lambda *mechanism: 0.95 * curve(*mechanism))
    with pytest.raises(BudgetError, match=r"opacus .* counts a total epsilon of 10"):
        run_pipeline(load_config(toy_settings), tmp_path, shared=shared)
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    assert [event["charged"] for event in ledger["events"]] == [0, 0]
    assert not any((tmp_path / name).exists() for name in PRODUCTS if name != "ledger.json")


def test_a_second_process_in_the_same_folder_is_refused(toy_settings, tmp_path):
    with locked(tmp_path), pytest.raises(RunFolderError, match="in use"):
        run_pipeline(load_config(toy_settings), tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_a_clear_error(toy_settings, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunFolderError, match="cannot write"):
        run_pipeline(load_config(toy_settings), tmp_path / "run")


def test_a_ledger_that_is_gone_or_older_than_the_results_is_refused(toy_settings, donated, shared):
    config, folder = load_config(toy_settings), donated / "run"
    ledger = folder / "ledger.json"
    older = json.loads(ledger.read_text())
    older["events"][1]["charged"] = 1  # as after the first step
    ledger.write_text(json.dumps(older))
    before = ledger.read_bytes()
    with pytest.raises(RunFolderError, match="an older copy"):
        run_pipeline(config, folder, shared=shared)
    assert ledger.read_bytes() == before
    ledger.unlink()
    with pytest.raises(RunFolderError, match="restore it from a copy"):
        run_pipeline(config, folder, shared=shared)
    assert not ledger.exists()


def test_states_of_interrupted_work_go_when_a_stage_is_done(finished):
    checkpoints = finished / "run" / "checkpoints"
    assert not [path for path in checkpoints.rglob("*") if path.is_file()]


def test_the_resolved_configuration_repeats_the_run(toy_settings, finished):
    resolved = yaml.safe_load((finished / "run" / "config.yaml").read_text())
    assert load_config(resolved) == load_config(toy_settings)


def test_the_record_says_which_public_images_and_which_precision_it_rests_on(
    toy_settings, finished
):
    record = json.loads((finished / "run" / "record.json").read_text())
    public = pipeline.load_image_sets(load_config(toy_settings)).public
    assert record["data"]["public_sha256"] == public.fingerprint()
    assert record["environment"]["precision"] == "float32"
    assert {"numpy", "pillow", "torch"} <= record["environment"].keys()


def test_fid_appears_once_its_weights_are_there_and_stays_when_they_go(
    toy_settings, donated, tmp_path, shared, monkeypatch
):
    def pixels(weights, *, device):
        assert weights == tmp_path / "data" / "weights"
        return Extractor("inception", 4, device, lambda x: x.flatten(1)[:, :4])

    def record(*, found):
        weights = tmp_path / "data" / "weights" if found else None
        monkeypatch.setattr(
            pipeline, "find_inception", lambda root: weights if root == tmp_path / "data" else None
        )
        return run_pipeline(
            load_config(toy_settings), donated / "run", shared=shared, data_root=tmp_path / "data"
        )

    monkeypatch.setattr(evaluate_module, "inception_extractor", pixels)
    without = record(found=False)
    assert "fid" not in without["metrics"]
    with_fid = record(found=True)
    assert with_fid["metrics"]["fid"] > 0
    assert with_fid["privacy"] == without["privacy"]
    assert record(found=False)["metrics"] == with_fid["metrics"]
