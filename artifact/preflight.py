"""What happens around a run: may it start here, from where does it start, and how is it stopped.

Everything is checked before any work, and each refusal has an exit code of its own. SIGTERM, from
`docker stop` or a scheduler, ends a run as Ctrl-C does: the same command continues it.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from artifact.claims import Claim
from artifact.environment import examine
from artifact.exit_codes import EnvironmentUnfitError
from artifact.needs import unmet_data, unmet_needs
from privimage.errors import ConfigError, DataMissingError

INTERRUPTED, TERMINATED = 130, 143  # 128 + SIGINT, 128 + SIGTERM, as shells have it


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
        print(f"warning: {lacking}; it runs all the same (--force)", file=sys.stderr)
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


class Terminated(KeyboardInterrupt):
    """SIGTERM, from `docker stop` or a scheduler: it ends a run as Ctrl-C does."""


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM raises Terminated; by default it would end the process without a word."""

    def stop(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
