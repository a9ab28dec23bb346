"""Before a run: whether it may start on this machine, and at which stage it begins.

Everything is checked before any work, and each refusal has an exit code of its own.
"""

import sys
from enum import Enum
from pathlib import Path

from artifact.claims.doctor import examine
from artifact.claims.needs import unmet_data, unmet_needs
from artifact.claims.registry import Claim
from artifact.exit_codes import EnvironmentUnfitError
from privimage.errors import ConfigError, DataMissingError
from privimage.machine.terminal.plain_text import say


class EntryPoint(str, Enum):
    """Where `run` begins."""

    SCRATCH = "scratch"
    PRETRAINED = "pretrained"
    FINETUNED = "finetuned"
    SAMPLES = "samples"
    RECORDS = "records"


def check_machine(claim: Claim, setting: str, out: Path, *, entry: EntryPoint, force: bool) -> None:
    """Refuse a run whose needs are not met; with `force` only say on stderr what is lacking."""
    chosen = claim.setting(setting)
    _, machine = examine(out, chosen.needs.all_data)
    unfit = unmet_needs(chosen, machine)
    no_data = unmet_data(chosen, machine, from_scratch=entry is EntryPoint.SCRATCH)
    lacking = f"{claim.id}/{setting}: {'; '.join(unfit + no_data)}"
    if (unfit or no_data) and force:
        say(f"warning: {lacking}; it runs all the same (--force)", stream=sys.stderr)
    elif unfit or no_data:
        raise (EnvironmentUnfitError if unfit else DataMissingError)(
            f"{lacking}; `artifact doctor` shows what can run here; --force runs it all the same"
        )


def check_entry(entry: EntryPoint, files: Path | None) -> None:
    """ConfigError unless --from and --files go together."""
    if (entry is EntryPoint.SCRATCH) != (files is None):
        raise ConfigError(
            f"--from {entry.value} with --files {files}; give --files with every --from but "
            "scratch: the folder of a run (records: its record.json)"
        )
