"""The plan of a run: what it will be charged, and where its randomness comes from."""

import pytest

from privimage.privacy.accounting import compute_epsilon
from privimage.run_folder.budget import privacy_plan, random_source
from privimage.settings.config import load_config


@pytest.mark.parametrize(
    ("strategy", "names"),
    [("semantic", ["semantic_query", "dp_sgd"]), ("random", ["dp_sgd"]), ("none", ["dp_sgd"])],
)
def test_query_and_training_together_use_the_promise_and_no_more(toy_settings, strategy, names):
    config = load_config(toy_settings, {"selection.strategy": strategy})
    plan = privacy_plan(config).mechanisms
    assert list(plan) == names
    assert (plan["dp_sgd"].sampling_rate, plan["dp_sgd"].count) == (0.01, 3)
    spent = compute_epsilon(tuple(plan.values()), delta=1e-4, accountant="rdp")
    assert 9.99 < spent <= 10


def test_only_a_run_that_asks_for_it_takes_its_noise_from_a_seed(toy_settings):
    sources = [
        random_source(load_config(toy_settings, {"privacy.insecure_for_reproduction": insecure}))
        for insecure in (False, True)
    ]
    assert [(source.name, source.insecure) for source in sources] == [
        ("os", False),
        ("seeded", True),
    ]
