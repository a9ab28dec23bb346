"""The settings of a run: one frozen dataclass a stage, read strictly from YAML.

A key that is unknown, missing or out of range is an error, and all errors of a file are reported
together, each with its path. Privacy settings (`PrivacyConfig`) and performance settings
(`PerformanceConfig`) are separate classes: nothing in the second can change what is promised.
The paper's values are in docs/method.md, 1 to 9.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from privimage.errors import ConfigError
from privimage.files.plain_yaml import read_yaml
from privimage.machine.hardware import PRECISIONS
from privimage.settings.strict import build

MAX_LEVELS = 8  # 512 pixels are halved to 4
FACTS = ("public_size", "classes", "image_size", "color")  # used of the sensitive set as public


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images: sources as `privimage.data.sources` names them, and how they are prepared.

    `classes` and `public_size` declare what may be known of the sensitive set. None means that they
    are taken from it, which plan and statement then name as assumed to be public.
    """

    sensitive: str
    public: str
    image_size: int
    color: Literal["grey", "rgb"]
    conditional: bool = (
        True  # False: labels are ignored and the network has none (CelebA in the paper)
    )
    evaluate_on: str | None = None  # a source whose test split is real data for the evaluation
    public_size: int | None = None  # size of the sensitive set that may be published
    classes: tuple[str, ...] | None = None  # in order; images of others are left out; (): none
    # which of these settings `privimage synthesize` took from the images
    assumed: tuple[Literal["public_size", "classes", "image_size", "color"], ...] = ()

    def problems(self) -> Iterator[str]:
        if not 4 <= self.image_size <= 512:
            yield f"image_size is {self.image_size}; allowed are 4 to 512"
        if self.public_size is not None and self.public_size < 1:
            yield f"public_size is {self.public_size}; give a positive number"
        if self.classes is not None:
            names = set(self.classes)
            if len(names) < len(self.classes) or not all(n and n.isprintable() for n in names):
                yield "classes are repeated, empty or not one line; give each a name of its own"
            if not self.classes and self.conditional:
                yield "classes are none and conditional is true; set conditional to false"


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """The whole promise: (epsilon, delta) for query and DP-SGD together, unit one image,
    add/remove.
    """

    epsilon: float
    delta: float
    query_noise_multiplier: float
    sampling_rate: float
    num_steps: int
    clip_norm: float
    accountant: Literal["rdp", "pld"] = "rdp"
    insecure_for_reproduction: bool = False

    def problems(self) -> Iterator[str]:
        if not self.epsilon > 0:
            yield f"epsilon is {self.epsilon:g}; give a number above 0, usually 1 to 10"
        if not 0 < self.delta < 1:
            yield f"delta is {self.delta:g}; give one in (0, 1), below 1/(number of images)"
        if not self.query_noise_multiplier > 0:
            yield f"query_noise_multiplier is {self.query_noise_multiplier:g}; give one above 0"
        if not 0 < self.sampling_rate <= 1:
            yield f"sampling_rate is {self.sampling_rate:g}; give a probability in (0, 1]"
        if self.num_steps < 1:
            yield f"num_steps is {self.num_steps}; at least 1"
        if not self.clip_norm > 0:
            yield f"clip_norm is {self.clip_norm:g}; give a number above 0"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a classifier is trained."""

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    horizontal_flip: bool = True
    augment_shift: int = 0

    def problems(self) -> Iterator[str]:
        yield from _at_least_one(self, "epochs", "batch_size")
        yield from _positive(self, "learning_rate")
        yield from _probability(self, "momentum")
        if self.weight_decay < 0 or self.augment_shift < 0:
            yield (
                f"weight_decay is {self.weight_decay:g} and augment_shift {self.augment_shift}; "
                "0 or more"
            )


@dataclass(frozen=True, kw_only=True)
class QueryNetworkConfig(TrainingConfig):
    """The public classifier that asks the query (paper: a ResNet-50 for 32 pixels)."""

    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    block: Literal["basic", "bottleneck"]

    def problems(self) -> Iterator[str]:
        if len(self.widths) != len(self.blocks) or not self.widths:
            yield f"widths {self.widths} and blocks {self.blocks} must be of one length"
        if min((*self.widths, *self.blocks), default=1) < 1:
            yield f"widths {self.widths} and blocks {self.blocks} must be positive"
        yield from super().problems()


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Which public classes are kept. `masking` is the published rule, `matching` is order-free."""

    classes_per_label: int
    strategy: Literal["semantic", "random", "all", "none"] = "semantic"
    assignment: Literal["masking", "matching"] = "masking"

    def problems(self) -> Iterator[str]:
        yield from _at_least_one(self, "classes_per_label")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The U-Net (docs/method.md, 3); image size, colours and labels follow from the data."""

    base_channels: int
    channel_multipliers: tuple[int, ...]
    attention_resolutions: tuple[int, ...]
    blocks_per_level: int = 2
    dropout: float = 0.0  # in pre-training only: DP-SGD has none

    def problems(self) -> Iterator[str]:
        yield from _at_least_one(self, "base_channels", "blocks_per_level")
        if self.base_channels % 4:
            yield f"base_channels is {self.base_channels}; it must be a multiple of 4"
        if not self.channel_multipliers or min(self.channel_multipliers) < 1:
            yield f"channel_multipliers are {self.channel_multipliers}; give positive whole numbers"
        if len(self.channel_multipliers) > MAX_LEVELS:
            yield f"channel_multipliers are more than {MAX_LEVELS}; use fewer levels"
        yield from _probability(self, "dropout")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Ordinary training on the public subset; length is counted in images seen."""

    num_images: int
    batch_size: int
    learning_rate: float
    ema_rate: float = 0.999
    label_dropout: float = 0.1
    horizontal_flip: bool = True

    def problems(self) -> Iterator[str]:
        yield from _at_least_one(self, "num_images", "batch_size")
        yield from _positive(self, "learning_rate")
        yield from _probability(self, "ema_rate", "label_dropout")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """What DP-SGD does beside its privacy settings (docs/method.md, 6)."""

    learning_rate: float
    noise_multiplicity: int
    ema_rate: float = 0.999
    label_dropout: float = 0.1
    start_from: Literal["raw", "ema"] = "raw"

    def problems(self) -> Iterator[str]:
        yield from _at_least_one(self, "noise_multiplicity")
        yield from _positive(self, "learning_rate")
        yield from _probability(self, "ema_rate", "label_dropout")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How many images are drawn from the finished model, and how (docs/method.md, 7)."""

    num_images: int
    sampler: Literal["ddim", "heun"] = "ddim"
    num_steps: int = 50
    batch_size: int = 500

    def problems(self) -> Iterator[str]:
        yield from _at_least_one(self, "num_images", "num_steps", "batch_size")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Classifiers trained on synthetic images; the Frechet distance (docs/method.md, 8 and 9)."""

    cnn_width: int = 64
    cnn_epochs: int = 50
    cnn_batch_size: int = 512
    horizontal_flip: bool = True
    frechet_num_images: int = 5000
    real_ceiling: bool = (
        False  # also train on the real training split: not covered by the guarantee
    )

    def problems(self) -> Iterator[str]:
        yield from _at_least_one(
            self, "cnn_width", "cnn_epochs", "cnn_batch_size", "frechet_num_images"
        )


@dataclass(frozen=True, kw_only=True)
class PerformanceConfig:
    """Speed only. No setting here can change the ledger."""

    device: str = "auto"
    precision: str = "auto"  # of the network's arithmetic; auto: bfloat16 where it is native
    strategy: str = "auto"  # of per-image gradients: loop, folded, or whichever is timed faster
    micro_batch_size: int = 0  # images of one folded pass; 0: timed too
    compile: bool | None = None  # None: where the work is long enough to win back the start-up
    num_threads: int = 0  # 0: all cores

    def problems(self) -> Iterator[str]:
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", self.device):
            yield f"device is {self.device!r}; choose auto, cpu, cuda or cuda:N"
        if self.precision not in ("auto", *PRECISIONS):
            yield f"precision is {self.precision!r}; choose auto, {' or '.join(PRECISIONS)}"
        if self.strategy not in ("auto", "loop", "folded"):
            yield f"strategy is {self.strategy!r}; choose auto, loop or folded"
        if self.micro_batch_size < 0:
            yield f"micro_batch_size is {self.micro_batch_size}; 0 means that it is timed"
        if self.num_threads < 0:
            yield f"num_threads is {self.num_threads}; 0 means all cores"


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings of one run of the method; `seed` serves the public stages only."""

    name: str
    data: DataConfig
    privacy: PrivacyConfig
    query_network: QueryNetworkConfig
    selection: SelectionConfig
    network: NetworkConfig
    pretrain: PretrainConfig
    finetune: FinetuneConfig
    sampling: SamplingConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    performance: PerformanceConfig = PerformanceConfig()
    seed: int = 0
    stage_seconds: float | None = None  # a rehearsal: every training stops after this time

    def problems(self) -> Iterator[str]:
        if not self.name.isprintable():
            yield f"name is {self.name!r}; give one line of text"
        for path in _infinite(self.to_dict()):
            yield f"{path} is infinite; give a finite number"
        if self.seed < 0:
            yield f"seed is {self.seed}; 0 or more"
        if self.stage_seconds is not None and not self.stage_seconds > 0:
            yield f"stage_seconds is {self.stage_seconds:g}; give a time above 0, or leave it out"
        factor = 2 ** min(len(self.network.channel_multipliers) - 1, MAX_LEVELS)
        if self.data.image_size % factor:
            yield (
                f"data.image_size is {self.data.image_size}, but a network of "
                f"{len(self.network.channel_multipliers)} levels needs a multiple of {factor}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, as `config.yaml` stores them."""
        return _plain(dataclasses.asdict(self))


def load_config(
    source: Path | dict[str, Any], overrides: dict[str, Any] | None = None
) -> RunConfig:
    """Read a YAML file or a mapping; `overrides` has dotted paths. Raises one ConfigError for
    all faults.
    """
    where, values = "settings", source
    if isinstance(source, Path):
        where, values = str(source), read_yaml(source)
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected a mapping of settings, got {type(values).__name__}")
    values = _with_overrides(values, overrides or {})
    faults: list[str] = []
    config = build(RunConfig, values, "", faults)
    if faults:
        raise ConfigError(f"{where}: " + "; ".join(faults))
    return config


def _with_overrides(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    merged = {key: dict(v) if isinstance(v, dict) else v for key, v in values.items()}
    for path, value in overrides.items():
        section, _, key = path.partition(".")
        if not key:
            merged[section] = value
        elif isinstance(merged.setdefault(section, {}), dict):
            merged[section][key] = value
        else:
            raise ConfigError(f"cannot set {path}: {section} is not a section")
    return merged


def _at_least_one(section: Any, *names: str) -> Iterator[str]:
    for name in names:
        if getattr(section, name) < 1:
            yield f"{name} is {getattr(section, name)}; at least 1"


def _positive(section: Any, *names: str) -> Iterator[str]:
    for name in names:
        if not getattr(section, name) > 0:
            yield f"{name} is {getattr(section, name):g}; give a number above 0"


def _probability(section: Any, *names: str) -> Iterator[str]:
    for name in names:
        if not 0 <= getattr(section, name) < 1:
            yield f"{name} is {getattr(section, name):g}; give a number in [0, 1)"


def _infinite(values: dict[str, Any], before: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _infinite(value, f"{before}{key}.")
        elif isinstance(value, float) and math.isinf(value):
            yield before + key


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
