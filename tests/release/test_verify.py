"""`privimage verify`: what it finds in runs that were changed, each change planted here."""

import hashlib
import json
import shutil
import subprocess

import numpy as np
import pytest
import safetensors.torch
from PIL import Image, PngImagePlugin

from privimage.errors import RunFolderError
from privimage.privacy.accounting import Mechanism, rdp_epsilon
from privimage.release.checksums import CHECKSUMS, published_files, read_checksums, write_checksums
from privimage.release.export import export_images
from privimage.release.statement import statement_markdown
from privimage.release.verify import verify_run

PUBLISHED = (
    "images.npz",
    "ledger.json",
    "model.safetensors",
    "model_card.md",
    "pretrained.safetensors",
    "pretrained_ema.safetensors",
    "privacy_statement.json",
    "privacy_statement.md",
    "query/answer.json",
    "query/chosen_classes.png",
    "query/selection.json",
    "samples.png",
    "stats.jsonl",
)
OF_STAGES = (
    "query/answer.json",
    "pretrained.safetensors",
    "model.safetensors",
    "finetune.json",
    "images.npz",
    "metrics.json",
)


@pytest.fixture(scope="module")
def original(finished, tmp_path_factory):
    """A whole run with its images as files."""
    folder = tmp_path_factory.mktemp("original") / "run"
    shutil.copytree(finished / "run", folder)
    export_images(folder / "images.npz", folder / "images")
    return folder


@pytest.fixture
def whole(original, tmp_path):
    return shutil.copytree(original, tmp_path / "whole")


@pytest.fixture
def published(original, tmp_path):
    """What a stranger gets of it."""
    folder = tmp_path / "published"
    for name in (*PUBLISHED, CHECKSUMS):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(original / name, folder / name)
    shutil.copytree(original / "images", folder / "images")
    return folder


def answers(folder, answer):
    """Reason by check, of all that ended like this."""
    return {check.what: check.reason for check in verify_run(folder) if check.answer == answer}


def failed(folder):
    return answers(folder, "FAILED")


def edit(path, change):
    """Change a JSON document in its place."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def renew_checksums(folder):
    """As somebody would who changed a file and wants nobody to notice."""
    names = [name for name in read_checksums(folder) if (folder / name).exists()]
    lines = [f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}\n" for n in names]
    (folder / CHECKSUMS).write_text("".join(lines))


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_all_of_a_whole_run_holds(whole):
    shutil.rmtree(whole / "private")  # nothing of it is read
    assert {check.answer for check in verify_run(whole)} == {"ok"}


def test_of_what_was_published_all_holds_that_can_be_looked_at(published):
    assert failed(published) == {}
    not_made = answers(published, "not made")
    assert set(not_made.values()) == {
        "stages/ is not here",
        "config.yaml is not here",
        "record.json is not here",
    }
    assert "epsilon, counted again" not in not_made


def test_files_that_are_not_here_are_named_and_are_no_fault(published):
    shutil.rmtree(published / "images")
    for name in ("model.safetensors", "query/answer.json", "ledger.json"):
        (published / name).unlink()
    assert failed(published) == {}
    not_made = answers(published, "not made")
    absent = "ledger.json, model.safetensors, query/answer.json not here"
    assert not_made["published files are all here"] == absent
    assert not_made["the statement agrees with the ledger"] == "ledger.json is not here"
    # the statement tells every mechanism: they are counted again all the same
    assert "epsilon, counted again" in answers(published, "ok")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_changed_byte_of_any_published_file_is_found(published, name):
    flip_a_byte(published / name)
    assert f"{name} was changed" in failed(published)["published files are unchanged"]


def test_the_published_files_are_all_of_them(published):
    statement = json.loads((published / "privacy_statement.json").read_text())
    assert sorted(PUBLISHED) == published_files(published, statement["released"])
    assert [*read_checksums(published)] == sorted(PUBLISHED)
    assert CHECKSUMS in statement["released"]


@pytest.mark.parametrize("place", range(0, 80, 7))
def test_a_changed_byte_of_the_checksums_is_found(published, place):
    path = published / CHECKSUMS
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert "published files are unchanged" in failed(published)


def test_a_file_whose_hash_was_taken_out_is_named(published):
    lines = (published / CHECKSUMS).read_text().splitlines(keepends=True)
    kept = [line for line in lines if "model.safetensors" not in line]
    (published / CHECKSUMS).write_text("".join(kept))
    reason = failed(published)["published files are unchanged"]
    assert reason == f"model.safetensors has no hash in {CHECKSUMS}"


def test_the_checksums_are_those_of_sha256sum(published):
    command = ["sha256sum", "--check", "--strict", "--quiet", CHECKSUMS]
    assert subprocess.run(command, cwd=published, check=False).returncode == 0


def test_what_tells_where_a_run_ended_has_no_hash(published):
    # a hash of few possible contents tells the content
    write_checksums(published, ["images.npz", "model.safetensors", "model_card.md"])
    assert not {"ledger.json", "stats.jsonl"} & read_checksums(published).keys()


@pytest.mark.parametrize("name", OF_STAGES)
def test_a_changed_file_of_a_stage_is_found(whole, name):
    flip_a_byte(whole / name)
    assert f"{name} was changed" in failed(whole)["files of the stages are unchanged"]


def test_a_stage_that_was_done_again_from_something_else_is_found(whole):
    path = whole / "stages" / "finetune.json"
    edit(path, lambda m: m["inputs"]["pretrained"].update({"pretrained.safetensors": "0" * 64}))
    reason = failed(whole)["each stage rests on the one before"]
    assert reason == "finetune did not begin from what pretrain left"


@pytest.mark.parametrize("change", ["unfinished", "gone", "no manifest"])
def test_a_run_that_did_not_end_is_found(whole, change):
    path = whole / "stages" / "generate.json"
    if change == "gone":
        path.unlink()
    elif change == "no manifest":
        path.write_text("{}")
    else:
        edit(path, lambda m: m.update(state="started"))
    assert "generate" in failed(whole)["every stage ended"]


@pytest.mark.parametrize("key", ["epsilon", "epsilon_rdp", "epsilon_pld"])
def test_an_edited_epsilon_in_the_statement_is_found(published, key):
    path = published / "privacy_statement.json"
    edit(path, lambda s: s["spent"].update({key: s["spent"][key] * 0.999}))
    statement = json.loads(path.read_text())
    (published / "privacy_statement.md").write_text(statement_markdown(statement))
    renew_checksums(published)
    assert f"the statement's {key} is" in failed(published)["epsilon, counted again"]


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("privacy_statement.md", "the statement in words agrees"),
        ("model_card.md", "the model card agrees"),
    ],
)
def test_an_edited_epsilon_in_words_is_found(published, name, check):
    spent = json.loads((published / "privacy_statement.json").read_text())["spent"]["epsilon"]
    text = (published / name).read_text()
    assert f"({spent:.4f}, 0.0001)-differentially private" in text
    (published / name).write_text(text.replace(f"({spent:.4f},", "(1.0000,", 1))
    renew_checksums(published)
    assert [*failed(published)] == [check]


def test_words_of_another_version_are_held_against_the_figures(published):
    edit(published / "privacy_statement.json", lambda s: s["code"].update(sha256="0" * 64))
    renew_checksums(published)
    assert "another version" in answers(published, "ok")["the statement in words agrees"]
    path = published / "privacy_statement.md"
    path.write_text(path.read_text().replace("0.0001)-differentially", "1e-09)-differentially"))
    renew_checksums(published)
    assert [*failed(published)] == ["the statement in words agrees"]


def take_out(ledger):
    ledger["events"].pop()


def put_in(ledger):
    ledger["events"].append(ledger["events"][0] | {"name": "another_query"})


def less_noise(ledger):
    ledger["events"][0]["noise_multiplier"] *= 0.9


def fewer_charges(ledger):
    ledger["events"][1]["charged"] -= 1


def other_images(ledger):
    ledger["data_id"] = "0" * 64


@pytest.mark.parametrize("change", [take_out, put_in, less_noise, other_images])
def test_a_changed_ledger_is_found(published, change):
    edit(published / "ledger.json", change)
    renew_checksums(published)
    assert "the statement agrees with the ledger" in failed(published)


@pytest.mark.parametrize("change", [take_out, less_noise])
def test_a_ledger_and_a_statement_that_were_changed_alike_are_found_by_the_rest(whole, change):
    edit(whole / "ledger.json", change)
    events = json.loads((whole / "ledger.json").read_text())["events"]

    def follow(statement):
        kept = zip(statement["mechanisms"], events, strict=False)
        statement["mechanisms"] = [told | event for told, event in kept]

    edit(whole / "privacy_statement.json", follow)
    renew_checksums(whole)
    found = failed(whole)
    assert {"epsilon, counted again", "the settings agree"} <= found.keys()


def test_a_charge_that_was_taken_out_of_the_ledger_is_found(whole):
    edit(whole / "ledger.json", fewer_charges)
    renew_checksums(whole)
    assert "a charge was taken out" in failed(whole)["the ledger is whole"]


def test_an_epsilon_above_the_promise_is_found(published):
    for name in ("ledger.json", "privacy_statement.json"):
        edit(published / name, lambda d: d.get("target", d).update(epsilon=9.0))
    assert "is spent, and 9 promised" in failed(published)["epsilon, counted again"]


def test_a_fixed_seed_is_no_guarantee(published):
    edit(published / "ledger.json", lambda t: t.update(insecure=True, random_source="seeded"))
    assert "NO GUARANTEE" in failed(published)["the noise was secure"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("noise_multiplier", 1e-300),  # counting it would take all memory
        ("noise_multiplier", 1e300),
        ("reserved", 10**30),
        ("reserved", 1.5),
        ("noise_multiplier", "8"),
        ("name", ["x"]),
    ],
)
def test_a_ledger_that_nobody_can_count_is_a_finding(published, key, value):
    edit(published / "ledger.json", lambda t: t["events"][0].update({key: value}))
    assert "epsilon, counted again" in failed(published)


@pytest.mark.parametrize("text", ["[]", "{", "[" * 10**5, '{"spent": 1e999}', '{"format": 3}'])
def test_a_statement_that_cannot_be_read_is_a_finding(published, text):
    (published / "privacy_statement.json").write_text(text)
    assert "the statement agrees with the ledger" in failed(published)


def test_records_and_settings_that_say_something_else_are_found(whole):
    edit(whole / "record.json", lambda r: r["privacy"].update(epsilon=1.0))
    config = (whole / "config.yaml").read_text()
    (whole / "config.yaml").write_text(config.replace("num_steps: 3", "num_steps: 4"))
    answer = whole / "query" / "answer.json"
    edit(answer, lambda a: a["receipt"].update(noise_multiplier=4.0))
    found = failed(whole)
    assert {"the record agrees", "the settings agree", "the query's receipt agrees"} <= {*found}


def another_pixel(path):
    pixels = np.array(Image.open(path))
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(path)


def text_inside(path):
    note = PngImagePlugin.PngInfo()
    note.add_text("note", "anything")
    Image.open(path).save(path, pnginfo=note)


def more_at_the_end(path):
    path.write_bytes(path.read_bytes() + b"anything")


@pytest.mark.parametrize(
    "change", [another_pixel, text_inside, more_at_the_end, flip_a_byte, lambda path: path.unlink()]
)
def test_an_exported_image_that_was_changed_is_found(published, change):
    change(published / "images" / "3" / "000013.png")
    assert "images/ is images.npz" in failed(published)


def test_an_image_that_was_added_is_found_and_one_packed_otherwise_is_not(published):
    path = published / "images" / "3" / "000013.png"
    Image.open(path).save(path, compress_level=0)
    assert failed(published) == {}
    shutil.copy(path, path.with_name("more.png"))
    assert "holds 41 files for 40 images" in failed(published)["images/ is images.npz"]


def test_a_link_is_refused(published):
    (published / "stats.jsonl").unlink()
    (published / "stats.jsonl").symlink_to("ledger.json")
    with pytest.raises(RunFolderError, match="is a link"):
        verify_run(published)


def test_what_is_counted_again_is_what_the_ledger_has_reserved(published):
    ledger = json.loads((published / "ledger.json").read_text())
    mechanisms = [
        Mechanism(event["noise_multiplier"], event["sampling_rate"], event["reserved"])
        for event in ledger["events"]
    ]
    epsilon = rdp_epsilon(mechanisms, delta=ledger["delta"])
    assert f"RDP {epsilon:.4f}" in answers(published, "ok")["epsilon, counted again"]


def test_a_run_with_moments_is_as_stated(finished_with_moments):
    assert [c for c in verify_run(finished_with_moments) if c.answer == "FAILED"] == []


def test_moments_with_other_noise_than_accounted_are_found(finished_with_moments, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished_with_moments, folder)
    path = folder / "query" / "moments.safetensors"
    found = safetensors.torch.load_file(path)
    found["noise_multiplier"] = found["noise_multiplier"] * 2
    path.write_bytes(safetensors.torch.save(found, {"insecure": "false"}))
    failed = {c.what for c in verify_run(folder) if c.answer == "FAILED"}
    assert "the moments agree" in failed
    assert len(failed) > 1  # hashes too
