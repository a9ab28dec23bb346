"""What this process may use of the machine: memory, processors, disk, shared memory.

Limits that a container or a job scheduler sets (cgroups, version 1 and 2) count before those of
the machine. Pages that only cache files are free memory: the kernel gives them back on demand.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
MEMORY_FILES = (  # limit, used, key in memory.stat of the file cache that can be given back
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
CPU_FILES = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))  # quota and period


def available_ram_bytes(proc: Path = PROC, cgroup: Path = CGROUP) -> int:
    """Memory that new work can have: the machine's, or what the tightest limit leaves."""
    fields = dict(line.split(":") for line in (proc / "meminfo").read_text().splitlines())
    available = [int(fields["MemAvailable"].split()[0]) * 1024]
    for folder in _cgroup_folders(proc, cgroup, "memory"):
        for limit_file, used_file, cache_key in MEMORY_FILES:
            try:
                limit = int((folder / limit_file).read_text())
                used = int((folder / used_file).read_text())
            except (OSError, ValueError):  # not that version, or "max": no limit here
                continue
            available.append(limit - used + _reclaimable_bytes(folder, cache_key))
    return max(min(available), 0)


def num_cpus(proc: Path = PROC, cgroup: Path = CGROUP) -> int:
    """Processors that this process may use."""
    allowed = len(os.sched_getaffinity(0))
    for folder in _cgroup_folders(proc, cgroup, "cpu"):
        for files in CPU_FILES:
            try:
                quota, period = " ".join((folder / name).read_text() for name in files).split()
                if int(quota) > 0:  # -1 and "max": no limit here
                    allowed = min(allowed, round(int(quota) / int(period)))
            except (OSError, ValueError):
                continue
    return max(allowed, 1)


def shared_memory_bytes(path: str = "/dev/shm") -> int:
    """Size of the shared memory; 0 where there is none."""
    return shutil.disk_usage(path).total if os.path.isdir(path) else 0


def free_disk_bytes(path: Path) -> int:
    """Free space where the path is, or will be."""
    return shutil.disk_usage(_existing(path)).free


def why_not_writable(path: Path) -> str | None:
    """The system's reason why nothing can be written there, or None; leaves nothing behind."""
    try:
        with tempfile.TemporaryFile(dir=_existing(path)):
            return None
    except OSError as error:
        return error.strerror


def _existing(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    path = path.absolute()
    return next(p for p in (path, *path.parents) if os.path.exists(p))


def _cgroup_folders(proc: Path, cgroup: Path, controller: str) -> Iterator[Path]:
    """The groups that this process is in, from its own up to the root, as they are mounted."""
    yield cgroup
    yield cgroup / controller
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = cgroup / controller if controllers else cgroup
        inside = Path(path.lstrip("/"))
        yield from (mount / part for part in (inside, *inside.parents) if part.parts)


def _reclaimable_bytes(folder: Path, key: str) -> int:
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[0] == key), 0)
