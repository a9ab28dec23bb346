"""The command `privimage`.

Mistakes end in one line and exit code 2 (usage) or 4 (data). What brings torch is imported where
it is used: help and a mistyped option are answered at once.
"""

import typer

from privimage.commands.finished_run import sample, show, verify
from privimage.commands.planning import plan
from privimage.commands.pretraining import pretrain
from privimage.commands.scoring import evaluate
from privimage.commands.synthesize import synthesize
from privimage.machine.terminal.command import run_command

app = typer.Typer(
    help="Differentially private synthetic images (PrivImage).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (synthesize, pretrain, plan, show, verify, sample, evaluate):  # as help lists them
    app.command()(command)


def main() -> None:
    """Entry point: a mistake becomes one line and its exit code, a defect a traceback and 1."""
    run_command(app, defect=1)
