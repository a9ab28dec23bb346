"""The GPUs of this machine as the driver sees them (NVML), with a remedy where it sees none.

`import pynvml` must come from nvidia-ml-py; the package named pynvml is deprecated. NVML ignores
CUDA_VISIBLE_DEVICES, so a GPU is matched with torch by its UUID. Under MIG the instances count,
not the GPU that they are cut from.
"""

import importlib
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from typing import Any

DRIVER_MINIMA = {13: 580, 12: 525, 11: 450}  # CUDA major version: driver branch
REMEDIES = {
    "NVML_ERROR_LIBRARY_NOT_FOUND": "no NVIDIA driver library; in a container, run with --gpus all",
    "NVML_ERROR_DRIVER_NOT_LOADED": "the NVIDIA driver is not loaded; load it, or reboot after an "
    "update of the driver",
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": "driver and driver library differ in version; reboot",
    "NVML_ERROR_NO_PERMISSION": "no permission to ask the driver; check the rights of /dev/nvidia*",
    "NVML_ERROR_NOT_SUPPORTED": "the driver does not answer on this kind of device",
    "NVML_ERROR_GPU_IS_LOST": "a GPU has fallen off the bus; reboot",
}


@dataclass(frozen=True)
class Gpu:
    """One device that a process can use: a GPU, or an instance of one under MIG."""

    name: str
    uuid: str
    total_bytes: int
    free_bytes: int
    is_mig: bool = False


@dataclass(frozen=True)
class GpuSurvey:
    """What NVML says; `problem` holds cause and remedy if it says nothing."""

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    problem: str | None = None


def survey_gpus(nvml: Any = None) -> GpuSurvey:
    """Ask NVML (or `nvml`, a module in its shape); every error becomes a `problem`."""
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return GpuSurvey(problem="nvidia-ml-py is not installed: pip install nvidia-ml-py")
        if "nvidia-ml-py" not in packages_distributions().get("pynvml", []):
            return GpuSurvey(
                problem="the deprecated package pynvml stands in for nvidia-ml-py: "
                "pip uninstall pynvml && pip install nvidia-ml-py"
            )
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return GpuSurvey(problem=_remedy(nvml, error))
    try:
        driver = _text(nvml.nvmlSystemGetDriverVersion())
        gpus: list[Gpu] = []
        for index in range(nvml.nvmlDeviceGetCount()):
            gpus += _devices(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
        problem = None if gpus else "the driver is there, but shows no GPU; run with --gpus all"
        return GpuSurvey(tuple(gpus), driver, problem)
    except nvml.NVMLError as error:
        return GpuSurvey(problem=_remedy(nvml, error))
    finally:
        nvml.nvmlShutdown()


def driver_problem(driver: str, cuda: str) -> str | None:
    """Why this driver cannot serve a torch built for this CUDA version, or None."""
    minimum = DRIVER_MINIMA.get(int(cuda.split(".")[0]))
    if minimum is None or int(driver.split(".")[0]) >= minimum:
        return None
    return f"driver {driver} is too old for CUDA {cuda}; it needs {minimum} or newer"


def _devices(nvml: Any, handle: Any) -> list[Gpu]:
    """The GPU itself, or its instances if it is cut into some."""
    try:
        is_cut = nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE
    except nvml.NVMLError:
        is_cut = False  # GPUs that cannot be cut do not answer
    if not is_cut:
        return [_describe(nvml, handle, is_mig=False)]
    instances = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError:
            continue  # a free slot
        instances.append(_describe(nvml, instance, is_mig=True))
    return instances


def _describe(nvml: Any, handle: Any, *, is_mig: bool) -> Gpu:
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    except (nvml.NVMLError, AttributeError, TypeError):
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)  # old drivers and old bindings
    return Gpu(
        name=_text(nvml.nvmlDeviceGetName(handle)),
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        is_mig=is_mig,
    )


def _remedy(nvml: Any, error: Exception) -> str:
    code = getattr(error, "value", None)
    for name, remedy in REMEDIES.items():
        if code is not None and getattr(nvml, name, None) == code:
            return remedy
    return f"NVML says: {' '.join(str(error).split())}"


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
