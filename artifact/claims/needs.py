"""What a setting needs, held against a machine: the one place that says whether it can run there.

Missing FID weights are never a reason to refuse: without them FID is not measured, and that is
said. Missing data and an unfit machine are told apart, since their remedies differ.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from artifact.assets.inventory import FID_WEIGHTS
from artifact.claims.registry import Claim, Setting

GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """What a setting's needs are held against."""

    ram_bytes: int
    disk_bytes: int
    gpu_free_bytes: int  # of the GPU that runs will use; 0 without one
    gpu_problem: str = ""  # why there is none, or where a larger one is
    faults: tuple[str, ...] = ()  # why nothing at all can run
    missing_data: dict[str, str] = field(default_factory=dict)  # name: remedy


def all_assets(claims: dict[str, Claim]) -> set[str]:
    """What any setting of any claim needs, and the weights that FID needs."""
    settings = (setting for claim in claims.values() for setting in claim.settings.values())
    return {FID_WEIGHTS}.union(*(setting.needs.all_data for setting in settings))


def unmet_needs(setting: Setting, machine: Machine) -> list[str]:
    """What the machine lacks for the setting, data aside; empty if it can run."""
    needs = setting.needs
    figures = (
        ("GPU memory", needs.gpu_memory_gib, machine.gpu_free_bytes, machine.gpu_problem),
        ("memory", needs.ram_gib, machine.ram_bytes, ""),
        ("disk", needs.disk_gib, machine.disk_bytes, ""),
    )
    return [*machine.faults] + [
        f"needs {needed:g} GiB of {what}, {found / GIB:.1f} are free" + (why and f" ({why})")
        for what, needed, found, why in figures
        if needed * GIB > found
    ]


def unmet_data(setting: Setting, machine: Machine, *, from_scratch: bool = True) -> list[str]:
    """The image sets that the setting needs and that are not there, with the remedy."""
    wanted = setting.needs.all_data if from_scratch else setting.needs.data
    names = _missing_names(wanted, machine)
    return [f"needs {name}: {machine.missing_data[name]}" for name in names]


def settings_here(claims: dict[str, Claim], machine: Machine) -> Iterator[tuple[str, str, str]]:
    """(claim/setting, OK or WARN, what it takes or lacks) for every setting there is."""
    for claim in claims.values():
        for name, setting in claim.settings.items():
            lacking = unmet_needs(setting, machine)
            if names := _missing_names(
                setting.needs.all_data, machine
            ):  # their remedies are in the findings
                lacking.append(f"needs {', '.join(names)}")
            takes = f"{setting.compute_minutes} on {setting.compute_minutes.hardware}"
            if setting.needs.all_data:
                takes += f"; with {', '.join(setting.needs.all_data)}"
            state = "WARN" if lacking else "OK"
            yield f"{claim.id}/{name}", state, "; ".join(lacking) or takes


def _missing_names(wanted: Iterable[str], machine: Machine) -> list[str]:
    return [n for n in wanted if n in machine.missing_data and n != FID_WEIGHTS]
