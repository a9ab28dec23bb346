"""The commands for what a run left: `privimage show`, `verify` and `sample`."""

from pathlib import Path
from typing import Annotated

import typer

from privimage.errors import NotAsStatedError
from privimage.machine.launch import stopped_with_a_word
from privimage.machine.terminal.plain_text import say


def show(
    run: Annotated[Path, typer.Argument(help="run folder, or what was published of one")],
    out: Annotated[
        Path | None, typer.Option(help="the page's file; default: page.html in the folder")
    ] = None,
    for_owner: Annotated[
        bool,
        typer.Option(
            "--private",
            help="with times, machine and settings, which are not for publication; default place "
            "then: private/page.html",
        ),
    ] = False,
) -> None:
    """One HTML page of a run to look at: images, promise, chosen classes, curves, files.

    Only what may be published is on it, and it needs no network. All checks of `verify` are made
    and shown. An earlier page is replaced, any other file is not.

    privimage show runs/mine
    """
    from privimage.release.run_page import write_run_page

    with stopped_with_a_word("nothing was written; the same command begins again"):
        place = write_run_page(run, out, for_owner=for_owner)
    if for_owner:
        say("not for publication: times, machine and settings of the run are on this page")
    say(f"{place}: open it in a browser")


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
    from privimage.machine.terminal.progress import StageProgress
    from privimage.release.more_images import Wanted, sample_more

    wanted = Wanted(num_images=num, label=label, seed=seed, sampler=sampler, num_steps=steps)
    with stopped_with_a_word("nothing was left; the same command begins again"):
        with StageProgress() as progress:
            drawn = sample_more(model, wanted, out, kind=kind, progress=progress)
        if drawn.insecure:
            say("NO GUARANTEE: the noise of this model had a fixed seed; do not release the images")
        say(f"{num} images in {out}; they cost no privacy beyond what the model has cost")
