"""Facts of the sensitive images that a run uses as public: declared they tell nothing of any one
image, taken from the images they are named, each of them and nothing else.
"""

import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from privimage import cli
from privimage.data.preparation import Preparation
from privimage.data.sources import load_image_set
from privimage.errors import ConfigError, DataInvalidError, DataMissingError
from privimage.release.image_files import load_images
from privimage.settings.config import load_config
from privimage.settings.description import assumed_facts, described
from privimage.stages.pipeline import load_image_sets, run_pipeline
from tests.toy_settings import TOY

DECLARED = {"public_size": 20, "classes": ["cats", "dogs"], "image_size": 8, "color": "grey"}


def save_image(path, *, size=(8, 8), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 77).save(path)


def make_folder(root):
    """Eight cats and one dog, as folders."""
    for number in range(8):
        save_image(root / "cats" / f"{number + 1}.png")
    save_image(root / "dogs" / "1.png")


def lose_the_only_dog(root):
    (root / "dogs" / "1.png").unlink()


def lose_the_folder_as_well(root):
    shutil.rmtree(root / "dogs")


def lose_all(root):
    shutil.rmtree(root / "cats")
    shutil.rmtree(root / "dogs")


def gain_a_first_one_of_another_size_and_colour(root):
    save_image(root / "cats" / "0.png", size=(40, 52), mode="RGB")


def gain_one_that_cannot_be_read(root):
    (root / "cats" / "0.png").write_bytes((root / "cats" / "1.png").read_bytes()[:40])


def gain_one_of_a_class_that_is_not_declared(root):
    save_image(root / "birds" / "1.png")


def gain_one_beside_the_folders(root):
    save_image(root / "1.png")


def gain_one_that_looks_like_a_split(root):
    save_image(root / "test" / "cats" / "1.png")


NEIGHBOURS = [
    lose_the_only_dog,
    lose_the_folder_as_well,
    lose_all,
    gain_a_first_one_of_another_size_and_colour,
    gain_one_that_cannot_be_read,
    gain_one_of_a_class_that_is_not_declared,
    gain_one_beside_the_folders,
    gain_one_that_looks_like_a_split,
]


def save_npz(path, labels):
    images = np.full((len(labels), 8, 8), 77, np.uint8)
    np.savez(path, images=images, labels=np.array(labels, int))


def run(monkeypatch, capsys, *arguments):
    """Exit code, what was printed and what was complained of, of one command."""
    monkeypatch.setattr("sys.argv", ["privimage", "synthesize", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    printed = capsys.readouterr()
    return caught.value.code, " ".join(printed.out.split()), printed.err


def arguments_for(path, out, *more):
    usual = ("--sensitive", f"folder:{path}", "--public", "glyphs", "--epsilon", 5, "--out", out)
    return (*usual, *more)


@pytest.fixture
def description(tmp_path):
    path = tmp_path / "description.yaml"
    path.write_text(yaml.safe_dump(DECLARED))
    return path


@pytest.mark.parametrize("change", NEIGHBOURS)
def test_with_declared_facts_a_neighbouring_folder_gives_the_same_plan(
    monkeypatch, capsys, tmp_path, description, change
):
    make_folder(tmp_path / "mine")
    arguments = arguments_for(tmp_path / "mine", tmp_path / "out", "--describe", description)
    before = run(monkeypatch, capsys, *arguments, "--dry-run")
    change(tmp_path / "mine")
    assert run(monkeypatch, capsys, *arguments, "--dry-run") == before
    assert (before[0], before[2]) == (0, "")
    assert "Taken from the sensitive images" not in before[1]
    assert "declared and not taken from them" in before[1]


@pytest.mark.parametrize(
    "neighbour", [[0, 1, 0, 1], [0, 1, 0, 1, 2, 3], [0, 1, 0, 1, 2, -1], [0, 0, 2], []]
)
def test_with_a_declared_number_of_labels_a_neighbouring_npz_gives_the_same_plan(
    monkeypatch, capsys, tmp_path, neighbour
):
    facts = ("--classes", 3, "--public-size", 20, "--image-size", 8, "--color", "grey")
    arguments = arguments_for(tmp_path / "mine.npz", tmp_path / "out", *facts)
    plans = []
    for labels in ([0, 1, 0, 1, 2], neighbour):
        save_npz(tmp_path / "mine.npz", labels)
        plans.append(run(monkeypatch, capsys, *arguments, "--dry-run"))
    assert plans[0] == plans[1]
    assert (plans[0][0], plans[0][2]) == (0, "")
    assert "classes: - '0' - '1' - '2'" in plans[0][1]


def test_with_declared_facts_a_neighbouring_folder_gives_files_of_the_same_shape(
    monkeypatch, capsys, tmp_path, description
):
    settings = [part for key, value in TOY.items() for part in ("--set", f"{key}={value}")]
    found = []
    for change in (None, lose_the_folder_as_well, gain_one_that_cannot_be_read):
        make_folder(tmp_path / "mine")
        if change is not None:
            change(tmp_path / "mine")
        out = tmp_path / str(len(found))
        arguments = arguments_for(tmp_path / "mine", out, "--describe", description, *settings)
        code, printed, progress = run(monkeypatch, capsys, *arguments)
        drawn = load_images(out / "images.npz")
        statement = json.loads((out / "privacy_statement.json").read_text())
        statement.pop("data_id")  # keyed by each run's own secret
        files = sorted(str(path.relative_to(out)) for path in out.rglob("*"))
        shape, labels = drawn.images.shape, drawn.labels.tolist()
        config = (out / "config.yaml").read_text()
        found.append((code, shape, labels, drawn.class_names, statement, files, config))
        assert "mine" not in progress  # a file or folder that something was said of
        assert printed.count("declared and not taken from them") == 1
        shutil.rmtree(tmp_path / "mine")
    assert found[0] == found[1] == found[2]
    assert found[0][0] == 0
    assert found[0][3] == ("cats", "dogs")


def test_what_was_left_out_is_told_to_the_owner_alone(monkeypatch, toy_settings, tmp_path):
    make_folder(tmp_path / "mine")
    data = {**toy_settings["data"], "evaluate_on": None, **DECLARED}
    settings = toy_settings | {"data": {**data, "sensitive": f"folder:{tmp_path / 'mine'}"}}
    settings["privacy"] |= {"delta": 1e-3}
    for out, gained in ((tmp_path / "one", 0), (tmp_path / "two", 1)):
        if gained:
            gain_one_of_a_class_that_is_not_declared(tmp_path / "mine")
        run_pipeline(load_config(settings), out, shared=tmp_path / "shared")
        path = out / "private" / "left_out.json"
        told = json.loads(path.read_text())
        assert len(told) == gained
        assert path.stat().st_mode & 0o077 == 0
        for file in out.rglob("*"):
            assert file.is_dir() or file == path or b"birds" not in file.read_bytes()


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("conditional", [True, False])
def test_the_whole_method_works_for_declared_classes_without_images(
    toy_settings, tmp_path, number, conditional
):
    for index in range(number):
        save_image(tmp_path / "mine" / "dogs" / f"{index}.png")
    (tmp_path / "mine").mkdir(exist_ok=True)
    for name in "12":
        save_image(tmp_path / "real" / "test" / "cats" / f"{name}.png")
    classes = ["cats", "dogs", "owls"] if conditional else []
    data = {
        **toy_settings["data"],
        "sensitive": f"folder:{tmp_path / 'mine'}",
        "evaluate_on": f"folder:{tmp_path / 'real'}" if conditional else None,
        "conditional": conditional,
        "public_size": 100,
        "classes": classes,
    }
    config = load_config(toy_settings | {"data": data}, {"privacy.sampling_rate": 0.5})
    run_pipeline(config, tmp_path / "out", shared=tmp_path / "shared")
    drawn = load_images(tmp_path / "out" / "images.npz")
    assert drawn.class_names == (tuple(classes) or ("all",))
    assert drawn.labels.unique().tolist() == list(range(len(classes) or 1))
    answer = json.loads((tmp_path / "out" / "query" / "answer.json").read_text())
    for row in answer["noisy_histogram"]:
        assert len(set(row)) > 1  # noise in the rows of empty classes as well
    ledger = json.loads((tmp_path / "out" / "ledger.json").read_text())
    assert [event["charged"] for event in ledger["events"]] == [1, 3]


ASSUMED = {
    "public_size": "the number of images (9)",
    "classes": "the names of the classes",
    "image_size": "the image size (8 pixels)",
    "color": "the colour (grey)",
}


@pytest.mark.parametrize(
    "declared",
    [(), ("public_size",), ("classes",), ("image_size", "color"), ("public_size", "classes")],
)
@pytest.mark.parametrize("how", ["file", "options", "set"])
def test_the_plan_names_the_facts_that_were_assumed_and_no_others(
    monkeypatch, capsys, tmp_path, declared, how
):
    make_folder(tmp_path / "mine")
    facts = {name: DECLARED[name] for name in declared}
    (tmp_path / "facts.yaml").write_text(yaml.safe_dump(facts))
    if how == "file":
        more = ["--describe", tmp_path / "facts.yaml"]
    elif how == "options":
        options = {k: ",".join(v) if isinstance(v, list) else v for k, v in facts.items()}
        more = [p for k, v in options.items() for p in (f"--{k.replace('_', '-')}", v)]
    else:
        more = [p for k, v in facts.items() for p in ("--set", f"data.{k}={v}")]
    arguments = arguments_for(tmp_path / "mine", tmp_path / "out", *more, "--dry-run")
    code, printed, _ = run(monkeypatch, capsys, *arguments)
    assert code == 0
    assert printed.count("assumed to be public") == 1
    for name, words in ASSUMED.items():
        assert (words in printed) == (name not in declared)
    assert ("every image can be read" in printed) == ("classes" not in declared)
    # delta and steps follow from the size that was declared, never from the true one
    size = 20 if "public_size" in declared else 9
    assert f"public_size: {size}\n".strip() in printed
    assert f"delta: {0.001 if size == 20 else 0.01}" in printed


def test_statement_and_card_name_assumed_facts_once(toy_settings, tmp_path):
    config = load_config(toy_settings, {"data.evaluate_on": None})
    run_pipeline(config, tmp_path, shared=tmp_path / "shared")
    facts = [
        "the number of images (1,437)",
        "the names of the classes",
        "that every image can be read and is of one of these classes",
    ]
    statement = json.loads((tmp_path / "privacy_statement.json").read_text())
    assert statement["assumed_public"] == facts
    for name in ("privacy_statement.md", "model_card.md"):
        words = " ".join((tmp_path / name).read_text().split())
        listed = f"{facts[0]}, {facts[1]} and {facts[2]}."
        assert words.count(f"assumed to be public: {listed}") == 1
        assert words.count("assumed to be public") == 1


def test_what_a_configuration_declares_is_not_assumed(toy_settings):
    data = {"data.public_size": 1000, "data.classes": list("0123456789")}
    assert assumed_facts(load_config(toy_settings, data).data, public_size=1000) == ()
    unlabelled = {"data.public_size": 1000, "data.conditional": False}
    assert assumed_facts(load_config(toy_settings, unlabelled).data, public_size=1000) == (
        "that every image can be read",
    )


def test_a_named_set_can_be_described_as_well():
    preparation = Preparation(8, "grey")
    whole = load_image_set("digits", "train", preparation=preparation)
    some = load_image_set("digits", "train", preparation=preparation, classes=("7", "1", "x"))
    assert len(some) == int(((whole.labels == 7) | (whole.labels == 1)).sum())
    assert some.labels.unique().tolist() == [0, 1]


def test_a_public_class_without_images_is_refused(toy_settings, tmp_path):
    make_folder(tmp_path / "public")
    lose_the_only_dog(tmp_path / "public")
    config = load_config(toy_settings, {"data.public": f"folder:{tmp_path / 'public'}"})
    with pytest.raises(DataInvalidError, match="public set holds no images"):
        run_pipeline(config, tmp_path / "out")


def test_real_images_to_compare_with_must_be_there(toy_settings, tmp_path):
    make_folder(tmp_path / "mine")
    source = f"folder:{tmp_path / 'mine'}"
    data = {**toy_settings["data"], "sensitive": source, "evaluate_on": source, **DECLARED}
    with pytest.raises(DataMissingError, match="fewer than 2 test images"):
        load_image_sets(load_config(toy_settings | {"data": data}))


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        ("cats, dogs", ("cats", "dogs")),
        ("3", ("0", "1", "2")),
        (3, ("0", "1", "2")),
        ("1", ()),
        (0, ()),
        ("cats", ("cats",)),
        (["cats", "dogs"], ("cats", "dogs")),
        (None, None),
    ],
)
def test_classes_are_declared_by_names_or_by_their_number(classes, names):
    assert described(None, {"classes": classes}, {}).classes == names


def test_options_go_before_the_file_and_settings_before_both(description):
    found = described(description, {"image_size": 16, "color": "rgb"}, {"data.color": "grey"})
    assert (found.image_size, found.color, found.public_size) == (16, "grey", 20)
    assert described(None, {}, {"data.conditional": False}).classes == ()


@pytest.mark.parametrize(
    ("facts", "part"),
    [
        ({"public_size": 0}, "public_size is 0"),
        ({"image_size": 2}, "image_size is 2"),
        ({"color": "green"}, "allowed are grey, rgb"),
        ({"classes": ["a", "a"]}, "a name of its own"),
        ({"classes": ["a\nb", "c"]}, "of one line"),
        ({"classes": "a,,b"}, "give each class a name"),
        ({"classes": 10**9}, "give a list"),
        ({"classes": -1}, "give a list"),
    ],
)
def test_a_mistake_in_a_description_is_a_clear_error(facts, part):
    with pytest.raises(ConfigError, match=part):
        described(None, facts, {})


@pytest.mark.parametrize(
    ("text", "part"), [("size: 8", "size: unknown"), ("- 8", "expected a mapping of public_size")]
)
def test_a_description_file_that_says_something_else_is_refused(tmp_path, text, part):
    (tmp_path / "d.yaml").write_text(text)
    with pytest.raises(ConfigError, match=part):
        described(tmp_path / "d.yaml", {}, {})


def test_the_data_section_is_not_replaced_as_a_whole(monkeypatch, capsys, tmp_path):
    make_folder(tmp_path / "mine")
    more = ("--set", "data={image_size: 8}")
    code, _, complaint = run(
        monkeypatch, capsys, *arguments_for(tmp_path / "mine", tmp_path / "out", *more)
    )
    assert code == 2
    assert "one by one" in complaint
