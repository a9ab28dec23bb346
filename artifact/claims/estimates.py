"""Minutes of the settings that nobody has measured: their work, divided by a rate.

The work is the floating-point operations of every stage of every arm, counted from the real
networks on the meta device: a product and its sum are two operations, a training step three
forward passes. Not counted: loading, FID's features, and logistic regression and MLP, which take
the processor one to two minutes an arm for 10,000 images. A `claim.yaml` holds the minutes, so
that listing them needs no torch; a test holds them to these. `python -m
artifact.claims.estimates` prints them. Nothing here is private.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from artifact.claims.arms import resolve_arms
from artifact.claims.registry import Claim, bundle_root, load_claims
from privimage.classifiers.downstream import UtilityCnn
from privimage.classifiers.query_network import QueryNetwork
from privimage.diffusion.sampler import num_calls
from privimage.diffusion.unet import UNet, UNetConfig
from privimage.errors import ConfigError
from privimage.settings.config import QueryNetworkConfig, RunConfig
from privimage.stages.order import STAGES

TRAINING = 3  # a backward pass is two forward passes
DP_STEP = bundle_root() / "bench/results/dp_step_cpu_32px_b8_k8_2threads.json"
SHARED_BY_ALL = "query_network"
COUNTED = tuple(stage.name for stage in STAGES if stage.name != "selection")  # that one only sorts
TAKEN_OVER = ("query", "moments", "pretrain")  # what an arm with a donor does not do itself


class Size(NamedTuple):
    """Images of both splits, and classes, of a published set."""

    train: int
    test: int
    classes: int


SIZES = {
    "cifar10": Size(50_000, 10_000, 10),
    "cifar100": Size(50_000, 10_000, 100),
    "fashion_mnist": Size(60_000, 10_000, 10),
    "imagenet32": Size(1_281_167, 50_000, 1000),
    "imagenet64": Size(1_281_167, 50_000, 1000),
    "celeba32": Size(162_770, 19_962, 1),
    "celeba64": Size(162_770, 19_962, 1),
}


@dataclass(frozen=True)
class Rate:
    """Operations a second that the method sustains on a machine, and how that is known."""

    flops: float
    basis: str


@cache
def rates() -> dict[str, Rate]:
    """By the `hardware` that a claim's `compute_minutes` names."""
    return {
        "one H100 at an assumed rate": Rate(
            20e12,
            "assumed until bench/on_gpu.sh has measured it: a fiftieth of the card's peak in "
            "bfloat16, because the diffusion network is small; the query network may be faster",
        ),
        "2 cores of an AMD EPYC": Rate(
            dp_step_rate(DP_STEP),
            f"measured: the faster private step in bfloat16 of bench/results/{DP_STEP.name}",
        ),
    }


def estimated_minutes(claim: Claim, setting: str) -> float:
    """Time of the whole setting on the hardware that it names; ConfigError without a rate."""
    hardware = claim.setting(setting).compute_minutes.hardware
    if hardware not in rates():
        raise ConfigError(
            f"{claim.id}/{setting}: no rate is known for {hardware!r}; there are "
            f"{', '.join(map(repr, rates()))}; give one of them, or measure"
        )
    operations = sum(sum(stages.values()) for stages in setting_work(claim, setting).values())
    return operations / rates()[hardware].flops / 60


def rounded(minutes: float) -> float:
    """Two significant digits: an extrapolation has no more."""
    return float(f"{minutes:.2g}")


def setting_work(claim: Claim, setting: str) -> dict[str, dict[str, float]]:
    """Operations by arm and stage. The query network is trained once, for the first arm."""
    donors = claim.setting(setting).donors
    work = {}
    for index, (arm, config) in enumerate(resolve_arms(claim, setting, seed=0).items()):
        not_done = {SHARED_BY_ALL} if index else set()
        not_done |= set(TAKEN_OVER) if arm in donors else set()
        stages = stage_work(config)
        work[arm] = {name: 0.0 if name in not_done else stages[name] for name in stages}
    return work


def stage_work(config: RunConfig) -> dict[str, float]:
    """Operations of the stages of one arm that does all of them itself."""
    data, privacy, strategy = config.data, config.privacy, config.selection.strategy
    sensitive, public = size_of(data.sensitive).train, size_of(data.public).train
    query_network, unet = query_network_flops(config), unet_flops(config)
    network, sampling = config.query_network, config.sampling
    shown = full_batches(public - public // 10, network.batch_size) * network.epochs
    drawn = privacy.num_steps * privacy.sampling_rate * sensitive
    calls = num_calls(sampling.sampler, sampling.num_steps)
    return {
        "query_network": TRAINING * query_network * shown,
        "query": query_network * sensitive if strategy == "semantic" else 0,
        "moments": moments_flops(config) * sensitive,
        "pretrain": TRAINING * unet * config.pretrain.num_images if strategy != "none" else 0,
        "finetune": TRAINING * unet * drawn * config.finetune.noise_multiplicity,
        "generate": unet * calls * sampling.num_images,
        "evaluate": evaluation_work(config),
    }


def evaluation_work(config: RunConfig) -> float:
    """The CNN on synthetic images, where there are labels, and the query network's features."""
    if config.data.evaluate_on is None:
        return 0
    test, candidates = size_of(config.data.evaluate_on).test, [config.sampling.num_images]
    if config.evaluation.real_ceiling:
        candidates.append(size_of(config.data.sensitive).train)
    total = 0.0
    for num_images in candidates:
        compared = min(num_images, config.evaluation.frechet_num_images) + test
        total += query_network_flops(config) * compared
        if config.data.conditional:
            epochs, batch_size = config.evaluation.cnn_epochs, config.evaluation.cnn_batch_size
            shown = epochs * full_batches(num_images, batch_size)
            total += cnn_flops(config) * (TRAINING * shown + test)
    return total


def size_of(source: str) -> Size:
    """ConfigError for a set whose size is not in the table."""
    if source not in SIZES:
        raise ConfigError(
            f"the size of {source} is not known; there are {', '.join(SIZES)}: measure the "
            "setting, or add the set to artifact.claims.estimates"
        )
    return SIZES[source]


def full_batches(num_images: int, batch_size: int) -> int:
    """Images shown in an epoch that leaves a last, smaller batch out."""
    return max(1, num_images // batch_size) * min(batch_size, num_images)


def unet_flops(config: RunConfig) -> int:
    """One image through the diffusion network."""
    data = config.data
    return _unet_flops(
        UNetConfig(
            image_size=data.image_size,
            num_channels=num_channels(config),
            num_classes=size_of(data.sensitive).classes if data.conditional else 0,
            **asdict(config.network),
        )
    )


def query_network_flops(config: RunConfig) -> int:
    """One image through the query network."""
    classes = size_of(config.data.public).classes
    return _query_network_flops(
        config.query_network, classes, num_channels(config), config.data.image_size
    )


def moments_flops(config: RunConfig) -> int:
    """One image: its coordinates in the public basis, and their products."""
    if config.moments is None:
        return 0
    components = config.moments.num_components
    num_pixels = num_channels(config) * config.data.image_size**2
    return 2 * components * (num_pixels + components)


def cnn_flops(config: RunConfig) -> int:
    """One image through the classifier of the evaluation."""
    classes, width = size_of(config.data.sensitive).classes, config.evaluation.cnn_width
    return _cnn_flops(classes, width, num_channels(config), config.data.image_size)


@cache
def _unet_flops(config: UNetConfig) -> int:
    with torch.device("meta"):
        labels = torch.zeros(1, dtype=torch.int64) if config.num_classes else None
        pixels = torch.empty(1, config.num_channels, config.image_size, config.image_size)
        return count_flops(UNet(config), pixels, torch.empty(1), labels)


@cache
def _query_network_flops(config: QueryNetworkConfig, classes: int, channels: int, size: int) -> int:
    with torch.device("meta"):
        network = QueryNetwork(
            classes,
            num_channels=channels,
            widths=config.widths,
            blocks=config.blocks,
            block=config.block,
        )
        return count_flops(network, torch.empty(1, channels, size, size))


@cache
def _cnn_flops(classes: int, width: int, channels: int, size: int) -> int:
    with torch.device("meta"):
        network = UtilityCnn(classes, num_channels=channels, image_size=size, width=width)
        return count_flops(network, torch.empty(1, channels, size, size))


def count_flops(network: nn.Module, *inputs: Tensor | None) -> int:
    """Operations of one forward pass, in convolutions and matrix products."""
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*inputs)
    return counter.get_total_flops()


def num_channels(config: RunConfig) -> int:
    """Of the images as they are prepared."""
    return 3 if config.data.color == "rgb" else 1


def dp_step_rate(path: Path) -> float:
    """Operations a second of the faster private step in a result of bench/dp_step.py."""
    document = json.loads(path.read_text())
    settings, figures = document["settings"], document["figures"]
    size = settings["size"]
    network = UNetConfig(
        image_size=size, num_channels=3, num_classes=10, attention_resolutions=(size // 2,)
    )  # bench/paper_network.py
    work = TRAINING * _unet_flops(network) * settings["images"] * settings["copies"]
    times = [
        median(time for row in figures[f"{engine}, bfloat16"] for time in row["seconds"])
        for engine in ("loop", "folded")
    ]
    return work / min(times)


def estimable(claims: dict[str, Claim]) -> Iterator[tuple[Claim, str]]:
    """Settings on published images that no machine of ours has run; the others are measured."""
    for claim in claims.values():
        for name, setting in claim.settings.items():
            if setting.compute_minutes.measured is None:
                yield claim, name


def main() -> None:
    """Print minutes and operations of every stage, all arms together, and the rates."""
    show(("claim/setting", *COUNTED, "minutes", "listed"))
    for claim, name in estimable(load_claims()):
        work = setting_work(claim, name).values()
        sums = {stage: sum(arm[stage] for arm in work) for stage in COUNTED}
        listed = claim.setting(name).compute_minutes
        a_minute = 60 * rates()[listed.hardware].flops
        cells = [f"{flops / a_minute:.1f} ({flops:.1e})" for flops in sums.values()]
        show((f"{claim.id}/{name}", *cells, f"{sum(sums.values()) / a_minute:.1f}", str(listed)))
    print("\nMinutes (operations) of all arms together. † measured, ★ extrapolated.")
    for hardware, rate in rates().items():
        print(f"{hardware}: {rate.flops:.3g} operations a second, {rate.basis}")


def show(row: tuple[str, ...]) -> None:
    """One line, in columns."""
    print(f"{row[0]:<24}" + "".join(f"{cell:>18}" for cell in row[1:]))


if __name__ == "__main__":
    main()
