import dataclasses

import pytest

from artifact.claims.records import ClaimRecord
from artifact.claims.registry import claims_root, load_claim, load_claims
from artifact.judging.epsilons import arm_epsilons, epsilon_panels

TABLE = load_claim(claims_root() / "table_cifar10" / "claim.yaml")
EPSILONS = {"epsilon_10": 10.0, "epsilon_5": 5.0, "epsilon_1": 1.0}


@pytest.fixture
def run(arm):
    def make(seed=0, *, arms=tuple(EPSILONS), accuracy=0.6):
        made = {name: arm(accuracy, fid=30.0) for name in arms}
        return ClaimRecord("table_cifar10", "full", seed, made, {}, 1.0)

    return make


def test_an_arm_says_its_epsilon_by_preset_by_setting_or_by_the_recipe():
    for name in ("smoke", "quick", "full"):
        assert arm_epsilons(TABLE.setting(name)) == EPSILONS


def test_every_shipped_claim_says_its_epsilons_unless_it_only_computes():
    for claim in load_claims(claims_root()).values():
        for setting in claim.settings.values():
            expected = set() if setting.calculation else set(setting.arms)
            assert set(arm_epsilons(setting)) == expected


def test_lines_are_means_with_the_spread_of_the_seeds_from_the_small_epsilon_on(run):
    panels = epsilon_panels(TABLE, "quick", [run(0, accuracy=0.6), run(1, accuracy=0.7)])
    accuracy, fid = panels.values()
    # sd of .6 and .7 is .1 / sqrt(2)
    assert [point[0] for point in accuracy[0].points] == [1.0, 5.0, 10.0]
    assert accuracy[0].points[0][1:] == pytest.approx((65.0, 7.0711), abs=1e-4)
    assert fid[0].points[0] == (1.0, 30.0, 0.0)
    assert not any(line.is_paper for line in accuracy + fid)


def test_the_papers_lines_are_drawn_where_it_judges(run):
    panels = epsilon_panels(TABLE, "full", [run()])
    _, fid = panels.values()
    assert [line.is_paper for line in fid] == [False, True]
    assert fid[1].points == ((1.0, 29.8, 0.0), (5.0, 27.6, 0.0), (10.0, 27.6, 0.0))


def test_nothing_is_drawn_for_one_epsilon_or_for_arms_that_do_not_differ_in_it(run, toy, record):
    assert epsilon_panels(TABLE, "full", [run(arms=("epsilon_5",))]) == {}
    assert epsilon_panels(toy, "smoke", [record()]) == {}
    setting = dataclasses.replace(toy.settings["smoke"], config={}, calculation="x")
    computes = dataclasses.replace(toy, settings={"smoke": setting})
    assert epsilon_panels(computes, "smoke", [record()]) == {}
