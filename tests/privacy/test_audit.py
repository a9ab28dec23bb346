"""The audit's statistics, the attacks on the correct code, and on code with a fault each."""

import math
from bisect import bisect_left
from collections import deque

import numpy as np
import pytest
import torch

from privimage.canaries import audit_gradients, audit_inputs, audit_query, audit_set_size
from privimage.config import PrivacyConfig
from privimage.errors import ConfigError
from privimage.privacy import per_example
from privimage.privacy.accounting import calibrate_noise_multiplier
from privimage.privacy.audit import (
    CONFIDENCE,
    GUESS_SHARES,
    epsilon_lower_bound,
    judge_guesses,
    p_value,
)
from privimage.privacy.per_example import Engine
from privimage.privacy.rng import insecure_source, secure_source
from privimage.semantics import query as query_module
from privimage.training import finetune as finetune_module

CLAIM, DELTA = 2.0, 1e-5
FOLDED = Engine("folded", micro_batch_size=48)
ENGINES = pytest.mark.parametrize("engine", [FOLDED, Engine("loop")], ids=["folded", "loop"])


def plan(epsilon=CLAIM, *, sampling_rate=0.5, num_steps=8, clip_norm=1e-3):
    query = calibrate_noise_multiplier(
        (), sampling_rate=1.0, count=1, epsilon=epsilon, delta=DELTA, accountant="rdp"
    )
    return PrivacyConfig(
        epsilon=epsilon,
        delta=DELTA,
        query_noise_multiplier=query,
        sampling_rate=sampling_rate,
        num_steps=num_steps,
        clip_norm=clip_norm,
    )


def seeded():
    return insecure_source(3, insecure_for_reproduction=True)


def attack_gradients(epsilon=CLAIM, *, engine=FOLDED):
    return audit_gradients(plan(epsilon), num_canaries=500, source=seeded(), seed=0, engine=engine)


def attack_set_size(*, publish_size=False, engine=FOLDED):
    return audit_set_size(
        plan(sampling_rate=0.9),
        num_runs=150,
        publish_size=publish_size,
        source=secure_source(),
        seed=0,
        engine=engine,
    )


def attack_query(epsilon=CLAIM):
    return audit_query(
        plan(epsilon), num_canaries=1000, classes_per_image=2, source=seeded(), seed=0
    )


def attack_inputs(epsilon):
    settings = plan(epsilon, num_steps=300, clip_norm=1e-2)
    return audit_inputs(settings, num_canaries=120, source=seeded(), seed=0, engine=FOLDED)


# the statistics


def bound(correct, guesses, *, canaries=None, delta=0.0):
    return epsilon_lower_bound(
        correct=correct,
        guesses=guesses,
        canaries=canaries or guesses,
        delta=delta,
        confidence=CONFIDENCE,
    )


def binomial_mass(k, n, p):
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


@pytest.mark.parametrize(("correct", "guesses"), [(0, 5), (3, 5), (5, 5), (14, 20), (60, 80)])
@pytest.mark.parametrize("epsilon", [0.0, 0.7, 3.0])
def test_p_values_are_the_papers_formula_by_direct_sums(correct, guesses, epsilon):
    canaries, delta, p = 100, 1e-3, math.exp(epsilon) / (1 + math.exp(epsilon))

    def mass(low, high):  # P[low <= Binomial < high]
        return sum(binomial_mass(k, guesses, p) for k in range(max(low, 0), high))

    steps = range(1, correct + 1)
    alpha = max((mass(correct - i, correct) / i for i in steps), default=0.0)
    expected = mass(correct, guesses + 1) + 2 * canaries * delta * alpha
    found = p_value(epsilon, correct=correct, guesses=guesses, canaries=canaries, delta=delta)
    assert found == pytest.approx(min(1.0, expected), rel=1e-9)


@pytest.mark.parametrize("guesses", [10, 100, 1000])
def test_all_guesses_right_rejects_up_to_the_chance_of_that(guesses):
    # p^r = .05 at the bound, and epsilon = log(p / (1 - p)); 5.8 for a thousand
    p = 0.05 ** (1 / guesses)
    assert bound(guesses, guesses) == pytest.approx(math.log(p / (1 - p)), abs=1e-9)


def test_guesses_like_coins_show_nothing():
    assert bound(50, 100) == 0.0
    assert bound(0, 100) == 0.0


def test_the_bound_rises_with_right_guesses_and_falls_with_delta():
    bounds = [bound(correct, 200) for correct in range(100, 201, 5)]
    assert bounds == sorted(bounds)
    assert bounds[-1] > bounds[-5] > 1
    by_delta = [bound(90, 100, canaries=1000, delta=delta) for delta in (0.0, 1e-6, 1e-5, 1e-4)]
    assert by_delta == sorted(by_delta, reverse=True)
    assert by_delta[0] > by_delta[-1]


def test_p_values_rise_with_epsilon_so_that_bisection_finds_the_one_crossing():
    values = [
        p_value(epsilon, correct=93, guesses=100, canaries=1000, delta=DELTA)
        for epsilon in np.linspace(0, 4, 100)
    ]
    assert values == sorted(values)


@pytest.mark.parametrize(
    ("epsilon", "guesses"), [(0.2, 20), (0.2, 500), (1.0, 20), (1.0, 100), (3.0, 100), (3.0, 500)]
)
def test_randomised_response_of_known_epsilon_is_wronged_in_at_most_one_trial_of_twenty(
    epsilon, guesses
):
    # the worst case of epsilon-DP: every guess is right by a coin of this probability. The chance
    p = math.exp(epsilon) / (1 + math.exp(epsilon))
    # of a bound above epsilon, exactly: over all counts of right guesses (they order the bounds).
    counts = range(guesses + 1)
    first = bisect_left(counts, True, key=lambda k: bound(k, guesses) > epsilon)
    assert 0.0 < sum(binomial_mass(k, guesses, p) for k in counts[first:]) <= 0.05
    # and the bound is no weaker than it must be: the next smaller count would be one too many
    assert sum(binomial_mass(k, guesses, p) for k in counts[first - 1 :]) > 0.05


def test_scores_and_numbers_of_guesses_share_what_may_go_wrong():
    is_in = np.arange(100) % 3 == 0
    right, useless = is_in.astype(float), np.zeros(100)
    result = judge_guesses([useless, right], is_in, claimed_epsilon=2.0, delta=0.0)
    # 34 are in, 66 out: of 90 guesses, 45 high and 45 low, 79 are right; of 30 all are
    num_tests = 2 * len(GUESS_SHARES)
    p = (0.05 / num_tests) ** (1 / 30)
    assert (result.canaries, result.guesses, result.correct) == (100, 30, 30)
    assert result.lower_bound == pytest.approx(math.log(p / (1 - p)))
    assert (result.claimed_epsilon, result.confidence) == (2.0, 0.95)
    assert not result.disproves_claim
    assert judge_guesses([right], is_in, claimed_epsilon=1.0, delta=0.0).disproves_claim


def test_scores_that_know_nothing_show_nothing():
    generator = np.random.default_rng(0)
    is_in = generator.random(2000) < 0.5
    scores = [generator.random(2000), generator.random(2000)]
    result = judge_guesses(scores, is_in, claimed_epsilon=2.0, delta=DELTA)
    assert result.lower_bound < 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct": 11}, "11 correct of 10 guesses"),
        ({"guesses": 21}, "guesses about 20 canaries"),
        ({"delta": 1.0}, "give a delta in"),
        ({"confidence": 1.0}, "a confidence in"),
    ],
)
def test_impossible_counts_are_refused(change, message):
    counts = {"correct": 9, "guesses": 10, "canaries": 20, "delta": 0.0, "confidence": 0.95}
    with pytest.raises(ConfigError, match=message):
        epsilon_lower_bound(**{**counts, **change})


def test_attacks_too_small_or_too_large_are_refused():
    with pytest.raises(ConfigError, match="num_steps is 1"):
        audit_gradients(plan(num_steps=1), num_canaries=10, source=seeded(), seed=0, engine=FOLDED)
    with pytest.raises(ConfigError, match="give at least 2, and hundreds"):
        audit_gradients(plan(), num_canaries=1, source=seeded(), seed=0, engine=FOLDED)
    with pytest.raises(ConfigError, match="seeded source repeats its draws"):
        audit_set_size(
            plan(), num_runs=9, publish_size=False, source=seeded(), seed=0, engine=FOLDED
        )
    with pytest.raises(ConfigError, match="at most 2560 differ"):
        audit_query(plan(), num_canaries=3000, classes_per_image=1, source=seeded(), seed=0)


# the correct code


def holds(result):
    """The claim stands, and it was charged in full."""
    charged = CLAIM - 1e-3 < result.claimed_epsilon <= CLAIM
    return charged and result.lower_bound <= result.claimed_epsilon


@ENGINES
def test_every_released_gradient_together_keeps_the_claim(engine):
    assert holds(attack_gradients(engine=engine))


@ENGINES
def test_the_noise_does_not_tell_how_many_images_there_are(engine):
    result = attack_set_size(engine=engine)
    assert holds(result)
    assert result.lower_bound < 0.5  # its law does not depend on the coin at all


def test_the_noisy_histogram_keeps_the_claim():
    assert holds(attack_query())


@pytest.mark.slow
def test_the_finished_model_alone_shows_next_to_nothing():
    result = attack_inputs(CLAIM)
    assert holds(result)
    assert result.lower_bound < 0.5


# the attacks are not blind: a weak promise, kept, and what no guarantee covers


@pytest.mark.parametrize("attack", [attack_gradients, attack_query])
def test_a_promise_of_40_is_kept_and_seen_to_be_weaker_than_2(attack):
    result = attack(40.0)
    assert CLAIM < result.lower_bound <= result.claimed_epsilon


def test_a_published_size_is_seen():
    assert attack_set_size(publish_size=True).disproves_claim


@pytest.mark.slow
def test_the_finished_model_tells_who_was_in_where_noise_is_next_to_none():
    result = attack_inputs(1e5)
    assert CLAIM < result.lower_bound <= result.claimed_epsilon


# faults planted in the library's own functions: each must disprove the claim


@pytest.fixture
def plant(monkeypatch):
    """Replaces a function by one that gets the original first."""

    def replace(module, name, faulty):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: faulty(original, *a, **k))

    return replace


def plant_in_noise(plant, faulty):
    plant(finetune_module, "noisy_mean_gradient", faulty)


def test_no_noise_is_found_out(plant):
    def faulty(original, total, *, expected_batch_size, **settings):
        return {name: summed / expected_batch_size for name, summed in total.items()}

    plant_in_noise(plant, faulty)
    assert attack_gradients().disproves_claim


def test_noise_before_clipping_is_found_out(plant):
    # gradients are summed as they are, noise for the clip norm is added, and only then is clipped
    def clipped_last(original, total, *, clip_norm, expected_batch_size, **settings):
        noisy = original(
            total, clip_norm=clip_norm, expected_batch_size=expected_batch_size, **settings
        )
        norm = torch.stack([g.norm() for g in noisy.values()]).norm()
        return {name: g * (clip_norm / norm).clamp(max=1) for name, g in noisy.items()}

    plant(per_example, "_clip_factor", lambda original, norm, clip_norm: torch.ones_like(norm))
    plant_in_noise(plant, clipped_last)
    assert attack_gradients().disproves_claim


def test_clipping_each_copy_of_an_image_by_itself_is_found_out(plant):
    # K copies of an image then weigh K clip norms, and the noise is for one
    def by_copy(original, losses_of, model, **settings):
        clipped_sum_of = original(losses_of, model, **settings)

        def summed(examples):
            images, labels, sigma, noise = examples
            copies = sigma.shape[1]
            return clipped_sum_of(
                (
                    images.repeat_interleave(copies, 0),
                    labels.repeat_interleave(copies),
                    sigma.reshape(-1, 1),
                    noise.flatten(0, 1)[:, None],
                )
            )

        return summed

    plant(finetune_module, "ClippedGradientSum", by_copy)
    assert attack_gradients().disproves_claim


def test_the_same_noise_in_every_step_is_found_out(plant):
    def faulty(original, total, *, source, **settings):
        return original(total, source=seeded(), **settings)

    plant_in_noise(plant, faulty)
    assert attack_gradients().disproves_claim


@pytest.fixture
def drawn(plant):
    """How many images the present step has drawn; at least 1."""
    last = deque([1], maxlen=1)

    def watched(original, *arguments, **settings):
        indices = original(*arguments, **settings)
        last.append(max(1, len(indices)))
        return indices

    plant(finetune_module, "poisson_sample", watched)
    return lambda: last[0]


def test_noise_that_grows_with_the_batch_drawn_is_found_out(plant, drawn):
    def faulty(original, total, *, noise_multiplier, expected_batch_size, **settings):
        return original(
            total,
            noise_multiplier=noise_multiplier * drawn() / expected_batch_size,
            expected_batch_size=expected_batch_size,
            **settings,
        )

    plant_in_noise(plant, faulty)
    assert attack_set_size().disproves_claim


def test_a_divisor_that_is_the_batch_drawn_is_found_out(plant, drawn):
    def faulty(original, total, *, expected_batch_size, **settings):
        return original(total, expected_batch_size=float(drawn()), **settings)

    plant_in_noise(plant, faulty)
    assert attack_set_size().disproves_claim


def test_a_query_without_noise_is_found_out(plant):
    plant(query_module, "add_gaussian", lambda original, source, values, **settings: values)
    assert attack_query().disproves_claim
