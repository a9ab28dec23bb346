"""The GPUs of this machine as the driver sees them (NVML), with a remedy where it sees none.

`import pynvml` must come from nvidia-ml-py; the package named pynvml is deprecated. NVML ignores
CUDA_VISIBLE_DEVICES, so a GPU is matched with torch by its UUID. Under MIG the instances count,
not the GPU that they are cut from. A GPU that does not answer hides no other.
"""

import importlib
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from typing import Any

DRIVER_MINIMA = {13: 580, 12: 525, 11: 450}  # CUDA major version: driver branch
IN_CONTAINER = "in a container, run with --gpus all"
REMEDIES = {  # error of NVML: (cause, what to do)
    "NVML_ERROR_LIBRARY_NOT_FOUND": ("no NVIDIA driver library", IN_CONTAINER),
    "NVML_ERROR_DRIVER_NOT_LOADED": (
        "the NVIDIA driver is not loaded",
        "load it, or reboot after an update of the driver",
    ),
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": (
        "driver and driver library differ in version",
        "reboot, or restart the container",
    ),
    "NVML_ERROR_NO_PERMISSION": (
        "no permission to ask the driver",
        "check the rights of /dev/nvidia*; " + IN_CONTAINER,
    ),
    "NVML_ERROR_NOT_SUPPORTED": (
        "the driver does not answer on this kind of device",
        "use a GPU that nvidia-smi lists with its memory",
    ),
    "NVML_ERROR_GPU_IS_LOST": ("a GPU has fallen off the bus", "reboot"),
}


@dataclass(frozen=True)
class Gpu:
    """One device that a process can use: a GPU, or an instance of one under MIG."""

    name: str
    uuid: str
    total_bytes: int
    free_bytes: int
    mig_of: str | None = None  # UUID of the GPU that this instance is cut from

    @property
    def choice(self) -> str:
        """The setting that selects it; the start of a UUID is enough for a whole GPU."""
        return f"CUDA_VISIBLE_DEVICES={self.uuid if self.mig_of else self.uuid[:12]}"


@dataclass(frozen=True)
class GpuSurvey:
    """What NVML says; `problem` and `remedy` are there if it says nothing, or not all."""

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    problem: str | None = None
    remedy: str = ""


def survey_gpus(nvml: Any = None) -> GpuSurvey:
    """Ask NVML (or `nvml`, a module in its shape); every error becomes a `problem`."""
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return GpuSurvey(
                problem="nvidia-ml-py is not installed", remedy="pip install nvidia-ml-py"
            )
        if "nvidia-ml-py" not in packages_distributions().get("pynvml", []):
            return GpuSurvey(
                problem="the deprecated package pynvml stands in for nvidia-ml-py",
                remedy="pip uninstall pynvml && pip install --force-reinstall nvidia-ml-py",
            )
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return GpuSurvey((), None, *_remedy(nvml, error))
    try:
        return _ask_all(nvml)
    finally:
        nvml.nvmlShutdown()


def driver_problem(driver: str, cuda: str) -> str | None:
    """Why this driver cannot serve a torch built for this CUDA version, or None."""
    minimum = DRIVER_MINIMA.get(int(cuda.split(".")[0]))
    if minimum is None or int(driver.split(".")[0]) >= minimum:
        return None
    return f"driver {driver} is too old for CUDA {cuda}; it needs {minimum} or newer"


def _ask_all(nvml: Any) -> GpuSurvey:
    gpus: list[Gpu] = []
    problem: tuple[str, str] | None = None
    try:
        driver = _text(nvml.nvmlSystemGetDriverVersion())
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        return GpuSurvey((), None, *_remedy(nvml, error))
    for index in range(count):
        try:
            found = _devices(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
        except nvml.NVMLError as error:
            cause, remedy = _remedy(nvml, error)
            problem = (f"GPU {index} does not answer: {cause}", remedy)
            continue
        if not found:
            problem = (f"GPU {index} is in MIG mode, but has no instance", "nvidia-smi mig -cgi")
        gpus += found
    if not gpus and problem is None:
        problem = ("the driver is there, but shows no GPU", IN_CONTAINER)
    return GpuSurvey(tuple(gpus), driver, *(problem or (None, "")))


def _devices(nvml: Any, handle: Any) -> list[Gpu]:
    """The GPU itself, or its instances if it is cut into some."""
    try:
        is_cut = nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE
    except nvml.NVMLError:
        is_cut = False  # GPUs that cannot be cut do not answer
    if not is_cut:
        return [_describe(nvml, handle)]
    parent = _text(nvml.nvmlDeviceGetUUID(handle))
    instances = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError:
            continue  # a free slot
        instances.append(_describe(nvml, instance, mig_of=parent))
    return instances


def _describe(nvml: Any, handle: Any, *, mig_of: str | None = None) -> Gpu:
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    except (nvml.NVMLError, AttributeError, TypeError):
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)  # old drivers and old bindings
    return Gpu(
        name=_text(nvml.nvmlDeviceGetName(handle)),
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        mig_of=mig_of,
    )


def _remedy(nvml: Any, error: Exception) -> tuple[str, str]:
    """(cause, what to do) for an error of NVML."""
    code = getattr(error, "value", None)
    for name, cause_and_remedy in REMEDIES.items():
        if code is not None and getattr(nvml, name, None) == code:
            return cause_and_remedy
    return f"NVML says: {' '.join(str(error).split())}", "see whether nvidia-smi works"


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
