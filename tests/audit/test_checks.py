"""The checks and attacks on the right code, and on code with a fault each."""

import functools
from threading import current_thread

import pytest
import torch
from torch import nn

from privimage.audit import checks as module
from privimage.audit import observed_runs, two_processes
from privimage.audit.attacks import guess_dp_sgd, guess_query
from privimage.audit.bounds import judge_guesses
from privimage.audit.checks import (
    ENGINES,
    _moves_of_steps,
    empty_step_p_value,
    query_moves,
    sample_p_values,
)
from privimage.audit.observed_runs import excess_epsilon, observe
from privimage.audit.sums import exact_sums
from privimage.audit.two_processes import largest_difference
from privimage.privacy import clipping, plan
from privimage.privacy import query as query_module
from privimage.privacy.accounting import Mechanism
from privimage.privacy.clipping import ClippedGradientSum
from privimage.privacy.dp_sgd import DP_SGD
from privimage.privacy.ledger import PrivacyLedger
from privimage.privacy.rng import insecure_source, secure_source
from privimage.stages import model as model_stage
from privimage.stages import semantic as semantic_stage
from privimage.training import finetune as finetune_module
from tests.distributed.processes import CONTEXT

FEW = 1e-6  # a p-value that right code has once in a million checks
FOLDED, TWO_WORKERS = ENGINES[2], ENGINES[3]


def seeded():
    return insecure_source(3, insecure_for_reproduction=True)


@pytest.fixture
def plant(monkeypatch):
    """Replaces a function by one that gets the original first."""

    def replace(owner, name, faulty):
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, **k: faulty(original, *a, **k))

    return replace


# the right code


@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_one_image_moves_a_step_by_its_clip_norm_and_no_more(engine):
    moves = _moves_of_steps(engine, 9, "first", 1.0, seed=5)
    assert len(moves) == 2
    assert all(0.9999 < move < 1.00001 for move in moves)


def test_one_image_moves_the_histogram_by_its_two_votes():
    assert query_moves(2) == {"fewest_votes": 2, "most_votes": 2, "other_moves": 0}


def test_the_sample_is_of_independent_coins_and_empty_steps_have_their_noise():
    p_values = sample_p_values(secure_source())
    assert min(p_values.values()) > FEW
    assert empty_step_p_value(secure_source()) > FEW


def test_two_processes_release_what_one_does(monkeypatch):
    # from a server that has loaded the library, for a start from nothing takes seconds
    monkeypatch.setattr(two_processes.multiprocessing, "get_context", lambda _: CONTEXT)
    assert largest_difference(4) == 0


def test_a_run_that_was_interrupted_has_charged_all_that_it_released(tmp_path):
    seen = observe(tmp_path, seed=1, interrupted=True)
    assert (seen.late_charges, seen.uncharged, seen.other_plan, seen.other_lines) == (0, 0, 0, 0)
    assert len(seen.steps) == 12
    assert 0.7 < seen.histogram.std() < 1.3


def test_plans_keep_their_promise_by_another_librarys_accountants():
    assert excess_epsilon() < 0.005


guess_votes = functools.partial(guess_query, classes_per_image=2)


@pytest.mark.parametrize(
    ("guess", "runs"),
    [
        (guess_votes, 600),
        (guess_dp_sgd, 200),
        pytest.param(guess_dp_sgd, 600, marks=pytest.mark.slow),
    ],
)
def test_attacks_come_close_to_what_is_claimed(guess, runs):
    # right with probability .69 at most; of 600 guesses the share has a deviation of .019
    claimed, off = Mechanism(1.0, 1.0, 1), 0.07 * (600 / runs) ** 0.5
    correct = guess(claimed, range(runs), source=secure_source(), seed=0)
    assert 0.69 - off < correct / runs < 0.69 + off
    result = judge_guesses(claimed, correct=correct, runs=runs, delta=1e-5)
    low, high = (0.4, 1.3) if runs == 600 else (0.0, 1.7)
    assert low * result.claimed_epsilon < result.lower_bound < high * result.claimed_epsilon


def test_sums_of_any_gradients_are_exact_and_no_term_is_too_long():
    found = exact_sums(3)
    assert 0.999 < found.pop("largest_alone") <= 1.0
    assert found == {"unusable": 0.0, "lost": 0.0}


# faults


def test_gradients_rounded_up_by_a_hair_are_seen(monkeypatch):
    monkeypatch.setattr(clipping, "SHORTENED", 1.0)
    assert exact_sums(3)["largest_alone"] > 1.0


def test_sums_that_overflow_are_seen(plant):
    plant(
        ClippedGradientSum,
        "_zeros",
        lambda original, self: [total.to(torch.int32) for total in original(self)],
    )
    assert exact_sums(3)["lost"] > 1.0


def moves(engine=FOLDED, num=9, added="first"):
    return _moves_of_steps(engine, num, added, 1.0, seed=0)


def is_wrong(found):
    return not all(0.9999 < move < 1.00001 for move in found)


def test_a_layer_left_out_of_the_norm_is_seen(plant):
    def without_biases(original, gradients):
        return original([g for g in gradients if g.dim() > 2])

    plant(clipping, "_norms", without_biases)
    assert is_wrong(moves())


def test_an_unclipped_share_of_one_worker_is_seen(plant):
    def second_worker(original, self, norm):
        return original(self, norm) * (2 if current_thread().name.endswith("_1") else 1)

    plant(ClippedGradientSum, "_factor", second_worker)
    # which worker gets which image is chance: many tries
    assert any(is_wrong(moves(TWO_WORKERS, num=17)) for _ in range(8))


def test_diffusion_noise_that_is_drawn_for_the_batch_in_a_row_is_seen(plant):
    def in_a_row(original, *arguments, seed, step):
        images, labels, sigma, noise = original(*arguments, seed=seed, step=step)
        generator = torch.Generator().manual_seed(step)
        return images, labels, sigma, torch.randn(noise.shape, generator=generator)

    plant(finetune_module, "noisy_examples", in_a_row)
    assert is_wrong(moves(added="first"))


def test_dropout_is_seen(monkeypatch):
    monkeypatch.setattr(clipping, "_refuse_chance", lambda models: None)
    monkeypatch.setattr(ClippedGradientSum, "check_independence", lambda self, made_up: None)
    monkeypatch.setattr(nn.Module, "eval", lambda self: self.train())
    assert is_wrong(moves())


def test_a_divisor_that_is_the_batch_drawn_is_seen(plant):
    drawn = []

    def watched(original, *arguments, **settings):
        drawn.append(original(*arguments, **settings))
        return drawn[-1]

    def faulty(original, total, *, expected_batch_size, **settings):
        return original(total, expected_batch_size=float(max(1, len(drawn[-1]))), **settings)

    plant(finetune_module, "poisson_sample", watched)
    plant(finetune_module, "noisy_mean_gradient", faulty)
    assert is_wrong(moves())


def batches_of(kind):
    def faulty(original, source, num, *, rate):
        order = torch.from_numpy(source.uniform_words(num).argsort())
        if kind == "fixed size":
            return order[: round(rate * num)].sort().values
        if kind == "twice the rate":
            return original(source, num, rate=2 * rate)
        if kind == "the same again":
            return original(seeded(), num, rate=rate)
        start = faulty.step * 90 % num  # an epoch
        faulty.step += 1
        return torch.arange(num)[start : start + 90]

    faulty.step = 0
    return faulty


@pytest.mark.parametrize("kind", ["fixed size", "twice the rate", "the same again", "epochs"])
def test_samples_that_are_no_coins_are_seen(plant, kind):
    plant(finetune_module, "poisson_sample", batches_of(kind))
    p_values = sample_p_values(secure_source())
    assert min(p_values[name] for name in ("rate", "batches", "images", "coins")) < FEW


def test_empty_steps_without_noise_are_seen(plant):
    def faulty(original, total, *, noise_multiplier, **settings):
        is_empty = not any(bool(summed.any()) for summed in total.values())
        return original(
            total, noise_multiplier=noise_multiplier * (0.5 if is_empty else 1.0), **settings
        )

    plant(finetune_module, "noisy_mean_gradient", faulty)
    assert empty_step_p_value(secure_source()) < FEW


def test_three_votes_and_votes_for_other_labels_are_seen(plant):
    def more(original, network, images, labels, *, classes_per_image, **settings):
        return original(
            network, images, labels, classes_per_image=classes_per_image + 1, **settings
        )

    plant(query_module, "count_top_classes", more)
    assert query_moves(0)["most_votes"] == 3


@pytest.mark.slow
def test_a_query_asked_twice_on_one_charge_shows_in_its_noise(plant, tmp_path):
    def averaged(original, *arguments, keep, ledger, **settings):
        spare = module.ledger_of({query_module.QUERY: ledger.reserved["semantic_query"]}, seeded())
        again = functools.partial(original, *arguments, **settings)
        other = again(keep=lambda noisy: None, ledger=spare)
        return (again(keep=keep, ledger=ledger) + other) / 2

    plant(semantic_stage, "semantic_query", averaged)
    runs = [observe(tmp_path / str(run), seed=run, interrupted=False) for run in range(2)]
    cells = torch.cat([run.histogram.flatten() for run in runs])
    assert module.variance_p_value(cells.numpy()) < 1e-4


def test_half_the_noise_of_a_histogram_is_more_than_is_claimed(plant):
    plant(
        query_module,
        "add_gaussian",
        lambda original, *a, standard_deviation, **k: original(
            *a, standard_deviation=standard_deviation / 2, **k
        ),
    )
    # right with probability .748 instead of .631: of 1300 guesses nine deviations more, of which
    # five are enough
    claimed, runs = Mechanism(1.5, 1.0, 1), 1300
    correct = guess_query(claimed, range(runs), classes_per_image=2, source=secure_source(), seed=0)
    assert judge_guesses(claimed, correct=correct, runs=runs, delta=1e-5).disproves_claim


def test_steps_released_before_their_charge_and_other_ones_than_taken_are_seen(plant, tmp_path):
    assert observe(tmp_path / "right", seed=1, interrupted=False).weights_off < 1e-3
    skipped = []

    def charge(original, self, name, count=1):
        if name == DP_SGD and not skipped:
            skipped.append(name)
        else:
            original(self, name, count)

    plant(PrivacyLedger, "charge", charge)

    def shown_otherwise(original, *arguments, on_release, **settings):
        def show(step, gradient):
            on_release(step, {name: 2 * value.flip(0) for name, value in gradient.items()})

        return original(*arguments, on_release=show, **settings)

    plant(model_stage, "finetune", shown_otherwise)
    seen = observe(tmp_path / "wrong", seed=1, interrupted=False)
    assert seen.late_charges > 0
    assert seen.weights_off > 1e-2  # the weights rest on more than is released


def test_a_plan_that_forgets_the_query_exceeds_its_promise(monkeypatch):
    monkeypatch.setattr(observed_runs, "PROMISES", observed_runs.PROMISES[1:])  # PLD takes seconds
    original = plan.calibrate_noise_multiplier
    monkeypatch.setattr(
        plan, "calibrate_noise_multiplier", lambda spent, **promise: original((), **promise)
    )
    assert excess_epsilon() > 0.005
