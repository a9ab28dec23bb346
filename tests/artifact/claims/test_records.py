import json
import os

import pytest

from artifact.claims.records import ARM_FORMAT, RecordError, find_records, read_record, write_record
from privimage.errors import DataInvalidError


def test_a_record_survives_writing_and_reading(tmp_path, record):
    write_record(tmp_path / "record.json", record(3))
    assert read_record(tmp_path / "record.json") == record(3)


def test_arm_records_have_the_format_that_the_pipeline_writes():
    from privimage.release.record import RECORD_FORMAT

    assert ARM_FORMAT == RECORD_FORMAT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(format=2), "record format 2, and this version reads 1"),
        (lambda r: r["arms"]["good"].update(format=9), "arm good has record format 9"),
        (lambda r: r["arms"]["good"].pop("metrics"), "no section metrics"),
        (lambda r: r["arms"]["good"].pop("insecure"), "whether its noise is secure"),
        (lambda r: r["arms"]["good"].update(insecure=True), "contradicts its arms"),
        (lambda r: r.pop("insecure"), "does not say"),
        (lambda r: r.update(seed="0"), "seed is '0', not of type int"),
        (lambda r: r.update(seconds=None), "not a number of seconds"),
        (lambda r: r["arms"]["good"]["metrics"].update(fid=float("nan")), "NaN"),
        (lambda r: r["arms"]["good"]["metrics"].update(fid=1e308), "1e400|finite"),
    ],
)
def test_a_foreign_or_damaged_record_is_refused(tmp_path, record, change, message):
    values = record().to_dict()
    change(values)
    text = json.dumps(values).replace("1e+308", "1e400")  # JSON's way to infinity
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(RecordError, match=message):
        read_record(tmp_path / "record.json")


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_a_file_that_is_no_record_is_refused(tmp_path, text):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(RecordError, match="run the claim again"):
        read_record(tmp_path / "record.json")


def test_records_of_runs_and_shipped_records_are_found_by_seed(tmp_path, record):
    write_record(tmp_path / "toy/smoke/seed2/record.json", record(2))
    write_record(tmp_path / "toy/smoke/seed10.json", record(10))
    write_record(tmp_path / "toy/smoke/seed2/good/record.json", record(7))  # an arm's own
    assert [r.seed for r in find_records(tmp_path, "toy", "smoke")] == [2, 10]
    assert [r.seed for r in find_records(tmp_path, "toy", "smoke", seeds=[10, 11])] == [10]
    assert find_records(tmp_path, "toy", "full") == []


def test_one_seed_twice_or_a_record_in_a_wrong_folder_is_an_error(tmp_path, record):
    write_record(tmp_path / "toy/smoke/seed2.json", record(2))
    write_record(tmp_path / "toy/smoke/seed3.json", record(2))
    with pytest.raises(RecordError, match="seed 2 is there twice"):
        find_records(tmp_path, "toy", "smoke")
    write_record(tmp_path / "other/smoke/seed2.json", record(2))
    with pytest.raises(RecordError, match="is of toy/smoke"):
        find_records(tmp_path, "other", "smoke")


def test_what_is_absent_has_no_value(record):
    assert record().value("good", "metrics.cnn_accuracy") == 0.9
    assert record().value("good", "metrics.fid") is None
    assert record().value("none", "metrics.cnn_accuracy") is None
    assert record().value("good", "metrics.cnn_accuracy.deeper") is None
    assert record().value("good", "insecure") is None  # a truth value is no number


def test_one_insecure_arm_makes_the_record_insecure(record):
    insecure = record()
    insecure.arms["plain"]["insecure"] = True
    assert insecure.insecure
    assert not record().insecure


def test_a_pipe_in_the_place_of_a_record_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "record.json")
    with pytest.raises(DataInvalidError, match="is a pipe"):
        read_record(tmp_path / "record.json")
