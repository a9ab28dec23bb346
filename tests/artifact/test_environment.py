import dataclasses

import pytest

from artifact import environment
from artifact.claims import Needs
from artifact.environment import (
    GIB,
    Machine,
    available_ram_bytes,
    examine,
    num_cpus,
    probe_torch,
    settings_here,
    unmet_needs,
    usable_gpu_bytes,
)
from artifact.gpu import Gpu, GpuSurvey

TORCH = {"version": "2.9.0", "cuda": "13.0", "uuids": ["1"]}
GPUS = (Gpu("H100", "GPU-1", 80 * GIB, 70 * GIB), Gpu("B200", "GPU-2", 180 * GIB, 170 * GIB))
SURVEY = GpuSurvey(GPUS, driver="580.65.06")


@pytest.fixture
def machine_with(monkeypatch, tmp_path):
    """Findings by name on a machine with this survey and this torch."""

    def examined(survey, torch):
        monkeypatch.setattr(environment, "survey_gpus", lambda: survey)
        monkeypatch.setattr(environment, "probe_torch", lambda: torch)
        findings, machine = examine(tmp_path / "runs")
        return {f.name: f for f in findings}, machine

    return examined


def test_only_gpus_that_torch_can_use_count(machine_with):
    findings, machine = machine_with(SURVEY, TORCH)
    assert machine.gpu_free_bytes == 70 * GIB  # CUDA_VISIBLE_DEVICES hides the larger one
    assert findings["GPU"].state == "OK"
    assert usable_gpu_bytes(SURVEY, {"uuids": []}) == 0


@pytest.mark.parametrize(
    ("survey", "torch", "message"),
    [
        (GpuSurvey(problem="no driver"), TORCH, "no driver"),
        (SURVEY, {**TORCH, "cuda": None, "uuids": []}, "built for CPU"),
        (GpuSurvey(GPUS, driver="550.1"), TORCH, "too old for CUDA 13.0"),
        (SURVEY, {**TORCH, "uuids": []}, "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_a_warning_with_its_cause(
    machine_with, survey, torch, message
):
    finding = machine_with(survey, torch)[0]["GPU"]
    assert finding.state == "WARN"
    assert message in finding.detail


def test_a_torch_that_cannot_be_imported_is_a_failure(machine_with):
    broken = probe_torch("raise ImportError('libcudart is missing')")
    finding = machine_with(SURVEY, broken)[0]["torch"]
    assert finding.state == "FAIL"
    assert "libcudart is missing" in finding.detail


def test_an_output_folder_that_cannot_be_written_is_a_failure(machine_with, monkeypatch):
    def refuse(**kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(environment.tempfile, "TemporaryFile", refuse)
    finding = machine_with(SURVEY, TORCH)[0]["output folder"]
    assert (finding.state, "Permission denied" in finding.detail) == ("FAIL", True)


def test_looking_leaves_no_folder_behind(machine_with, tmp_path):
    machine_with(SURVEY, TORCH)
    assert not (tmp_path / "runs").exists()


def test_needs_are_held_against_free_memory(toy):
    needs = Needs(ram_gib=4, disk_gib=1, gpu_memory_gib=24)
    setting = dataclasses.replace(toy.setting("smoke"), needs=needs)
    small = Machine(ram_bytes=3 * GIB, disk_bytes=2 * GIB, gpu_free_bytes=0)
    assert unmet_needs(setting, small) == [
        "needs 24 GiB of GPU memory, 0.0 are free",
        "needs 4 GiB of memory, 3.0 are free",
    ]
    assert unmet_needs(setting, Machine(4 * GIB, GIB, 24 * GIB)) == []


def test_every_setting_is_said_to_run_here_or_what_it_lacks(toy):
    rows = list(settings_here({"toy": toy}, Machine(GIB, 0, 0)))
    assert rows == [("toy/smoke", "WARN", "needs 0.001 GiB of disk, 0.0 are free")]
    rows = list(settings_here({"toy": toy}, Machine(GIB, GIB, 0)))
    assert rows == [("toy/smoke", "OK", "2 min † on a laptop")]


def test_the_limits_of_a_container_count_before_those_of_the_machine(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 64000000 kB\nMemAvailable:   32000000 kB\n")
    assert available_ram_bytes(tmp_path, tmp_path) == 32_000_000 * 1024
    (tmp_path / "memory.max").write_text("4000000000\n")
    (tmp_path / "memory.current").write_text("1000000000\n")
    assert available_ram_bytes(tmp_path, tmp_path) == 3_000_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_ram_bytes(tmp_path, tmp_path) == 32_000_000 * 1024
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert num_cpus(tmp_path) == 1
