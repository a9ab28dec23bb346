"""What a given time is best spent on: accuracy against the split between the two trainings.

    python bench/compute_rule.py --set digits [--seconds 45] [--seeds 2] [--out runs/compute_rule]

Every run has the same time for pre-training and DP-SGD together, by paces that are measured once at
the start; a share of it goes to pre-training, the rest to DP-SGD with some noise copies an image.
All else is what own images get (`privimage.settings.defaults`). The accuracy is the CNN's on real
test images. Repeat the command to go on; `privimage.settings.compute_rule` rests on the results.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import torch
from harness import publish

from privimage.api import load, own_images
from privimage.classifiers.downstream import classify_with
from privimage.data.image_set import ImageSet
from privimage.data.preparation import Preparation
from privimage.data.sources import load_image_set
from privimage.machine.memory import keep_freed_blocks
from privimage.run_folder.run import ImageSets
from privimage.run_folder.training_context import TrainingContext
from privimage.settings.config import EvaluationConfig, RunConfig, load_config
from privimage.settings.description import described
from privimage.stages import known_networks
from privimage.stages.estimate import Numbers, estimate
from privimage.stages.pipeline import run_pipeline

PUBLIC = {"digits": "glyphs", "cifar10": "cifar100", "fashion_mnist": "cifar100"}
FACTS = {
    "digits": {"image_size": 8, "color": "grey"},
    "cifar10": {"image_size": 16, "color": "rgb"},
    "fashion_mnist": {"image_size": 28, "color": "grey"},
}
CNN = EvaluationConfig(cnn_width=16, cnn_epochs=15, cnn_batch_size=64, horizontal_flip=False)
NUM_STEPS, MOST_AT_ONCE = 60, 0.2  # of DP-SGD, and of the images in a step


class Split(NamedTuple):
    """Of the time to pre-training; noise copies of an image in DP-SGD."""

    share: float
    copies: int


SPLITS = (Split(0.2, 4), Split(0.5, 4), Split(0.8, 4), Split(0.5, 1), Split(0.5, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--set", choices=PUBLIC, required=True)
    parser.add_argument("--seconds", type=float, default=45.0)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 10.0])
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("runs/compute_rule"))
    options = parser.parse_args()
    keep_freed_blocks()
    sets = base(options, {})[1]
    test = load_image_set(options.set, "test", preparation=Preparation(**FACTS[options.set]))
    paces = {copies: paces_of(options, sets, copies) for copies in {s.copies for s in SPLITS}}
    found: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for epsilon in options.epsilons:
            for split in SPLITS:
                counts = affordable(split, paces[split.copies], options.seconds, sets)
                config, _ = base(options, counts | {"seed": seed}, epsilon=epsilon)
                name = f"{options.set}/eps{epsilon:g}_share{split.share}_k{split.copies}_{seed}"
                folder = options.out / name
                if not (folder / "record.json").exists():
                    run_pipeline(
                        stored(folder) or config, folder, sets=sets,
                        known_networks=known_networks.default_place(),
                    )  # fmt: skip
                result = load(folder)
                record, accuracy = result.record, accuracy_of(result.images, test)
                one = {"seed": seed, "epsilon": epsilon, **split._asdict(), "accuracy": accuracy}
                found.append(one | {"noise": record["privacy"]["sgd_noise_multiplier"], **counts})
                print(one, flush=True)
    show(found, options)


def base(
    options: argparse.Namespace, overrides: dict[str, Any], *, epsilon: float = 10.0
) -> tuple[RunConfig, ImageSets]:
    """What own images would get, but for the counts."""
    small = {"sampling.num_images": options.samples}
    description = described(None, FACTS[options.set], {})
    return own_images(
        options.set, PUBLIC[options.set], epsilon=epsilon, description=description,
        overrides=small | overrides,
    )  # fmt: skip


def accuracy_of(synthetic: ImageSet, test: ImageSet) -> float:
    """Of a small CNN on real test images, trained on the synthetic ones."""
    return classify_with(
        "cnn", synthetic.images, synthetic.labels, test=test, config=CNN, seed=0,
        device=torch.device("cpu"), context=TrainingContext(precision="auto"),
    )  # fmt: skip


def stored(folder: Path) -> RunConfig | None:
    """The settings of a run that has begun: paces of another day would give others."""
    path = folder / "config.yaml"
    return load_config(path) if path.exists() else None


def paces_of(options: argparse.Namespace, sets: ImageSets, copies: int) -> tuple[float, float]:
    """Seconds of an image in pre-training, and of one in DP-SGD."""
    sample = {"privacy.num_steps": NUM_STEPS, "privacy.sampling_rate": 0.005}
    config, _ = base(options, sample | {"finetune.noise_multiplicity": copies})
    if sets.sensitive.public_size < 10_000:
        config, _ = base(options, {"finetune.noise_multiplicity": copies})
    costs = estimate(config, Numbers.of(sets))
    privacy = config.privacy
    images = privacy.num_steps * privacy.sampling_rate * sets.sensitive.public_size
    pretrain = costs["pretrain"].seconds / config.pretrain.num_images
    return pretrain, costs["finetune"].seconds / images


def affordable(
    split: Split, paces: tuple[float, float], seconds: float, sets: ImageSets
) -> dict[str, Any]:
    """Settings that take about that long."""
    shown = split.share * seconds / paces[0]
    clipped = (1 - split.share) * seconds / paces[1]
    rate = min(MOST_AT_ONCE, clipped / NUM_STEPS / sets.sensitive.public_size)
    return {
        "pretrain.num_images": max(1, round(shown / 128)) * 128,
        "privacy.sampling_rate": round(rate, 6),
        "privacy.num_steps": round(clipped / (rate * sets.sensitive.public_size)),
        "finetune.noise_multiplicity": split.copies,
    }


def show(found: list[dict[str, Any]], options: argparse.Namespace) -> None:
    rows = []
    for epsilon in options.epsilons:
        for split in SPLITS:
            these = [
                one for one in found
                if (one["epsilon"], one["share"], one["copies"]) == (epsilon, *split)
            ]  # fmt: skip
            accuracies = [one["accuracy"] for one in these]
            first = these[0]
            rows.append([
                f"{epsilon:g}", f"{split.share:.0%}", str(split.copies),
                f"{first['pretrain.num_images']:,}",
                f"{first['privacy.num_steps']} of rate {first['privacy.sampling_rate']:g}",
                f"{first['noise']:.2f}",
                f"{statistics.fmean(accuracies):.1%} ({', '.join(f'{a:.1%}' for a in accuracies)})",
            ])  # fmt: skip
    publish(
        f"compute_rule_{options.set}",
        title=f"{options.set}: {options.seconds:g} s for pre-training and DP-SGD together",
        columns=[
            "epsilon", "for pre-training", "copies", "images of pre-training", "steps of DP-SGD",
            "noise multiplier", "CNN accuracy (seeds)",
        ],
        rows=rows, settings={k: str(v) for k, v in vars(options).items()},
        figures={"found": found},
    )  # fmt: skip


if __name__ == "__main__":
    main()
