import dataclasses
import json

import pytest

from artifact.claims import doctor as environment
from artifact.claims.doctor import as_json, examine
from artifact.claims.needs import GIB
from artifact.exit_codes import EnvironmentUnfitError
from artifact.machine.gpu import GpuSurvey, survey_gpus
from artifact.machine.torch_build import TorchBuild, TorchDevice
from tests.artifact.fake_nvml import BIG, INSTANCE, SMALL, FakeNvml


def device(gpu, capability=(9, 0)):
    """As torch sees the GPU: without the prefix of the UUID."""
    return TorchDevice(gpu[1][-36:], gpu[2] * GIB, capability)


CUDA_BUILD = TorchBuild("2.14.1", "13.0", "2.30.7", ("sm_80", "sm_90"))
TORCH = dataclasses.replace(CUDA_BUILD, devices=(device(BIG),))
NVML = FakeNvml([BIG, SMALL])


@pytest.fixture
def examined(monkeypatch, tmp_path):
    """Findings by name (the last of equal names) and the machine, as NVML and torch have it."""

    def look(nvml, torch, *, assets=(), missing=()):
        survey = nvml if isinstance(nvml, GpuSurvey) else survey_gpus(nvml)
        monkeypatch.setattr(environment, "survey_gpus", lambda: survey)
        monkeypatch.setattr(environment, "probe_torch", lambda: torch)
        found = {name: f"artifact fetch {name}" for name in missing}
        monkeypatch.setattr(environment, "missing_assets", lambda names: found)
        return examine(tmp_path / "runs", assets)

    return look


@pytest.fixture
def finding(examined):
    """One finding by its name and a part of what it says."""

    def find(name, part, *args, **kwargs):
        found = [f for f in examined(*args, **kwargs)[0] if f.name == name and part in f.detail]
        assert len(found) == 1, f"{len(found)} findings {name!r} with {part!r}"
        return found[0]

    return find


def test_only_gpus_that_torch_can_use_count(examined, finding):
    torch = dataclasses.replace(CUDA_BUILD, devices=(device(SMALL, (8, 0)),))
    assert examined(NVML, torch)[1].gpu_free_bytes == 3 * GIB  # the larger one is hidden
    assert finding("GPU", "T4", NVML, torch).detail.endswith("runs use it")
    assert "CUDA_VISIBLE_DEVICES=GPU-00000001" in finding("GPU", "H100", NVML, torch).remedy


def test_runs_use_the_first_gpu_and_a_larger_one_is_pointed_out(examined):
    torch = dataclasses.replace(CUDA_BUILD, devices=(device(SMALL, (8, 0)), device(BIG)))
    _, machine = examined(NVML, torch)
    assert machine.gpu_free_bytes == 3 * GIB
    assert machine.gpu_problem == "H100 has 70.0 GiB free: set CUDA_VISIBLE_DEVICES=GPU-00000001"
    both = dataclasses.replace(CUDA_BUILD, devices=(device(BIG), device(SMALL, (8, 0))))
    assert examined(NVML, both)[1].gpu_problem == ""


@pytest.mark.parametrize(
    ("nvml", "torch", "cause", "remedy"),
    [
        (FakeNvml(fails=12), CUDA_BUILD, "no NVIDIA driver library", "--gpus all"),
        (FakeNvml(fails=4), CUDA_BUILD, "no permission", "/dev/nvidia*"),
        (NVML, TorchBuild("2.14.1"), "built for CPU", "make setup"),
        (NVML, CUDA_BUILD, "hidden", "CUDA_VISIBLE_DEVICES"),
        (NVML, dataclasses.replace(CUDA_BUILD, warning="Error 802"), "Error 802", "check"),
        (
            NVML,
            dataclasses.replace(CUDA_BUILD, devices=(device(BIG, (7, 0)),)),
            "they are sm_70, and torch is built for sm_80 sm_90",
            "use a GPU of that kind",
        ),
    ],
)
def test_a_gpu_that_cannot_be_used_is_a_warning_with_cause_and_remedy(
    examined, finding, nvml, torch, cause, remedy
):
    found = finding("GPU", cause, nvml, torch)
    assert found.state == "WARN"
    assert remedy in found.remedy
    _, machine = examined(nvml, torch)
    assert machine.gpu_free_bytes == 0
    assert cause in machine.gpu_problem
    assert machine.faults == ()


def test_an_old_driver_is_a_warning_of_its_own(finding):
    nvml = FakeNvml([BIG])
    nvml.driver = "550.54.15"
    found = finding("driver", "too old for CUDA 13.0; it needs 580", nvml, CUDA_BUILD)
    assert (found.state, "update the driver" in found.remedy) == ("WARN", True)
    assert finding("driver", "new enough", NVML, TORCH).state == "OK"


@pytest.mark.parametrize("told", [INSTANCE, BIG])  # some drivers tell the UUID of the whole GPU
def test_under_mig_the_memory_of_the_instance_counts(examined, finding, told):
    larger = ("H100 MIG 3g.40gb", "MIG-00000008-0000-0000-0000-000000000000", 40, 39)
    nvml = FakeNvml([BIG], instances=[larger, INSTANCE])
    torch = dataclasses.replace(CUDA_BUILD, devices=(device(told),))
    assert examined(nvml, torch)[1].gpu_free_bytes == INSTANCE[3] * GIB
    assert finding("MIG", "a process sees one", nvml, torch).state == "OK"


def test_one_gpu_that_does_not_answer_is_told_beside_the_one_that_is_used(examined, finding):
    nvml = FakeNvml([SMALL, BIG], mute={0: 15})
    assert finding("GPU", "GPU 0 does not answer", nvml, TORCH).state == "WARN"
    assert examined(nvml, TORCH)[1].gpu_free_bytes == 70 * GIB


def test_torch_is_described_by_what_it_is_built_for(finding):
    detail = finding("torch", "2.14.1", NVML, TORCH).detail
    assert detail == "2.14.1, built for CUDA 13.0, NCCL 2.30.7, sm_80 sm_90"
    assert finding("torch", "built for CPU", NVML, TorchBuild("2.14.1")).state == "OK"


def test_a_torch_that_cannot_be_imported_is_a_fault(examined, finding):
    broken = TorchBuild(problem="torch cannot be imported: libcudart is missing")
    assert finding("torch", "libcudart is missing", NVML, broken).state == "FAIL"
    _, machine = examined(NVML, broken, assets=("cifar10",), missing=("cifar10",))
    assert machine.faults == (f"torch: {broken.problem}; make setup",)
    assert "cifar10" in machine.missing_data


def test_an_output_folder_that_cannot_be_written_is_a_fault_and_a_cache_folder_a_warning(
    examined, finding, monkeypatch
):
    monkeypatch.setattr(environment, "why_not_writable", lambda path: "Permission denied")
    assert finding("output folder", "Permission denied", NVML, TORCH).state == "FAIL"
    assert finding("cache folder", "Permission denied", NVML, TORCH).state == "WARN"
    assert "--out" in examined(NVML, TORCH)[1].faults[0]


def test_a_full_disk_is_a_fault(finding, monkeypatch):
    monkeypatch.setattr(environment, "free_disk_bytes", lambda path: 0)
    assert finding("disk", "0.0 GiB free", NVML, TORCH).state == "FAIL"


def test_shared_memory_matters_only_where_several_gpus_talk_to_each_other(finding, monkeypatch):
    monkeypatch.setattr(environment, "shared_memory_bytes", lambda: GIB // 16)
    both = dataclasses.replace(CUDA_BUILD, devices=(device(BIG), device(SMALL, (8, 0))))
    found = finding("shared memory", "too little", NVML, both)
    assert (found.state, "--shm-size" in found.remedy) == ("WARN", True)
    assert finding("shared memory", "0.06 GiB", NVML, TORCH).state == "OK"


def test_data_and_weights_are_present_or_missing_with_the_command_that_gets_them(finding, examined):
    given = {"assets": ("cifar10", "inception", "mnist"), "missing": ("cifar10", "inception")}
    found = finding("cifar10", "missing", NVML, TORCH, **given)
    assert (found.state, found.remedy) == ("WARN", "artifact fetch cifar10")
    assert finding("mnist", "present", NVML, TORCH, **given).state == "OK"
    assert finding("inception", "FID is not measured", NVML, TORCH, **given).state == "WARN"
    assert set(examined(NVML, TORCH, **given)[1].missing_data) == {"cifar10", "inception"}


def test_a_system_other_than_linux_is_named(examined, monkeypatch):
    monkeypatch.setattr(environment.sys, "platform", "darwin")
    with pytest.raises(EnvironmentUnfitError, match=r"darwin.*needs Linux; use the container"):
        examined(NVML, TORCH)


def test_looking_leaves_no_folder_behind(examined, tmp_path):
    examined(NVML, TORCH)
    assert list(tmp_path.iterdir()) == []


def test_machines_read_the_same_content(examined):
    findings, machine = examined(NVML, TORCH)
    document = json.loads(json.dumps(as_json(findings, machine, [("toy/smoke", "OK", "2 min")])))
    assert [f["name"] for f in document["findings"]] == [f.name for f in findings]
    assert document["machine"]["gpu_free_bytes"] == 70 * GIB
    assert document["settings"] == [{"setting": "toy/smoke", "state": "OK", "detail": "2 min"}]
