import contextlib
import json
import math

import pytest
import torch

from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.ema import Ema
from privimage.errors import ConfigError, RunFolderError
from privimage.gradients.engine import Engine
from privimage.privacy.accounting import Mechanism
from privimage.privacy.dp_sgd import DP_SGD
from privimage.privacy.ledger import PrivacyLedger
from privimage.privacy.rng import insecure_source, secure_source
from privimage.run_folder.checkpoint import Checkpoint
from privimage.run_folder.runlog import unobserved
from privimage.run_folder.training_context import TrainingContext
from privimage.settings.config import FinetuneConfig
from privimage.training import finetune as module
from privimage.training.finetune import finetune
from tests.ledgers import ledger_terms

STEPS = 4
CONFIG = FinetuneConfig(learning_rate=1e-2, noise_multiplicity=2)


class Interrupted(Exception):
    pass


CLIP_NORM = 0.01


def ledger(source, path=None):
    terms = ledger_terms(epsilon=50.0, random_source=source)
    book = PrivacyLedger.load_or_create(path, terms)
    book.reserve(DP_SGD, Mechanism(1.0, 0.5, STEPS))
    return book


FOLDED = Engine("folded", micro_batch_size=4)


def seeded(seed=0):
    return insecure_source(seed, insecure_for_reproduction=True)


def run(denoiser, images, source, *, engine=FOLDED, book=None, on_release=unobserved, **around):
    book = book or ledger(source)
    tuned = finetune(
        denoiser,
        images,
        CONFIG,
        clip_norm=CLIP_NORM,
        ledger=book,
        source=source,
        seed=0,
        engine=engine,
        on_release=on_release,
        context=TrainingContext(**around),
    )
    return tuned, book


def weights(denoiser):
    return torch.cat([p.detach().flatten() for p in denoiser.parameters()])


@pytest.mark.parametrize("num_classes", [0, 3])
def test_every_step_is_charged_and_moves_the_weights(new_denoiser, images, num_classes):
    denoiser = new_denoiser(num_classes)
    before = weights(denoiser)
    _, book = run(denoiser, images, seeded())
    assert book.charged(DP_SGD) == STEPS
    assert not torch.equal(before, weights(denoiser))


def nobody_drawn(*arguments, **settings):
    return torch.empty(0, dtype=torch.int64)


def test_the_noise_of_all_steps_of_two_secure_runs_is_whole_and_shares_nothing(
    new_denoiser, images, monkeypatch
):
    monkeypatch.setattr(module, "poisson_sample", nobody_drawn)
    released = []
    for _ in range(2):
        run(
            new_denoiser(),
            images,
            secure_source(),
            on_release=lambda _, g: released.append(torch.cat([p.flatten() for p in g.values()])),
        )
    together = torch.stack(released)
    # multiplier 1, clip norm .01, expected batch 10; 8 x 9000 draws: known to .3 %
    assert together.std().item() == pytest.approx(0.01 / 10, rel=0.02)
    assert (together != 0).all()
    assert (torch.corrcoef(together) - torch.eye(2 * STEPS)).abs().max() < 0.1


def test_weights_and_their_average_follow_from_the_released_gradients_alone(new_denoiser, images):
    released = []
    denoiser, replayed = new_denoiser(), new_denoiser()
    tuned, _ = run(
        denoiser, images, secure_source(), on_release=lambda _, g: released.append(dict(g))
    )
    optimizer = torch.optim.Adam(replayed.parameters(), lr=CONFIG.learning_rate, fused=True)
    average = Ema(replayed, rate=CONFIG.ema_rate)
    for step, gradient in enumerate(released):
        for name, parameter in replayed.named_parameters():
            parameter.grad = gradient[name]
        optimizer.step()
        average.update(step)
    assert torch.equal(weights(denoiser), weights(replayed))
    for name, value in tuned.average.parameters.items():
        assert torch.equal(value, average.parameters[name])


class NoGradients:
    """In the place of `ClippedGradientSum`, for tests of what is drawn."""

    images_at_once = 2

    def __init__(self, losses_of, model, **settings):
        self.parameters = dict(model.named_parameters())

    def check_independence(self, made_up):
        pass

    def __call__(self, examples):
        return {n: torch.zeros_like(p, dtype=torch.float64) for n, p in self.parameters.items()}


class OneWeight(Denoiser):
    """All that an optimiser needs."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.weight = torch.nn.Parameter(torch.zeros(1))


def test_every_step_takes_a_poisson_sample_of_its_own_at_the_rate_that_is_accounted(
    new_denoiser, images, monkeypatch
):
    num_steps, rate = 400, 0.25
    drawn = torch.zeros(num_steps, len(images))

    def noted(sensitive, indices, *arguments, step, **settings):
        drawn[step, indices] += 1
        return (sensitive.images[indices],)

    monkeypatch.setattr(module, "made_up_examples", lambda *arguments: ())
    monkeypatch.setattr(module, "noisy_examples", noted)
    monkeypatch.setattr(module, "ClippedGradientSum", NoGradients)
    source = secure_source()
    book = PrivacyLedger.create(None, ledger_terms(epsilon=1e9, random_source=source))
    book.reserve(DP_SGD, Mechanism(1.0, rate, num_steps))
    run(OneWeight(), images, source, book=book)
    # of 8000 coins; of 400 sizes, binomial with variance 3.75; of 400 steps
    assert set(drawn.unique().tolist()) == {0, 1}
    assert drawn.mean().item() == pytest.approx(rate, abs=5 * (rate * (1 - rate) / 8000) ** 0.5)
    variance = len(images) * rate * (1 - rate)
    assert drawn.sum(1).var().item() == pytest.approx(variance, abs=5 * variance / 200**0.5)
    centred = drawn - rate
    following = (centred[1:] * centred[:-1]).mean() / (rate * (1 - rate))
    assert abs(following) < 5 / 8000**0.5


def test_dropout_of_pre_training_is_off(new_denoiser, images):
    dropping, plain = new_denoiser(dropout=0.5).train(), new_denoiser()
    for denoiser in (dropping, plain):
        run(denoiser, images, seeded())
    assert torch.equal(weights(dropping), weights(plain))


class Mixing(Denoiser):
    """Adds a little of the other rows' mean, as a batch norm does."""

    def forward(self, x, sigma, labels):
        denoised = super().forward(x, sigma, labels)
        return denoised + 1e-2 * denoised.mean(0)


def test_a_network_in_which_images_meet_is_refused_before_any_charge(new_denoiser, images):
    source = secure_source()
    book = ledger(source)
    with pytest.raises(ConfigError, match="depends on which others are there"):
        run(Mixing(new_denoiser().unet), images, source, book=book)
    assert book.charged(DP_SGD) == 0


def test_an_empty_sample_takes_its_noisy_step(new_denoiser, images, monkeypatch):
    monkeypatch.setattr(module, "poisson_sample", nobody_drawn)
    denoiser = new_denoiser()
    before = weights(denoiser)
    _, book = run(denoiser, images, seeded())
    assert book.charged(DP_SGD) == STEPS
    assert (weights(denoiser) != before).float().mean() > 0.99


def test_a_fixed_seed_repeats_a_run_and_secure_noise_never_does(new_denoiser, images):
    results = []
    for source in (seeded(), seeded(), secure_source()):
        denoiser = new_denoiser()
        run(denoiser, images, source)
        results.append(weights(denoiser))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_the_engine_changes_neither_ledger_nor_divisor(new_denoiser, images, monkeypatch):
    divisors = []
    original = module.noisy_mean_gradient

    def watched(total, *, expected_batch_size, **settings):
        divisors.append(expected_batch_size)
        return original(total, expected_batch_size=expected_batch_size, **settings)

    monkeypatch.setattr(module, "noisy_mean_gradient", watched)
    engines = (
        Engine("loop", num_workers=2),
        Engine("folded", micro_batch_size=3),
        Engine("loop", precision="bfloat16"),
    )
    books = [run(new_denoiser(), images, seeded(), engine=engine)[1] for engine in engines]
    assert books[0].to_dict() == books[1].to_dict() == books[2].to_dict()
    # rate x public size, whatever was drawn
    assert divisors == [0.5 * 20] * (3 * STEPS)


def test_the_divisor_is_the_published_size_not_the_number_of_images(
    new_denoiser, images, monkeypatch
):
    seen = []
    monkeypatch.setattr(
        module,
        "noisy_mean_gradient",
        lambda total, *, expected_batch_size, **_: (
            seen.append(expected_batch_size)
            or {name: summed.float() for name, summed in total.items()}
        ),
    )
    run(new_denoiser(), images.with_public_size(1000), seeded())
    assert seen == [500.0] * STEPS


def test_the_ledger_is_charged_before_the_images_are_touched(new_denoiser, images, monkeypatch):
    source = seeded()
    book = ledger(source)

    def crash(*args, **kwargs):
        raise Interrupted

    monkeypatch.setattr(module, "poisson_sample", crash)
    with pytest.raises(Interrupted):
        run(new_denoiser(), images, source, book=book)
    assert book.charged(DP_SGD) == 1


def stop_at(*steps):
    """A progress call that interrupts after these steps, once each, and notes all steps seen."""
    waiting, seen = set(steps), []

    def watch(stage, done, total):
        seen.append(done)
        if done in waiting:
            waiting.remove(done)
            raise Interrupted

    return watch, seen


def test_a_step_lost_in_a_crash_stays_spent_and_is_not_taken_again(new_denoiser, images, tmp_path):
    never_due = Checkpoint(tmp_path / "finetune.pt", time_share=0)
    path = tmp_path / "ledger.json"
    watch, seen = stop_at(2)
    books = [ledger(secure_source(), path=path)]
    with pytest.raises(Interrupted):
        run(
            new_denoiser(),
            images,
            secure_source(),
            book=books[0],
            progress=watch,
            checkpoint=never_due,
        )
    books.append(ledger(secure_source(), path=path))
    assert books[1].charged(DP_SGD) == 2
    tuned, book = run(
        new_denoiser(), images, secure_source(), book=books[1], progress=watch, checkpoint=never_due
    )
    assert seen == [1, 2, 3, 4]
    assert book.charged(DP_SGD) == STEPS
    assert tuned.steps_taken == STEPS - 2


@pytest.mark.parametrize("time_share", [0.0, math.inf])
def test_with_a_fixed_seed_any_interruption_ends_in_the_same_weights_at_no_more_charges(
    new_denoiser, images, tmp_path, time_share
):
    expected = new_denoiser()
    averages = [run(expected, images, seeded())[0].average.parameters]
    checkpoint = Checkpoint(tmp_path / "finetune.pt", time_share=time_share)
    path = tmp_path / "ledger.json"
    watch, seen = stop_at(1, 2, 3, 4)
    for _ in range(4):
        book = ledger(seeded(), path=path)
        with pytest.raises(Interrupted):
            run(new_denoiser(), images, seeded(), book=book, progress=watch, checkpoint=checkpoint)
    denoiser, book = new_denoiser(), ledger(seeded(), path=path)
    tuned, _ = run(denoiser, images, seeded(), book=book, checkpoint=checkpoint)
    averages.append(tuned.average.parameters)
    assert torch.equal(weights(denoiser), weights(expected))
    assert all(torch.equal(averages[0][name], averages[1][name]) for name in averages[0])
    assert book.charged(DP_SGD) == tuned.steps_taken == STEPS
    # kept after each step none is done twice, kept never all are
    assert seen == ([1, 2, 3, 4] if time_share else [1, 1, 2, 1, 2, 3, 1, 2, 3, 4])


def test_secure_noise_of_a_step_that_is_lost_is_never_drawn_again(
    new_denoiser, images, tmp_path, monkeypatch
):
    drawn = []
    original = module.noisy_mean_gradient

    def watched(total, **settings):
        clean = {name: torch.zeros_like(value) for name, value in total.items()}
        noise = original(clean, **settings)
        drawn.append(torch.cat([part.flatten() for part in noise.values()]))
        return noise

    monkeypatch.setattr(module, "noisy_mean_gradient", watched)
    path = tmp_path / "ledger.json"
    watch, _ = stop_at(1, 2, 3)
    for _ in range(4):
        with contextlib.suppress(Interrupted):
            book = ledger(secure_source(), path=path)
            checkpoint = Checkpoint(tmp_path / "finetune.pt", time_share=math.inf)
            run(
                new_denoiser(),
                images,
                secure_source(),
                book=book,
                progress=watch,
                checkpoint=checkpoint,
            )
    assert len(drawn) == STEPS
    together = torch.stack(drawn)
    assert (torch.corrcoef(together) - torch.eye(STEPS)).abs().max() < 0.2


def test_a_ledger_older_than_the_checkpoint_is_refused(new_denoiser, images, tmp_path):
    checkpoint = Checkpoint(tmp_path / "finetune.pt", time_share=math.inf)
    watch, _ = stop_at(3)
    with pytest.raises(Interrupted):
        run(new_denoiser(), images, secure_source(), progress=watch, checkpoint=checkpoint)
    book = ledger(secure_source())
    book.charge(DP_SGD)
    with pytest.raises(RunFolderError, match="an older copy"):
        run(new_denoiser(), images, secure_source(), book=book, checkpoint=checkpoint)


def test_who_watches_releases_gets_each_noisy_gradient(new_denoiser, images):
    released = []
    denoiser = new_denoiser()
    run(denoiser, images, seeded(), on_release=lambda step, g: released.append((step, g)))
    assert [step for step, _ in released] == [1, 2, 3, 4]
    assert all(g.keys() == dict(denoiser.named_parameters()).keys() for _, g in released)


def test_nothing_of_the_images_reaches_the_log(new_denoiser, images, tmp_path):
    stats, norms = tmp_path / "stats.jsonl", {}

    def note(step, gradient):
        norms[step] = torch.cat([g.flatten() for g in gradient.values()]).norm().item()

    run(new_denoiser(), images, seeded(), stats=stats, on_release=note)
    allowed = {"stage", "step", "images", "noisy_gradient_norm"}
    lines = [json.loads(line) for line in stats.read_text().splitlines()]
    assert lines
    assert all(set(line) == allowed for line in lines)
    for line in lines:  # of the gradient with its noise
        assert line["noisy_gradient_norm"] == pytest.approx(norms[line["step"]], rel=1e-4)
    # the count of images is the expected one, not the number drawn
    assert all(line["images"] == round(line["step"] * 10) for line in lines)
