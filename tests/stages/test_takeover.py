"""What may be taken over from another run: what this run would have made, and no promise on noise
that somebody can subtract.
"""

import json
import shutil
from typing import Any

import numpy as np
import pytest
import safetensors.torch

from privimage.errors import DataInvalidError, RunFolderError
from privimage.files.durable import file_sha256
from privimage.release.image_files import images_are_insecure
from privimage.run_folder import manifest
from privimage.run_folder.checkpoint import weights_are_insecure
from privimage.run_folder.donor import TAKEN_OVER, Donor
from privimage.settings.config import load_config
from privimage.stages.pipeline import run_pipeline

INSECURE = {"privacy.insecure_for_reproduction": True}


@pytest.fixture(scope="module")
def seeded(tmp_path_factory, toy_mapping, finished):
    """The same run with noise from its seed; its query network is that of `finished`."""
    folder = tmp_path_factory.mktemp("seeded")
    run_pipeline(load_config(toy_mapping, INSECURE), folder / "run", shared=finished / "shared")
    return folder / "run"


@pytest.fixture
def take_over(toy_settings, finished, tmp_path):
    """Runs with the first stages of a folder, into a new one; nothing is left if it is refused."""

    def run(folder, entry: Any = "pretrained", overrides=None, *, into="mine"):
        theirs, mine = finished / "shared", tmp_path / "shared"
        config = load_config(toy_settings, overrides)
        donor = Donor(folder, entry, shared=theirs)
        return run_pipeline(config, tmp_path / into, shared=mine, donor=donor)

    return run


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_inputs(folder, stage, **values):
    path = folder / "stages" / f"{stage}.json"
    inputs = json.loads(path.read_text())["inputs"] | values
    change(path, inputs={k: v for k, v in inputs.items() if v is not None})


def rehash(folder):
    """Manifests that fit the files again, as a careful forger would leave them."""
    manifests = [folder / "stages" / f"{stage}.json" for stage in TAKEN_OVER["samples"]]
    for path in manifests:
        for name, digest in json.loads(path.read_text())["outputs"].items():
            for other in manifests:  # the stages after it name the file as well
                other.write_text(other.read_text().replace(digest, file_sha256(folder / name)))


@pytest.mark.parametrize("entry", ["pretrained", "finetuned", "samples"])
def test_nothing_that_rests_on_seeded_noise_serves_a_run_that_promises(
    take_over, seeded, tmp_path, entry
):
    with pytest.raises(RunFolderError, match="drawn from a fixed seed"):
        take_over(seeded, entry)
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("entry", ["pretrained", "samples"])
def test_a_run_without_a_guarantee_may_take_it_over_and_says_so_everywhere(
    take_over, seeded, tmp_path, entry
):
    record = take_over(seeded, entry, INSECURE)
    mine = tmp_path / "mine"
    assert record["insecure"] is True
    assert json.loads((mine / "ledger.json").read_text())["insecure"] is True
    assert json.loads((mine / "privacy_statement.json").read_text())["guarantee"] is False
    assert "NO GUARANTEE" in (mine / "model_card.md").read_text()
    assert images_are_insecure(mine / "images.npz")
    # and so it goes on to whoever takes over from this one
    with pytest.raises(RunFolderError, match="drawn from a fixed seed"):
        take_over(mine, entry, into="third")


def test_answer_weights_and_samples_say_how_their_noise_was_drawn(finished, seeded):
    for folder, insecure in ((finished / "run", False), (seeded, True)):
        receipt = json.loads((folder / "query" / "answer.json").read_text())["receipt"]
        assert receipt["insecure"] is insecure
        for name in ("pretrained", "pretrained_ema", "model"):
            assert weights_are_insecure(folder / f"{name}.safetensors") is insecure
        assert images_are_insecure(folder / "images.npz") is insecure
    assert not weights_are_insecure(finished / "shared" / "query_network.safetensors")


@pytest.mark.parametrize("value", [False, None, "no", 0])
@pytest.mark.parametrize("place", ["receipt", "manifest", "ledger", "weights"])
def test_a_donor_that_is_silent_or_says_two_things_of_its_noise_is_refused(
    take_over, seeded, tmp_path, place, value
):
    theirs = tmp_path / "theirs"
    shutil.copytree(seeded, theirs)
    answer = theirs / "query" / "answer.json"
    if place == "receipt":
        receipt = json.loads(answer.read_text())["receipt"] | {"insecure": value}
        change(answer, receipt=receipt)
    elif place == "manifest":
        change_inputs(theirs, "query", insecure=value)
    elif place == "ledger":
        change(theirs / "ledger.json", insecure=value)
    else:
        weights = theirs / "pretrained.safetensors"
        metadata = None if value is None else {"insecure": json.dumps(value)}
        tensors = safetensors.torch.load_file(weights)
        weights.write_bytes(safetensors.torch.save(tensors, metadata))
    rehash(theirs)
    for overrides in ({}, INSECURE):
        with pytest.raises(DataInvalidError, match="does not say"):
            take_over(theirs, "pretrained", overrides)


@pytest.mark.parametrize("said", [False, None])
def test_samples_that_are_silent_or_say_another_thing_of_their_noise_are_refused(
    take_over, seeded, tmp_path, said
):
    theirs = tmp_path / "theirs"
    shutil.copytree(seeded, theirs)
    with np.load(theirs / "images.npz") as arrays:
        kept = {name: arrays[name] for name in arrays.files if name != "insecure"}
    np.savez(theirs / "images.npz", **kept, **({} if said is None else {"insecure": said}))
    rehash(theirs)
    with pytest.raises(DataInvalidError, match="does not say"):
        take_over(theirs, "samples", INSECURE)


def test_an_insecure_run_is_not_made_a_secure_one_by_another_ledger(
    toy_settings, seeded, finished, tmp_path
):
    mine = tmp_path / "mine"
    shutil.copytree(seeded, mine)
    change(mine / "ledger.json", insecure=False, random_source="os")
    (mine / "config.yaml").unlink()
    with pytest.raises(RunFolderError, match="already spent privacy budget on query"):
        run_pipeline(load_config(toy_settings), mine, shared=finished / "shared")


@pytest.mark.parametrize("entry", ["pretrained", "finetuned", "samples"])
@pytest.mark.parametrize("strategy", ["random", "all", "none"])
def test_a_query_that_was_asked_is_not_used_where_none_is_paid_for(
    take_over, finished, tmp_path, entry, strategy
):
    with pytest.raises(RunFolderError, match=r"this run|these settings"):
        take_over(finished / "run", entry, {"selection.strategy": strategy})
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("entry", "overrides", "named"),
    [
        ("pretrained", {"privacy.query_noise_multiplier": 9.0}, "semantic_query as"),
        ("pretrained", {"selection.classes_per_label": 3}, "classes_per_image"),
        ("pretrained", {"selection.assignment": "matching"}, "selection.assignment"),
        ("pretrained", {"query_network.epochs": 2}, "network.epochs"),
        ("pretrained", {"network.base_channels": 12}, "network.base_channels"),
        ("pretrained", {"pretrain.num_images": 96}, "pretrain.num_images"),
        ("pretrained", {"data.conditional": False, "data.evaluate_on": None}, "labels"),
        ("pretrained", {"data.public": "cifar100"}, "public.name"),
        ("pretrained", {"seed": 1}, "seed"),
        ("finetuned", {"privacy.num_steps": 4}, "dp_sgd as"),
        ("finetuned", {"privacy.epsilon": 5.0}, "dp_sgd as"),
        ("finetuned", {"privacy.clip_norm": 0.01}, "clip_norm"),
        ("samples", {"privacy.clip_norm": 0.01}, "clip_norm"),
        ("finetuned", {"privacy.delta": 1.001e-4}, "delta"),
        ("finetuned", {"finetune.noise_multiplicity": 3}, "finetune.noise_multiplicity"),
        ("finetuned", {"data.public_size": 1400}, "public_size"),
        ("finetuned", INSECURE, "random_source"),
        ("samples", {"sampling.num_images": 60}, "sampling.num_images"),
        ("samples", {"sampling.sampler": "heun"}, "sampling.sampler"),
    ],
)
def test_what_was_made_with_other_settings_is_refused_before_anything_is_written(
    take_over, finished, tmp_path, entry, overrides, named
):
    with pytest.raises(RunFolderError, match=named):
        take_over(finished / "run", entry, overrides)
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("stage", ["selection", "pretrain", "finetune", "generate"])
def test_stages_of_several_runs_are_no_donor(take_over, donated, stage):
    path = donated / "run" / "stages" / f"{stage}.json"
    inputs = json.loads(path.read_text())["inputs"]
    (name,) = {"query", "selection", "pretrained", "model"} & inputs.keys() - (
        {"selection"} if stage == "selection" else set()
    )
    changed = dict.fromkeys(inputs[name], "0" * 64)
    change_inputs(donated / "run", stage, **{name: changed})
    with pytest.raises(RunFolderError, match=f"{stage} of .* has .*{name}"):
        take_over(donated / "run", "samples")


@pytest.mark.parametrize("stage", ["query", "selection", "pretrain", "finetune", "generate"])
def test_a_manifest_that_leaves_a_product_out_is_refused(take_over, donated, stage):
    path = donated / "run" / "stages" / f"{stage}.json"
    outputs = json.loads(path.read_text())["outputs"]
    outputs.pop(manifest.PRODUCTS[stage][-1])
    change(path, outputs=outputs)
    with pytest.raises((DataInvalidError, RunFolderError)):
        take_over(donated / "run", "samples")


@pytest.mark.parametrize(
    ("entry", "event", "values", "error"),
    [
        ("pretrained", 0, {"charged": 0}, DataInvalidError),  # an answer that was not paid for
        ("pretrained", 0, {"name": "other"}, RunFolderError),
        ("finetuned", 1, {"charged": 2}, DataInvalidError),  # the model took 3 steps
        ("finetuned", 1, {"noise_multiplier": 1.0}, RunFolderError),
        ("finetuned", 0, {"name": "other"}, RunFolderError),
    ],
)
def test_a_ledger_that_does_not_cover_what_is_taken_over_is_refused(
    take_over, donated, tmp_path, entry, event, values, error
):
    path = donated / "run" / "ledger.json"
    events = json.loads(path.read_text())["events"]
    events[event] |= values
    change(path, events=events)
    with pytest.raises(error):
        take_over(donated / "run", entry)
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("charged", [None, 0])
def test_a_stage_that_does_not_say_what_it_cost_is_refused(take_over, donated, charged):
    path = donated / "run" / "stages" / "query.json"
    document = json.loads(path.read_text()) | {"charged": charged}
    path.write_text(json.dumps({k: v for k, v in document.items() if v is not None}))
    with pytest.raises(DataInvalidError, match="rests on 0 uses"):
        take_over(donated / "run")


def test_a_name_of_the_images_that_would_write_into_the_statement_is_refused(take_over, donated):
    change(donated / "run" / "ledger.json", data_id="`\n# All is well")
    with pytest.raises((DataInvalidError, RunFolderError)) as error:
        take_over(donated / "run", "samples")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("entry", ["pretrained", "samples"])
def test_stages_about_other_images_are_refused_where_the_key_shows_it(take_over, donated, entry):
    (donated / "run" / "private" / "data_key").write_bytes(bytes(32))
    with pytest.raises(RunFolderError, match="data_id"):
        take_over(donated / "run", entry)


def test_a_donor_may_have_taken_over_its_stages_itself(take_over, finished, tmp_path):
    cheaper = {"privacy.epsilon": 5.0}
    take_over(finished / "run", "pretrained", cheaper)
    take_over(tmp_path / "mine", "pretrained", cheaper, into="third")
    take_over(tmp_path / "mine", "finetuned", cheaper, into="fourth")
    record = take_over(tmp_path / "fourth", "samples", cheaper, into="fifth")
    third = json.loads((tmp_path / "third" / "ledger.json").read_text())
    assert {e["name"]: e["charged"] for e in third["events"]} == {"semantic_query": 1, "dp_sgd": 3}
    assert 4.9 < record["privacy"]["epsilon"] <= 5
    assert record["privacy"]["steps_taken"] == 3


def test_weights_before_fine_tuning_that_no_query_chose_are_public_whatever_noise_came_later(
    take_over, toy_settings, finished, tmp_path
):
    unasked = {"selection.strategy": "random"}
    config = load_config(toy_settings, unasked | INSECURE)
    run_pipeline(config, tmp_path / "theirs", shared=finished / "shared")
    assert not weights_are_insecure(tmp_path / "theirs" / "pretrained.safetensors")
    record = take_over(tmp_path / "theirs", "pretrained", unasked)
    assert record["insecure"] is False


def test_a_run_folder_is_no_donor_of_its_own(donated, toy_settings, tmp_path):
    config, run = load_config(toy_settings), donated / "run"
    with pytest.raises(RunFolderError, match="its own stages"):
        run_pipeline(config, run, donor=Donor(run, "pretrained"))
    shared = donated / "shared"
    with pytest.raises(RunFolderError, match="its own stages"):
        run_pipeline(
            config, tmp_path / "mine", shared=shared, donor=Donor(run, "samples", shared=shared)
        )
