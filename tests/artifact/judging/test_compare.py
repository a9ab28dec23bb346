import dataclasses

import pytest

from artifact.judging.compare import Verdict, compare
from artifact.judging.expected import (
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


def test_numbers_off_are_no_trend_where_nothing_but_the_budget_holds(toy, record):
    silent = dataclasses.replace(toy, orderings=())
    for values in ((BAND,), (BAND, BOUND)):
        expected = ExpectedSetting((0,), "a CPU", values, (), ())
        assert judge(silent, record(good=0.7), expected=expected).verdict is Verdict.FAIL


def test_every_seed_must_keep_a_bound_and_not_their_mean(toy, record):
    floor = ExpectedValue(METRIC, "good", "higher", "promise", at_least=0.8)
    silent = dataclasses.replace(toy, orderings=())
    expected = ExpectedSetting((0,), "a CPU", (floor,), (), ())
    result = judge(silent, record(0, good=0.9), record(1, good=0.79), expected=expected)
    assert (result.checks[0].expected, result.checks[0].obtained) == ("≥ 0.8", "0.79")
    assert result.verdict is Verdict.FAIL
    assert judge(silent, record(good=0.8), expected=expected).verdict is Verdict.PASS


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


def test_an_ordering_that_our_runs_did_not_show_is_judged_all_the_same(toy, record):
    expected = dataclasses.replace(EXPECTED, orderings=())
    better = [record(i, good=0.9 + i / 100) for i in range(3)]
    worse = [record(i, good=0.9 + i / 100, plain=0.95 + i / 50) for i in range(3)]
    for records, verdict in ((better, Verdict.PASS), (worse, Verdict.FAIL)):
        check = judge(toy, *records, expected=expected).checks[0]
        assert (check.kind, check.verdict) == ("ordering", verdict)
        assert "not shown with 95% confidence (seeds 0)" in check.source


def test_one_seed_does_not_decide_an_ordering_that_our_runs_did_not_show(toy, record):
    expected = dataclasses.replace(EXPECTED, orderings=())
    for plain in (0.5, 0.95):
        result = judge(toy, record(plain=plain), expected=expected)
        assert result.checks[0].verdict is Verdict.INCONCLUSIVE
        assert "one seed does not decide this" in result.checks[0].note
        assert result.verdict is Verdict.INCONCLUSIVE


def test_orderings_are_shown_without_expected_results_but_do_not_pass_the_claim(toy, record):
    records = [record(i, good=0.9 + i / 100) for i in range(3)]
    result = judge(toy, *records, expected=None)
    assert [check.verdict for check in result.checks] == [Verdict.PASS]
    assert result.verdict is Verdict.INCONCLUSIVE
    worse = [record(i, plain=0.95 + i / 100) for i in range(3)]
    assert judge(toy, *worse, expected=None).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("good", "verdict"),
    [
        ([0.5], Verdict.PASS),
        ([0.47], Verdict.PASS),  # .03 worse, and .05 is allowed
        ([0.4], Verdict.FAIL),
        ([0.48, 0.47, 0.475], Verdict.PASS),  # -.025 +- 4.303 * .005 / sqrt(3) = -.025 +- .0124
        ([0.41, 0.4, 0.405], Verdict.FAIL),
        ([0.48, 0.42, 0.45], Verdict.INCONCLUSIVE),
    ],
)
def test_with_a_margin_the_first_arm_may_be_worse_by_that_much(toy, record, good, verdict):
    margin = dataclasses.replace(ORDERING, margin=0.05)
    expected = dataclasses.replace(EXPECTED, orderings=(margin,))
    records = [record(i, good=value) for i, value in enumerate(good)]
    check = judge(toy, *records, expected=expected).checks[0]
    assert check.verdict is verdict
    assert check.expected == "good not worse than plain by more than 5 points"


def test_a_rehearsal_is_never_judged(toy, record):
    for good in (0.9, 0.1):
        short = record(good=good)
        short.arms["plain"]["stopped_early"] = True
        result = judge(toy, short)
        assert {check.verdict for check in result.checks} == {Verdict.INCONCLUSIVE}
        assert (result.verdict, result.exit_code) == (Verdict.EXECUTES, 0)
        assert "a rehearsal" in result.note


def test_a_setting_that_only_shows_that_stages_execute_is_not_judged(toy, record):
    shown = dataclasses.replace(toy.settings["smoke"], judged=False)
    claim = dataclasses.replace(toy, settings={"smoke": shown})
    for good in (0.9, 0.1):
        result = judge(claim, record(good=good))
        assert (result.verdict, result.exit_code) == (Verdict.EXECUTES, 0)
        assert {check.verdict for check in result.checks} == {Verdict.INCONCLUSIVE}
    assert judge(claim, record(plain=None)).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("off", "by", "verdict"),
    [
        (0, 0.0, Verdict.PASS),
        (1, 0.15, Verdict.PASS),  # 9 of 10 are inside, and the other is within twice the band
        (2, 0.15, Verdict.FAIL),
        (1, 0.25, Verdict.FAIL),  # beyond twice
        (10, -0.25, Verdict.PASS),  # beyond, on the better side
    ],
)
def test_a_table_passes_if_nine_cells_in_ten_do_and_none_is_far_off(toy, record, off, by, verdict):
    table = dataclasses.replace(toy, published_as="cifar10", orderings=())
    cells = tuple(
        ExpectedValue(f"metrics.cell{i}", "good", "lower", "paper", mean=1.0, low=0.9, high=1.1)
        for i in range(10)
    )
    run = record()
    run.arms["good"]["metrics"] |= {f"cell{i}": 1.0 + by * (i < off) for i in range(10)}
    expected = ExpectedSetting((), "the paper's", cells, (), ())
    result = judge(table, run, expected=expected)
    assert result.verdict is verdict
    assert "of 10 cells are inside their bands" in result.note
    others = judge(dataclasses.replace(table, published_as=None), run, expected=expected)
    assert (others.verdict is Verdict.PASS) == (off == 0 or by < 0)


def test_a_table_with_a_cell_that_was_not_measured_is_inconclusive(toy, record):
    table = dataclasses.replace(toy, published_as="cifar10", orderings=())
    fid = ExpectedValue("metrics.fid", "good", "lower", "paper", mean=5, low=4, high=6)
    expected = ExpectedSetting((), "the paper's", (BAND, fid), (), ())
    assert judge(table, record(), expected=expected).verdict is Verdict.INCONCLUSIVE
