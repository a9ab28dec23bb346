"""Errors that a user can put right: each names what was given, what is allowed and what to do next.

The command lines turn them into one line and the exit code below; anything else is a defect of
ours and keeps its traceback. Messages never hold a private image, label or un-noised value.
"""


class UserError(ValueError):
    """Base of all errors with a remedy; `exit_code` is what a command line returns for it."""

    exit_code = 2


class ConfigError(UserError):
    """A setting is unknown, missing or out of range."""


class BudgetError(UserError):
    """The privacy budget does not allow what was asked for."""


class RunFolderError(UserError):
    """A run folder is in use, belongs to another configuration, or cannot be written."""


class DataMissingError(UserError):
    """An image set or a weight file is not where it was looked for."""

    exit_code = 4


class DataInvalidError(UserError):
    """An image set was found but cannot be read safely."""

    exit_code = 4


class PeerLostError(UserError):
    """Another process of the same run ended, or can no longer be reached."""

    exit_code = 5


class MemoryRanOutError(UserError):
    """The machine or the GPU has less memory than the work needs."""

    exit_code = 3


class NotAsStatedError(UserError):
    """What a run says of itself does not hold."""

    exit_code = 7
