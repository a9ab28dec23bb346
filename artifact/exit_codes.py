"""What the exit status of `artifact` means; scripts may rely on it.

A success never exits non-zero, and a failure never exits zero. `run` and `compare` exit with 1
where a record contradicts the claim (FAIL) or misses its bands (TREND). Where a verdict is open
(INCONCLUSIVE), `compare` exits with 6, for it was asked for one; `run` did what it was asked for
and exits with 0. Errors that a user can put right carry their own code
(`privimage.errors.UserError.exit_code`); those of the artifact are here.
"""

from enum import IntEnum

from privimage.errors import UserError


class ExitCode(IntEnum):
    """The documented exit statuses."""

    PASS = 0
    MISMATCH = 1
    USAGE = 2
    ENVIRONMENT_UNFIT = 3
    DATA_MISSING = 4
    RUN_FAILED = 5
    INCONCLUSIVE = 6


class EnvironmentUnfitError(UserError):
    """This machine does not offer what a setting needs."""

    exit_code = ExitCode.ENVIRONMENT_UNFIT


class RunFailedError(UserError):
    """A run ended with an unexpected error; its log has the details."""

    exit_code = ExitCode.RUN_FAILED
