"""The commands for what a run left: `privimage verify`, `sample` and `evaluate`.

Each is a thin layer over one function of the library, which is imported when the command runs.
"""

from pathlib import Path
from typing import Annotated

import typer

from privimage.errors import ConfigError, NotAsStatedError
from privimage.machine.launch import stopped_with_a_word
from privimage.terminal.plain_text import say


def add_commands(app: typer.Typer) -> None:
    """Make them commands of `privimage`."""
    for command in (verify, sample, evaluate):
        app.command()(command)


def verify(
    run: Annotated[Path, typer.Argument(help="run folder, or what was published of one")],
) -> None:
    """Is a run what it says? For whoever must approve a release: no image is needed.

    Takes every recorded hash again, counts epsilon again by RDP and PLD, and holds statement,
    card, ledger and settings against one another. Exit code 0: all holds; 7: something does not.

    privimage verify runs/mine
    """
    from privimage.release.verify import verify_run

    checks = verify_run(run)
    for check in checks:
        say(f"{check.answer:<9} {check.what}" + (f": {check.reason}" if check.reason else ""))
    failed = [check.what for check in checks if check.answer == "FAILED"]
    num_made = sum(check.answer == "ok" for check in checks)
    if failed:
        raise NotAsStatedError(
            f"{run} is not what it says: {len(failed)} of {len(checks)} checks failed "
            f"({', '.join(failed)}); release and use nothing of it, and ask whoever made "
            "the run for a copy"
        )
    missing = len(checks) - num_made
    without = f"; {missing} could not be made, for want of the files named above" * bool(missing)
    say(f"{run}: all {num_made} checks that were made hold{without}.")


def sample(
    model: Annotated[
        Path, typer.Argument(help="run folder, what was published of one, or model.safetensors")
    ],
    out: Annotated[Path, typer.Option(help="where the images go; nothing may be there")],
    num: Annotated[int, typer.Option(help="how many images")] = 1000,
    label: Annotated[str | None, typer.Option(help="of this class only; default: all")] = None,
    kind: Annotated[
        str,
        typer.Option(
            "--format",
            help="folder (a folder of PNG files a class), npz, or webdataset (tar shards)",
        ),
    ] = "folder",
    seed: Annotated[int, typer.Option(help="another one gives other images")] = 0,
    sampler: Annotated[
        str | None, typer.Option(help="ddim, heun or dpm_solver; default: as the run had it")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="of the sampler; default: as the run")] = None,
) -> None:
    """Draw more images from a finished model, at no privacy cost.

    No seed gives the images of the run itself once more. An interrupted command leaves nothing.

    privimage sample runs/mine --num 1000 --label cats --out more
    """
    from privimage.release.more_images import Wanted, sample_more
    from privimage.terminal.progress import StageProgress

    wanted = Wanted(num_images=num, label=label, seed=seed, sampler=sampler, num_steps=steps)
    with stopped_with_a_word("nothing was left; the same command begins again"):
        with StageProgress() as progress:
            drawn = sample_more(model, wanted, out, kind=kind, progress=progress)
        if drawn.insecure:
            say("NO GUARANTEE: the noise of this model had a fixed seed; do not release the images")
        say(f"{num} images in {out}; they cost no privacy beyond what the model has cost")


def evaluate(
    images: Annotated[
        str, typer.Argument(help="synthetic images: run folder, folder, zip or npz file")
    ],
    against: Annotated[
        str, typer.Option(help="real images: folder, zip or npz file, or a set such as cifar10")
    ],
    public: Annotated[
        str | None,
        typer.Option(help="labelled public images; features are those of a classifier of them"),
    ] = None,
    num: Annotated[int, typer.Option(min=2, help="images that are compared, at most")] = 5000,
    classifiers: Annotated[
        bool, typer.Option(help="train classifiers on the images, test them on the real ones")
    ] = True,
    numbers: Annotated[
        Path | None, typer.Option("--json", help="file that the numbers are written to")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="of choices and trainings")] = 0,
    data_root: Annotated[Path | None, typer.Option(help="where named image sets lie")] = None,
) -> None:
    """Compare synthetic images, also of other programs, with real ones.

    Frechet distance (FID where the Inception weights are here), precision, recall, density,
    coverage, and accuracy on the real images of classifiers trained on the synthetic ones. Without
    weights, run and --public, features are coarse pixels.

    privimage evaluate runs/mine --against folder:/data/mine
    """
    from privimage.evaluation.judge import NOT_COVERED, judge
    from privimage.evaluation.judged_sets import extractors_of, open_sets
    from privimage.files.durable import write_json_durably
    from privimage.machine.hardware import usual_device
    from privimage.terminal.progress import StageProgress

    if numbers is not None and numbers.is_dir():
        raise ConfigError(f"--json {numbers} is a folder; name a file")
    with stopped_with_a_word("nothing was written; the same command begins again"):
        device = usual_device()
        sets = open_sets(images, against, data_root=data_root, seed=seed)
        with StageProgress() as progress:
            extractors = extractors_of(
                sets, public=public, device=device, data_root=data_root, progress=progress
            )
            scores = judge(
                sets,
                extractors,
                num_images=num,
                with_classifiers=classifiers,
                device=device,
                progress=progress,
            )
        for name, value in scores.items():
            say(f"  {name}: {value:.4g}" if isinstance(value, float) else f"  {name}: {value}")
        if classifiers and sets.fault_of_labels:
            say(f"no accuracy of classifiers: {sets.fault_of_labels}")
        say(NOT_COVERED)
        if numbers is not None:
            write_json_durably(numbers, scores | {"not_covered": NOT_COVERED})
