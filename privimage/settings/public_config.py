"""The settings of `privimage pretrain`: a public set and the two networks that are trained on it.

No private image has a place here: a setting of one is an unknown key. All is public.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from privimage.settings.config import (
    Color,
    ImageSize,
    NetworkConfig,
    PerformanceConfig,
    PretrainConfig,
    QueryNetworkConfig,
    RunConfig,
    load_config,
    plain_values,
    settings_from,
    size_problems,
)
from privimage.settings.defaults import default_settings
from privimage.settings.validation import Natural, Positive, validated

NOBODY = "nobody"  # what stands in the place of the sensitive set
SECTIONS = ("query_network", "network", "pretrain")


@dataclass(frozen=True, kw_only=True)
class PublicConfig:
    """All settings of public weights; sections and names as a run has them."""

    public: str
    image_size: ImageSize
    color: Color
    query_network: QueryNetworkConfig
    network: NetworkConfig
    pretrain: PretrainConfig
    performance: PerformanceConfig = field(default_factory=PerformanceConfig)
    seed: Natural = 0
    hours: Positive | None = None  # that the numbers were chosen to fill

    def problems(self) -> Iterator[str]:
        yield from size_problems(self.network, self.image_size)


def load_public_config(
    source: Path | dict[str, Any], overrides: dict[str, Any] | None = None
) -> PublicConfig:
    """As `load_config` reads the settings of a run."""
    where, values = settings_from(source, overrides or {})
    return validated(PublicConfig, values, where=where)


def default_public_settings(*, public: str, image_size: int, color: str) -> dict[str, Any]:
    """A mapping for `load_public_config`: the networks of runs on one's own images of this size."""
    usual = _settings_of_nobody(image_size)
    return {
        "public": public,
        "image_size": image_size,
        "color": color,
        **{section: usual[section] for section in SECTIONS},
    }


def as_run(config: PublicConfig) -> RunConfig:
    """The same settings for the stages of a run, with one class of nobody's images: what says how
    private images are used is there because a run has it, and serves nothing.
    """
    given = plain_values(config)
    usual = _settings_of_nobody(config.image_size)
    usual |= {name: given[name] for name in (*SECTIONS, "performance", "seed")}
    usual["selection"] = {"classes_per_label": 1, "strategy": "all"}
    usual["data"] = {
        "sensitive": NOBODY,
        "public": config.public,
        "image_size": config.image_size,
        "color": config.color,
        "conditional": False,  # one network for whatever labels will come
    }
    return load_config(usual | {"name": "pretrain"})


def _settings_of_nobody(image_size: int) -> dict[str, Any]:
    values = default_settings(
        image_size=image_size,
        num_labels=1,
        num_public_classes=2,
        public_size=1,
        epsilon=1.0,
    )
    values.pop("moments", None)
    return values
