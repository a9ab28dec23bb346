import pytest

from artifact.expected import expected_path, load_expected
from artifact.intervals import prediction_interval
from artifact.reference import expected_from_records, write_expected
from privimage.errors import UserError

ACCURACIES = [0.90, 0.91, 0.92, 0.93, 0.94]


def five(record, **changes):
    return [record(seed, good=a, **changes) for seed, a in enumerate(ACCURACIES)]


def test_bands_are_prediction_intervals_rounded_outwards(toy, record):
    section = expected_from_records(toy, "smoke", five(record))
    accuracy = section["values"][0]
    low, high = prediction_interval(ACCURACIES)
    assert low - 2e-4 <= accuracy["low"] <= low
    assert high <= accuracy["high"] <= high + 2e-4
    assert accuracy["mean"] == pytest.approx(0.92)
    assert "seeds 0, 1, 2, 3, 4" in accuracy["source"]
    assert accuracy["key"]["data.sensitive"] == "digits"
    assert section["hardware"] == "a CPU, 2 CPUs"


def test_what_is_written_can_be_read_and_accepts_the_runs_it_comes_from(toy, record):
    path = expected_path(toy.id)
    path.parent.mkdir()
    write_expected(path, toy, "smoke", expected_from_records(toy, "smoke", five(record)))
    expected = load_expected(toy)["smoke"]
    for each in five(record):
        for value in expected.values:
            assert value.accepts(each.value(value.arm, value.metric))
    assert expected.selection[0].at_least == 1  # 2 of 2 in every run, less one
    assert {v.arm for v in expected.values if v.at_most == 10.0} == {"good", "plain"}


def test_fewer_than_five_complete_seeds_are_refused(toy, record):
    records = [*five(record)[:4], record(4, plain=None)]
    with pytest.raises(UserError, match="4 complete records of toy/smoke"):
        expected_from_records(toy, "smoke", records)


def test_an_ordering_that_the_runs_do_not_show_is_refused(toy, record):
    with pytest.raises(UserError, match="not reliably better"):
        expected_from_records(toy, "smoke", five(record, plain=0.92))


def test_a_number_that_varies_cannot_be_measured_as_exact(toy, record):
    records = five(record)
    records[0].arms["good"]["privacy"]["sgd_noise_multiplier"] = 4.26
    with pytest.raises(UserError, match=r"measured as exact, but goes from 4\.25 to 4\.26"):
        expected_from_records(toy, "smoke", records)


def test_records_of_different_data_or_different_noise_are_not_mixed(toy, record):
    records = five(record)
    records[0].arms["good"]["data"]["public"] = "other"
    with pytest.raises(UserError, match=r"differ in data\.public"):
        expected_from_records(toy, "smoke", records)
    records = five(record)
    records[0].arms["good"]["insecure"] = True
    with pytest.raises(UserError, match="seeded noise"):
        expected_from_records(toy, "smoke", records)
