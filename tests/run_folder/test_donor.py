import json
import os
import shutil

import pytest

from privimage.errors import DataInvalidError, DataMissingError, RunFolderError
from privimage.files.durable import file_sha256
from privimage.privacy.accounting import compute_epsilon
from privimage.run_folder.budget import privacy_plan
from privimage.run_folder.donor import Donor
from privimage.settings.config import load_config
from privimage.stages import pipeline
from privimage.stages.pipeline import run_pipeline


def ledger_of(folder):
    return json.loads((folder / "ledger.json").read_text())


def charged(folder):
    return {event["name"]: event["charged"] for event in ledger_of(folder)["events"]}


def everything_below(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def no_public_set(*arguments, **named):
    pytest.fail("the public set was loaded")


CHEAPER = {"privacy.epsilon": 5.0}


@pytest.fixture(scope="module")
def cheaper(tmp_path_factory, toy_mapping, finished):
    """The folder of a run at half the epsilon, on the pre-trained weights of `finished`."""
    folder = tmp_path_factory.mktemp("cheaper")
    donor = Donor(finished / "run", "pretrained")
    config = load_config(toy_mapping, CHEAPER)
    run_pipeline(config, folder, shared=finished / "shared", donor=donor)
    return folder


@pytest.fixture(scope="module")
def another(tmp_path_factory, toy_mapping, finished):
    """The folder of a run with the settings of `finished`, its answer and ledger its own."""
    folder = tmp_path_factory.mktemp("another")
    run_pipeline(load_config(toy_mapping), folder, shared=finished / "shared")
    return folder


def test_a_run_from_pretrained_pays_for_the_query_and_keeps_its_own_promise(finished, cheaper):
    record = json.loads((cheaper / "record.json").read_text())
    assert charged(cheaper) == {"semantic_query": 1, "dp_sgd": 3}
    assert 4.9 < record["privacy"]["epsilon"] <= 5
    assert record["taken_over"] == "pretrained"
    for name in ("pretrained.safetensors", "query/answer.json"):
        assert file_sha256(cheaper / name) == file_sha256(finished / "run" / name)
    # it trained on its own from there
    model = "model.safetensors"
    assert file_sha256(cheaper / model) != file_sha256(finished / "run" / model)


@pytest.mark.parametrize("entry", ["finetuned", "samples"])
def test_a_run_from_a_finished_model_asks_nothing_of_the_private_images_nor_of_the_public(
    toy_settings, finished, tmp_path, entry, monkeypatch
):
    monkeypatch.setattr(pipeline.ImageSets, "public", property(no_public_set))
    donor = Donor(finished / "run", entry, shared=finished / "shared")
    record = run_pipeline(
        load_config(toy_settings), tmp_path / "mine", shared=tmp_path / "shared", donor=donor
    )
    assert ledger_of(tmp_path / "mine") == ledger_of(finished / "run")
    theirs = json.loads((finished / "run" / "record.json").read_text())
    assert record["privacy"] == theirs["privacy"]
    assert record["metrics"] == theirs["metrics"]
    assert not (tmp_path / "mine" / "pretrained.safetensors").exists()


def test_repeating_such_a_run_does_nothing_and_charges_nothing(toy_settings, finished, cheaper):
    config = load_config(toy_settings, CHEAPER)
    donor, shared = Donor(finished / "run", "pretrained"), finished / "shared"
    first = json.loads((cheaper / "record.json").read_text())

    def no_work(stage, done, total):
        pytest.fail(f"{stage} ran again")

    again = run_pipeline(config, cheaper, shared=shared, donor=donor, progress=no_work)
    assert again["metrics"] == first["metrics"]
    assert charged(cheaper) == {"semantic_query": 1, "dp_sgd": 3}


def test_a_second_answer_is_not_taken_over_for_the_price_of_one(
    toy_settings, finished, cheaper, another, tmp_path
):
    mine = tmp_path / "mine"
    shutil.copytree(cheaper, mine)
    donor = Donor(another, "pretrained")  # with another answer about the same images
    with pytest.raises(RunFolderError, match="already spent privacy budget on query"):
        run_pipeline(
            load_config(toy_settings, CHEAPER), mine, shared=finished / "shared", donor=donor
        )


@pytest.mark.parametrize("name", ["pretrained.safetensors", "query/answer.json"])
def test_a_changed_file_is_refused_before_any_work(toy_settings, donated, tmp_path, name):
    path = donated / "run" / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DataInvalidError, match="SHA-256 differs"):
        run_pipeline(
            load_config(toy_settings), tmp_path / "mine", donor=Donor(donated / "run", "pretrained")
        )
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("entry", "name", "message"),
    [
        ("pretrained", "pretrained.safetensors", "is missing"),
        ("pretrained", "stages/pretrain.json", "no finished stage pretrain"),
        ("finetuned", "model.safetensors", "is missing"),
        ("finetuned", "ledger.json", "what its model cost is not known"),
        ("samples", "images.npz", "is missing"),
    ],
)
def test_what_is_missing_is_named_before_any_work(
    toy_settings, donated, tmp_path, entry, name, message
):
    (donated / "run" / name).unlink()
    with pytest.raises(DataMissingError, match=message):
        run_pipeline(
            load_config(toy_settings), tmp_path / "mine", donor=Donor(donated / "run", entry)
        )
    assert not (tmp_path / "mine").exists()


def test_later_entries_do_not_need_the_weights_of_earlier_ones(toy_settings, donated, tmp_path):
    (donated / "run" / "pretrained.safetensors").unlink()
    (donated / "run" / "pretrained_ema.safetensors").unlink()
    donor = Donor(donated / "run", "finetuned", shared=donated / "shared")
    run_pipeline(
        load_config(toy_settings), tmp_path / "mine", shared=tmp_path / "shared", donor=donor
    )


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("pretrain", "../../secret"),
        ("pretrain", "SECRET"),  # the absolute path
        ("pretrain", "query/../../../secret"),
        ("pretrain", "./pretrained.safetensors"),  # one file by a second name
        ("pretrain", "Pretrained.safetensors"),
        ("query", "query\\answer.json"),
        ("query", "model.safetensors"),  # a product of another stage
        ("selection", "private/data_key"),
        ("selection", ".lock"),
    ],
)
def test_a_manifest_names_products_of_its_stage_alone(toy_settings, donated, tmp_path, stage, name):
    secret = tmp_path / "secret"
    secret.write_text("mine")
    name = str(secret) if name == "SECRET" else name
    path = donated / "run" / "stages" / f"{stage}.json"
    document = json.loads(path.read_text())
    document["outputs"][name] = file_sha256(secret)
    path.write_text(json.dumps(document))
    before = everything_below(tmp_path)
    with pytest.raises(DataInvalidError, match=f"not a manifest of {stage}"):
        run_pipeline(
            load_config(toy_settings), tmp_path / "mine", donor=Donor(donated / "run", "pretrained")
        )
    assert everything_below(tmp_path) == before


@pytest.mark.parametrize("name", ["pretrained.safetensors", "stages/query.json", "ledger.json"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_donor_holds_plain_files_alone(toy_settings, donated, tmp_path, name, kind):
    path = donated / "run" / name
    path.rename(tmp_path / "elsewhere")
    os.mkfifo(path) if kind == "pipe" else path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataInvalidError, match=f"is a {kind}"):
        Donor(donated / "run", "pretrained").check()


def test_no_folder_of_a_donor_is_a_link(donated, tmp_path):
    (donated / "run" / "query").rename(tmp_path / "query")
    (donated / "run" / "query").symlink_to(tmp_path / "query")
    with pytest.raises(DataInvalidError, match=r"query in .* is a link"):
        Donor(donated / "run", "pretrained").check()


@pytest.mark.parametrize("place", ["query", "model.safetensors", ".lock", "stats.jsonl"])
def test_nothing_is_written_through_a_link_in_the_run_folder(
    toy_settings, finished, tmp_path, place
):
    elsewhere, mine = tmp_path / "elsewhere", tmp_path / "mine"
    mine.mkdir()
    if place == "query":
        elsewhere.mkdir()
    else:
        elsewhere.write_text("kept")
    (mine / place).symlink_to(elsewhere)
    before = everything_below(tmp_path)
    donor = Donor(finished / "run", "finetuned", shared=finished / "shared")
    with pytest.raises(RunFolderError, match="is a link, and a run folder holds plain files"):
        run_pipeline(load_config(toy_settings), mine, shared=tmp_path / "shared", donor=donor)
    assert everything_below(tmp_path) == before


def test_a_file_that_changes_while_it_is_copied_is_not_taken_over(donated, tmp_path, monkeypatch):
    donor, mine = Donor(donated / "run", "pretrained"), tmp_path / "mine"
    monkeypatch.setattr(Donor, "_check_stage", lambda *_: None)  # it was right a moment ago
    weights = donated / "run" / "pretrained.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(DataInvalidError, match="SHA-256 differs"):
        donor.take_over("pretrain", mine)
    assert not [path for path in mine.rglob("*") if path.is_file()]


def test_another_ledger_that_lies_here_stays_and_no_model_is_taken_over_beside_it(
    toy_settings, finished, another, tmp_path
):
    config, mine, shared = load_config(toy_settings), tmp_path / "mine", finished / "shared"
    run_pipeline(config, mine, shared=shared, donor=Donor(finished / "run", "samples"))
    before = ledger_of(mine)
    with pytest.raises(RunFolderError, match="is not the ledger of"):
        run_pipeline(config, mine, shared=shared, donor=Donor(another, "samples"))
    assert ledger_of(mine) == before


def test_a_rehearsal_takes_a_first_step_of_every_stage_and_says_so(toy_settings, tmp_path):
    config = load_config(toy_settings, {"stage_seconds": 1e-9, "pretrain.num_images": 3200})
    record = run_pipeline(config, tmp_path / "run")
    assert record["stopped_early"] is True
    assert charged(tmp_path / "run") == {"semantic_query": 1, "dp_sgd": 1}
    # the clock stopped it at a step that depends on the images: all reserved steps are stated
    plan = tuple(privacy_plan(config).mechanisms.values())
    promised = compute_epsilon(plan, delta=config.privacy.delta, accountant="rdp")
    assert record["privacy"]["epsilon"] == pytest.approx(promised, rel=1e-12)
    assert record["privacy"]["steps"] == 3
    assert "steps_taken" not in record["privacy"]
    statement = json.loads((tmp_path / "run" / "privacy_statement.json").read_text())
    assert statement["spent"]["epsilon"] == record["privacy"]["epsilon"]
    card = (tmp_path / "run" / "model_card.md").read_text()
    assert f"({promised:.4f}, {config.privacy.delta:g})-differentially private" in card
    lines = [json.loads(line) for line in (tmp_path / "run/stats.jsonl").read_text().splitlines()]
    steps = {line["stage"]: line["step"] for line in lines}
    assert steps == {"query_network": 1, "pretrain": 1, "finetune": 1}
    with pytest.raises(RunFolderError, match="spent privacy budget"):
        run_pipeline(load_config(toy_settings), tmp_path / "run")
