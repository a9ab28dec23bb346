"""Two libraries count a ledger again, and a fault of ours that breaks the promise is noticed."""

import subprocess
import sys

import pytest

from privimage.errors import BudgetError
from privimage.privacy import accounting
from privimage.privacy.accounting import Accountant, Mechanism
from privimage.privacy.counted_again import second_opinions
from privimage.privacy.ledger import PrivacyLedger
from privimage.privacy.plan import PrivacyPlan
from privimage.privacy.rng import secure_source
from privimage.run_folder.budget import privacy_plan
from privimage.settings.config import load_config
from privimage.settings.presets import PRESETS, preset_settings

CURVE = accounting._rdp_curve


def ledger_of(plan: PrivacyPlan) -> PrivacyLedger:
    ledger = plan.open_ledger(None, data_id="a1b2", random_source=secure_source())
    plan.reserve(ledger)
    return ledger


def plan_of(
    epsilon=1.0, *, accountant: Accountant = "rdp", query: float | None = 484.0
) -> PrivacyPlan:
    return PrivacyPlan.calibrated(
        epsilon=epsilon,
        delta=1e-5,
        sampling_rate=1 / 3,
        num_steps=150,
        query_noise_multiplier=query,
        accountant=accountant,
    )


@pytest.mark.parametrize("name", PRESETS)
def test_in_every_cell_of_the_paper_all_three_count_the_same(name):
    plan = privacy_plan(load_config(preset_settings(name)))
    opinions = second_opinions(ledger_of(plan))
    ours = accounting.rdp_epsilon(tuple(plan.mechanisms.values()), delta=plan.delta)
    assert opinions["opacus"]["epsilon"] == pytest.approx(ours, rel=1e-9)
    assert plan.epsilon - 1e-4 <= opinions["opacus"]["epsilon"] <= plan.epsilon
    for opinion in opinions.values():
        assert opinion["epsilon"] == pytest.approx(opinion["ours_at_its_orders"], rel=1e-7)


def test_the_published_multiplier_costs_what_the_specification_says():
    mechanisms = {"query": Mechanism(484.0, 1.0, 1), "sgd": Mechanism(16.71875, 1 / 3, 150)}
    plan = PrivacyPlan(epsilon=1.0, delta=1e-5, accountant="rdp", mechanisms=mechanisms)
    opinions = second_opinions(ledger_of(plan))
    # docs/method.md, 6; the best order is 18, which both libraries have
    assert [o["epsilon"] for o in opinions.values()] == pytest.approx([0.99454] * 2, abs=5e-6)
    assert [o["counted_by"].split()[0] for o in opinions.values()] == ["opacus", "dp-accounting"]


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
@pytest.mark.parametrize(
    "fault",
    [
        lambda multiplier, rate: 0.95 * CURVE(multiplier, rate),
        lambda multiplier, rate: CURVE(multiplier, rate / 2 if rate < 1 else rate),
        lambda multiplier, rate: CURVE(multiplier * 2**0.5, rate),
    ],
    ids=["five percent too small", "half the rate", "half the variance"],
)
def test_a_curve_that_says_too_little_is_noticed(monkeypatch, fault, accountant):
    monkeypatch.setattr(accounting, "_rdp_curve", fault)
    ledger = ledger_of(plan_of(accountant=accountant))  # noise is calibrated by the same curve
    with pytest.raises(BudgetError, match=r"opacus .* counts a total epsilon of .* 1 is promised"):
        second_opinions(ledger)


@pytest.mark.parametrize(
    ("epsilon", "accountant", "query"),
    # the best order is 3.2, which is not whole, and one above 1024; PLD promises less than any RDP
    # can certify
    [(10.0, "rdp", 484.0), (0.002, "rdp", None), (1.0, "pld", 484.0)],
)
def test_a_figure_above_the_promise_for_want_of_orders_refutes_nothing(epsilon, accountant, query):
    opinions = second_opinions(ledger_of(plan_of(epsilon, accountant=accountant, query=query)))
    assert max(opinion["epsilon"] for opinion in opinions.values()) > epsilon


def test_opacus_is_read_without_what_its_package_does_to_the_process():
    code = """if True:
        import logging, sys, warnings
        from privimage.privacy import counted_again
        before = list(warnings.filters)
        assert counted_again._opacus_analysis().compute_rdp(
            q=1.0, noise_multiplier=2.0, steps=3, orders=2.0
        ) == 0.75
        assert "opacus" not in sys.modules
        assert warnings.filters == before
        assert not logging.root.handlers
    """
    subprocess.run([sys.executable, "-c", code], check=True)
