"""The model card beside released weights and images: what they are, and what they are good for.

For people who get the files and not the run. The sensitive images appear by their published size
and keyed hash only; class names are public facts, declared or assumed. Scores on real images are
marked, for the privacy guarantee does not cover them. The privacy statement has the last word on
privacy.
"""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from privimage.diffusion.build import num_parameters, unet_config
from privimage.diffusion.unet import UNetConfig
from privimage.release.image_files import load_images
from privimage.release.statement import assumption
from privimage.run_folder.run import Run
from privimage.terminal.plain_text import escaped

PAPER = (
    "Kecen Li, Chen Gong, Zhixiang Li, Yuzhong Zhao, Xinwen Hou, Tianhao Wang: *PrivImage: "
    "Differentially Private Synthetic Image Generation using Diffusion Models with Semantic-Aware "
    "Pretraining*, USENIX Security Symposium 2024"
)
CHOSEN_BY = {
    "semantic": "chosen by the noisy histogram",
    "random": "drawn at random",
    "all": "all classes, without labels",
    "none": "none: there was no pre-training",
}
MODEL_CODE = """from pathlib import Path

import torch

from privimage.run_folder.checkpoint import load_weights
from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.unet import UNet, UNetConfig
from privimage.diffusion.generate import generate_images
from privimage.settings.config import SamplingConfig

config = {config}
denoiser = Denoiser(UNet(config))
load_weights(Path("model.safetensors"), denoiser)
new_images, new_labels = generate_images(
    denoiser,
    SamplingConfig(
        num_images=max(1, config.num_classes), sampler="{sampler}", num_steps={num_steps}
    ),
    generator=torch.Generator().manual_seed(0),
)"""
IMAGES_CODE = """import numpy as np

with np.load("images.npz", allow_pickle=False) as arrays:
    images = arrays["images"]  # uint8, (number, channel, height, width)
    labels = arrays["labels"]  # int64, places in class_names
    class_names = arrays["class_names"].tolist()"""


def model_card(run: Run, statement: dict[str, Any]) -> str:
    """The card as Markdown; `statement` is the privacy statement of the same run."""
    warning = "" if statement["guarantee"] else "\n**NO GUARANTEE.** See Privacy.\n"
    return f"""# Model card: {escaped(run.config.name)}
{warning}
{_what(run)}

## Training data

{_training_data(run, statement)}

## Use

- Meant for: developing and testing software, teaching, and training or comparing classifiers of
  these classes where the real images cannot be shared.
- Not for: decisions about persons, medical or legal conclusions, or evidence of what the sensitive
  images show. A synthetic image is not a record of anything that exists.
- Not to be called anonymous or covered by the guarantee: anything that is trained or tuned further
  on the same sensitive images.

## How to load the files

{_loading(run)}

## Scores

{_scores(run)}

## Privacy

{_privacy(statement)}

## Limits

{_limits(run)}

## Licence and citation

The code is under the MIT licence. Weights and images are under the terms that their publisher
gives; those of the public image set may bind them too.

The method is that of {PAPER}.
This is an independent implementation of it. Please cite the paper, and this software as
privimage {statement["code"]["version"]}.
"""


def _names(names: Iterable[str]) -> str:
    return ", ".join(f'"{escaped(name)}"' for name in names)


def _what(run: Run) -> str:
    sensitive, size = run.sets.sensitive, run.config.data.image_size
    kind = {1: "grey", 3: "RGB"}[sensitive.num_channels]
    classes = f"{sensitive.num_classes} classes, equally frequent: {_names(sensitive.class_names)}"
    if not run.config.data.conditional:
        classes = "no classes, for the generator takes no label"
    number = len(load_images(run.folder / "images.npz"))
    which, network = "Synthetic images", ""
    if _has_weights(run):
        which = "An image generator, and synthetic images drawn from it"
        network = (
            "\n- The generator (`model.safetensors`): a U-Net (DDPM++) with EDM preconditioning, "
            f"{num_parameters(run.config, run.sets.sensitive):,} parameters."
        )
    return f"""{which}, made by PrivImage: a diffusion model is pre-trained on
public images, of classes that a noisy query of sensitive images may have chosen, and fine-tuned on
the sensitive images with DP-SGD (the paper is named at the end).

- The images (`images.npz`): {number:,} of {size} x {size} pixels, {kind}; {classes}.{network}"""


def _training_data(run: Run, statement: dict[str, Any]) -> str:
    selection = json.loads((run.folder / "query" / "selection.json").read_text())
    source = run.config.data.public
    public = "images of the publisher" if source.startswith("folder:") else f"`{source}`"
    lines = [
        f"Sensitive: {statement['public_size']:,} images (the published size), named by the keyed "
        f"hash `{statement['data_id']}`. {assumption(statement['assumed_public'])}",
        f"Public: {public}; classes for pre-training: {CHOSEN_BY[selection['strategy']]}.",
    ]
    chosen = (
        f"{_names([label])}: {_names(classes)}" for label, classes in selection["classes"].items()
    )
    return _bullets([*lines, *(f"For {line}" for line in chosen)])


def _loading(run: Run) -> str:
    blocks = [("The images", IMAGES_CODE)]
    if _has_weights(run):
        values = dataclasses.asdict(_network(run)).items()
        fields = "".join(f"    {name}={value!r},\n" for name, value in values)
        code = MODEL_CODE.format(
            config=f"UNetConfig(\n{fields})",
            sampler=run.config.sampling.sampler,
            num_steps=run.config.sampling.num_steps,
        )
        blocks.append(("The weights, with this project installed, and new images from them", code))
    return "\n\n".join(f"{title}:\n\n```python\n{code}\n```" for title, code in blocks)


def _scores(run: Run) -> str:
    metrics = json.loads((run.folder / "metrics.json").read_text())
    accuracy = metrics.pop("query_network_accuracy")
    public = f"The query network names {100 * accuracy:.1f} % of held-out public images correctly."
    if not metrics:
        return f"None were computed on real images. {public}"
    rows = "\n".join(f"| {name} | {_figure(value)} |" for name, value in sorted(metrics.items()))
    return f"""**Outside of the privacy guarantee**: these were computed exactly, with real images.
`real_` marks the same score for real training images in the place of synthetic ones.

| score | value |
|---|---|
{rows}

{public}"""


def _privacy(statement: dict[str, Any]) -> str:
    link = "[privacy_statement.md](privacy_statement.md)"
    if not statement["guarantee"]:
        return (
            "**NO GUARANTEE.** The noise came from a fixed seed, for reproduction: not to be "
            f"released if the images are sensitive. See {link}."
        )
    spent = statement["spent"]
    return (
        f"Weights and images are ({spent['epsilon']:.4f}, {spent['delta']:g})-differentially "
        f"private for adding or removing one image, by {statement['target']['accountant'].upper()} "
        f"accounting over everything that was asked of the sensitive images. {link} says what "
        "that covers and what it does not, among them other runs on the same images, several "
        "images of one person, and scores on real images."
    )


def _limits(run: Run) -> str:
    lines = [
        "Rare kinds of images are drawn badly or not at all: that is what the noise is for.",
        "Classes are equally frequent here, whatever their true frequencies are.",
        "Faults and biases of the public images carry over, and those of the sensitive images "
        "as well.",
        "Classifiers trained on these images do worse than on real ones; test on real images "
        "before relying on them.",
    ]
    if run.config.stage_seconds is not None:
        lines.append("This was a rehearsal: every training was stopped early.")
    return _bullets(lines)


def _has_weights(run: Run) -> bool:
    """A run that took its images over has none."""
    return (run.folder / "model.safetensors").exists()


def _network(run: Run) -> UNetConfig:
    return unet_config(run.config, run.sets.sensitive)


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
