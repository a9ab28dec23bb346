"""When a stage is done: its manifest holds the hashes of its inputs and outputs, and is written
last.

`stages/<stage>.json` is first written as "started" with the inputs, and replaced as "done" with
the outputs' SHA-256. A stage is skipped only if the inputs are the same and every output still
has its hash. Inputs name private data by a keyed hash only. A manifest names the known products of
its stage and nothing else: one that names another file, or that is of another stage, is none.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from privimage.errors import DataInvalidError
from privimage.files.durable import file_sha256, write_json_durably
from privimage.files.plain_files import inside, read_bounded

FORMAT = 1
TAKEN_OVER = "taken_over"  # among the inputs: what the stage left where it was done
PRODUCTS = {  # all that a stage may leave
    "query_network": ("query_network.safetensors", "query_network.json"),
    "query": ("query/answer.json",),
    "moments": ("query/moments.safetensors", "query/sketches.png"),
    "selection": ("query/selection.json", "query/chosen_classes.png"),
    "pretrain": ("pretrained.safetensors", "pretrained_ema.safetensors"),
    "finetune": ("model.safetensors", "finetune.json"),
    "generate": ("images.npz", "samples.png"),
    "evaluate": ("metrics.json",),
}
SHA256 = re.compile("[0-9a-f]{64}")


def is_done(folder: Path, stage: str, inputs: dict[str, Any]) -> bool:
    """True if the stage ended with these very inputs and its outputs are untouched."""
    manifest = read(folder, stage)
    if manifest is None or manifest["state"] != "done" or manifest["inputs"] != inputs:
        return False
    outputs = manifest["outputs"].items()
    return all((path := inside(folder, n)).exists() and file_sha256(path) == h for n, h in outputs)


def was_started_otherwise(folder: Path, stage: str, inputs: dict[str, Any]) -> bool:
    """True if the stage was begun here with other inputs."""
    manifest = read(folder, stage)
    return manifest is not None and manifest["inputs"] != inputs


def start(folder: Path, stage: str, inputs: dict[str, Any]) -> None:
    """Say that the stage is under way: what lies in the folder does not count as its result yet."""
    write_json_durably(
        _path(folder, stage),
        {"format": FORMAT, "stage": stage, "state": "started", "inputs": inputs},
    )


def finish(
    folder: Path,
    stage: str,
    inputs: dict[str, Any],
    outputs: Iterable[str],
    *,
    facts: dict[str, float],
) -> None:
    """Say that the stage is done; the outputs (paths inside the folder) lie finished on the
    disk. `facts` are its `seconds` and, where known, its peak memory and its charges.
    """
    hashes = {name: file_sha256(folder / name) for name in outputs}
    assert hashes.keys() <= {*PRODUCTS[stage]}, (stage, hashes)
    write_json_durably(
        _path(folder, stage),
        {
            "format": FORMAT,
            "stage": stage,
            "state": "done",
            "inputs": inputs,
            "outputs": hashes,
            **facts,
        },
    )


def read(folder: Path, stage: str) -> dict[str, Any] | None:
    """The stage's manifest, or None where there is none that can be read."""
    try:
        manifest = json.loads(read_bounded(_path(folder, stage)))
    except (OSError, DataInvalidError, ValueError, RecursionError):
        return None
    return manifest if _is_manifest(manifest, stage) else None


def exists(folder: Path, stage: str) -> bool:
    """Whether there is a file in its place, be it a manifest or not."""
    return _path(folder, stage).exists()


def results(folder: Path, stage: str) -> dict[str, str]:
    """Hashes of all that the stage left where it was done.

    A run that took the stage over may hold fewer of the files, but rests on all of them.
    """
    manifest = read(folder, stage) or {"inputs": {}}
    return manifest["inputs"].get(TAKEN_OVER, manifest.get("outputs", {}))


def _is_manifest(value: Any, stage: str) -> bool:
    if not isinstance(value, dict) or (value.get("format"), value.get("stage")) != (FORMAT, stage):
        return False
    if value.get("state") not in ("started", "done") or not isinstance(value.get("inputs"), dict):
        return False
    outputs = value.get("outputs", {} if value["state"] == "started" else None)
    charged = value.get("charged", 0)
    return (
        _are_products(outputs, stage)
        and _are_products(value["inputs"].get(TAKEN_OVER, {}), stage)
        and type(charged) is int
        and charged >= 0
    )


def _are_products(value: Any, stage: str) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() <= {*PRODUCTS.get(stage, ())}
        and all(isinstance(digest, str) and SHA256.fullmatch(digest) for digest in value.values())
    )


def _path(folder: Path, stage: str) -> Path:
    return folder / "stages" / f"{stage}.json"
