"""The claims that only compute: their results, and what is expected of them."""

import math

import numpy as np
import pytest
from opacus.accountants.analysis import rdp as opacus_rdp

from artifact.claims.calculations import CALCULATIONS
from artifact.claims.calculations.headline_averages import averages, headline_metrics, printed
from artifact.claims.calculations.model_size import LADDERS, readings, size_metrics
from artifact.claims.calculations.privacy_budget import budget_metrics, cell_metrics
from artifact.claims.paper_results import published_table
from artifact.claims.records import ClaimRecord, record_folder, write_record
from artifact.claims.registry import claims_root, load_claim, load_claims
from artifact.judging.compare import Verdict, compare
from artifact.judging.expected import load_expected
from privimage.settings.presets import PRESETS, RECIPES

CLAIMS = {
    name: load_claim(claims_root() / name / "claim.yaml")
    for name in CALCULATIONS
    if (claims_root() / name).is_dir()
}
SHIPPED = claims_root().parent / "expected_results"
ORDERS = [*(1 + tenths / 10 for tenths in range(1, 100)), *range(12, 64)]  # the paper's


def expected_of(claim, setting):
    return load_expected(CLAIMS[claim], SHIPPED)[setting]


def judged(claim, setting, metrics):
    """The verdict on metrics by arm, as the runner would record them."""
    arms = {arm: {"insecure": False, "metrics": values} for arm, values in metrics.items()}
    record = ClaimRecord(claim, setting, 0, arms, {}, 1.0)
    expected = expected_of(claim, setting)
    return compare(CLAIMS[claim], setting, records=[record], expected=expected)


def opacus_epsilon(preset, multiplier):
    """An independent accountant: query and DP-SGD of a cell, by RDP."""
    recipe, rdp = RECIPES[preset.recipe], np.zeros(len(ORDERS))
    query = (recipe.query_noise_multiplier, 1.0, 1)
    for noise, rate, steps in (query, (multiplier, recipe.sampling_rate, recipe.num_steps)):
        rdp += opacus_rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=steps, orders=ORDERS)
    return opacus_rdp.get_privacy_spent(orders=ORDERS, rdp=rdp.tolist(), delta=recipe.delta)[0]


def write_run(out, arm, seed, cells):
    """A record of table_cifar10/full from cells as printed: {epsilon: (LR, MLP, CNN, FID)}."""
    arms = {
        f"epsilon_{epsilon}": arm(
            cnn / 100, logistic_regression_accuracy=lr / 100, mlp_accuracy=mlp / 100, fid=fid
        )
        for epsilon, (lr, mlp, cnn, fid) in cells.items()
    }
    path = record_folder(out, "table_cifar10", "full", seed) / "record.json"
    path.parent.mkdir(parents=True)
    write_record(path, ClaimRecord("table_cifar10", "full", seed, arms, {}, 1.0))


PRIVIMAGE_D = {
    10: (32.6, 36.5, 68.8, 27.6),
    5: (32.4, 35.9, 69.4, 27.6),
    1: (30.2, 33.2, 66.2, 29.8),
}


def test_every_shipped_claim_that_computes_names_a_calculation_that_there_is():
    settings = [s for c in load_claims(claims_root()).values() for s in c.settings.values()]
    named = {setting.calculation for setting in settings if setting.calculation}
    assert named == set(CALCULATIONS)


def test_the_paper_has_both_averages_by_the_rule(tmp_path):
    # FID: (29.9-27.6)/29.9, (30.1-27.6)/30.1, (31.2-29.8)/31.2 = 7.69, 8.31, 4.49 %
    # accuracy: gains of 8.5, 8.9, 6.0 (LR), 11.5, 11.5, 9.6 (MLP), 20.9, 23.3, 19.1 (CNN)
    metrics = headline_metrics(tmp_path)
    assert set(metrics) == {"paper"}
    assert metrics["paper"]["fid_reduction_percent"] == pytest.approx(6.83, abs=0.005)
    assert metrics["paper"]["accuracy_gain_points"] == pytest.approx(119.3 / 9)
    assert judged("headline_averages", "records", metrics).verdict is Verdict.PASS


def test_the_other_readings_of_the_averages_stand_beside(tmp_path):
    paper = headline_metrics(tmp_path)["paper"]
    assert paper["fid_reduction_percent_all_sets_best_baseline"] == pytest.approx(3.0, abs=0.05)
    assert paper["fid_reduction_percent_all_sets_best_of_d_and_g"] == pytest.approx(12.8, abs=0.05)
    # the best baseline of a cell is DPSDA but for the MLP at epsilon 5, where DPDM has 24.7
    assert paper["accuracy_gain_points_best_baseline"] == pytest.approx((119.3 - 0.3) / 9)


def test_records_with_the_papers_numbers_give_the_papers_averages(tmp_path, arm):
    write_run(tmp_path, arm, 0, PRIVIMAGE_D)
    metrics = headline_metrics(tmp_path)
    assert metrics["ours"].pop("num_runs") == 1
    for name, value in metrics["ours"].items():
        assert value == pytest.approx(metrics["paper"][name])


def test_runs_without_all_epsilons_do_not_count_and_the_others_are_averaged(tmp_path, arm):
    baseline = {
        10: (24.1, 25.0, 47.9, 29.9),
        5: (23.5, 24.4, 46.1, 30.1),
        1: (24.2, 23.6, 47.1, 31.2),
    }
    write_run(tmp_path, arm, 0, {10: PRIVIMAGE_D[10]})
    assert "ours" not in headline_metrics(tmp_path)
    write_run(tmp_path, arm, 1, PRIVIMAGE_D)
    write_run(tmp_path, arm, 2, baseline)
    metrics = headline_metrics(tmp_path)
    assert metrics["ours"]["num_runs"] == 2
    # one run has the paper's gains and the other none
    for name in ("fid_reduction_percent", "accuracy_gain_points"):
        assert metrics["ours"][name] == pytest.approx(metrics["paper"][name] / 2)


def test_a_run_that_has_no_fid_does_not_count(tmp_path, arm):
    write_run(tmp_path, arm, 0, PRIVIMAGE_D)
    path = record_folder(tmp_path, "table_cifar10", "full", 0) / "record.json"
    path.write_text(path.read_text().replace('"fid"', '"frechet_query_network"'))
    assert "ours" not in headline_metrics(tmp_path)


def test_a_method_has_no_gain_over_itself():
    table = published_table(path=SHIPPED / "published.yaml")
    found = averages(table, lambda cell: printed(table, "dpsda", cell))
    assert found == {"fid_reduction_percent": 0.0, "accuracy_gain_points": 0.0}


def test_all_networks_and_public_classes_have_the_published_counts(tmp_path):
    metrics = size_metrics(tmp_path)
    assert set(metrics) == {*LADDERS, "abstract"}
    result = judged("model_size", "smoke", metrics)
    assert result.verdict is Verdict.PASS
    counted = {v.arm for v in expected_of("model_size", "smoke").values}
    assert counted == set(metrics)


def test_a_network_of_another_size_fails_the_claim(tmp_path):
    metrics = size_metrics(tmp_path)
    metrics["celeba64_bb"]["num_parameters"] += 1
    assert judged("model_size", "smoke", metrics).verdict is Verdict.FAIL


def test_the_share_of_parameters_is_reported_for_every_candidate():
    # 1.608 of 80.4 is 2 %, 1.608 of 23 is 6.99 %, 6.03 of 80.4 is 7.5 %
    found = readings(small=1_608_000, medium=6_030_000)
    assert [round(value, 2) for value in found.values()] == [2.0, 6.99, 7.5, 7.5]


@pytest.mark.parametrize("name", ["cifar10_eps1", "celeba32_eps1", "celeba64_eps1"])
def test_the_cells_of_epsilon_1_meet_what_is_expected(name):
    result = judged("privacy_budget", "smoke", {name: cell_metrics(PRESETS[name])})
    verdicts = [check.verdict for check in result.checks]
    assert verdicts.count(Verdict.PASS) == 5
    assert set(verdicts) == {Verdict.PASS, Verdict.NOT_RUN}  # the other cells


@pytest.mark.slow
def test_all_cells_meet_what_is_expected(tmp_path):
    result = judged("privacy_budget", "smoke", budget_metrics(tmp_path))
    assert result.verdict is Verdict.PASS


@pytest.mark.parametrize("name", PRESETS)
def test_the_bands_of_the_noise_cost_what_their_source_says(name):
    # the multipliers are given to six decimals, which moves epsilon by about 1e-5 at most
    preset = PRESETS[name]
    values = {v.metric: v for v in expected_of("privacy_budget", "smoke").values if v.arm == name}
    for metric, slack in (("multiplier_by_published_search", 0.01), ("multiplier_of_a_run", 1e-4)):
        low, high = values[f"metrics.{metric}"].band
        assert opacus_epsilon(preset, low) == pytest.approx(preset.epsilon, abs=3e-5)
        assert opacus_epsilon(preset, high) == pytest.approx(preset.epsilon - slack, abs=3e-5)
    published = values["metrics.epsilon_of_published_multiplier_by_rdp"]
    by_opacus = opacus_epsilon(preset, preset.published_sgd_noise_multiplier)
    assert published.accepts(by_opacus)
    assert values["metrics.multiplier_by_published_search"].accepts(
        preset.published_sgd_noise_multiplier
    )


def test_a_multiplier_that_breaks_the_promise_fails_the_claim():
    name = "cifar10_eps10"
    band = next(v for v in expected_of("privacy_budget", "smoke").values if v.arm == name)
    assert opacus_epsilon(PRESETS[name], band.band[0] * (1 - 1e-5)) > PRESETS[name].epsilon
    metrics = {name: {"multiplier_by_published_search": band.band[0] * (1 - 1e-5)}}
    assert judged("privacy_budget", "smoke", metrics).verdict is Verdict.FAIL


def test_the_query_multipliers_are_the_classic_mechanisms_for_a_hundredth_and_a_thousandth():
    # sqrt(2 ln(1.25/delta)) / epsilon (Dwork and Roth 2014, Theorem 3.22); the configurations
    # give both rounded
    for recipe, epsilon in (("cifar10", 0.01), ("celeba32", 0.001), ("celeba64", 0.001)):
        classic = math.sqrt(2 * math.log(1.25 / RECIPES[recipe].delta)) / epsilon
        assert RECIPES[recipe].query_noise_multiplier == pytest.approx(classic, rel=1e-3)


AUDIT = expected_of("privacy_audit", "smoke").values


def audit(*, wrong=None):
    """Metrics of an audit that went well but for one of the values."""
    found = {}
    for value in AUDIT:
        low, high = value.band
        good = value.mean if value.mean is not None else 2 * low if value.better == "higher" else 0
        bad = high + 1e-3 if value.better in ("exact", "lower") else low / 2
        metrics = found.setdefault(value.arm, {})
        metrics[value.metric.removeprefix("metrics.")] = bad if value is wrong else good
    return found


def test_an_audit_passes_whose_checks_are_clean_and_whose_bounds_are_tight():
    assert judged("privacy_audit", "smoke", audit()).verdict is Verdict.PASS


@pytest.mark.parametrize("value", AUDIT, ids=lambda value: f"{value.arm}-{value.metric}")
def test_each_value_of_the_audit_alone_can_fail_it(value):
    assert judged("privacy_audit", "smoke", audit(wrong=value)).verdict is Verdict.FAIL


@pytest.mark.parametrize(("name", "bound"), [("lower_bound", 1.39), ("sure_bound", 2.01)])
def test_a_bound_above_the_promise_and_a_blind_attack_fail_the_audit(name, bound):
    metrics = audit()
    metrics["dp_sgd_2"][name] = bound
    assert judged("privacy_audit", "smoke", metrics).verdict is Verdict.FAIL
