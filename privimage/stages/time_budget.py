"""Settings that end in a given time on this machine: networks are tried, paces measured on made-up
images, and the numbers chosen by `privimage.settings.compute_rule`.

What is chosen is kept with the run's settings: the same command continues the run with the same
numbers, whatever the machine is doing then.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from privimage.diffusion.build import num_parameters
from privimage.errors import ConfigError, UserError
from privimage.files.plain_files import refuse_links
from privimage.settings.compute_rule import IMAGES_PER_PARAMETER, NETWORKS, Paces, allotted
from privimage.settings.config import RunConfig, load_config
from privimage.settings.public_config import (
    SECTIONS,
    PublicConfig,
    as_run,
    load_public_config,
)
from privimage.stages.estimate import (
    STARTING_SECONDS,
    Numbers,
    estimate,
    made_up,
    total_seconds,
)

LONG_HOURS = 1.0  # without a GPU, and nothing said: as long as people wait for a first result
CHOSEN = (
    *NETWORKS[0],
    "query_network.epochs",
    "pretrain.num_images",
    "privacy.num_steps",
    "privacy.sampling_rate",
    "sampling.num_images",
)


def time_to_fill(hours: float | None, *, is_alone: bool) -> tuple[float | None, str]:
    """How long a run may take and the line that says so, by what was asked for and the device; None
    where numbers stay as they are. ConfigError where several processes share the run.
    """
    if not is_alone:
        if hours is None:
            return None, ""
        raise ConfigError(
            "--hours measures one process and cannot tell how long several take; leave it out, or "
            "take numbers from `privimage plan --hours` and give them with --set"
        )
    if hours is not None:
        line = f"network and numbers are chosen to take about {hours:g} hours here"
        return hours, f"{line} (measuring takes a minute)"
    if torch.cuda.is_available():
        return None, ""
    line = (
        f"there is no GPU: where the run would take longer than {LONG_HOURS:g} hour, network and "
        "numbers are chosen to take that (measuring takes a minute); --hours gives another time"
    )
    return LONG_HOURS, line


def fitted(
    values: dict[str, Any],
    overrides: dict[str, Any],
    facts: Numbers,
    *,
    hours: float,
    only_if_longer: bool = False,
) -> RunConfig:
    """The settings `values` with numbers that fill `hours`; what `overrides` sets by hand stays.

    With `only_if_longer` nothing is changed where `values` end in that time. ConfigError if the
    time is too short. The numbers may be published, and so nothing private is asked: how many real
    test images there are is not public, and a sixth of the public size stands for it.
    """
    facts = replace(facts, num_test=-(-facts.public_size // 6) if facts.num_test else 0)
    started, plain = time.monotonic(), load_config(values, overrides)
    if only_if_longer and _ends_within(3600 * hours, plain, facts):
        return plain
    chosen = _chosen(
        lambda chosen: load_config(values, chosen | overrides),
        facts,
        hours=hours,
        fixed=overrides,
        started=started,
    )
    return load_config(values, chosen | overrides)


def fitted_public(
    values: dict[str, Any],
    overrides: dict[str, Any],
    facts: Numbers,
    *,
    hours: float,
    only_if_longer: bool = False,
) -> PublicConfig:
    """The same for public weights: what a run would give to DP-SGD goes to the model."""
    started, plain = time.monotonic(), load_public_config(values, overrides)
    stages = ("query_network", "pretrain")
    if only_if_longer:
        costs = estimate(as_run(plain), facts, only=stages)
        if total_seconds(costs) <= 3600 * hours:
            return plain

    def read(chosen: dict[str, Any]) -> PublicConfig:
        kept = {n: v for n, v in chosen.items() if n.split(".")[0] in (*SECTIONS, "hours")}
        return load_public_config(values, kept | overrides)

    chosen = _chosen(
        lambda chosen: as_run(read(chosen)),
        facts,
        hours=hours,
        fixed=overrides,
        started=started,
        stages=stages,
    )
    return read(chosen)


def _chosen(
    read: Callable[[dict[str, Any]], RunConfig],
    facts: Numbers,
    *,
    hours: float,
    fixed: dict[str, Any],
    started: float,
    stages: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    """Network and numbers for the given time; `read` makes settings of them, with what is `fixed`
    by hand on top. Of the named stages alone, if any are.
    """
    by_hand = any(name.split(".")[0] == "network" for name in fixed)
    networks = [dict[str, Any]()] if by_hand else NETWORKS
    for network in networks:
        chosen = network | {"hours": hours}
        if network is networks[-1] or _is_shown_enough(read(chosen), facts, 3600 * hours):
            break
    for _ in range(2):  # at the numbers that were chosen the paces are a little different
        paces = _paces(read(chosen), facts, fixed=fixed, stages=stages)
        measuring = time.monotonic() - started
        chosen |= allotted(
            3600 * hours - measuring,
            paces,
            public_size=facts.public_size,
            num_labels=facts.num_labels,
        )
    return chosen


def chosen_before(
    folder: Path,
    overrides: dict[str, Any],
    *,
    hours: float | None,
    read: Callable[[Path], RunConfig | PublicConfig] = load_config,
) -> dict[str, Any] | None:
    """The numbers that the run in `folder` was begun with, if they were chosen for this time, or
    for any if none is asked for; none for a run that chose none, None where nothing was begun.
    `read` is `load_public_config` for public weights.
    ConfigError for hours among the overrides: a run would say that it was fitted, and be not.
    """
    if "hours" in overrides:
        raise ConfigError("hours is no setting by itself; give --hours (in Python: hours=)")
    refuse_links(folder)  # a pipe would be waited for
    try:
        config = read(folder / "config.yaml")
    except (OSError, UserError):  # there is none, or the run itself will say what is wrong
        return None
    if hours not in (None, config.hours):
        return None
    if config.hours is None:
        return {}
    names = [name for name in CHOSEN if hasattr(config, name.split(".")[0])]
    chosen = {name: reduce(getattr, name.split("."), config) for name in names}
    return chosen | {"hours": config.hours}


def _ends_within(seconds: float, config: RunConfig, facts: Numbers) -> bool:
    first = estimate(config, facts, only=("pretrain",))  # often this alone takes longer
    return total_seconds(first) <= seconds and total_seconds(estimate(config, facts)) <= seconds


def _is_shown_enough(config: RunConfig, facts: Numbers, seconds: float) -> bool:
    """Whether pre-training could show a network of this size enough images in half of the time."""
    images = made_up(facts, config, num=facts.num_labels)
    needed = IMAGES_PER_PARAMETER * num_parameters(config, images)
    cost = estimate(config, facts, only=("pretrain",)).get("pretrain")
    if cost is None:  # there is no pre-training
        return True
    return needed * cost.seconds / config.pretrain.num_images <= seconds / 2


def _paces(
    config: RunConfig, facts: Numbers, *, fixed: dict[str, Any], stages: tuple[str, ...] | None
) -> Paces:
    costs = {s: cost.seconds for s, cost in estimate(config, facts, only=stages).items()}
    privacy = config.privacy
    clipped = privacy.num_steps * privacy.sampling_rate * facts.public_size
    synthetic = costs.get("generate", 0.0) + costs.get("evaluate", 0.0)
    pretrain = costs.get("pretrain", 0.0)
    units = {  # seconds in all, of how many, and the settings that say how many
        "epoch": (
            costs.get("query_network", 0.0),
            config.query_network.epochs,
            {"query_network.epochs"},
        ),
        "shown_image": (pretrain, config.pretrain.num_images, {"pretrain.num_images"}),
        "clipped_image": (
            costs.get("finetune", 0.0),
            clipped,
            {"privacy.num_steps", "privacy.sampling_rate"},
        ),
        "synthetic_image": (synthetic, config.sampling.num_images, {"sampling.num_images"}),
    }
    by_hand = {name for name, (*_, settings) in units.items() if not settings.isdisjoint(fixed)}
    paces = {
        name: 0.0 if name in by_hand else seconds / n for name, (seconds, n, _) in units.items()
    }
    anyway = STARTING_SECONDS + costs.get("query", 0.0) + sum(units[name][0] for name in by_hand)
    return Paces(anyway=anyway, **paces)
