"""The images of a run as loaders and data set search find them."""

import json
import shutil

import pytest
from torchvision.datasets import ImageFolder

from privimage.release.croissant import described, write_croissant
from privimage.release.export import export_images, folder_names
from privimage.release.image_files import load_images
from privimage.release.verify import verify_run


@pytest.fixture
def run(finished, tmp_path):
    folder = shutil.copytree(finished / "run", tmp_path / "run")
    export_images(folder / "images.npz", folder / "images")
    write_croissant(folder)
    return folder


def document(run):
    return json.loads((run / "croissant.json").read_text())


def test_torchvision_reads_the_folder_with_the_right_labels(run):
    drawn = load_images(run / "images.npz")
    found = ImageFolder(str(run / "images"))
    assert len(found) == len(drawn)
    names = folder_names(drawn.class_names)
    for path, place in found.samples:
        label = int(drawn.labels[int(path[-10:-4])])
        assert found.classes[place] == names[label]


def test_it_says_what_the_statement_says_and_where_the_images_are(run):
    found = document(run)
    statement = json.loads((run / "privacy_statement.json").read_text())
    target = statement["target"]
    promise = f"({target['epsilon']:g}, {target['delta']:g})-differentially private"
    assert promise in found["description"]
    assert promise in found["rai:personalSensitiveInformation"]
    assert statement["unit"] in found["rai:personalSensitiveInformation"]
    assert all(line in found["rai:dataLimitations"] for line in statement["not_covered"])
    (files,) = found["distribution"]
    assert len(list(run.glob(files["includes"]))) == len(load_images(run / "images.npz"))
    fields = found["recordSet"][0]["field"]
    assert {field["source"]["fileSet"]["@id"] for field in fields} == {files["@id"]}


def test_every_term_is_of_a_vocabulary_that_it_names(run):
    found = document(run)
    context = found["@context"]
    of_schema = {"name", "description", "version", "distribution", "encodingFormat"}

    def terms(value):
        if isinstance(value, dict):
            for key, inner in value.items():
                if key != "@context":
                    yield key
                    yield from terms(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from terms(inner)

    for term in {*terms(found)} - of_schema:
        assert term.startswith("@") or term in context or term.split(":")[0] in context, term
    assert context["rai"].endswith("/RAI/")


def test_without_a_guarantee_it_says_so_and_promises_nothing(run):
    statement = json.loads((run / "privacy_statement.json").read_text())
    text = json.dumps(described(statement | {"guarantee": False}))
    assert "NO GUARANTEE" in text
    assert "differentially private for" not in text


def test_nothing_of_the_owners_machine_is_in_it_and_verifying_goes_on(run):
    text = (run / "croissant.json").read_text()
    assert str(run) not in text
    assert "record" not in text.replace("recordSet", "").replace("RecordSet", "")
    assert not [check for check in verify_run(run) if check.answer == "FAILED"]


def test_the_reference_implementation_loads_it(run):
    reference = pytest.importorskip("mlcroissant", reason="pip install mlcroissant")
    loaded = reference.Dataset(jsonld=str(run / "croissant.json"))
    assert not loaded.metadata.issues.errors
    drawn = load_images(run / "images.npz")
    rows = list(loaded.records("labelled"))
    assert len(rows) == len(drawn)
    labels = {row["labelled/label"].decode() for row in rows}
    assert labels == {*folder_names(drawn.class_names)}
