"""Entering a run later: its first stages are taken over from another run's folder.

`pretrained` takes the query's answer and the pre-trained model, `finetuned` the private model too,
`samples` the synthetic images too. Every file is checked against the donor's manifests, and
`privimage.stages.takeover` sees that they are what this run would have made. Nothing private is
copied.
An answer that is taken over was paid for elsewhere, but what is made of it here depends on it:
this run's ledger is charged for it as well. From `finetuned` on, the donor's ledger is this run's
ledger, for nothing more is asked of the sensitive images.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from privimage.errors import DataInvalidError, DataMissingError, RunFolderError
from privimage.files.durable import file_sha256, replaced_durably, write_durably
from privimage.files.plain_files import inside, open_plain, read_bounded
from privimage.privacy.ledger import PrivacyLedger
from privimage.run_folder import manifest

Entry = Literal["pretrained", "finetuned", "samples"]
QUERIES = ("query", "moments", "selection")
TAKEN_OVER: dict[Entry, tuple[str, ...]] = {
    "pretrained": (*QUERIES, "pretrain"),
    "finetuned": (*QUERIES, "pretrain", "finetune"),
    "samples": (*QUERIES, "pretrain", "finetune", "generate"),
}
# weights that a later entry has no use for
NOT_NEEDED: dict[Entry, tuple[str, ...]] = {
    "pretrained": (),
    "finetuned": manifest.PRODUCTS["pretrain"],
    "samples": (*manifest.PRODUCTS["pretrain"], "model.safetensors"),
}
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Donor:
    """A run folder to take stages from; `shared` is the folder of its query network, if any."""

    folder: Path
    entry: Entry
    shared: Path | None = None

    def gives(self, stage: str) -> bool:
        """Whether the stage is taken over and not done here."""
        if stage == "query_network":
            return self.shared is not None and manifest.exists(self.shared, stage)
        return stage in TAKEN_OVER[self.entry]

    @property
    def stages(self) -> tuple[str, ...]:
        """Whatever it gives, in order."""
        return tuple(name for name in manifest.PRODUCTS if self.gives(name))

    @property
    def brings_ledger(self) -> bool:
        """Whether nothing more is asked of the sensitive images."""
        return self.entry != "pretrained"

    def home(self, stage: str) -> Path:
        """The folder in which a stage's files lie."""
        return self.shared if stage == "query_network" and self.shared else self.folder

    def made_from(self, stage: str) -> dict[str, Any]:
        """What the stage rested on where it was done, maybe by a donor of the donor."""
        inputs = dict((manifest.read(self.home(stage), stage) or {"inputs": {}})["inputs"])
        inputs.pop(manifest.TAKEN_OVER, None)
        return inputs

    def did(self, stage: str) -> bool:
        """Whether the donor did the stage itself; only then its key names the images in it."""
        found = manifest.read(self.home(stage), stage)
        return found is not None and manifest.TAKEN_OVER not in found["inputs"]

    def inputs(self, stage: str) -> dict[str, Any]:
        """What identifies the stage in this run's manifest: all it rests on, and what it left."""
        left = manifest.results(self.home(stage), stage)
        return self.made_from(stage) | {manifest.TAKEN_OVER: left}

    def needed(self, stage: str) -> dict[str, str]:
        """The files that are taken over, with their hashes."""
        results = manifest.results(self.home(stage), stage).items()
        return {name: digest for name, digest in results if name not in NOT_NEEDED[self.entry]}

    def check(self) -> None:
        """Before any work: is everything there, and is it what the donor's manifests say?"""
        for stage in self.stages:
            self._check_stage(stage)
        self.ledger()

    def ledger(self) -> PrivacyLedger:
        """The account of what its files cost, as a copy in memory."""
        path = inside(self.folder, "ledger.json")
        if not path.exists():
            raise DataMissingError(
                f"{self.folder} has no ledger.json, so what its model cost is not known; "
                "copy the ledger with the model"
            )
        try:
            return PrivacyLedger.replica(json.loads(read_bounded(path)))
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise DataInvalidError(f"{path} is not a privacy ledger; copy it again") from error

    def document(self, name: str) -> dict[str, Any]:
        """A JSON object of its folder; DataInvalidError for anything else."""
        path = inside(self.folder, name)
        try:
            found = json.loads(read_bounded(path))
        except (OSError, ValueError, RecursionError) as error:
            raise DataInvalidError(f"{path} cannot be read; copy it again") from error
        if not isinstance(found, dict):
            raise DataInvalidError(f"{path} is not a JSON object; copy it again")
        return found

    def take_over(self, stage: str, folder: Path) -> list[str]:
        """Copy the files of a stage into `folder`; returns their names. What was checked is what
        is written: a file that changed on the way is refused, and its place stays as it was.
        """
        self._check_stage(stage)
        return copy_stage(self.home(stage), stage, self.needed(stage), folder)

    def take_over_ledger(self, folder: Path) -> str:
        """Copy the donor's ledger, or find it here already; returns its name of the images.

        Another account that lies here stays, and so does what it says: RunFolderError.
        """
        theirs, target = self.ledger().to_dict(), inside(folder, "ledger.json")
        if not target.exists():
            write_durably(target, read_bounded(inside(self.folder, "ledger.json")))
        elif self._other_ledger(target, theirs):
            raise RunFolderError(
                f"{target} is not the ledger of {self.folder}: what was done here so far is "
                "accounted for in another one; use a new run folder"
            )
        return str(theirs["data_id"])

    def _other_ledger(self, path: Path, theirs: dict[str, Any]) -> bool:
        try:
            return json.loads(read_bounded(path)) != theirs
        except (OSError, ValueError, RecursionError):
            return True

    def _check_stage(self, stage: str) -> None:
        remedy = f"give a run folder for --from {self.entry}"
        check_stage(self.home(stage), stage, self.needed(stage), remedy=remedy)


def check_stage(home: Path, stage: str, needed: dict[str, str], *, remedy: str) -> None:
    """Is the stage done in `home`, and are its files there with the hashes that its manifest says?
    DataInvalidError or DataMissingError if not.
    """
    inside(home, f"stages/{stage}.json")
    found = manifest.read(home, stage)
    if found is None and manifest.exists(home, stage):
        raise DataInvalidError(
            f"{home / 'stages' / stage}.json is not a manifest of {stage}: one names the files "
            f"{', '.join(manifest.PRODUCTS[stage])} and no others, each with its SHA-256; do "
            "not trust this folder, or copy it again"
        )
    if found is None or found["state"] != "done":
        raise DataMissingError(f"{home} has no finished stage {stage}; {remedy}")
    for name, digest in needed.items():
        path = inside(home, name)
        if not path.exists():
            raise DataMissingError(f"{path} of stage {stage} is missing; copy it as well")
        if file_sha256(path) != digest:
            raise changed(path, stage)


def copy_stage(home: Path, stage: str, needed: dict[str, str], folder: Path) -> list[str]:
    """Copy the files of a stage into `folder`; what has another hash is not written."""
    for name, digest in needed.items():
        seen = hashlib.sha256()
        with (
            open_plain(inside(home, name)) as source,
            replaced_durably(inside(folder, name)) as target,
        ):
            while block := source.read(BLOCK_BYTES):
                seen.update(block)
                target.write(block)
            if seen.hexdigest() != digest:
                raise changed(source.name, stage)
    return list(needed)


def changed(path: Any, stage: str) -> DataInvalidError:
    """The error about a file that is not the one that a stage left."""
    return DataInvalidError(
        f"{path} is not the file that stage {stage} left: its SHA-256 differs from the "
        "manifest's; copy it again"
    )
