"""`stats.jsonl` may be published: no clock shows in it."""

import itertools
import time

import pytest

from privimage.privacy.accounting import Mechanism
from privimage.privacy.dp_sgd import DP_SGD
from privimage.privacy.ledger import PrivacyLedger
from privimage.privacy.rng import insecure_source
from privimage.run_folder.runlog import MAX_LINES, RunLog
from privimage.run_folder.training_context import TrainingContext
from privimage.settings.config import FinetuneConfig, PretrainConfig
from privimage.training.finetune import finetune
from privimage.training.pretrain import pretrain
from tests.ledgers import ledger_terms


def finetuned(denoiser, images, stats):
    source = insecure_source(0, insecure_for_reproduction=True)
    book = PrivacyLedger.create(None, ledger_terms(epsilon=50.0, random_source=source))
    book.reserve(DP_SGD, Mechanism(1.0, 0.5, 6))
    config = FinetuneConfig(learning_rate=1e-2, noise_multiplicity=2)
    given = {"clip_norm": 0.01, "ledger": book, "source": source, "seed": 0}
    finetune(denoiser, images, config, **given, context=TrainingContext(stats=stats))


def pretrained(denoiser, images, stats):
    config = PretrainConfig(num_images=48, batch_size=8, learning_rate=1e-3)
    context = TrainingContext(stats=stats)
    pretrain(denoiser, images, config, conditional=True, seed=0, context=context)


@pytest.mark.parametrize("train", [finetuned, pretrained])
def test_steps_of_any_length_leave_the_same_lines(
    new_denoiser, images, tmp_path, monkeypatch, train
):
    for name, tick in (("stands_still", 0.0), ("runs", 5.0)):  # 5 s whenever somebody looks
        clock = itertools.count()
        with monkeypatch.context() as patch:
            patch.setattr(time, "monotonic", lambda clock=clock, tick=tick: tick * next(clock))
            train(new_denoiser(), images, tmp_path / name)
    lines = (tmp_path / "stands_still").read_bytes()
    assert lines.count(b"\n") == 6
    assert lines == (tmp_path / "runs").read_bytes()


@pytest.mark.parametrize("num_steps", [1, 7, MAX_LINES, MAX_LINES + 1, 100_003])
def test_lines_are_due_at_the_first_and_the_last_step_and_evenly_between(num_steps):
    log = RunLog(None, stage="finetune")
    due = [step for step in range(1, num_steps + 1) if log.is_due(step, num_steps)]
    assert {1, num_steps} <= {*due}
    assert min(num_steps, MAX_LINES // 2) <= len(due) <= MAX_LINES + 2
    assert len({b - a for a, b in itertools.pairwise(due[1:-1])}) <= 1
