"""The record of a claim at one setting and seed: what every arm measured, and on which machine.

A record may come from another machine or another version of this bundle, so it is checked when it
is read: a format that is not ours, a missing section or a number that is not finite is an error.
Records hold released numbers only; nothing in them is private.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from privimage.errors import DataInvalidError, UserError
from privimage.files.durable import write_json_durably
from privimage.files.plain_files import read_bounded

FORMAT = 1
ARM_FORMAT = 1  # privimage.release.record.RECORD_FORMAT
ARM_SECTIONS = ("metrics", "privacy", "selection", "model", "data", "timings_seconds")


class RecordError(UserError):
    """A record cannot be read, or is not of this version."""


@dataclass(frozen=True)
class ClaimRecord:
    """`arms` holds the pipeline's record of each arm that is finished; it may lack some."""

    claim: str
    setting: str
    seed: int
    arms: dict[str, dict[str, Any]]
    environment: dict[str, Any]
    seconds: float

    @property
    def insecure(self) -> bool:
        """True if any arm drew its noise from a seeded source."""
        return any(arm["insecure"] for arm in self.arms.values())

    def value(self, arm: str, metric: str) -> float | None:
        """The number at a dotted path of an arm's record; None if the arm or number is absent."""
        found = self.entry(arm, metric)
        if isinstance(found, bool) or not isinstance(found, int | float):
            return None
        return float(found)

    def entry(self, arm: str, path: str) -> Any:
        """Whatever stands at a dotted path of an arm's record, or None."""
        found: Any = self.arms.get(arm)
        for key in path.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **vars(self), "insecure": self.insecure}


def record_folder(out: Path, claim: str, setting: str, seed: int) -> Path:
    """Where a claim's run at one setting and seed lives."""
    return out / claim / setting / f"seed{seed}"


def record_path(root: Path, claim: str, setting: str, seed: int) -> Path:
    """The file of a record: of a run, or as it is shipped."""
    folder = record_folder(root, claim, setting, seed)
    shipped = folder.with_name(f"{folder.name}.json")
    return shipped if shipped.is_file() else folder / "record.json"


def write_record(path: Path, record: ClaimRecord) -> None:
    """Write the record in one step."""
    write_json_durably(path, record.to_dict())


def read_record(path: Path) -> ClaimRecord:
    """Read and check a record; RecordError says what is wrong with it."""
    try:
        values = json.loads(
            read_bounded(path), parse_constant=_refuse, parse_float=_finite, parse_int=_finite_int
        )
    except OSError as error:
        raise RecordError(
            f"{path} cannot be read ({error.strerror}); check the path, or run the claim again"
        ) from error
    except DataInvalidError:
        raise
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is not a record ({error}); run the claim again") from error
    fault = _fault(values)
    if fault:
        raise RecordError(f"{path}: {fault}; run the claim again with this version")
    return ClaimRecord(
        claim=values["claim"],
        setting=values["setting"],
        seed=values["seed"],
        arms=values["arms"],
        environment=values["environment"],
        seconds=float(values["seconds"]),
    )


def find_records(
    root: Path, claim: str, setting: str, *, seeds: list[int] | None = None
) -> list[ClaimRecord]:
    """All records of a claim and setting under `root`, by seed.

    They lie in `root/CLAIM/SETTING` as `seedN/record.json` (a run) or `seedN.json` (shipped).
    """
    folder = root / claim / setting
    paths = [*folder.glob("seed*/record.json"), *folder.glob("seed*.json")]
    records: dict[int, ClaimRecord] = {}
    for path in paths:
        record = read_record(path)
        if (record.claim, record.setting) != (claim, setting):
            raise RecordError(
                f"{path} is of {record.claim}/{record.setting}; move it to the folder of that claim"
            )
        if record.seed in records:
            raise RecordError(f"{path}: seed {record.seed} is there twice; keep one of its records")
        records[record.seed] = record
    return [records[seed] for seed in sorted(records) if seeds is None or seed in seeds]


def _fault(values: Any) -> str | None:
    """The first thing that is wrong with a claim's record, or None."""
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        given = values.get("format") if isinstance(values, dict) else None
        return f"record format {given!r}, and this version reads {FORMAT}"
    types = {"claim": str, "setting": str, "seed": int, "arms": dict, "environment": dict}
    for key, kind in types.items():
        if not isinstance(values.get(key), kind) or isinstance(values[key], bool):
            return f"{key} is {values.get(key)!r}, not of type {kind.__name__}"
    seconds = values.get("seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
        return f"seconds is {seconds!r}, not a number of seconds"
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "it holds half characters that no text file can hold"
    faults = (_arm_fault(name, arm) for name, arm in values["arms"].items())
    if fault := next((fault for fault in faults if fault), None):
        return fault
    if values.get("insecure") is not any(arm["insecure"] for arm in values["arms"].values()):
        return "it does not say, or contradicts its arms, whether its noise is secure"
    return None


def _arm_fault(name: str, arm: Any) -> str | None:
    if not isinstance(arm, dict) or arm.get("format") != ARM_FORMAT:
        given = arm.get("format") if isinstance(arm, dict) else None
        return f"arm {name} has record format {given!r}, and this version reads {ARM_FORMAT}"
    if not isinstance(arm.get("insecure"), bool):
        return f"arm {name} does not say whether its noise is secure"
    for section in ARM_SECTIONS:
        if not isinstance(arm.get(section), dict):
            return f"arm {name} has no section {section}"
    return None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant[:40]}, not a finite number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _finite_int(text: str) -> int:
    return int(text) if len(text) < 20 else _refuse(text)
