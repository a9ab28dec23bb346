"""How a command ends: its exit code, and one plain line for a mistake."""

import sys
from typing import NoReturn

import typer

from privimage.errors import UserError
from privimage.machine.launch import INTERRUPTED
from privimage.machine.terminal.plain_text import one_line, plain_warnings, say, say_traceback

# typer has click inside of it in new releases and beside it in older ones
_, UsageError, ClickException, *_ = typer.BadParameter.mro()


def run_command(app: typer.Typer, *, defect: int) -> NoReturn:
    """Run the command that was typed, and exit: with a UserError's code and its line, or with that
    of `defect` and a traceback for what is none.

    typer's own messages would show arguments as they are, and in a box.
    """
    plain_warnings()
    try:
        status = app(standalone_mode=False)
    except UserError as error:
        status = fail(str(error), error.exit_code)
    except typer.Abort:
        status = INTERRUPTED
    except Exception as error:
        if isinstance(error, ClickException):
            status = misused(error)
        else:
            say_traceback()
            status = defect
    sys.exit(status or 0)


def fail(message: str, status: int) -> int:
    """The status, once the message was said."""
    say(f"error: {one_line(message)}", stream=sys.stderr)
    return status


def misused(error: Exception) -> int:
    """Arguments that the command does not understand: what is wrong, and how it is called."""
    message = error.format_message()  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    if message:  # none where the help was asked for by saying nothing
        usage = f"; {context.get_usage()}; --help says more" if context else ""
        fail(message.rstrip(".") + usage, error.exit_code)  # type: ignore[attr-defined]
    return error.exit_code  # type: ignore[attr-defined]
