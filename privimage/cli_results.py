"""The commands for what a run left: `privimage verify`.

Each is a thin layer over one function of the library, which is imported when the command runs.
"""

from pathlib import Path
from typing import Annotated

import typer

from privimage.errors import NotAsStatedError
from privimage.terminal.plain_text import say


def add_commands(app: typer.Typer) -> None:
    """Make them commands of `privimage`."""
    app.command()(verify)


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
