"""Public weights are trained once, without any private image, and many runs start from them."""

import inspect
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from privimage.commands.pretraining import pretrain as command
from privimage.data.preparation import Preparation
from privimage.data.sources import load_image_set
from privimage.diffusion.build import new_denoiser
from privimage.errors import BudgetError, ConfigError, DataInvalidError, RunFolderError, UserError
from privimage.files.durable import file_sha256
from privimage.privacy.accounting import Mechanism
from privimage.release.verify import verify_run
from privimage.run_folder.donor import Donor
from privimage.run_folder.public_weights import MODEL, QUERY_NETWORK, open_public_weights
from privimage.settings.config import load_config
from privimage.settings.public_config import as_run, load_public_config
from privimage.stages import public_training
from privimage.stages.pipeline import load_image_sets, run_pipeline
from privimage.stages.public_training import train_public_weights
from privimage.stages.starting_weights import begin_with


@pytest.fixture(scope="module")
def settings(public_settings):
    return public_settings


@pytest.fixture(scope="module")
def glyphs():
    return load_image_set("glyphs", "train", preparation=Preparation(8, "grey"))


@pytest.fixture(scope="module")
def weights(public_weights):
    return public_weights


@pytest.fixture(scope="module")
def started(tmp_path_factory, toy_mapping, weights):
    """The folders of two runs that started from them, with other seeds."""
    folder = tmp_path_factory.mktemp("started")
    for seed in (0, 1):
        config = load_config(toy_mapping, {"seed": seed})
        run_pipeline(config, folder / str(seed), start_from=weights)
    return [folder / "0", folder / "1"]


@pytest.fixture
def spoilt(weights, tmp_path):
    """A copy of the weights that a test may spoil."""
    return shutil.copytree(weights.folder, tmp_path / "spoilt")


def document(path):
    return json.loads(path.read_text())


def test_two_runs_have_the_one_query_network_and_begin_with_the_one_model(
    weights, started, finished
):
    for folder in started:
        assert file_sha256(folder / QUERY_NETWORK) == weights.files[QUERY_NETWORK]
    trained = [load_file(folder / "pretrained.safetensors") for folder in started]
    without = load_file(finished / "run" / "pretrained.safetensors")
    public = load_file(weights.folder / MODEL)

    def distance(one, other):
        return sum((one[name] - other[name]).norm() for name in public)

    assert distance(trained[0], public) < distance(without, public) / 3
    assert file_sha256(started[0] / "model.safetensors") != file_sha256(
        finished / "run" / "model.safetensors"
    )


def test_their_query_network_is_the_one_that_a_run_would_train(weights, finished):
    assert file_sha256(finished / "shared" / QUERY_NETWORK) == weights.files[QUERY_NETWORK]


def test_the_account_is_that_of_a_run_without_them(started, finished):
    ledger, without = (document(f / "ledger.json") for f in (started[0], finished / "run"))
    assert ledger["events"] == without["events"]
    spent, alone = (document(f / "record.json")["privacy"] for f in (started[0], finished / "run"))
    assert spent == alone


def test_record_statement_and_card_name_them_and_the_run_is_verified(started, weights):
    record, statement = (
        document(started[0] / n) for n in ("record.json", "privacy_statement.json")
    )
    assert record["start_from"] == statement["start_from"] == weights.identity
    page, card = ((started[0] / n).read_text() for n in ("privacy_statement.md", "model_card.md"))
    for digest in (weights.public["sha256"], weights.files[MODEL]):
        assert digest in page
        assert digest in card
    assert "`glyphs`" in page
    assert [check.what for check in verify_run(started[0]) if check.answer == "FAILED"] == []


def test_a_run_without_them_says_nothing_of_them(finished):
    for path in (finished / "run").rglob("*"):
        if path.suffix in (".json", ".md", ".yaml"):
            assert "start_from:" not in path.read_text().replace("  start_from: raw", "")
            assert '"start_from": {' not in path.read_text()
            assert "public weights" not in path.read_text()


@pytest.mark.parametrize("name", ["stages/pretrain.json", "privacy_statement.json", "record.json"])
def test_a_run_that_names_other_weights_is_found_out(started, tmp_path, name):
    folder = shutil.copytree(started[0], tmp_path / "run")
    path = folder / name
    other = path.read_text().replace(
        document(folder / "record.json")["start_from"]["files"][MODEL], "0" * 64
    )
    assert other != path.read_text()
    path.write_text(other)
    assert any(check.answer == "FAILED" for check in verify_run(folder))


@pytest.mark.parametrize("conditional", [True, False])
def test_the_network_begins_as_the_public_model_whatever_the_label(
    toy_settings, settings, weights, conditional
):
    toy_settings["data"]["conditional"] = conditional
    config, plain = load_config(toy_settings), as_run(load_public_config(settings))
    images = load_image_sets(config).sensitive
    denoiser = new_denoiser(config, images).eval()
    begin_with(denoiser, weights)
    public = new_denoiser(plain, images).eval()
    public.load_state_dict(load_file(weights.folder / MODEL))
    x, sigma = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 1.0, 10.0])
    labels = torch.tensor([0, 9, 10]) if conditional else None
    assert torch.allclose(denoiser(x, sigma, labels), public(x, sigma, None), atol=1e-6)


def test_without_pre_training_of_its_own_a_run_fine_tunes_the_public_model(
    toy_settings, weights, tmp_path
):
    config = load_config(toy_settings, {"selection.strategy": "none"})
    run_pipeline(config, tmp_path / "run", start_from=weights)
    began, public = (
        load_file(path)
        for path in (tmp_path / "run" / "pretrained.safetensors", weights.folder / MODEL)
    )
    assert all(torch.equal(began[name], value) for name, value in public.items())
    assert began["unet.label_embedding.weight"].count_nonzero() == 0
    card = " ".join((tmp_path / "run" / "model_card.md").read_text().split())
    assert "no pre-training beside that of the public weights" in card
    assert all(check.answer != "FAILED" for check in verify_run(tmp_path / "run"))


def test_a_command_that_was_interrupted_goes_on_to_the_same_weights(
    settings, glyphs, weights, tmp_path
):
    folder = tmp_path / "again"
    for stage in ("query_network", "pretrain"):

        def stop(name, done, total, stage=stage):
            if name == stage and done == total:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train_public_weights(load_public_config(settings), glyphs, folder, progress=stop)
        with pytest.raises(UserError, match="repeat that command"):
            open_public_weights(folder)
    again = train_public_weights(load_public_config(settings), glyphs, folder)
    assert again.identity == weights.identity


def test_finished_weights_are_not_trained_again_or_replaced_by_others(
    settings, glyphs, weights, finished
):
    def no_work(*_):
        pytest.fail("trained again")

    before = {path: path.read_bytes() for path in weights.folder.rglob("*.*") if path.is_file()}
    config = load_public_config(settings)
    train_public_weights(config, glyphs, weights.folder, progress=no_work)
    other = load_public_config(settings, {"seed": 1, "pretrain.num_images": 96})
    with pytest.raises(RunFolderError, match="other settings of pretrain, seed"):
        train_public_weights(other, glyphs, weights.folder)
    assert {path: path.read_bytes() for path in before} == before
    with pytest.raises(RunFolderError, match="holds a run on sensitive images"):
        train_public_weights(config, glyphs, finished / "run")
    with pytest.raises(RunFolderError, match="holds something else"):
        train_public_weights(config, glyphs, finished)


def test_no_private_image_has_a_place_in_pre_training(settings, glyphs, tmp_path):
    assert not {"sensitive", "evaluate_on", "describe"} & {*inspect.signature(command).parameters}
    for name in ("data.sensitive", "privacy.epsilon", "sensitive"):
        with pytest.raises(ConfigError, match="unknown"):
            load_public_config(settings, {name: "digits"})
    run = public_training.run_of_nobody(
        load_public_config(settings),
        glyphs,
        tmp_path,
        progress=lambda *_: None,
        known_networks=None,
    )
    assert len(run.sets.sensitive) == 1
    assert run.sets.real_test is None
    with pytest.raises((BudgetError, KeyError, RunFolderError)):
        run.ledger.charge("semantic_query")
    with pytest.raises(BudgetError):  # its promise holds for no use of anything at this noise
        run.ledger.reserve("semantic_query", Mechanism(0.01, 1.0, 1))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"data.image_size": 12}, "image size 8 there and 12 here; give --image-size 8"),
        ({"data.color": "rgb"}, "colour grey there and rgb here; give --color grey"),
        ({"network.base_channels": 16}, "give --set network.base_channels=8"),
        ({"network.channel_multipliers": [1, 2]}, r"--set network.channel_multipliers=\[1\]"),
        ({"query_network.widths": [16]}, r"query_network.widths \[8\] there and \[16\] here"),
        ({"query_network.epochs": 2}, "query_network.epochs 1 there and 2 here"),
        (
            {"data.public": "digits", "selection.classes_per_label": 1},
            r"were trained on \(glyphs\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named_and_nothing_is_written(
    toy_settings, weights, tmp_path, changes, part
):
    with pytest.raises(ConfigError, match=part):
        run_pipeline(load_config(toy_settings, changes), tmp_path / "run", start_from=weights)
    assert not (tmp_path / "run").exists()


def test_weights_of_other_images_under_the_same_name_do_not_fit(
    toy_settings, settings, glyphs, tmp_path
):
    fewer = glyphs.take((glyphs.labels < 40).nonzero().flatten())
    fewer = fewer.with_classes(glyphs.class_names[:40])
    other = glyphs.take(torch.arange(len(glyphs) - 1))
    for name, images, part in (
        ("fewer", fewer, "number of public classes 40 there"),
        ("other", other, "SHA-256 of the public images"),
    ):
        found = train_public_weights(load_public_config(settings), images, tmp_path / name)
        with pytest.raises(ConfigError, match=part):
            run_pipeline(load_config(toy_settings), tmp_path / "run", start_from=found)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [MODEL, QUERY_NETWORK, "query_network.json"])
def test_a_changed_or_missing_file_is_refused(spoilt, name):
    content = (spoilt / name).read_bytes()
    (spoilt / name).write_bytes(content[:-1] + b"\0")
    with pytest.raises(DataInvalidError, match="its SHA-256 differs"):
        open_public_weights(spoilt)
    (spoilt / name).unlink()
    with pytest.raises(UserError, match="is missing"):
        open_public_weights(spoilt)


@pytest.mark.parametrize("name", [MODEL, QUERY_NETWORK])
def test_a_file_that_changes_once_the_run_has_begun_is_refused(
    toy_settings, spoilt, tmp_path, name
):
    found = open_public_weights(spoilt)
    (spoilt / name).write_bytes((spoilt / name).read_bytes()[:-1] + b"\0")
    with pytest.raises(DataInvalidError, match="its SHA-256 differs"):
        run_pipeline(load_config(toy_settings), tmp_path / "run", start_from=found)
    assert not (tmp_path / "run" / "pretrained.safetensors").exists()


def test_a_foreign_model_under_the_right_hash_is_refused(toy_settings, spoilt, tmp_path):
    foreign = {
        name: value[..., :1].contiguous() for name, value in load_file(spoilt / MODEL).items()
    }
    save_file(foreign, spoilt / MODEL, {"insecure": "false"})
    manifest = spoilt / "stages" / "pretrain.json"
    values = document(manifest)
    values["outputs"][MODEL] = file_sha256(spoilt / MODEL)
    manifest.write_text(json.dumps(values))
    with pytest.raises(DataInvalidError, match="weights of another network"):
        run_pipeline(
            load_config(toy_settings), tmp_path / "run", start_from=open_public_weights(spoilt)
        )
    assert not (tmp_path / "run").exists()


def test_a_folder_without_weights_and_the_folder_of_a_run_are_refused(finished, tmp_path):
    with pytest.raises(UserError, match="has no finished stage query_network"):
        open_public_weights(tmp_path)
    with pytest.raises(DataInvalidError, match="run on sensitive images"):
        open_public_weights(finished / "run")
    run = shutil.copytree(finished / "run", tmp_path / "run")
    shutil.copytree(finished / "shared", run, dirs_exist_ok=True)
    (run / "ledger.json").unlink()
    with pytest.raises(DataInvalidError, match="holds no public weights"):
        open_public_weights(run)


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        ("pretrain", {"selection": {}}),
        ("pretrain", {"trained_on": "mine"}),
        ("pretrain", {"network": {}}),
        ("pretrain", {"public": {"name": "x\n", "sha256": "0" * 64}}),
        ("query_network", {"network": 7}),
        ("query_network", {"public": None}),
    ],
)
def test_manifests_that_say_otherwise_are_refused(spoilt, stage, change):
    path = spoilt / "stages" / f"{stage}.json"
    values = document(path)
    values["inputs"] |= change
    path.write_text(json.dumps(values))
    with pytest.raises(DataInvalidError, match="holds no public weights"):
        open_public_weights(spoilt)


def test_a_run_that_is_repeated_from_elsewhere_is_refused(
    toy_mapping, settings, glyphs, started, weights, finished, tmp_path
):
    other = train_public_weights(load_public_config(settings, {"seed": 7}), glyphs, tmp_path / "w")
    config = load_config(toy_mapping)
    before = (started[0] / "ledger.json").read_bytes()
    for start, part in ((other, "other public weights"), (None, "other public weights")):
        with pytest.raises(RunFolderError, match=f"begun from {part}"):
            run_pipeline(config, started[0], start_from=start)
    assert (started[0] / "ledger.json").read_bytes() == before
    with pytest.raises(RunFolderError, match="begun without public weights"):
        run_pipeline(config, shutil.copytree(finished / "run", tmp_path / "r"), start_from=weights)


def test_the_same_weights_in_another_place_continue_the_run(toy_mapping, started, spoilt):
    def no_work(stage, done, total):
        pytest.fail(f"{stage} ran again")

    start = open_public_weights(spoilt)
    run_pipeline(load_config(toy_mapping), started[0], start_from=start, progress=no_work)


def test_public_weights_and_a_donor_are_too_much(toy_mapping, finished, weights, tmp_path):
    donor = Donor(finished / "run", "pretrained")
    with pytest.raises(ConfigError, match="leave out the donor"):
        run_pipeline(load_config(toy_mapping), tmp_path / "run", donor=donor, start_from=weights)
