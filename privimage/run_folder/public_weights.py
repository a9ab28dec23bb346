"""Public weights: what `privimage pretrain` left in its folder, for many runs to start from.

A query network, and a diffusion model of the whole public set that takes no label. Two manifests
name the public images and the settings of both and the hash of every file; a folder that is not
such a one, of which a file changed, or which a run on sensitive images left, is refused by name.
All is public: no sensitive image was there, so there is nothing to be charged.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from privimage.errors import ConfigError, DataInvalidError, RunFolderError
from privimage.files.plain_files import inside, open_plain, read_bounded
from privimage.run_folder import manifest
from privimage.run_folder.donor import changed, check_stage, copy_stage
from privimage.settings.config import NetworkConfig, QueryNetworkConfig
from privimage.settings.validation import validated

QUERY_NETWORK, MODEL = "query_network.safetensors", "pretrained_ema.safetensors"
FACTS = "query_network.json"
FILES = {"query_network": {QUERY_NETWORK, FACTS}, "pretrain": {MODEL}}
START_FROM = "start_from"  # among the inputs of stages: the public weights that they rest on
# what stands in the manifest of the model, and in that of no run on sensitive images
WHOLE_SET = {"trained_on": "the whole public set, without labels"}
ALWAYS = WHOLE_SET | {"conditional": False}
MODEL_INPUTS = {"public", "network", "pretrain", "seed", *ALWAYS}
REMEDY = "give a folder that `privimage pretrain` finished"


@dataclass(frozen=True, kw_only=True)
class PublicWeights:
    """The folder, and what its manifests say of the two networks in it."""

    folder: Path
    public: dict[str, str]  # name and SHA-256 of the set
    num_classes: int  # of the set
    image_size: int
    num_channels: int
    network: NetworkConfig
    query_network: QueryNetworkConfig
    files: dict[str, str]  # SHA-256 by name

    @property
    def identity(self) -> dict[str, Any]:
        """What names them in manifests, record and statement: the public set, and every hash."""
        return {"public": self.public, "files": self.files}

    @property
    def brings_ledger(self) -> bool:
        """Never: no sensitive image was seen, so there is no account to bring."""
        return False

    def settings(self) -> dict[str, Any]:
        """The settings of both networks by their dotted names, for a run that starts from them."""
        return {
            f"{section}.{name}": value
            for section in ("network", "query_network")
            for name, value in dataclasses.asdict(getattr(self, section)).items()
        }

    def gives(self, stage: str) -> bool:
        """Whether the stage is taken over as a whole; from the model, pre-training goes on."""
        return stage == "query_network"

    def inputs(self, stage: str) -> dict[str, Any]:
        """What identifies the stage in a run's manifest."""
        left = manifest.results(self.folder, stage)
        taken = {manifest.TAKEN_OVER: left, START_FROM: self.identity}
        return _inputs(self.folder, stage) | taken

    def take_over(self, stage: str, folder: Path) -> list[str]:
        """Copy the files of a stage into `folder`; DataInvalidError for one that has changed."""
        needed = {name: self.files[name] for name in sorted(FILES[stage])}
        return copy_stage(self.folder, stage, needed, folder)

    def model_weights(self) -> dict[str, Tensor]:
        """The averaged weights of the model by name; DataInvalidError if the file has changed."""
        path = inside(self.folder, MODEL)
        with open_plain(path) as file:
            content = file.read()
        if hashlib.sha256(content).hexdigest() != self.files[MODEL]:
            raise changed(path, "pretrain")
        try:
            return load_tensors(content)
        except SafetensorError as error:
            raise DataInvalidError(f"{path} cannot be read as weights; {REMEDY}") from error


def open_public_weights(folder: Path) -> PublicWeights:
    """The public weights in a folder, each file with the hash that its manifest says.

    DataMissingError for what is not there or not finished, DataInvalidError for anything else that
    is no public weights, such as the folder of a run.
    """
    if inside(folder, "ledger.json").exists():
        raise DataInvalidError(f"{folder} is the folder of a run on sensitive images; {REMEDY}")
    files: dict[str, str] = {}
    for stage, names in FILES.items():
        left = manifest.results(folder, stage)
        check_stage(folder, stage, left, remedy=f"{REMEDY}, or repeat that command")
        if left.keys() != names:
            raise _foreign(folder, f"its stage {stage} left other files")
        files |= left
    inputs = {stage: _inputs(folder, stage) for stage in FILES}
    model, public = inputs["pretrain"], inputs["pretrain"].get("public")
    if model.keys() != MODEL_INPUTS or {name: model[name] for name in ALWAYS} != ALWAYS:
        raise _foreign(folder, "its model was not trained on a whole public set without labels")
    if not _is_public_set(public) or inputs["query_network"].get("public") != public:
        raise _foreign(folder, "its networks do not name one public set")
    try:
        network = dict(model["network"])
        shape = {name: network.pop(name) for name in ("image_size", "num_channels", "num_classes")}
        num_classes = json.loads(read_bounded(inside(folder, FACTS)))["num_classes"]
        if any(type(value) is not int for value in (*shape.values(), num_classes)):
            raise TypeError("no number")
        if shape["num_classes"] != 0:
            raise ValueError("labels")
        settings = inputs["query_network"]["network"]
        return PublicWeights(
            folder=folder,
            public=model["public"],
            num_classes=num_classes,
            image_size=shape["image_size"],
            num_channels=shape["num_channels"],
            network=validated(NetworkConfig, network, where="its network"),
            query_network=validated(QueryNetworkConfig, settings, where="its query network"),
            files=files,
        )
    except (LookupError, TypeError, ValueError, OSError, RecursionError, ConfigError) as error:
        raise _foreign(folder, "its manifests do not describe its networks") from error


def refuse_other_start(folder: Path, start: PublicWeights | None) -> None:
    """RunFolderError if the run in `folder` was begun from other public weights, or from none."""
    began = [found["inputs"] for s in FILES if (found := manifest.read(folder, s)) is not None]
    wanted = None if start is None else start.identity
    if all(inputs.get(START_FROM) == wanted for inputs in began):
        return
    other = next(found for i in began if (found := i.get(START_FROM)) != wanted)
    said = "without public weights" if other is None else "from other public weights"
    remedy = "without --start-from" if other is None else "with the --start-from of then"
    raise RunFolderError(
        f"{folder} was begun {said}; repeat its command {remedy}, or use a new run folder"
    )


def _inputs(folder: Path, stage: str) -> dict[str, Any]:
    return dict((manifest.read(folder, stage) or {"inputs": {}})["inputs"])


def _is_public_set(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"name", "sha256"}
        and all(isinstance(text, str) for text in value.values())
        and value["name"].isprintable()
        and manifest.SHA256.fullmatch(value["sha256"]) is not None
    )


def _foreign(folder: Path, fault: str) -> DataInvalidError:
    return DataInvalidError(f"{folder} holds no public weights: {fault}; {REMEDY}")
