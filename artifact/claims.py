"""The registry of claims: what the paper says, and how a reviewer can see it for themselves.

One folder a claim under `claims/`, with its `claim.yaml`. The command line, the comparison and the
report all read this registry, so they cannot disagree. Keys are strict, and all faults of a file
are reported together. Nothing in it is private.
"""

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from privimage.errors import ConfigError
from privimage.strict import build

Better = Literal["higher", "lower", "exact"]
BETTER = ("higher", "lower", "exact")


@dataclass(frozen=True)
class ComputeMinutes:
    """How long the machine works: measured or extrapolated, on named hardware."""

    hardware: str
    measured: float | None = None
    extrapolated: float | None = None

    def problems(self) -> Iterator[str]:
        if (self.measured is None) == (self.extrapolated is None):
            yield "measured, extrapolated: give one of them, in minutes"

    def __str__(self) -> str:
        if self.measured is not None:
            return f"{self.measured:g} min †"
        return f"{self.extrapolated:g} min ★"


@dataclass(frozen=True)
class Needs:
    """What a machine must offer; `data` names image sets that are not part of the bundle."""

    ram_gib: float
    disk_gib: float
    gpu_memory_gib: float = 0.0
    data: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """One size at which a claim can be run. `arms` are runs that differ in the settings named."""

    human_minutes: float
    compute_minutes: ComputeMinutes
    needs: Needs
    config: dict
    arms: dict
    main_arm: str

    def problems(self) -> Iterator[str]:
        for name, overrides in self.arms.items():
            if not isinstance(overrides, dict):
                yield f"arms.{name}: {overrides!r}; give a mapping of dotted settings, or {{}}"
        if self.main_arm not in self.arms:
            yield f"main_arm is {self.main_arm}; allowed are {', '.join(map(str, self.arms))}"


@dataclass(frozen=True)
class Ordering:
    """The claim that arm `first` does better than arm `second`."""

    metric: str
    better: Literal["higher", "lower"]
    first: str
    second: str


@dataclass(frozen=True)
class Claim:
    """A statement of the paper. `measures` maps a metric's dotted path to the better direction."""

    id: str
    title: str
    statement: str
    place_in_paper: str
    measures: dict
    orderings: tuple
    settings: dict
    look_alikes: dict | None = None  # sensitive class: public classes that look like it

    def problems(self) -> Iterator[str]:
        for metric, better in self.measures.items():
            if better not in BETTER:
                yield f"measures.{metric}: {better!r}; allowed are {', '.join(BETTER)}"
        for label, names in (self.look_alikes or {}).items():
            listed = isinstance(names, list) and all(isinstance(name, str) for name in names)
            if not (isinstance(label, str) and listed):
                yield f"look_alikes.{label}: give a quoted class name and a list of quoted names"

    def setting(self, name: str) -> Setting:
        """The setting by name; ConfigError lists those there are."""
        if name not in self.settings:
            raise ConfigError(
                f"{self.id} has no setting {name!r}; allowed are {', '.join(self.settings)}"
            )
        return self.settings[name]


def claims_root() -> Path:
    """`$PRIVIMAGE_CLAIMS`, else the `claims` folder beside this package."""
    given = os.environ.get("PRIVIMAGE_CLAIMS")
    return Path(given) if given else Path(__file__).parents[1] / "claims"


def load_claims(root: Path | None = None) -> dict[str, Claim]:
    """All claims by id, in the order of their folders' names."""
    root = root or claims_root()
    paths = sorted(root.glob("*/claim.yaml"))
    if not paths:
        raise ConfigError(
            f"no claims in {root}; run from a checkout, or point PRIVIMAGE_CLAIMS at its claims"
        )
    claims = [load_claim(path) for path in paths]
    return {claim.id: claim for claim in claims}


def find_claim(name: str, root: Path | None = None) -> Claim:
    """The claim by id; ConfigError offers the nearest name."""
    claims = load_claims(root)
    if name in claims:
        return claims[name]
    near = difflib.get_close_matches(name, claims, n=1)
    hint = f"did you mean {near[0]}?" if near else "`artifact list` shows them"
    raise ConfigError(f"no claim {name!r}; there are {', '.join(claims)}; {hint}")


def load_claim(path: Path) -> Claim:
    """Read one `claim.yaml`; one ConfigError for all its faults."""
    values = read_mapping(path)
    faults: list[str] = []
    settings = values.get("settings")
    if isinstance(settings, dict):
        built = {
            name: build(Setting, setting, f"settings.{name}", faults)
            for name, setting in settings.items()
        }
        values = {**values, "settings": built}
    values = build_each(values, "orderings", Ordering, "", faults)
    claim = cast(Claim, build(Claim, values, "", faults))  # None only beside faults
    if claim is not None and claim.id != path.parent.name:
        faults.append(f"id: {claim.id!r}, but the folder is {path.parent.name!r}; make them equal")
    if not faults:
        faults = [*_unknown_arms(claim)]
    if faults:
        raise ConfigError(f"{path}: " + "; ".join(faults))
    return claim


def build_each(
    values: dict[str, Any], key: str, cls: Any, path: str, faults: list[str]
) -> dict[str, Any]:
    """`values` with the list under `key` turned into instances of the dataclass `cls`."""
    items = values.get(key)
    if not isinstance(items, list):
        return values
    dot = f"{path}." if path else ""
    built = [build(cls, item, f"{dot}{key}[{i}]", faults) for i, item in enumerate(items)]
    return {**values, key: tuple(built)}


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file that must hold a mapping."""
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: is not valid YAML ({reason})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping, got {type(values).__name__}")
    return values


def _unknown_arms(claim: Claim) -> Iterator[str]:
    for name, setting in claim.settings.items():
        for i, ordering in enumerate(claim.orderings):
            for arm in (ordering.first, ordering.second):
                if arm not in setting.arms:
                    yield (
                        f"orderings[{i}]: no arm {arm!r} in settings.{name}; "
                        f"allowed are {', '.join(setting.arms)}"
                    )
