import os

import pytest

from privimage.machine.limits import (
    available_ram_bytes,
    free_disk_bytes,
    num_cpus,
    shared_memory_bytes,
    why_not_writable,
)

AVAILABLE = 32_000_000 * 1024  # bytes, as the file below has it


@pytest.fixture
def machine(tmp_path):
    """Folders that stand for /proc and /sys/fs/cgroup; `write` fills files of the second."""
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    cgroup.mkdir()
    (proc / "meminfo").write_text("MemTotal: 64000000 kB\nMemAvailable:   32000000 kB\n")

    def write(contents):
        for name, content in contents.items():
            path = cgroup / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    return proc, cgroup, write


def test_without_a_limit_all_free_memory_counts(machine):
    proc, cgroup, write = machine
    assert available_ram_bytes(proc, cgroup) == AVAILABLE
    write({"memory.max": "max\n", "memory.current": "1000000000\n"})
    assert available_ram_bytes(proc, cgroup) == AVAILABLE


def test_the_limit_of_a_container_counts_and_its_file_cache_is_free_memory(machine):
    proc, cgroup, write = machine
    write({"memory.max": "4000000000\n", "memory.current": "3000000000\n"})
    assert available_ram_bytes(proc, cgroup) == 1_000_000_000
    write({"memory.stat": "anon 5\ninactive_file 2500000000\n"})
    assert available_ram_bytes(proc, cgroup) == 3_500_000_000


def test_the_tightest_limit_of_a_job_scheduler_counts(machine):
    proc, cgroup, write = machine
    (proc / "self/cgroup").write_text("0::/slurm/job_7/step_0\n")
    write({"slurm/job_7/memory.max": "2000000000", "slurm/job_7/memory.current": "0"})
    write({"slurm/memory.max": "9000000000", "slurm/memory.current": "0"})
    assert available_ram_bytes(proc, cgroup) == 2_000_000_000


def test_limits_of_the_first_version_of_cgroups_count(machine):
    proc, cgroup, write = machine
    (proc / "self/cgroup").write_text("4:memory:/job\n3:cpu,cpuacct:/job\n0::/\n")
    write({"memory/job/memory.limit_in_bytes": "2000000000"})
    write({"memory/job/memory.usage_in_bytes": "500000000"})
    write({"cpu/job/cpu.cfs_quota_us": "100000", "cpu/job/cpu.cfs_period_us": "100000"})
    assert available_ram_bytes(proc, cgroup) == 1_500_000_000
    assert num_cpus(proc, cgroup) == 1
    write({"cpu/job/cpu.cfs_quota_us": "-1"})
    assert num_cpus(proc, cgroup) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("content", "cpus"), [("100000 100000", 1), ("50000 100000", 1)])
def test_processors_are_those_that_a_container_may_use_and_at_least_one(machine, content, cpus):
    proc, cgroup, write = machine
    write({"cpu.max": content})
    assert num_cpus(proc, cgroup) == cpus
    write({"cpu.max": "max 100000"})
    assert num_cpus(proc, cgroup) == len(os.sched_getaffinity(0))


def test_disk_and_permission_are_those_of_the_nearest_folder_and_nothing_is_left_behind(tmp_path):
    wanted = tmp_path / "runs" / "today"
    assert why_not_writable(wanted) is None
    assert free_disk_bytes(wanted) == free_disk_bytes(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_path_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    assert why_not_writable(tmp_path / "file" / "runs") == "Not a directory"


def test_no_shared_memory_is_none_at_all(tmp_path):
    assert shared_memory_bytes(str(tmp_path / "shm")) == 0
