"""A stand-in for nvidia-ml-py: the part of it that is used, with devices and errors to order."""

from types import SimpleNamespace

GIB = 2**30
BIG = ("H100", "GPU-00000001-0000-0000-0000-000000000000", 80, 70)  # name, uuid, total, free
SMALL = ("T4", "GPU-00000002-0000-0000-0000-000000000000", 16, 3)
INSTANCE = ("H100 MIG 1g.10gb", "MIG-00000007-0000-0000-0000-000000000000", 10, 9)


class FakeError(Exception):
    def __init__(self, value):
        super().__init__(f"code {value}")
        self.value = value


class FakeNvml:
    """`fails` is the error of nvmlInit, `mute` that of single devices by index."""

    NVMLError = FakeError
    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_ERROR_NO_PERMISSION = 4
    NVML_ERROR_NOT_FOUND = 6
    NVML_ERROR_DRIVER_NOT_LOADED = 9
    NVML_ERROR_LIBRARY_NOT_FOUND = 12
    NVML_ERROR_GPU_IS_LOST = 15
    NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18
    NVML_DEVICE_MIG_ENABLE = 1
    nvmlMemory_v2 = 2

    def __init__(
        self, devices=(), *, instances=None, fails=None, mute=None, has_v2=True, as_bytes=False
    ):
        self.devices, self.instances, self.fails = devices, instances, fails
        self.mute, self.has_v2, self.as_bytes = mute or {}, has_v2, as_bytes
        self.driver, self.is_open = "580.65.06", False

    def text(self, value):
        return value.encode() if self.as_bytes else value

    def nvmlInit(self):
        if self.fails:
            raise FakeError(self.fails)
        self.is_open = True

    def nvmlShutdown(self):
        self.is_open = False

    def nvmlSystemGetDriverVersion(self):
        return self.text(self.driver)

    def nvmlDeviceGetCount(self):
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index):
        if index in self.mute:
            raise FakeError(self.mute[index])
        return self.devices[index]

    def nvmlDeviceGetMigMode(self, handle):
        if self.instances is None:
            raise FakeError(self.NVML_ERROR_NOT_SUPPORTED)
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle):
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle, index):
        if index >= len(self.instances or ()):
            raise FakeError(self.NVML_ERROR_NOT_FOUND)
        return (self.instances or ())[index]

    def nvmlDeviceGetName(self, handle):
        return self.text(handle[0])

    def nvmlDeviceGetUUID(self, handle):
        return self.text(handle[1])

    def nvmlDeviceGetMemoryInfo(self, handle, version=None):
        if version and not self.has_v2:
            raise FakeError(self.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(total=handle[2] * GIB, free=handle[3] * GIB)
