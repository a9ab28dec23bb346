import json

import pytest
import torch

from privimage.config import FinetuneConfig, PrivacyConfig
from privimage.errors import RunFolderError
from privimage.privacy.accounting import Mechanism
from privimage.privacy.ledger import PrivacyLedger
from privimage.privacy.per_example import Engine
from privimage.privacy.rng import insecure_source, secure_source
from privimage.training import finetune as module
from privimage.training.finetune import DP_SGD, finetune

STEPS = 4
CONFIG = FinetuneConfig(learning_rate=1e-2, noise_multiplicity=2)


class Interrupted(Exception):
    pass


def plan(rate=0.5):
    return PrivacyConfig(
        epsilon=50,
        delta=1e-3,
        query_noise_multiplier=10,
        sampling_rate=rate,
        num_steps=STEPS,
        clip_norm=0.01,
    )


def ledger(source, rate=0.5, path=None):
    book = PrivacyLedger.load_or_create(
        path,
        epsilon=50,
        delta=1e-3,
        accountant="rdp",
        data_id="test",
        random_source=source,
    )
    book.reserve(DP_SGD, Mechanism(1.0, rate, STEPS))
    return book


FOLDED = Engine("folded", micro_batch_size=4)


def seeded(seed=0):
    return insecure_source(seed, insecure_for_reproduction=True)


def run(denoiser, images, source, *, rate=0.5, engine=FOLDED, book=None, **settings):
    book = book or ledger(source, rate)
    ema = finetune(
        denoiser,
        images,
        CONFIG,
        plan(rate),
        ledger=book,
        source=source,
        seed=0,
        engine=engine,
        **settings,
    )
    return ema, book


def weights(denoiser):
    return torch.cat([p.detach().flatten() for p in denoiser.parameters()])


@pytest.mark.parametrize("num_classes", [0, 3])
def test_every_step_is_charged_and_moves_the_weights(new_denoiser, images, num_classes):
    denoiser = new_denoiser(num_classes)
    before = weights(denoiser)
    _, book = run(denoiser, images, seeded())
    assert book.charged(DP_SGD) == STEPS
    assert not torch.equal(before, weights(denoiser))


def test_an_empty_sample_takes_its_noisy_step(new_denoiser, images, monkeypatch):
    monkeypatch.setattr(module, "poisson_sample", lambda *a, **k: torch.empty(0, dtype=torch.int64))
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
        lambda total, *, expected_batch_size, **_: seen.append(expected_batch_size) or total,
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


def test_a_step_lost_in_a_crash_stays_spent_and_is_not_taken_again(new_denoiser, images, tmp_path):
    taken = []

    def stop(stage, done, total):
        taken.append(done)
        if len(taken) == 2:
            raise Interrupted

    settings = {"checkpoint": tmp_path / "finetune.pt", "checkpoint_seconds": 1e9}
    path = tmp_path / "ledger.json"
    with pytest.raises(Interrupted):
        run(
            new_denoiser(),
            images,
            secure_source(),
            book=ledger(secure_source(), path=path),
            progress=stop,
            **settings,
        )
    book = ledger(secure_source(), path=path)
    assert book.charged(DP_SGD) == 2
    run(
        new_denoiser(),
        images,
        secure_source(),
        book=book,
        progress=lambda stage, done, total: taken.append(done),
        **settings,
    )
    assert taken == [1, 2, 3, 4]
    assert book.charged(DP_SGD) == STEPS


def test_nothing_of_the_images_reaches_the_log(new_denoiser, images, tmp_path):
    stats = tmp_path / "stats.jsonl"
    run(new_denoiser(), images, seeded(), stats=stats)
    allowed = {"stage", "step", "images", "seconds", "noisy_gradient_norm"}
    lines = [json.loads(line) for line in stats.read_text().splitlines()]
    assert lines
    assert all(set(line) == allowed for line in lines)
    # the count of images is the expected one, not the number drawn
    assert all(line["images"] == round(line["step"] * 10) for line in lines)


def test_a_spent_budget_without_its_result_is_an_error_and_no_untrained_model(new_denoiser, images):
    source = seeded()
    book = ledger(source)
    book.charge(DP_SGD, STEPS)
    with pytest.raises(RunFolderError, match="new run folder"):
        run(new_denoiser(), images, source, book=book)
