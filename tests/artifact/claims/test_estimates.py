import pytest
import torch
from torch import nn

from artifact.claims.estimates import (
    DP_STEP,
    SIZES,
    count_flops,
    dp_step_rate,
    estimable,
    estimated_minutes,
    full_batches,
    main,
    rates,
    rounded,
    setting_work,
    stage_work,
    unet_flops,
)
from artifact.claims.records import find_records
from artifact.claims.registry import claims_root, load_claims
from privimage.errors import ConfigError
from privimage.settings.config import load_config
from privimage.settings.presets import preset_settings

CLAIMS = load_claims(claims_root())
PAPER = load_config(preset_settings("cifar10_eps10"))
EXTRAPOLATED = [
    pytest.param(claim, name, id=f"{claim.id}/{name}")
    for claim in CLAIMS.values()
    for name, setting in claim.settings.items()
    if setting.compute_minutes.extrapolated is not None
]


@pytest.mark.parametrize(("claim", "setting"), EXTRAPOLATED)
def test_extrapolated_minutes_in_a_claim_are_the_computed_ones(claim, setting):
    listed = claim.setting(setting).compute_minutes.extrapolated
    computed = rounded(estimated_minutes(claim, setting))
    assert listed == computed, (
        f"claims/{claim.id}/claim.yaml, setting {setting}: write extrapolated: {computed:g}"
    )


@pytest.mark.parametrize(("claim", "setting"), [p for p in EXTRAPOLATED if p.values[1] == "quick"])
def test_every_quick_setting_is_within_an_hour(claim, setting):
    assert estimated_minutes(claim, setting) <= 60


def test_a_measured_time_lies_between_the_fastest_and_the_slowest_recorded_run():
    root = claims_root().parent / "expected_results" / "reference_runs"
    found = 0
    for claim in CLAIMS.values():
        for name, setting in claim.settings.items():
            records = find_records(root, claim.id, name)
            minutes = setting.compute_minutes.measured
            if not records or minutes is None:
                continue
            found += 1
            times = [record.seconds / 60 for record in records]
            assert min(times) <= minutes <= max(times), (
                f"claims/{claim.id}/claim.yaml, setting {name}: the recorded runs took "
                f"{min(times):.1f} to {max(times):.1f} minutes"
            )
    assert found


def test_the_papers_network_costs_what_the_specification_says():
    # docs/method.md, 3: 0.90, 0.91 and 2.15 GFLOP forward an image
    for preset, gflop in {"cifar10": 0.90, "celeba32": 0.91, "celeba64": 2.15}.items():
        config = load_config(preset_settings(f"{preset}_eps1"))
        assert unet_flops(config) / 1e9 == pytest.approx(gflop, abs=0.005)


def test_the_papers_training_costs_what_the_specification_says():
    work = stage_work(PAPER)
    assert work["pretrain"] == pytest.approx(7e17, rel=0.02)  # docs/method.md, 5
    # 150 steps of 16,667 images, 8 copies, 3 forward passes of 0.903 GFLOP: 5.42e16
    assert work["finetune"] == pytest.approx(5.42e16, rel=0.002)


def test_a_product_and_its_sum_are_two_operations():
    with torch.device("meta"):
        layer, image = nn.Conv2d(3, 8, 3, padding=1), torch.empty(1, 3, 16, 16)
    assert count_flops(layer, image) == 2 * (3 * 3 * 3) * 8 * 16 * 16


def test_arms_share_the_query_network_and_what_a_donor_gives():
    work = setting_work(CLAIMS["table_cifar10"], "full")
    first, *others = work.values()
    assert [name for name, flops in first.items() if not flops] == ["moments"]
    for arm in others:
        assert arm["query_network"] == arm["query"] == arm["pretrain"] == 0
        assert arm["finetune"] == first["finetune"]


def test_moments_cost_what_their_products_cost():
    config = load_config(
        preset_settings("cifar10_eps1"), {"moments": {"noise_multiplier": 9, "num_components": 16}}
    )
    assert stage_work(config)["moments"] == 50_000 * 2 * 16 * (3 * 32 * 32 + 16)


def test_the_command_lists_every_setting_with_all_its_stages(capsys):
    main()
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split()[1:-2] == list(stage_work(PAPER))
    for claim, name in estimable(CLAIMS):
        assert any(line.startswith(f"{claim.id}/{name} ") for line in lines)


def test_what_a_strategy_leaves_out_costs_nothing():
    work = setting_work(CLAIMS["selection_matters"], "full")
    assert [name for name, arm in work.items() if not arm["pretrain"]] == ["no_pretraining"]
    assert [name for name, arm in work.items() if arm["query"]] == ["selected"]


def test_a_set_smaller_than_a_batch_is_one_batch():
    assert full_batches(1000, 300) == 900
    assert full_batches(40, 300) == 40


def test_the_cpu_rate_comes_from_the_benchmark_and_stays_below_the_machines_ceiling():
    # its bfloat16 rows reach about half of the matrix products' 4.2e11 operations a second
    assert 1e11 < dp_step_rate(DP_STEP) < 4.2e11
    assert all(rate.basis for rate in rates().values())


def test_every_setting_that_is_not_measured_can_be_estimated():
    settings = list(estimable(CLAIMS))
    assert {name for _, name in settings} == {"quick", "full"}
    for claim, name in settings:
        assert estimated_minutes(claim, name) > 0


def test_hardware_and_sets_without_figures_are_named(toy):
    with pytest.raises(ConfigError, match="no rate is known for 'a laptop'; there are 'one H100"):
        estimated_minutes(toy, "smoke")
    config = load_config(preset_settings("cifar10_eps1"), {"data.public": "folder:mine"})
    with pytest.raises(
        ConfigError, match=f"folder:mine is not known; there are {next(iter(SIZES))}"
    ):
        stage_work(config)


def test_an_extrapolation_has_two_digits():
    assert [rounded(m) for m in (53.9, 3274.3, 0.1234)] == [54, 3300, 0.12]
