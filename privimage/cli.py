"""`privimage synthesize`, the whole method on a person's own images, and `privimage plan`.

Prints every setting and the budget before the work starts. Mistakes end in one line and exit code
2 (usage) or 4 (data). The only place of the library that prints, and that through `say`. What
brings torch is imported where it is used: help and a mistyped option are answered at once.
"""

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privimage import cli_results
from privimage.errors import BudgetError, ConfigError, DataMissingError
from privimage.files.plain_yaml import parse_yaml
from privimage.machine.launch import is_launched, is_restarted, launch, stopped_with_a_word
from privimage.terminal.command import run_command
from privimage.terminal.plain_text import plain_handler, say

if TYPE_CHECKING:
    from privimage.run_folder.run import ImageSets
    from privimage.settings.config import RunConfig

app = typer.Typer(
    help="Differentially private synthetic images (PrivImage).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
OTHER_EPSILONS = (1, 2, 5, 10)


def main() -> None:
    """Entry point: a mistake becomes one line and its exit code, a defect a traceback and 1."""
    run_command(app, defect=1)


@app.command()
def synthesize(
    folder: Annotated[Path, typer.Option("--out", help="run folder; repeat to resume")],
    sensitive: Annotated[
        str | None, typer.Option(help="private images, e.g. folder:/data/mine")
    ] = None,
    public: Annotated[
        str | None, typer.Option(help="labelled public images, e.g. glyphs or cifar100")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="privacy budget for everything together")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="a cell of the paper instead of the three, e.g. cifar10_eps1")
    ] = None,
    describe: Annotated[
        Path | None,
        typer.Option(
            help="YAML of what may be known of the private images: public_size, classes, "
            "image_size, color; what is declared nowhere is taken from them"
        ),
    ] = None,
    public_size: Annotated[
        int | None,
        typer.Option(
            help="number of private images that may be published, such as a round one; it sets "
            "noise and steps. Default: the true number, which everybody then knows"
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="names of the classes, e.g. cats,dogs; the number of labels of an npz; 0 for no "
            "classes. Images of others are left out"
        ),
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="pixels; default: the images' own")] = None,
    color: Annotated[str | None, typer.Option(help="grey or rgb; default: as the images")] = None,
    evaluate_on: Annotated[
        str | None, typer.Option(help="source whose test split is real data to compare with")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="override, e.g. --set privacy.num_steps=100")
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="how long the run may take: network and numbers are chosen for this machine. "
            "Default: as long as it takes with a GPU, at most an hour without one",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of the public stages")] = 0,
    data_root: Annotated[Path | None, typer.Option(help="where named image sets lie")] = None,
    dry_run: Annotated[bool, typer.Option(help="show settings and budget, do nothing")] = False,
    gpus: Annotated[
        int, typer.Option(min=1, help="processes, one a GPU; without a GPU they share the cores")
    ] = 1,
    verbose: Annotated[bool, typer.Option(help="log lines as well")] = False,
) -> None:
    """Make synthetic images with the (epsilon, delta) guarantee from private ones.

    Repeat the command to continue a run that stopped. On several machines start it on each with
    torchrun -m privimage synthesize ...
    """
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, handlers=[plain_handler()])
    overrides = parse_overrides(setting or []) | {"seed": seed}
    options: dict[str, Any] = {
        "sensitive": sensitive,
        "public": public,
        "epsilon": epsilon,
        "evaluate_on": evaluate_on,
    }
    facts = {
        "public_size": public_size,
        "classes": classes,
        "image_size": image_size,
        "color": color,
    }
    check_options(preset, options | facts | {"describe": describe, "hours": hours})

    from privimage.api import own_images
    from privimage.settings.config import load_config
    from privimage.settings.description import described
    from privimage.settings.presets import preset_settings
    from privimage.stages.pipeline import opened
    from privimage.stages.time_budget import chosen_before

    with stopped_with_a_word():
        sets = None
        if preset is not None:  # changed settings must not run under the preset's name
            config = load_config(preset_settings(preset) | {"name": "synthesize"}, overrides)
        else:
            description = described(describe, facts, overrides)
            before = chosen_before(folder, overrides, hours=hours)
            config, sets = own_images(
                **options,
                description=description,
                overrides=(before or {}) | overrides,
                hours=time_given(hours, num_processes=gpus) if before is None else None,
                only_if_longer=hours is None,
                blank=dry_run,
                data_root=data_root,
            )
        if gpus > 1 and not dry_run and not is_launched():
            with opened(config, folder, sets=sets, data_root=data_root):
                pass  # a mistake is said once, here; started processes would all say it
            launch("privimage", gpus, sys.argv[1:])
        else:
            run_here(config, folder, sets=sets, data_root=data_root, dry_run=dry_run)


@app.command()
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
        show_other_epsilons(config)
        show_estimate(config, sets)


def run_here(
    config: "RunConfig",
    folder: Path,
    *,
    sets: "ImageSets | None",
    data_root: Path | None,
    dry_run: bool,
) -> None:
    """Run in this process, maybe with others that torchrun started."""
    from privimage.machine.processes import joined
    from privimage.release.export import export_images
    from privimage.stages import known_networks
    from privimage.stages.pipeline import follow_pipeline, opened, run_pipeline
    from privimage.terminal.progress import StageProgress

    with joined() as world:
        expected: dict[str, float] = {}
        if world.is_leader and not is_restarted():
            show_plan(config)
            say(f"run folder: {folder}")
            if not dry_run:  # what is wrong is said before stages are timed
                with opened(config, folder, sets=sets, data_root=data_root) as (sets, *_):
                    is_new = not (folder / "record.json").exists()
                if is_new and world.size == 1:  # one process says little of how several share
                    expected = show_estimate(config, sets)
        if dry_run:
            if world.is_leader:
                dry_estimate(config, sets, data_root=data_root)
            return
        if not world.is_leader:
            follow_pipeline(config, folder, sets=sets, world=world, data_root=data_root)
            return
        with StageProgress(expected=expected) as progress:
            record = run_pipeline(
                config,
                folder,
                sets=sets,
                progress=progress,
                data_root=data_root,
                world=world,
                known_networks=known_networks.default_place(),
            )
    export_images(folder / "images.npz", folder / "images")
    show_result(record, folder)


def time_given(hours: float | None, *, num_processes: int = 1) -> float | None:
    """The time to choose numbers for, said in one line; None where they stay as they are."""
    from privimage.stages.time_budget import time_to_fill

    time, line = time_to_fill(hours, is_alone=num_processes == 1 and not is_launched())
    if line:
        say(line)
    return time


def check_options(preset: str | None, options: dict[str, Any]) -> None:
    """ConfigError unless either a preset is given, or own images with a budget."""
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if preset is not None and given:
        raise ConfigError(
            f"--preset {preset} already fixes {', '.join(given)}; leave that out, or change single "
            "settings of the preset with --set"
        )
    needed = ("--sensitive", "--public", "--epsilon")
    if preset is None and not {*needed} <= {*given}:
        missing = ", ".join(name for name in needed if name not in given)
        raise ConfigError(f"{missing} missing; give {', '.join(needed)}, or --preset NAME")


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


def show_other_epsilons(config: "RunConfig") -> None:
    """What the noise of DP-SGD would be for other budgets, all else being the same."""
    from privimage.privacy.dp_sgd import DP_SGD
    from privimage.run_folder.budget import privacy_plan

    rule("other budgets")
    for epsilon in OTHER_EPSILONS:
        other = replace(config, privacy=replace(config.privacy, epsilon=epsilon))
        try:
            multiplier = privacy_plan(other).mechanisms[DP_SGD].noise_multiplier
            noise = f"noise multiplier {multiplier:.4g}"
        except BudgetError:
            noise = "the queries alone cost more; give them more noise"
        say(f"  epsilon {epsilon:g}: {noise}")


def dry_estimate(config: "RunConfig", sets: "ImageSets | None", *, data_root: Path | None) -> None:
    """The same without a run folder; a preset's plan is shown to those without its images, too."""
    from privimage.stages.pipeline import check_fits, load_image_sets

    try:
        sets = sets or load_image_sets(config, data_root=data_root, blank=True)
        check_fits(config, sets)
        _ = sets.public  # read where it is first asked for
    except DataMissingError as error:
        say(f"no estimate of the time: {error}")
        return
    show_estimate(config, sets)


def show_estimate(config: "RunConfig", sets: "ImageSets") -> dict[str, float]:
    """Time and memory of every stage on this machine; the seconds, for the progress to come."""
    from privimage.stages.estimate import Numbers, estimate, total_seconds
    from privimage.terminal.progress import duration

    costs = estimate(config, Numbers.of(sets))
    rule("estimate")
    for stage, cost in costs.items():
        peak = "" if cost.peak_mib is None else f"  {cost.peak_mib / 1024:5.1f} GiB"
        if cost.peak_gpu_mib is not None:
            peak += f"  {cost.peak_gpu_mib / 1024:5.1f} GiB of the GPU's"
        say(f"  {stage.replace('_', ' '):<14}{duration(cost.seconds):>9}{peak}")
    whole = f"  {'whole run':<14}{duration(total_seconds(costs)):>9}"
    say(f"{whole}, about: each stage was timed on this machine for a second, on made-up images")
    return {stage: cost.seconds for stage, cost in costs.items()}


def show_result(record: dict[str, Any], folder: Path) -> None:
    """What was spent and where everything lies."""
    privacy = record["privacy"]
    rule("done")
    say(
        f"spent epsilon {privacy['epsilon']:.4f} of {privacy['target_epsilon']:g} "
        f"(RDP {privacy['epsilon_rdp']:.4f}, PLD {privacy['epsilon_pld']:.4f}) "
        f"at delta {privacy['delta']:g}"
    )
    for name, value in record["metrics"].items():
        say(f"  {name}: {value:.4g}")
    for name, what in (
        ("images/", "synthetic images, a folder per class"),
        ("images.npz", "the same as arrays"),
        ("samples.png", "a grid to look at"),
        ("model.safetensors", "the private model's weights"),
        ("privacy_statement.md", "what is promised, and what is not"),
    ):
        say(f"  {folder / name}  {what}")


def rule(title: str) -> None:
    """A heading across the terminal."""
    from rich.console import Console

    Console().rule(title)


cli_results.add_commands(app)  # last, so that the help names them after these
