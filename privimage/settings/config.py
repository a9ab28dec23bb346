"""The settings of a run: one frozen dataclass a stage, read strictly from YAML.

A key that is unknown, missing or out of range is an error, and all errors of a file are reported
together, each with its path. Privacy settings (`PrivacyConfig`) and performance settings
(`PerformanceConfig`) are separate classes: nothing in the second can change what is promised.
The paper's values are in docs/method.md, 1 to 9.
"""

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Interval, Len, MultipleOf

from privimage.errors import ConfigError
from privimage.files.plain_yaml import read_yaml
from privimage.machine.hardware import Precision
from privimage.settings.validation import Count, Must, Natural, Positive, Rate, validated

MAX_LEVELS = 8  # 512 pixels are halved to 4
Fact = Literal["public_size", "classes", "image_size", "color"]
FACTS: tuple[Fact, ...] = get_args(Fact)  # used of the sensitive set as public
ImageSize = Annotated[int, Interval(ge=4, le=512)]
Color = Literal["grey", "rgb"]
ClassNames = Annotated[
    tuple[str, ...],
    Must(
        lambda names: len(set(names)) == len(names) and all(n and n.isprintable() for n in names),
        "give each class a name of its own, of one line",
    ),
]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images: sources as `privimage.data.sources` names them, and how they are prepared.

    `classes` and `public_size` declare what may be known of the sensitive set. None means that they
    are taken from it, which plan and statement then name as assumed to be public.
    """

    sensitive: str
    public: str
    image_size: ImageSize
    color: Color
    conditional: bool = (
        True  # False: labels are ignored and the network has none (CelebA in the paper)
    )
    evaluate_on: str | None = None  # a source whose test split is real data for the evaluation
    public_size: Count | None = None  # size of the sensitive set that may be published
    classes: ClassNames | None = None  # in order; images of others are left out; (): none
    assumed: tuple[Fact, ...] = ()  # what `privimage synthesize` took from the images

    def problems(self) -> Iterator[str]:
        if self.classes == () and self.conditional:
            yield "classes are none and conditional is true; set conditional to false"


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """The whole promise: (epsilon, delta) for queries and DP-SGD together, unit one image,
    add/remove.
    """

    epsilon: Positive  # usually 1 to 10
    delta: Annotated[float, Interval(gt=0, lt=1)]  # below 1/(number of images)
    query_noise_multiplier: Positive
    sampling_rate: Annotated[float, Interval(gt=0, le=1)]
    num_steps: Count
    clip_norm: Positive
    accountant: Literal["rdp", "pld"] = "rdp"
    insecure_for_reproduction: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a classifier is trained."""

    epochs: Count
    batch_size: Count
    learning_rate: Positive
    momentum: Rate = 0.9
    weight_decay: Annotated[float, Ge(0)] = 5e-4
    horizontal_flip: bool = True
    augment_shift: Natural = 0


@dataclass(frozen=True, kw_only=True)
class QueryNetworkConfig(TrainingConfig):
    """The public classifier that asks the query (paper: a ResNet-50 for 32 pixels)."""

    widths: Annotated[tuple[Count, ...], Len(1)]
    blocks: tuple[Count, ...]
    block: Literal["basic", "bottleneck"]

    def problems(self) -> Iterator[str]:
        if len(self.widths) != len(self.blocks):
            yield f"widths {self.widths} and blocks {self.blocks} must be of one length"


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Which public classes are kept. `masking` is the published rule, `matching` is order-free."""

    classes_per_label: Count
    strategy: Literal["semantic", "random", "all", "none"] = "semantic"
    assignment: Literal["masking", "matching"] = "masking"


@dataclass(frozen=True, kw_only=True)
class MomentsConfig:
    """What is asked of the average image of a label, beyond the paper (docs/method.md, 12)."""

    noise_multiplier: Annotated[float, Ge(2**-5)]  # less cannot be drawn on the grid of sums
    num_components: Count = 64  # directions of public images
    # where drawing begins, with noise on a sketch; the network is trained up to this level
    sketch_noise_level: Positive = 0.5


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The U-Net (docs/method.md, 3); image size, colours and labels follow from the data."""

    base_channels: Annotated[int, Ge(1), MultipleOf(4)]
    channel_multipliers: Annotated[tuple[Count, ...], Len(1, MAX_LEVELS)]
    attention_resolutions: tuple[int, ...]
    blocks_per_level: Count = 2
    dropout: Rate = 0.0  # in pre-training only: DP-SGD has none


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Ordinary training on the public subset; length is counted in images seen."""

    num_images: Count
    batch_size: Count
    learning_rate: Positive
    ema_rate: Rate = 0.999
    label_dropout: Rate = 0.1
    horizontal_flip: bool = True


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """What DP-SGD does beside its privacy settings (docs/method.md, 6)."""

    learning_rate: Positive
    noise_multiplicity: Count
    ema_rate: Rate = 0.999
    label_dropout: Rate = 0.1
    start_from: Literal["raw", "ema"] = "raw"


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How many images are drawn from the finished model, and how (docs/method.md, 7)."""

    num_images: Count
    sampler: Literal["ddim", "heun", "dpm_solver"] = "ddim"
    num_steps: Count = 50
    batch_size: Count = 500


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Classifiers trained on synthetic images; the Frechet distance (docs/method.md, 8 and 9)."""

    cnn_width: Count = 64
    cnn_epochs: Count = 50
    cnn_batch_size: Count = 512
    horizontal_flip: bool = True
    frechet_num_images: Count = 5000
    real_ceiling: bool = (
        False  # also train on the real training split: not covered by the guarantee
    )


@dataclass(frozen=True, kw_only=True)
class PerformanceConfig:
    """Speed only. No setting here can change the ledger."""

    device: Annotated[
        str,
        Must(
            re.compile("auto|cpu|cuda(:[0-9]{1,3})?").fullmatch,
            "choose auto, cpu, cuda or cuda:N",
        ),
    ] = "auto"
    # of the network's arithmetic; auto: bfloat16 where it is native
    precision: Literal["auto", Precision] = "auto"
    # of per-image gradients; auto: whichever is timed faster
    strategy: Literal["auto", "loop", "folded"] = "auto"
    micro_batch_size: Natural = 0  # images of one folded pass; 0: timed too
    compile: bool | None = None  # None: where the work is long enough to win back the start-up
    num_threads: Natural = 0  # 0: all cores


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings of one run of the method; `seed` serves the public stages only."""

    name: Annotated[str, Must(str.isprintable, "give one line of text")]
    data: DataConfig
    privacy: PrivacyConfig
    query_network: QueryNetworkConfig
    selection: SelectionConfig
    network: NetworkConfig
    pretrain: PretrainConfig
    finetune: FinetuneConfig
    sampling: SamplingConfig
    moments: MomentsConfig | None = None  # asked only where they are set
    evaluation: EvaluationConfig = EvaluationConfig()
    performance: PerformanceConfig = PerformanceConfig()
    seed: Natural = 0
    stage_seconds: Positive | None = None  # a rehearsal: every training stops after this time
    hours: Positive | None = None  # that the numbers were chosen to fill

    def problems(self) -> Iterator[str]:
        for problem in size_problems(self.network, self.data.image_size):
            yield f"data.{problem}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, as `config.yaml` stores them."""
        return plain_values(self)


def load_config(
    source: Path | dict[str, Any], overrides: dict[str, Any] | None = None
) -> RunConfig:
    """Read a YAML file or a mapping; `overrides` has dotted paths. Raises one ConfigError for
    all faults.
    """
    where, values = settings_from(source, overrides or {})
    return validated(RunConfig, values, where=where)


def settings_from(
    source: Path | dict[str, Any], overrides: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """What the settings are called in messages, and their values with the overrides on top, not
    checked yet.
    """
    where, values = "settings", source
    if isinstance(source, Path):
        where, values = str(source), read_yaml(source)
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected a mapping of settings, got {type(values).__name__}")
    return where, _with_overrides(values, overrides)


def size_problems(network: NetworkConfig, image_size: int) -> Iterator[str]:
    """Each level but the last halves the images."""
    num_levels = len(network.channel_multipliers)
    factor = 2 ** (num_levels - 1)
    if image_size % factor:
        yield (
            f"image_size is {image_size}, but a network of {num_levels} levels needs a multiple "
            f"of {factor}"
        )


def plain_values(settings: Any) -> dict[str, Any]:
    """A dataclass of settings in plain values, as YAML stores them."""
    return _plain(dataclasses.asdict(settings))


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


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
