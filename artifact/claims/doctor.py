"""`artifact doctor`: one finding a line about this machine, with what to do where one is wanted.

`artifact run` examines the machine in the same way before any work. Torch is asked after NVML. The
figures that a setting's needs are held against (`artifact.claims.needs`) come from the same look.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from artifact.assets.inventory import FID_WEIGHTS, missing_assets
from artifact.claims.needs import GIB, Machine
from artifact.exit_codes import EnvironmentUnfitError
from artifact.machine.gpu import Gpu, GpuSurvey, driver_problem, survey_gpus
from artifact.machine.torch_build import TorchBuild, probe_torch
from privimage.machine.limits import (
    available_ram_bytes,
    free_disk_bytes,
    num_cpus,
    shared_memory_bytes,
    why_not_writable,
)

PYTHONS = ((3, 10), (3, 12))
PACKAGES = ("numpy", "scipy", "scikit-learn", "opacus", "dp-accounting", "pytorch-fid")
SHARED_MEMORY_FOR_NCCL = GIB


@dataclass(frozen=True)
class Finding:
    """One line of the table: OK, WARN (something will not run) or FAIL (nothing will)."""

    name: str
    state: str
    detail: str
    remedy: str = ""


def examine(out: Path, assets: Iterable[str]) -> tuple[list[Finding], Machine]:
    """All findings, and the machine; `out` is where runs will be written."""
    if sys.platform != "linux":
        raise EnvironmentUnfitError(
            f"this system is {sys.platform}, and the bundle needs Linux; use the container image"
        )
    survey = survey_gpus()
    torch = probe_torch()
    usable = usable_gpus(survey, torch)
    ram, disk = available_ram_bytes(), free_disk_bytes(out)
    assets = sorted({*assets})
    missing = missing_assets(assets)
    findings = [_python(), _torch(torch), *_packages(), *_gpus(survey, torch, usable)]
    findings += [*_limits(ram, disk, out, num_gpus=len(usable)), *_writable(out)]
    findings += _assets(assets, missing)
    machine = Machine(
        ram_bytes=ram,
        disk_bytes=disk,
        gpu_free_bytes=usable[0].free_bytes if usable else 0,
        gpu_problem=_gpu_problem(survey, torch, usable),
        faults=tuple(f"{f.name}: {f.detail}; {f.remedy}" for f in findings if f.state == "FAIL"),
        missing_data=missing,
    )
    return findings, machine


def as_json(
    findings: list[Finding], machine: Machine, settings: list[tuple[str, str, str]]
) -> dict[str, Any]:
    """The same for machines."""
    rows = [{"setting": s, "state": state, "detail": detail} for s, state, detail in settings]
    return {"findings": list(map(asdict, findings)), "machine": asdict(machine), "settings": rows}


def usable_gpus(survey: GpuSurvey, torch: TorchBuild) -> list[Gpu]:
    """The GPUs that torch can compute on, in its order (runs use the first), with what NVML says.

    Under MIG some drivers tell torch the UUID of the whole GPU: then the smallest instance counts.
    """
    usable = []
    for device in filter(torch.has_kernels_for, torch.devices):
        gpus = [g for g in survey.gpus if _same(device.uuid, g.uuid)]
        gpus = gpus or [g for g in survey.gpus if g.mig_of and _same(device.uuid, g.mig_of)]
        if gpus:
            usable.append(min(gpus, key=lambda gpu: gpu.free_bytes))
    return usable


def _python() -> Finding:
    given = sys.version_info[:2]
    if PYTHONS[0] <= given <= PYTHONS[1]:
        return Finding("Python", "OK", f"{given[0]}.{given[1]}")
    allowed = " to ".join(f"{major}.{minor}" for major, minor in PYTHONS)
    return Finding("Python", "FAIL", f"{given[0]}.{given[1]}", f"use {allowed}, then make setup")


def _torch(torch: TorchBuild) -> Finding:
    if torch.problem:
        return Finding("torch", "FAIL", torch.problem, "make setup")
    if torch.cuda is None:
        return Finding("torch", "OK", f"{torch.version}, built for CPU")
    detail = f"{torch.version}, built for CUDA {torch.cuda}, NCCL {torch.nccl or 'none'}"
    return Finding("torch", "OK", f"{detail}, {' '.join(torch.architectures)}")


def _packages() -> Iterator[Finding]:
    missing, found = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        yield Finding("packages", "FAIL", f"missing {', '.join(missing)}", "make setup")
    else:
        yield Finding("packages", "OK", ", ".join(found))


def _gpus(survey: GpuSurvey, torch: TorchBuild, usable: list[Gpu]) -> Iterator[Finding]:
    """Without a GPU the CPU settings still run, so the worst here is WARN."""
    if survey.driver and torch.cuda:
        old = driver_problem(survey.driver, torch.cuda)
        remedy = "update the driver, or use the image for CPUs" if old else ""
        detail = old or f"{survey.driver}, new enough for CUDA {torch.cuda}"
        yield Finding("driver", "WARN" if old else "OK", detail, remedy)
    if survey.problem:
        none = "" if survey.gpus else "none, so only settings for a CPU can run: "
        yield Finding("GPU", "WARN", f"{none}{survey.problem}", survey.remedy)
    if survey.gpus and not usable:
        cause, remedy = _why_unusable(survey, torch)
        yield Finding("GPU", "WARN", f"torch can use none: {cause}", remedy)
    yield from (_gpu(gpu, usable) for gpu in survey.gpus)
    if any(gpu.mig_of for gpu in survey.gpus):
        detail = "the GPU is cut into instances; a process sees one, and only its memory"
        yield Finding("MIG", "OK", detail)


def _gpu(gpu: Gpu, usable: list[Gpu]) -> Finding:
    name = "GPU instance" if gpu.mig_of else "GPU"
    detail = f"{gpu.name}, {gpu.free_bytes / GIB:.1f} of {gpu.total_bytes / GIB:.1f} GiB free"
    if not usable:
        return Finding(name, "WARN", detail)
    if gpu == usable[0]:
        return Finding(name, "OK", f"{detail}; runs use it")
    remedy = f"to use it instead: {gpu.choice}"
    return Finding(name, "OK", f"{detail}; runs do not use it", remedy)


def _why_unusable(survey: GpuSurvey, torch: TorchBuild) -> tuple[str, str]:
    """(cause, remedy) where NVML shows GPUs and torch can use none of them."""
    if torch.problem or torch.cuda is None:
        return torch.problem or "torch is built for CPU", "make setup"
    old = driver_problem(survey.driver or "0", torch.cuda)
    if old:
        return old, "update the driver"
    if torch.devices and not any(map(torch.has_kernels_for, torch.devices)):
        found = " ".join(sorted({"sm_{}{}".format(*d.capability) for d in torch.devices}))
        built = " ".join(torch.architectures)
        return f"they are {found}, and torch is built for {built}", "use a GPU of that kind"
    return torch.warning or "they are hidden from it", "check CUDA_VISIBLE_DEVICES"


def _gpu_problem(survey: GpuSurvey, torch: TorchBuild, usable: list[Gpu]) -> str:
    """Why no GPU, or not the one with the most free memory, is used; else empty."""
    if usable:
        best = max(usable, key=lambda gpu: gpu.free_bytes)
        if best == usable[0]:
            return ""
        free = f"{best.name} has {best.free_bytes / GIB:.1f} GiB free"
        return f"{free}: set {best.choice}"
    if not survey.gpus:
        return f"{survey.problem}: {survey.remedy}"
    return ": ".join(_why_unusable(survey, torch))


def _limits(ram: int, disk: int, out: Path, *, num_gpus: int) -> Iterator[Finding]:
    shared = shared_memory_bytes()
    yield Finding("memory", "OK", f"{ram / GIB:.1f} GiB available")
    yield Finding("processors", "OK", f"{num_cpus()} usable")
    full = "" if disk else "free some space, or choose another place with --out"
    yield Finding("disk", "FAIL" if full else "OK", f"{disk / GIB:.1f} GiB free at {out}", full)
    detail = f"{shared / GIB:.2f} GiB"
    if num_gpus > 1 and shared < SHARED_MEMORY_FOR_NCCL:
        detail += ", too little for several GPUs at once"
        yield Finding("shared memory", "WARN", detail, "in a container, run with --shm-size=1g")
    else:
        yield Finding("shared memory", "OK", detail)


def _writable(out: Path) -> Iterator[Finding]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    places = (
        ("output folder", out, "FAIL", "choose another place with --out"),
        ("cache folder", cache, "WARN", "point XDG_CACHE_HOME at a folder that can be written"),
    )
    for name, place, state, remedy in places:
        if reason := why_not_writable(place):
            yield Finding(name, state, f"{place} cannot be written ({reason})", remedy)
        else:
            yield Finding(name, "OK", f"{place} can be written")


def _assets(assets: list[str], missing: dict[str, str]) -> Iterator[Finding]:
    for name in assets:
        if name not in missing:
            yield Finding(name, "OK", "present")
        elif name == FID_WEIGHTS:
            detail = "missing: FID is not measured, a Frechet distance in other features is"
            yield Finding(name, "WARN", detail, missing[name])
        else:
            yield Finding(name, "WARN", "missing", missing[name])


def _same(torch_uuid: str, nvml_uuid: str) -> bool:
    """True for the same UUID, whichever prefix (GPU-, MIG-) it is written with."""
    return torch_uuid[-36:] == nvml_uuid[-36:]
