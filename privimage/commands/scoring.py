"""`privimage evaluate`: scores of finished images, of any origin."""

from pathlib import Path
from typing import Annotated

import typer

from privimage.errors import ConfigError
from privimage.machine.launch import stopped_with_a_word
from privimage.machine.terminal.plain_text import say


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
    from privimage.machine.terminal.progress import StageProgress

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
