"""When a stage is done: its manifest holds the hashes of its inputs and outputs, and is written
last.

`stages/<stage>.json` is first written as "started" with the inputs, and replaced as "done" with
the outputs' SHA-256. A stage is skipped only if the inputs are the same and every output still
has its hash. Inputs name private data by a keyed hash only.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from privimage.durable import file_sha256, write_json_durably

FORMAT = 1


def is_done(folder: Path, stage: str, inputs: dict[str, Any]) -> bool:
    """True if the stage ended with these very inputs and its outputs are untouched."""
    manifest = read(folder, stage)
    if manifest is None or manifest["state"] != "done" or manifest["inputs"] != inputs:
        return False
    outputs = manifest["outputs"]
    return all((folder / n).is_file() and file_sha256(folder / n) == h for n, h in outputs.items())


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
        manifest = json.loads(_path(folder, stage).read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return manifest if _is_manifest(manifest) else None


def _is_manifest(value: Any) -> bool:
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        return False
    outputs = value.get("outputs", {} if value.get("state") == "started" else None)
    return (
        value.get("state") in ("started", "done")
        and isinstance(value.get("inputs"), dict)
        and isinstance(outputs, dict)
        and all(isinstance(digest, str) for digest in outputs.values())
        and isinstance(value.get("charged", 0), int)
    )


def _path(folder: Path, stage: str) -> Path:
    return folder / "stages" / f"{stage}.json"
