import json
import math

import pytest
import torch

from privimage.run_folder.checkpoint import Checkpoint
from privimage.run_folder.training_context import TrainingContext
from privimage.settings.config import PretrainConfig
from privimage.training.pretrain import batch_indices, pretrain

CONFIG = PretrainConfig(num_images=48, batch_size=8, learning_rate=1e-3, horizontal_flip=True)


class Interrupted(Exception):
    pass


def test_a_pass_over_the_set_shows_every_image_once():
    # batches of 8 over 20 images: five batches are exactly two passes
    stream = torch.cat([batch_indices(20, batch_size=8, step=s, seed=0) for s in range(5)])
    assert sorted(stream[:20].tolist()) == list(range(20))
    assert sorted(stream[20:].tolist()) == list(range(20))
    assert stream[:20].tolist() != stream[20:].tolist()


def test_a_batch_larger_than_the_set_is_full():
    assert len(batch_indices(3, batch_size=10, step=4, seed=0)) == 10


def test_training_lowers_the_loss(new_denoiser, images, tmp_path):
    config = PretrainConfig(num_images=1200, batch_size=20, learning_rate=1e-2)
    images = images.take(torch.zeros(20, dtype=torch.int64))  # one image is learned soon
    stats = tmp_path / "stats.jsonl"
    losses = []

    def watch(stage, done, total):
        assert (stage, total) == ("pretrain", 60)
        losses.append(done)

    context = TrainingContext(stats=stats, progress=watch)
    pretrain(new_denoiser(), images, config, conditional=True, seed=0, context=context)
    lines = [json.loads(line) for line in stats.read_text().splitlines()]
    assert losses == list(range(1, 61))
    # at the start F is about 0, so the loss is about that of unit-variance targets
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    assert lines[-1]["images"] == 1200


@pytest.mark.parametrize("num_classes", [0, 3])
def test_an_interrupted_run_ends_with_the_same_weights(new_denoiser, images, tmp_path, num_classes):
    settings = {"conditional": num_classes > 0, "seed": 0}
    whole = new_denoiser(num_classes)
    expected = pretrain(whole, images, CONFIG, **settings).parameters

    def stop(stage, done, total):
        if done == 4:
            raise Interrupted

    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", time_share=math.inf)
    with pytest.raises(Interrupted):
        pretrain(
            new_denoiser(num_classes),
            images,
            CONFIG,
            context=TrainingContext(checkpoint=checkpoint, progress=stop),
            **settings,
        )
    continued = new_denoiser(num_classes)
    context = TrainingContext(checkpoint=checkpoint)
    averaged = pretrain(continued, images, CONFIG, context=context, **settings).parameters
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, continued.get_parameter(name)), name
    assert all(torch.equal(averaged[name], expected[name]) for name in expected)
