"""`privimage pretrain`: public weights, trained once, from which many runs start.

There is no option for a private image, and nothing that would read one.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privimage.commands.planning import parse_overrides, rule, show_estimate, time_given
from privimage.machine.launch import stopped_with_a_word
from privimage.machine.terminal.plain_text import plain_handler, say

if TYPE_CHECKING:
    from privimage.run_folder.public_weights import PublicWeights
    from privimage.settings.public_config import PublicConfig


def pretrain(
    public: Annotated[str, typer.Option(help="labelled public images, e.g. glyphs or cifar100")],
    image_size: Annotated[int, typer.Option(help="pixels, as the runs will have")],
    color: Annotated[str, typer.Option(help="grey or rgb, as the runs will have")],
    out: Annotated[Path, typer.Option(help="folder of the weights; repeat to resume")],
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="override, e.g. --set network.base_channels=64"),
    ] = None,
    hours: Annotated[
        float | None, typer.Option(min=0.01, help="as `privimage synthesize` takes it")
    ] = None,
    seed: Annotated[int, typer.Option(help="another one gives other weights")] = 0,
    data_root: Annotated[Path | None, typer.Option(help="where named image sets lie")] = None,
    verbose: Annotated[bool, typer.Option(help="log lines as well")] = False,
) -> None:
    """Train public weights once; many runs start from them, at no privacy cost.

    They are the query network, and a diffusion model of the whole public set. Everything given
    here is used without any protection: give no private image.

    privimage pretrain --public cifar100 --image-size 32 --color rgb --out weights

    privimage synthesize --start-from weights --public cifar100 ...
    """
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, handlers=[plain_handler()])
    overrides = parse_overrides(setting or []) | {"seed": seed}

    from privimage.api import public_images
    from privimage.settings.public_config import as_run, load_public_config
    from privimage.stages import known_networks
    from privimage.stages.public_training import (
        PUBLIC_STAGES,
        public_numbers,
        refuse_other_content,
        train_public_weights,
    )
    from privimage.stages.time_budget import chosen_before

    with stopped_with_a_word("the same command continues it"):
        before = chosen_before(out, overrides, hours=hours, read=load_public_config)
        config, images = public_images(
            public,
            image_size=image_size,
            color=color,
            overrides=(before or {}) | overrides,
            hours=time_given(hours) if before is None else None,
            only_if_longer=hours is None,
            data_root=data_root,
        )
        refuse_other_content(config, out)
        show_settings(config)
        stages = tuple(stage.name for stage in PUBLIC_STAGES)
        expected = show_estimate(as_run(config), public_numbers(images), only=stages)

        from privimage.machine.terminal.progress import StageProgress

        with StageProgress(expected=expected) as progress:
            weights = train_public_weights(
                config,
                images,
                out,
                progress=progress,
                known_networks=known_networks.default_place(),
            )
    show_weights(weights)


def show_settings(config: "PublicConfig") -> None:
    """All of them, before anything is done."""
    import yaml

    from privimage.settings.config import plain_values

    rule("settings")
    say(*yaml.safe_dump(plain_values(config), sort_keys=False).splitlines())


def show_weights(weights: "PublicWeights") -> None:
    """What a run that starts from them will name."""
    rule("done")
    public = weights.public
    say(f"public set {public['name']}, SHA-256 {public['sha256']}")
    for name, digest in sorted(weights.files.items()):
        say(f"  {weights.folder / name}  SHA-256 {digest}")
    say(f"start runs from them with --start-from {weights.folder}; they cost no privacy")
