from types import SimpleNamespace

import pytest

from artifact import gpu
from artifact.gpu import driver_problem, survey_gpus

GIB = 2**30


class FakeError(Exception):
    def __init__(self, value):
        super().__init__(f"code {value}")
        self.value = value


class FakeNvml:
    """The part of nvidia-ml-py that is used; devices are (name, uuid, total, free) in GiB."""

    NVMLError = FakeError
    NVML_ERROR_LIBRARY_NOT_FOUND = 12
    NVML_ERROR_DRIVER_NOT_LOADED = 9
    NVML_ERROR_NO_PERMISSION = 4
    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_DEVICE_MIG_ENABLE = 1
    nvmlMemory_v2 = 2

    def __init__(self, devices=(), *, instances=None, fails=None, has_v2=True, as_bytes=False):
        self.devices, self.instances, self.fails = devices, instances, fails
        self.has_v2, self.as_bytes, self.is_open = has_v2, as_bytes, False

    def text(self, value):
        return value.encode() if self.as_bytes else value

    def nvmlInit(self):
        if self.fails:
            raise FakeError(self.fails)
        self.is_open = True

    def nvmlShutdown(self):
        self.is_open = False

    def nvmlSystemGetDriverVersion(self):
        return self.text("580.65.06")

    def nvmlDeviceGetCount(self):
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self.devices[index]

    def nvmlDeviceGetMigMode(self, handle):
        if self.instances is None:
            raise FakeError(self.NVML_ERROR_NOT_SUPPORTED)
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle):
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle, index):
        if index >= len(self.instances or ()):
            raise FakeError(6)
        return (self.instances or ())[index]

    def nvmlDeviceGetName(self, handle):
        return self.text(handle[0])

    def nvmlDeviceGetUUID(self, handle):
        return self.text(handle[1])

    def nvmlDeviceGetMemoryInfo(self, handle, version=None):
        if version and not self.has_v2:
            raise FakeError(self.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(total=handle[2] * GIB, free=handle[3] * GIB)


BIG = ("H100", "GPU-1", 80, 70)
SMALL = ("T4", "GPU-2", 16, 3)


def test_two_different_gpus_are_listed_with_their_free_memory():
    nvml = FakeNvml([BIG, SMALL])
    survey = survey_gpus(nvml)
    assert [(g.name, g.free_bytes // GIB) for g in survey.gpus] == [("H100", 70), ("T4", 3)]
    assert (survey.driver, survey.problem) == ("580.65.06", None)
    assert not nvml.is_open


@pytest.mark.parametrize("options", [{"as_bytes": True}, {"has_v2": False}])
def test_bytes_and_the_old_memory_query_are_understood(options):
    assert survey_gpus(FakeNvml([BIG], **options)).gpus == survey_gpus(FakeNvml([BIG])).gpus


def test_under_mig_the_instances_count_and_not_the_gpu():
    survey = survey_gpus(FakeNvml([BIG], instances=[("H100 MIG 1g", "MIG-7", 10, 9)]))
    assert [(g.uuid, g.is_mig) for g in survey.gpus] == [("MIG-7", True)]


@pytest.mark.parametrize(
    ("code", "remedy"),
    [(12, "--gpus all"), (9, "driver is not loaded"), (4, "no permission"), (999, "code 999")],
)
def test_every_error_of_nvml_comes_with_a_remedy(code, remedy):
    survey = survey_gpus(FakeNvml(fails=code))
    assert survey.gpus == ()
    assert remedy in (survey.problem or "")


def test_a_driver_without_gpus_is_a_problem():
    assert "shows no GPU" in (survey_gpus(FakeNvml()).problem or "")


def test_the_deprecated_package_is_named(monkeypatch):
    monkeypatch.setattr(gpu.importlib, "import_module", lambda name: FakeNvml([BIG]))
    monkeypatch.setattr(gpu, "packages_distributions", lambda: {"pynvml": ["pynvml"]})
    assert "pip uninstall pynvml" in (survey_gpus().problem or "")


@pytest.mark.parametrize(
    ("driver", "cuda", "is_old"),
    [("580.65.06", "13.0", False), ("575.1", "13.0", True), ("525.60", "12.8", False)],
)
def test_old_drivers_are_recognised_by_the_cuda_version(driver, cuda, is_old):
    assert (driver_problem(driver, cuda) is not None) == is_old
