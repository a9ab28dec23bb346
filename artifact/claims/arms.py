"""The arms of a setting: their settings, the images that stand in for absent ones, their donors.

An arm is one run of the pipeline. Its settings come from the claim's recipe or a preset of the
paper, then from the setting, then from the arm itself. Nothing in here is private.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifact.assets.inventory import missing_assets
from artifact.claims.registry import Claim, Setting
from privimage.run_folder.donor import Donor, Entry
from privimage.settings.config import RunConfig, load_config
from privimage.settings.presets import preset_settings

SHARED = "shared"  # folder of the public query network, beside the arms


@dataclass(frozen=True)
class Source:
    """Where `--from` finds the first stages: a seed's folder of the same claim and setting."""

    entry: Entry
    folder: Path

    def donor(self, arm: str) -> Donor:
        """The donor of one arm; it is checked when the arm begins."""
        return Donor(self.folder / arm, self.entry, shared=self.folder / SHARED)


def resolve_arms(
    claim: Claim, setting_name: str, *, seed: int, max_minutes: float | None = None
) -> dict[str, RunConfig]:
    """The settings of every arm, by name; ConfigError for whatever is wrong with them."""
    setting = claim.setting(setting_name)
    configs = {}
    for arm, overrides in setting.arms.items():
        overrides = dict(overrides)
        base = preset_settings(overrides.pop("preset")) if "preset" in overrides else {}
        fixed: dict[str, Any] = {"name": f"{claim.id}/{setting_name}/{arm}", "seed": seed}
        for role, (_, embedded) in stand_ins(setting).items():
            fixed[f"data.{role}"] = embedded
        if max_minutes is not None:
            fixed |= rehearsal(max_minutes / len(setting.arms))
        configs[arm] = load_config(base | setting.config, {**overrides, **fixed})
    return configs


def stand_ins(setting: Setting) -> dict[str, tuple[str, str]]:
    """By role in `data`: the image set that is absent here, and the embedded one in its place."""
    absent = missing_assets(setting.stand_ins)
    data = setting.config.get("data", {})
    roles = ("sensitive", "public", "evaluate_on")
    return {
        role: (data[role], setting.stand_ins[data[role]])
        for role in roles
        if data.get(role) in absent
    }


def donor_of(setting: Setting, arm: str, folder: Path, source: Source | None) -> Donor | None:
    """Where the arm's first stages come from: a run given by the user, another arm, or nowhere."""
    if source is not None:
        return source.donor(arm)
    return Donor(folder / setting.donors[arm], "pretrained") if arm in setting.donors else None


def rehearsal(minutes: float) -> dict[str, Any]:
    """Settings under which an arm takes the first steps of every stage and stops.

    The three trainings get a quarter of the time each; what cannot be stopped is made small. The
    query is asked in full, since it is one release. The numbers that come out mean nothing.
    """
    return {
        "stage_seconds": minutes * 60 / 4,
        "privacy.sampling_rate": 1e-3,
        "sampling.num_images": 40,
        "sampling.batch_size": 20,
        "evaluation.cnn_epochs": 1,
        "evaluation.frechet_num_images": 40,
    }
