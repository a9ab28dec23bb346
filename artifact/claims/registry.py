"""The registry of claims: what the paper says, and how a reviewer can see it for themselves.

One folder a claim under `claims/`, with its `claim.yaml`. The command line, the comparison and the
report all read this registry, so they cannot disagree. Keys are strict, and all faults of a file
are reported together. Nothing in it is private.
"""

import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from privimage.errors import ConfigError
from privimage.files.plain_yaml import read_yaml
from privimage.settings.validation import Must, validated

Better = Literal["higher", "lower", "exact"]
Margin = Annotated[float, Ge(0)]  # what `first` may be worse by
Source = Annotated[str, Must(str.strip, "say where the numbers come from")]


@dataclass(frozen=True)
class ComputeMinutes:
    """How long the machine works: measured or extrapolated, on named hardware.

    Extrapolated minutes are computed (`artifact.claims.estimates`), at the rate of that hardware.
    """

    hardware: str
    measured: float | None = None
    extrapolated: float | None = None

    def problems(self) -> Iterator[str]:
        if (self.measured is None) == (self.extrapolated is None):
            yield "measured, extrapolated: give one of them, in minutes"

    @property
    def minutes(self) -> float:
        """Whichever of the two was given."""
        minutes = self.extrapolated if self.measured is None else self.measured
        assert minutes is not None  # problems() has seen to it
        return minutes

    def __str__(self) -> str:
        mark = "★" if self.measured is None else "†"
        minutes = self.minutes
        time = f"{minutes:g} min" if minutes < 120 else f"{minutes / 60:.2g} h"
        return f"{time} {mark}"


@dataclass(frozen=True)
class Needs:
    """What a machine must offer. `data` names image sets that are not part of the bundle;
    `public_data` too, but a run that takes a pre-trained model over does without them.
    """

    ram_gib: float
    disk_gib: float
    gpu_memory_gib: float = 0.0
    data: tuple[str, ...] = ()
    public_data: tuple[str, ...] = ()

    @property
    def all_data(self) -> tuple[str, ...]:
        return (*self.data, *self.public_data)


@dataclass(frozen=True)
class Setting:
    """One size at which a claim can be run. `arms` are runs that differ in the settings named.

    `config` stands on top of the `recipe` (a file of `claims/recipes`); an arm may name a `preset`
    of the paper instead. `donors` maps an arm to the arm whose query answer and pre-trained model
    it takes over; its own ledger is charged for that query as well. `stand_ins` maps image sets
    that may be absent to embedded ones, so that every stage can be seen to work anywhere. With
    `calculation` nothing is trained: the arms are what that function of the bundle computes.
    """

    human_minutes: float
    compute_minutes: ComputeMinutes
    needs: Needs
    arms: dict[str, dict[str, Any]]
    main_arm: str
    config: dict[str, Any] = field(default_factory=dict)
    recipe: str | None = None
    judged: bool = True  # False: shows that every stage executes, and nothing more
    donors: dict[str, str] = field(default_factory=dict)
    stand_ins: dict[str, str] = field(default_factory=dict)
    calculation: str | None = None

    def problems(self) -> Iterator[str]:
        if self.main_arm not in self.arms:
            yield f"main_arm is {self.main_arm}; allowed are {', '.join(self.arms)}"
        order = list(self.arms)
        for arm in order:  # it names a folder of the run, also for `list` and `show`
            if not re.fullmatch(r"[A-Za-z0-9_.-]*[A-Za-z0-9_]", arm):
                yield f"arms: {arm!r}; name an arm with letters, digits, '_', '-' and '.' alone"
        for arm, donor in self.donors.items():
            if arm not in order or donor not in order or order.index(donor) >= order.index(arm):
                yield f"donors.{arm}: {donor!r}; name an arm that stands before it in arms"
        if self.calculation is not None and (self.config or self.recipe or self.donors):
            yield "calculation goes without config, recipe and donors: nothing is trained"


@dataclass(frozen=True)
class Ordering:
    """The claim that arm `first` does better than arm `second`.

    With a `margin`, only that it is not worse by more than that, in the metric's own unit.
    """

    metric: str
    better: Literal["higher", "lower"]
    first: str
    second: str
    margin: Margin = 0.0


@dataclass(frozen=True)
class Claim:
    """A statement of the paper. `measures` maps a metric's dotted path to the better direction."""

    id: str
    title: str
    statement: str
    place_in_paper: str
    measures: dict[str, Better]
    orderings: tuple[Ordering, ...]
    settings: dict[str, Setting]
    # sensitive class: public classes that look like it
    look_alikes: dict[str, list[str]] | None = None
    # its columns in expected_results/published.yaml: of the paper, or of a benchmark alone
    published_as: str | None = None
    benchmarked_as: str | None = None
    # the badge that its judged settings speak for: functional where the paper has nothing to match
    supports: Literal["functional", "reproduced"] = "reproduced"

    def problems(self) -> Iterator[str]:
        for name, setting in self.settings.items():
            for i, ordering in enumerate(self.orderings):
                for arm in (ordering.first, ordering.second):
                    if arm not in setting.arms:
                        yield (
                            f"orderings[{i}]: no arm {arm!r} in settings.{name}; "
                            f"allowed are {', '.join(setting.arms)}"
                        )

    @property
    def is_addition(self) -> bool:
        """Whether it goes beyond the paper, which then has no place for it."""
        return self.place_in_paper.startswith("none")

    @property
    def first_setting(self) -> str:
        """The smallest one, which the others follow in order of size."""
        return next(iter(self.settings))

    def setting(self, name: str) -> Setting:
        """The setting by name; ConfigError lists those there are."""
        if name not in self.settings:
            raise ConfigError(
                f"{self.id} has no setting {name!r}; allowed are {', '.join(self.settings)}"
            )
        return self.settings[name]


def bundle_root() -> Path:
    """Where claims and expected results lie: what a wheel took along, else the checkout."""
    taken_along = Path(__file__).parents[1] / "bundle"  # tools/bundle.py
    return taken_along if taken_along.is_dir() else Path(__file__).parents[2]


def claims_root() -> Path:
    """`$PRIVIMAGE_CLAIMS`, else the `claims` folder of the bundle."""
    given = os.environ.get("PRIVIMAGE_CLAIMS")
    return Path(given) if given else bundle_root() / "claims"


def load_claims(root: Path | None = None) -> dict[str, Claim]:
    """All claims by id, in the order of their folders' names."""
    root = root or claims_root()
    paths = sorted(root.glob("*/claim.yaml"))
    if not paths:
        raise ConfigError(
            f"no claims in {root}; point PRIVIMAGE_CLAIMS at the folder `claims` of a checkout or "
            "of an unpacked release"
        )
    claims = [load_claim(path) for path in paths]
    return {claim.id: claim for claim in claims}


def find_claim(name: str) -> Claim:
    """The claim by id; ConfigError offers the nearest name."""
    claims = load_claims()
    if name in claims:
        return claims[name]
    near = difflib.get_close_matches(name, claims, n=1)
    hint = f"did you mean {near[0]}?" if near else "`artifact list` shows them"
    raise ConfigError(f"no claim {name!r}; there are {', '.join(claims)}; {hint}")


def load_claim(path: Path) -> Claim:
    """Read one `claim.yaml`; one ConfigError for all its faults."""
    values = read_mapping(path)
    known: list[str] = []
    settings = values.get("settings")
    if isinstance(settings, dict):
        built = {name: _with_recipe(each, path, known) for name, each in settings.items()}
        values = {**values, "settings": built}
    if values.get("id", path.parent.name) != path.parent.name:
        known.append(f"id is {values['id']!r}, but the folder is {path.parent.name!r}; rename one")
    return validated(Claim, values, where=path, known=known)


def _with_recipe(setting: Any, path: Path, faults: list[str]) -> Any:
    """The setting with its recipe below its own `config`; sections are merged key by key."""
    if not isinstance(setting, dict) or setting.get("recipe") is None:
        return setting
    recipe = path.parents[1] / "recipes" / f"{setting['recipe']}.yaml"
    if not recipe.is_file():
        there = ", ".join(sorted(file.stem for file in recipe.parent.glob("*.yaml"))) or "none"
        faults.append(f"recipe: {setting['recipe']!r}; there are {there}")
        return setting
    config, own = read_mapping(recipe), setting.get("config") or {}
    if not isinstance(own, dict):
        return setting  # a fault that is reported where settings are built
    for section, values in own.items():
        both = isinstance(values, dict) and isinstance(config.get(section), dict)
        config[section] = {**config[section], **values} if both else values
    return {**setting, "config": config}


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file that must hold a mapping."""
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping, got {type(values).__name__}")
    return values
