import dataclasses

import pytest

from artifact.compare import Verdict, compare
from artifact.expected import (
    ExpectedOrdering,
    ExpectedSelection,
    ExpectedSetting,
    ExpectedValue,
)

METRIC = "metrics.cnn_accuracy"
BAND = ExpectedValue(METRIC, "good", "higher", "runs", mean=0.9, low=0.8, high=0.95)
BOUND = ExpectedValue("privacy.epsilon", "good", "lower", "promise", at_most=10.0)
ORDERING = ExpectedOrdering(METRIC, "higher", "good", "plain", "runs")
SELECTION = ExpectedSelection("look_alikes", 1, "runs")
EXPECTED = ExpectedSetting((0,), "a CPU", (BAND, BOUND), (ORDERING,), (SELECTION,))


def judge(toy, *records, expected: ExpectedSetting | None = EXPECTED):
    return compare(toy, "smoke", records=records, expected=expected)


def test_a_run_as_expected_passes_with_exit_code_zero(toy, record):
    result = judge(toy, record())
    assert [check.verdict for check in result.checks] == [Verdict.PASS] * 4
    assert (result.verdict, result.exit_code) == (Verdict.PASS, 0)


def test_a_result_better_than_the_band_passes_and_says_so(toy, record):
    result = judge(toy, record(good=0.99))
    assert result.verdict is Verdict.PASS
    assert result.checks[2].note == "better than the band"


def test_numbers_off_while_the_ordering_holds_are_a_trend(toy, record):
    result = judge(toy, record(good=0.7))
    assert (result.verdict, result.exit_code) == (Verdict.TREND, 1)


def test_a_broken_ordering_fails_even_if_the_numbers_fit(toy, record):
    result = judge(toy, record(good=0.9, plain=0.91))
    assert (result.verdict, result.exit_code) == (Verdict.FAIL, 1)


def test_an_overspent_budget_is_a_failure_and_no_trend(toy, record):
    overspent = record(good=0.7)
    overspent.arms["good"]["privacy"]["epsilon"] = 10.01
    assert judge(toy, overspent).verdict is Verdict.FAIL


def test_one_overspent_seed_of_several_is_a_failure(toy, record):
    overspent = record(1)
    overspent.arms["good"]["privacy"]["epsilon"] = 10.01
    assert judge(toy, record(0), overspent).verdict is Verdict.FAIL


def test_numbers_off_without_any_firm_check_are_a_failure(toy, record):
    only_bands = ExpectedSetting((0,), "a CPU", (BAND,), (), ())
    assert judge(toy, record(good=0.7), expected=only_bands).verdict is Verdict.FAIL


def test_public_classes_that_look_like_nothing_are_a_failure(toy, record):
    blind = record()
    blind.arms["good"]["selection"]["classes"] = {"0": ["x"], "1": ["y"]}
    assert judge(toy, blind).verdict is Verdict.FAIL


def test_an_arm_that_is_missing_leaves_the_claim_inconclusive(toy, record):
    result = judge(toy, record(plain=None))
    assert result.checks[0].verdict is Verdict.NOT_RUN
    assert (result.verdict, result.exit_code) == (Verdict.INCONCLUSIVE, 6)


def test_without_records_nothing_was_run(toy):
    result = judge(toy)
    assert {check.verdict for check in result.checks} == {Verdict.NOT_RUN}
    assert (result.verdict, result.exit_code) == (Verdict.NOT_RUN, 6)


def test_without_expected_results_a_run_is_inconclusive(toy, record):
    result = judge(toy, record(), expected=None)
    assert (result.verdict, result.exit_code) == (Verdict.INCONCLUSIVE, 6)
    assert "no expected results" in result.note


def test_a_number_under_another_key_is_another_metric(toy, record):
    keyed = dataclasses.replace(BAND, key={"data.sensitive": "mnist"})
    expected = dataclasses.replace(EXPECTED, values=(keyed,))
    result = judge(toy, record(), expected=expected)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "data.sensitive is digits, expected for mnist" in result.checks[2].note


def test_a_metric_that_was_not_measured_is_inconclusive(toy, record):
    fid = ExpectedValue("metrics.fid", "good", "lower", "runs", mean=5, low=4, high=6)
    expected = dataclasses.replace(EXPECTED, values=(fid,))
    assert judge(toy, record(), expected=expected).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ([0.1, 0.11, 0.12], Verdict.PASS),  # 0.11 +- 4.303 * 0.01 / sqrt(3) = 0.11 +- 0.025
        ([-0.1, -0.11, -0.12], Verdict.FAIL),
        ([0.3, -0.1, 0.02], Verdict.INCONCLUSIVE),
        ([0.0], Verdict.INCONCLUSIVE),
    ],
)
def test_over_several_seeds_the_interval_of_the_paired_difference_decides(
    toy, record, gains, verdict
):
    records = [record(i, good=0.5 + gain, plain=0.5) for i, gain in enumerate(gains)]
    assert judge(toy, *records).checks[0].verdict is verdict


def test_pairing_removes_what_the_seeds_have_in_common(toy, record):
    # The arms vary by 0.2 with the seed, the difference by 0.01 only.
    pairs = [(0.9, 0.85), (0.7, 0.64), (0.8, 0.75)]
    records = [record(i, good=a, plain=b) for i, (a, b) in enumerate(pairs)]
    assert judge(toy, *records).checks[0].verdict is Verdict.PASS


def test_a_lower_metric_is_ordered_the_other_way(toy, record):
    lower = dataclasses.replace(ORDERING, better="lower")
    expected = dataclasses.replace(EXPECTED, orderings=(lower,))
    assert judge(toy, record(good=0.9, plain=0.5), expected=expected).verdict is Verdict.FAIL


def test_seeded_noise_is_named(toy, record):
    insecure = record()
    insecure.arms["good"]["insecure"] = True
    assert "no privacy guarantee" in judge(toy, insecure).note
