"""`artifact doctor`: what this machine offers, and which claims and settings can run on it.

Torch is asked in a process of its own and after NVML, so that a broken installation is reported
rather than suffered. Limits of a container (cgroup) count before those of the machine.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from artifact.claims import Claim, Setting
from artifact.gpu import GpuSurvey, driver_problem, survey_gpus

GIB = 2**30
PYTHONS = ((3, 10), (3, 12))
PACKAGES = ("numpy", "scipy", "scikit-learn", "opacus", "dp-accounting", "pytorch-fid")
PROBE = """
import json, torch
available = torch.cuda.is_available()
count = torch.cuda.device_count() if available else 0
uuids = [str(torch.cuda.get_device_properties(i).uuid) for i in range(count)]
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "uuids": uuids}))
"""


@dataclass(frozen=True)
class Finding:
    """One line of the table: OK, WARN (something will not run) or FAIL (nothing will)."""

    name: str
    state: str
    detail: str


@dataclass(frozen=True)
class Machine:
    """The figures that a setting's needs are held against."""

    ram_bytes: int
    disk_bytes: int
    gpu_free_bytes: int  # the largest that torch can use; 0 without one


def examine(out: Path) -> tuple[list[Finding], Machine]:
    """All findings, and the machine's figures; `out` is where runs will be written."""
    survey = survey_gpus()
    torch = probe_torch()
    ram, disk = available_ram_bytes(), _free_disk_bytes(out)
    usable = usable_gpu_bytes(survey, torch)
    findings = [_python(), _torch(torch), *_packages(), _gpu(survey, torch, usable)]
    findings += [
        Finding("memory", "OK", f"{ram / GIB:.1f} GiB available"),
        Finding("processors", "OK", f"{num_cpus()} usable"),
        Finding("disk", "OK" if disk else "FAIL", f"{disk / GIB:.1f} GiB free at {out}"),
        *_writable(out),
    ]
    return findings, Machine(ram, disk, usable)


def unmet_needs(setting: Setting, machine: Machine) -> list[str]:
    """What the setting needs and the machine lacks, in words; empty if it can run."""
    needs = setting.needs
    figures = (
        ("GPU memory", needs.gpu_memory_gib, machine.gpu_free_bytes),
        ("memory", needs.ram_gib, machine.ram_bytes),
        ("disk", needs.disk_gib, machine.disk_bytes),
    )
    return [
        f"needs {needed:g} GiB of {what}, {found / GIB:.1f} are free"
        for what, needed, found in figures
        if needed * GIB > found
    ]


def settings_here(claims: dict[str, Claim], machine: Machine) -> Iterator[tuple[str, str, str]]:
    """(claim/setting, OK or WARN, what it takes or lacks) for every setting there is."""
    for claim in claims.values():
        for name, setting in claim.settings.items():
            lacking = unmet_needs(setting, machine)
            takes = f"{setting.compute_minutes} on {setting.compute_minutes.hardware}"
            if setting.needs.data:
                takes += f"; with {', '.join(setting.needs.data)}"
            state = "WARN" if lacking else "OK"
            yield f"{claim.id}/{name}", state, "; ".join(lacking) or takes


def as_json(
    findings: list[Finding], machine: Machine, settings: list[tuple[str, str, str]]
) -> dict[str, Any]:
    """The same for machines."""
    rows = [{"setting": s, "state": state, "detail": detail} for s, state, detail in settings]
    return {"findings": list(map(asdict, findings)), "machine": asdict(machine), "settings": rows}


def probe_torch(program: str = PROBE) -> dict[str, Any]:
    """Version, CUDA version and UUIDs of the devices that torch can use; or {"error": why}."""
    command = [sys.executable, "-c", program]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        return json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"error": "torch did not load within 120 s"}
    except (IndexError, ValueError):
        lines = done.stderr.strip().splitlines() or ["no message"]
        return {"error": f"torch cannot be imported: {lines[-1]}"}


def usable_gpu_bytes(survey: GpuSurvey, torch: dict[str, Any]) -> int:
    """Free memory of the largest GPU that both NVML and torch see, matched by UUID."""
    seen = {uuid.removeprefix("GPU-").removeprefix("MIG-") for uuid in torch.get("uuids", [])}
    free = [g.free_bytes for g in survey.gpus if g.uuid.split("-", 1)[-1] in seen]
    return max(free, default=0)


def available_ram_bytes(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that new work can have: the machine's, or what a container leaves."""
    fields = dict(line.split(":") for line in (proc / "meminfo").read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    try:
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
    except (OSError, ValueError):  # no cgroup v2, or "max": no limit
        return available
    return max(min(available, limit - used), 0)


def num_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Processors that this process may use."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        return max(min(allowed, round(int(quota) / int(period))), 1)
    except (OSError, ValueError):
        return allowed


def _python() -> Finding:
    given = sys.version_info[:2]
    fits = PYTHONS[0] <= given <= PYTHONS[1]
    allowed = " to ".join(f"{major}.{minor}" for major, minor in PYTHONS)
    detail = f"{given[0]}.{given[1]}" + ("" if fits else f"; use {allowed}")
    return Finding("Python", "OK" if fits else "FAIL", detail)


def _torch(torch: dict[str, Any]) -> Finding:
    if "error" in torch:
        return Finding("torch", "FAIL", f"{torch['error']}; run make setup")
    build = f"built for CUDA {torch['cuda']}" if torch["cuda"] else "built for CPU"
    return Finding("torch", "OK", f"{torch['version']}, {build}")


def _packages() -> Iterator[Finding]:
    missing, found = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        yield Finding("packages", "FAIL", f"missing {', '.join(missing)}; run make setup")
    else:
        yield Finding("packages", "OK", ", ".join(found))


def _gpu(survey: GpuSurvey, torch: dict[str, Any], usable: int) -> Finding:
    """Without a GPU the CPU settings still run, so the worst here is WARN."""
    if survey.problem:
        return Finding("GPU", "WARN", f"none ({survey.problem}); settings for a CPU will run")
    names = ", ".join(f"{gpu.name}, {gpu.free_bytes / GIB:.0f} GiB free" for gpu in survey.gpus)
    if torch.get("cuda") is None:
        return Finding("GPU", "WARN", f"{names}; but torch is built for CPU: install a CUDA build")
    old = driver_problem(survey.driver or "0", torch["cuda"])
    if old:
        return Finding("GPU", "WARN", f"{names}; {old}")
    if not usable:
        return Finding("GPU", "WARN", f"{names}; but torch sees none: check CUDA_VISIBLE_DEVICES")
    return Finding("GPU", "OK", f"{names}; driver {survey.driver}")


def _free_disk_bytes(out: Path) -> int:
    return shutil.disk_usage(_existing(out)).free


def _writable(out: Path) -> Iterator[Finding]:
    places = {"output folder": out}
    places["cache folder"] = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for name, place in places.items():
        try:
            with tempfile.TemporaryFile(dir=_existing(place)):
                yield Finding(name, "OK", f"{place} can be written")
        except OSError as error:
            state = "FAIL" if name == "output folder" else "WARN"
            yield Finding(name, state, f"{place}: {error.strerror}; choose another (--out)")


def _existing(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
