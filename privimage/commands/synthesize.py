"""`privimage synthesize`: the whole method on a person's own images.

Prints every setting and the budget before the work starts.
"""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privimage.commands.planning import (
    dry_estimate,
    parse_overrides,
    rule,
    show_estimate,
    show_plan,
    time_given,
)
from privimage.errors import ConfigError
from privimage.machine.launch import is_launched, is_restarted, launch, stopped_with_a_word
from privimage.machine.terminal.plain_text import plain_handler, say

if TYPE_CHECKING:
    from privimage.run_folder.public_weights import PublicWeights
    from privimage.run_folder.run import ImageSets
    from privimage.settings.config import RunConfig


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
    start_from: Annotated[
        Path | None,
        typer.Option(help="public weights to begin with: a folder of `privimage pretrain`"),
    ] = None,
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
    from privimage.data.parallel import watched
    from privimage.machine.terminal.progress import StageProgress
    from privimage.run_folder.public_weights import open_public_weights
    from privimage.settings.config import load_config
    from privimage.settings.description import described
    from privimage.settings.presets import preset_settings
    from privimage.stages.pipeline import opened
    from privimage.stages.time_budget import chosen_before

    with stopped_with_a_word():
        start = None if start_from is None else open_public_weights(start_from)
        sets = None
        if preset is not None:  # changed settings must not run under the preset's name
            config = load_config(preset_settings(preset) | {"name": "synthesize"}, overrides)
        else:
            description = described(describe, facts, overrides)
            before = chosen_before(folder, overrides, hours=hours)
            time = time_given(hours, num_processes=gpus) if before is None else None
            with StageProgress() as reading, watched(reading):
                config, sets = own_images(
                    **options,
                    description=description,
                    overrides=(before or {}) | overrides,
                    hours=time,
                    only_if_longer=hours is None,
                    blank=dry_run,
                    start_from=start,
                    data_root=data_root,
                )
        if gpus > 1 and not dry_run and not is_launched():
            with opened(config, folder, sets=sets, data_root=data_root, start_from=start):
                pass  # a mistake is said once, here; started processes would all say it
            launch("privimage", gpus, sys.argv[1:])
        else:
            run_here(
                config,
                folder,
                sets=sets,
                data_root=data_root,
                dry_run=dry_run,
                start_from=start,
            )


def run_here(
    config: "RunConfig",
    folder: Path,
    *,
    sets: "ImageSets | None",
    data_root: Path | None,
    dry_run: bool,
    start_from: "PublicWeights | None" = None,
) -> None:
    """Run in this process, maybe with others that torchrun started."""
    from privimage.machine.processes import joined
    from privimage.machine.terminal.progress import StageProgress
    from privimage.release.croissant import write_croissant
    from privimage.release.export import export_images
    from privimage.stages import known_networks
    from privimage.stages.estimate import Numbers
    from privimage.stages.pipeline import follow_pipeline, opened, run_pipeline

    with joined() as world:
        expected: dict[str, float] = {}
        if world.is_leader and not is_restarted():
            show_plan(config)
            say(f"run folder: {folder}")
            if not dry_run:  # what is wrong is said before stages are timed
                with opened(
                    config, folder, sets=sets, data_root=data_root, start_from=start_from
                ) as (sets, *_):
                    is_new = not (folder / "record.json").exists()
                if is_new and world.size == 1:  # one process says little of how several share
                    facts = Numbers.of(sets, has_query_network=start_from is not None)
                    expected = show_estimate(config, facts)
        if dry_run:
            if world.is_leader:
                dry_estimate(config, sets, data_root=data_root, start_from=start_from)
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
                start_from=start_from,
            )
    export_images(folder / "images.npz", folder / "images")
    write_croissant(folder)
    show_result(record, folder)


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
        ("images/", "synthetic images, a folder per class; croissant.json describes them"),
        ("images.npz", "the same as arrays"),
        ("samples.png", "a grid to look at"),
        ("model.safetensors", "the private model's weights"),
        ("privacy_statement.md", "what is promised, and what is not"),
    ):
        say(f"  {folder / name}  {what}")
