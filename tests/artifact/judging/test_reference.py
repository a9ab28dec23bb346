import dataclasses

import pytest

from artifact.judging.expected import expected_path, load_expected
from artifact.judging.intervals import prediction_interval
from artifact.judging.reference import arms_with_bands, expected_from_records, write_expected
from privimage.errors import UserError

ACCURACIES = [0.90, 0.91, 0.92, 0.93, 0.94]


def five(record, **changes):
    return [record(seed, good=a, **changes) for seed, a in enumerate(ACCURACIES)]


def test_bands_are_prediction_intervals_rounded_outwards(toy, record):
    section, left_out = expected_from_records(toy, "smoke", five(record))
    assert left_out == []
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
    write_expected(path, toy, "smoke", expected_from_records(toy, "smoke", five(record))[0])
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


def test_an_ordering_that_the_runs_do_not_show_is_left_out_with_its_interval(toy, record):
    section, left_out = expected_from_records(toy, "smoke", five(record, plain=0.92))
    assert section["orderings"] == []
    # gains of -2 to 2 points: 0 +- 2.776 * sqrt(2.5) / sqrt(5) = 0 +- 1.96 points
    assert len(left_out) == 1
    assert "good > plain: the runs do not show it" in left_out[0]
    assert "-1.96 to 1.96 points, seed by seed -2 to 2 points" in left_out[0]


def test_with_a_margin_the_same_runs_show_the_ordering(toy, record):
    nearly = dataclasses.replace(toy.orderings[0], margin=0.02)
    claim = dataclasses.replace(toy, orderings=(nearly,))
    section, left_out = expected_from_records(claim, "smoke", five(record, plain=0.92))
    assert left_out == []
    assert section["orderings"][0]["margin"] == 0.02


def test_every_arm_that_does_well_by_the_claim_has_bands_and_a_baseline_has_none(toy, record):
    setting = toy.settings["smoke"]
    assert arms_with_bands(toy, setting) == ["good"]
    assert arms_with_bands(dataclasses.replace(toy, published_as="cifar10"), setting) == [
        "good",
        "plain",
    ]
    swapped = dataclasses.replace(toy.orderings[0], first="plain", second="good", margin=0.5)
    both = dataclasses.replace(toy, orderings=(swapped,))
    assert arms_with_bands(both, setting) == ["good", "plain"]


def test_bands_that_are_judged_together_share_the_five_percent(toy, record):
    table = dataclasses.replace(toy, published_as="cifar10")
    section, _ = expected_from_records(table, "smoke", five(record))
    bands = [value for value in section["values"] if value["metric"] == "metrics.cnn_accuracy"]
    assert [band["arm"] for band in bands] == ["good", "plain"]
    low, _ = prediction_interval(ACCURACIES, num_metrics=2)
    assert low - 2e-4 <= bands[0]["low"] <= low


def test_a_measure_that_no_record_has_is_left_out_and_said(toy, record):
    claim = dataclasses.replace(toy, measures={**toy.measures, "metrics.fid": "lower"})
    section, left_out = expected_from_records(claim, "smoke", five(record))
    assert left_out == ["FID, good: no record has it"]
    assert all(value["metric"] != "metrics.fid" for value in section["values"])
    some = five(record)
    some[0].arms["good"]["metrics"]["fid"] = 5.0
    with pytest.raises(UserError, match=r"no number metrics\.fid"):
        expected_from_records(claim, "smoke", some)


def test_rehearsals_and_settings_that_are_not_judged_give_no_bands(toy, record):
    records = five(record)
    records[0].arms["good"]["stopped_early"] = True
    with pytest.raises(UserError, match="a rehearsal"):
        expected_from_records(toy, "smoke", records)
    shown = dataclasses.replace(toy.settings["smoke"], judged=False)
    claim = dataclasses.replace(toy, settings={"smoke": shown})
    with pytest.raises(UserError, match="toy/smoke has no bands"):
        expected_from_records(claim, "smoke", five(record))


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
