"""`privimage plan`: settings, noise, time and memory before anything is done."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privimage.errors import BudgetError, ConfigError, DataMissingError
from privimage.files.plain_yaml import parse_yaml
from privimage.machine.launch import is_launched, stopped_with_a_word
from privimage.machine.terminal.plain_text import say

if TYPE_CHECKING:
    from privimage.run_folder.public_weights import PublicWeights
    from privimage.run_folder.run import ImageSets
    from privimage.settings.config import RunConfig
    from privimage.stages.estimate import Numbers

OTHER_EPSILONS = (1, 2, 5, 10)


def plan(
    public: Annotated[str, typer.Option(help="labelled public images, e.g. glyphs or cifar100")],
    epsilon: Annotated[float, typer.Option(help="privacy budget for everything together")],
    public_size: Annotated[int, typer.Option(help="number of private images, a round one")],
    image_size: Annotated[int, typer.Option(help="pixels")],
    color: Annotated[str, typer.Option(help="grey or rgb")],
    classes: Annotated[str, typer.Option(help="names or number of the classes; 0 for none")] = "0",
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="override, e.g. --set privacy.num_steps=100")
    ] = None,
    hours: Annotated[
        float | None, typer.Option(min=0.01, help="as `privimage synthesize` takes it")
    ] = None,
    data_root: Annotated[Path | None, typer.Option(help="where named image sets lie")] = None,
) -> None:
    """Settings, noise, time and memory for what you have, without any private image.

    privimage plan --public glyphs --epsilon 10 --public-size 60000 --classes 10 --image-size 28
    --color grey
    """
    from privimage.api import own_images
    from privimage.data.image_set import ONE_CLASS, made_up_images
    from privimage.settings.description import described
    from privimage.stages.estimate import Numbers

    overrides = parse_overrides(setting or [])
    facts = {
        "public_size": public_size,
        "classes": classes,
        "image_size": image_size,
        "color": color,
    }
    with stopped_with_a_word():
        description = described(None, facts, overrides)
        names = description.classes or (ONE_CLASS,)
        nobody = made_up_images(
            1,
            num_channels=1 if description.color == "grey" else 3,
            image_size=description.image_size or image_size,
            num_classes=len(names),
        )
        size = description.public_size or public_size
        nobody = replace(nobody, class_names=names, source="planned", public_size=size)
        config, sets = own_images(
            nobody,
            public,
            epsilon=epsilon,
            description=description,
            overrides=overrides,
            hours=time_given(hours),
            only_if_longer=hours is None,
            data_root=data_root,
        )
        show_plan(config)
        show_other_epsilons(config, overrides, num_public_classes=sets.public.num_classes)
        show_estimate(config, Numbers.of(sets))


def time_given(hours: float | None, *, num_processes: int = 1) -> float | None:
    """The time to choose numbers for, said in one line; None where they stay as they are."""
    from privimage.stages.time_budget import time_to_fill

    time, line = time_to_fill(hours, is_alone=num_processes == 1 and not is_launched())
    if line:
        say(line)
    return time


def parse_overrides(settings: list[str]) -> dict[str, Any]:
    """["privacy.num_steps=100"] -> {"privacy.num_steps": 100}; values are read as YAML."""
    overrides = {}
    for item in settings:
        path, equals, value = item.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {item!r}: write it as section.key=value")
        if path == "data":
            raise ConfigError("--set data: set its settings one by one, as data.image_size=32")
        overrides[path] = parse_yaml(value, where=f"--set {item!r}")
    return overrides


def show_plan(config: "RunConfig") -> None:
    """All settings and what will be spent, before anything is done."""
    import yaml

    from privimage.release.statement import assumption
    from privimage.run_folder.budget import privacy_plan
    from privimage.settings.description import assumed_facts

    plan = privacy_plan(config).mechanisms
    rule("settings")
    say(*yaml.safe_dump(config.to_dict(), sort_keys=False).splitlines())
    rule("budget")
    privacy = config.privacy
    say(
        f"({privacy.epsilon:g}, {privacy.delta:g})-differential privacy for one image, "
        f"add or remove, accounted by {privacy.accountant.upper()}:"
    )
    for name, m in plan.items():
        say(
            f"  {name}: noise multiplier {m.noise_multiplier:.4g}, "
            f"sampling rate {m.sampling_rate:g}, {m.count} step{'s' * (m.count > 1)}"
        )
    say(assumption(assumed_facts(config.data, public_size=config.data.public_size)))


def show_other_epsilons(
    config: "RunConfig", overrides: dict[str, Any], *, num_public_classes: int
) -> None:
    """What the noise would be for other budgets: that of DP-SGD, after queries as by default."""
    from privimage.privacy.dp_sgd import DP_SGD
    from privimage.run_folder.budget import privacy_plan

    rule("other budgets")
    for epsilon in OTHER_EPSILONS:
        other = for_epsilon(config, epsilon, overrides, num_public_classes=num_public_classes)
        try:
            multiplier = privacy_plan(other).mechanisms[DP_SGD].noise_multiplier
            noise = f"noise multiplier {multiplier:.4g}"
        except BudgetError:
            noise = "the queries alone cost more; give them more noise"
        say(f"  epsilon {epsilon:g}: {noise}")


def for_epsilon(
    config: "RunConfig", epsilon: float, overrides: dict[str, Any], *, num_public_classes: int
) -> "RunConfig":
    """The same run at another epsilon; the queries' noise goes with it where nobody set it."""
    from privimage.settings.config import MomentsConfig
    from privimage.settings.defaults import default_settings

    data, privacy, moments = config.data, replace(config.privacy, epsilon=epsilon), config.moments
    usual = default_settings(
        image_size=data.image_size,
        num_labels=len(data.classes or ()) or 1,
        num_public_classes=num_public_classes,
        public_size=data.public_size or 1,
        epsilon=epsilon,
    )
    if "privacy.query_noise_multiplier" not in overrides:
        usual_noise = usual["privacy"]["query_noise_multiplier"]
        privacy = replace(privacy, query_noise_multiplier=usual_noise)
    if not any(name.partition(".")[0] == "moments" for name in overrides):
        moments = MomentsConfig(**usual["moments"]) if "moments" in usual else None
    return replace(config, privacy=privacy, moments=moments)


def dry_estimate(
    config: "RunConfig",
    sets: "ImageSets | None",
    *,
    data_root: Path | None,
    start_from: "PublicWeights | None" = None,
) -> None:
    """The same without a run folder; a preset's plan is shown to those without its images, too."""
    from privimage.stages.estimate import Numbers
    from privimage.stages.pipeline import check_fits, load_image_sets
    from privimage.stages.starting_weights import check_start

    try:
        sets = sets or load_image_sets(config, data_root=data_root, blank=True)
        check_fits(config, sets)
        _ = sets.public  # read where it is first asked for
        if start_from is not None:
            check_start(start_from, config, sets)
    except DataMissingError as error:
        say(f"no estimate of the time: {error}")
        return
    show_estimate(config, Numbers.of(sets, has_query_network=start_from is not None))


def show_estimate(
    config: "RunConfig", facts: "Numbers", *, only: tuple[str, ...] | None = None
) -> dict[str, float]:
    """Time and memory of every stage, or of the named ones, on this machine; the seconds, for the
    progress to come.
    """
    from privimage.machine.terminal.progress import duration
    from privimage.stages.estimate import estimate, total_seconds

    costs = estimate(config, facts, only=only)
    rule("estimate")
    for stage, cost in costs.items():
        peak = "" if cost.peak_mib is None else f"  {cost.peak_mib / 1024:5.1f} GiB"
        if cost.peak_gpu_mib is not None:
            peak += f"  {cost.peak_gpu_mib / 1024:5.1f} GiB of the GPU's"
        say(f"  {stage.replace('_', ' '):<14}{duration(cost.seconds):>9}{peak}")
    whole = f"  {'whole run':<14}{duration(total_seconds(costs)):>9}"
    say(f"{whole}, about: each stage was timed on this machine for a second, on made-up images")
    return {stage: cost.seconds for stage, cost in costs.items()}


def rule(title: str) -> None:
    """A heading across the terminal."""
    from rich.console import Console

    Console().rule(title)
