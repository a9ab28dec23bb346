"""What is drawn for an image in fine-tuning is its own, and a spent budget needs its result."""

import pytest
import torch

from privimage.diffusion.loss import denoising_loss
from privimage.errors import RunFolderError
from privimage.gradients.engine import Engine
from privimage.privacy.clipping import ClippedGradientSum
from privimage.privacy.dp_sgd import DP_SGD
from privimage.privacy.rng import secure_source
from privimage.training.finetune import noisy_examples
from tests.training.test_finetune import CONFIG, STEPS, ledger, run


def test_a_spent_budget_without_its_result_is_an_error_and_no_untrained_model(new_denoiser, images):
    source = secure_source()
    book = ledger(source)
    book.charge(DP_SGD, STEPS)
    with pytest.raises(RunFolderError, match="new run folder"):
        run(new_denoiser(), images, source, book=book)


@pytest.mark.parametrize("strategy", ["loop", "folded"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("num_classes", [0, 3])
def test_one_image_moves_the_sum_by_its_clip_norm_though_everybody_knows_the_seed(
    new_denoiser, images, strategy, precision, num_classes
):
    # with noise in the order of the batch, an image that is left out gives all others other noise
    denoiser, clip_norm, images = new_denoiser(num_classes), 0.01, images.take(torch.arange(9))
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    engine = Engine(strategy, micro_batch_size=4, precision=precision)
    summed = ClippedGradientSum(denoising_loss, denoiser, clip_norm=clip_norm, engine=engine)

    def total(indices):
        rows = images.take(indices)  # another set, in which images have other positions
        everyone = torch.arange(len(rows))
        examples = noisy_examples(rows, everyone, denoiser, CONFIG, seed=0, step=3)
        return torch.cat([part.flatten() for part in summed(examples).values()]).double()

    everyone = torch.arange(len(images))
    whole = total(everyone)
    for left_out in (0, 3, 8):
        distance = torch.linalg.vector_norm(whole - total(everyone[everyone != left_out])).item()
        assert distance <= clip_norm * (1 + 1e-4)
        assert distance > 0.9 * clip_norm  # gradients here are far above the clip norm


def test_noise_differs_between_images_steps_and_seeds(new_denoiser, images):
    denoiser, two = new_denoiser(), torch.tensor([4, 9])
    drawn = [
        noisy_examples(images, two, denoiser, CONFIG, seed=seed, step=step)[3]
        for seed, step in ((0, 0), (0, 1), (1, 0))
    ]
    rows = torch.cat([noise.flatten(1) for noise in drawn if noise is not None])
    assert (torch.corrcoef(rows) - torch.eye(6)).abs().max() < 0.7  # 32 draws a row
    assert len(rows.unique()) == rows.numel()
