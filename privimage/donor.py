"""Entering a run later: its first stages are taken over from another run's folder.

`pretrained` takes the query's answer and the pre-trained model, `finetuned` the private model too,
`samples` the synthetic images too. Every file is checked against the donor's manifests. Nothing
private is copied. An answer that is taken over was paid for elsewhere, but what is made of it here
depends on it: this run's ledger is charged for it as well. From `finetuned` on, the donor's ledger
is this run's ledger, for nothing more is asked of the sensitive images.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from privimage import manifest
from privimage.data.image_set import ImageSet
from privimage.durable import file_sha256, write_durably
from privimage.errors import DataInvalidError, DataMissingError, RunFolderError

Entry = Literal["pretrained", "finetuned", "samples"]
TAKEN_OVER: dict[Entry, tuple[str, ...]] = {
    "pretrained": ("query", "selection", "pretrain"),
    "finetuned": ("query", "selection", "pretrain", "finetune"),
    "samples": ("query", "selection", "pretrain", "finetune", "generate"),
}
# weights that a later entry has no use for
NOT_NEEDED = {"finetuned": ("pretrain",), "samples": ("pretrain", "finetune")}


@dataclass(frozen=True)
class Donor:
    """A run folder to take stages from; `shared` is the folder of its query network, if any."""

    folder: Path
    entry: Entry
    shared: Path | None = None

    def gives(self, stage: str) -> bool:
        """Whether the stage is taken over and not done here."""
        if stage == "query_network":
            return self.shared is not None and manifest.read(self.shared, stage) is not None
        return stage in TAKEN_OVER[self.entry]

    @property
    def brings_ledger(self) -> bool:
        """Whether nothing more is asked of the sensitive images."""
        return self.entry != "pretrained"

    def inputs(self, stage: str) -> dict[str, Any]:
        """What identifies the stage in this run's manifest: the hashes of the donor's files."""
        return {"taken_over": self._outputs(stage)}

    def check(self) -> None:
        """Before any work: is everything there, and is it what the donor's manifests say?"""
        for stage in ("query_network", *TAKEN_OVER[self.entry]):
            if self.gives(stage):
                self._check_stage(stage)
        if self.brings_ledger and not (self.folder / "ledger.json").is_file():
            raise DataMissingError(
                f"{self.folder} has no ledger.json, so what its model cost is not known; "
                "copy the ledger with the model"
            )

    def take_over(self, stage: str, folder: Path) -> list[str]:
        """Copy the files of a stage into `folder`; returns their names."""
        self._check_stage(stage)
        names = list(self._outputs(stage))
        for name in names:
            source, target = self._home(stage) / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(target.name + ".partial")
            shutil.copyfile(source, partial)
            partial.replace(target)
        return names

    def take_over_ledger(self, folder: Path) -> str:
        """Copy the donor's ledger unless it is here already; returns its name of the images."""
        target = folder / "ledger.json"
        if not target.exists():
            write_durably(target, (self.folder / "ledger.json").read_bytes())
        try:
            return str(json.loads(target.read_text())["data_id"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataInvalidError(f"{target} is not a privacy ledger; copy it again") from error

    def check_receipt(
        self, sensitive: ImageSet, *, noise_multiplier: float, classes_per_image: int
    ) -> None:
        """RunFolderError unless the answer was released as this run accounts for it.

        That it is an answer about these very images can be seen only beside the donor's key.
        """
        path = self.folder / "query" / "answer.json"
        try:
            receipt = json.loads(path.read_text())["receipt"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataMissingError(f"{path} holds no receipt; give a complete run") from error
        asked: dict[str, Any] = {
            "noise_multiplier": noise_multiplier,
            "classes_per_image": classes_per_image,
        }
        key = self.folder / "private" / "data_key"
        if key.is_file():
            asked["data_id"] = sensitive.fingerprint(key.read_bytes())
        for name, value in asked.items():
            if receipt.get(name) != value:
                raise RunFolderError(
                    f"the query answer of {self.folder} has {name} {receipt.get(name)}, and this "
                    f"run {value}; take over an answer that was released with the same settings"
                )

    def _home(self, stage: str) -> Path:
        return self.shared if stage == "query_network" and self.shared else self.folder

    def _outputs(self, stage: str) -> dict[str, str]:
        outputs = (manifest.read(self._home(stage), stage) or {}).get("outputs", {})
        skipped = NOT_NEEDED.get(self.entry, ())
        return {} if stage in skipped else outputs

    def _check_stage(self, stage: str) -> None:
        home = self._home(stage)
        found = manifest.read(home, stage)
        if found is None or found["state"] != "done":
            raise DataMissingError(
                f"{home} has no finished stage {stage}; give a run folder for --from {self.entry}"
            )
        for name, digest in self._outputs(stage).items():
            path = home / name
            if not path.resolve().is_relative_to(home.resolve()):
                raise DataInvalidError(f"{home}: {name} of stage {stage} lies outside the folder")
            if not path.is_file():
                raise DataMissingError(f"{path} of stage {stage} is missing; copy it as well")
            if file_sha256(path) != digest:
                raise DataInvalidError(
                    f"{path} is not the file that stage {stage} left: its SHA-256 differs from "
                    "the manifest's; copy it again"
                )
