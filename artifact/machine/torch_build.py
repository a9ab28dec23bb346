"""The installed torch, asked in a process of its own: what it is built for and what it can use.

A broken installation is thereby reported rather than suffered, and this process stays free of
CUDA. A kernel compiled for sm_XY runs on GPUs of the same X whose Y is not smaller.
"""

import json
import subprocess
import sys
from dataclasses import dataclass

TIMEOUT_SECONDS = 120
PROBE = """
import json, warnings
import torch
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = [torch.cuda.get_device_properties(index) for index in range(count)]
nccl = torch.distributed.is_available() and torch.distributed.is_nccl_available()
print(json.dumps({
    "version": torch.__version__,
    "cuda": torch.version.cuda,
    "nccl": ".".join(map(str, torch.cuda.nccl.version())) if nccl else None,
    "architectures": torch.cuda.get_arch_list() if torch.version.cuda else [],
    "devices": [[str(gpu.uuid), gpu.total_memory, gpu.major, gpu.minor] for gpu in found],
    "warning": str(caught[0].message) if caught else None,
}))
"""


@dataclass(frozen=True)
class TorchDevice:
    """A GPU, or an instance of one, that torch can open."""

    uuid: str
    total_bytes: int
    capability: tuple[int, int]


@dataclass(frozen=True)
class TorchBuild:
    """What torch says of itself; `problem` holds the cause if it says nothing."""

    version: str = ""
    cuda: str | None = None
    nccl: str | None = None
    architectures: tuple[str, ...] = ()
    devices: tuple[TorchDevice, ...] = ()
    warning: str | None = None  # what torch said while it looked for GPUs
    problem: str | None = None

    def has_kernels_for(self, device: TorchDevice) -> bool:
        """True if the build serves this generation of GPUs, natively or by compiling for it."""
        major, minor = device.capability
        for name in self.architectures:
            kind, _, number = name.partition("_")
            if not number.isdigit():
                continue  # sm_90a and the like: special to one chip
            built = int(number[:-1]), int(number[-1])
            if built[0] == major and built[1] <= minor:
                return True
            if kind == "compute" and built <= device.capability:
                return True
        return not self.architectures


def probe_torch(program: str = PROBE) -> TorchBuild:
    """Ask torch in a new process; whatever goes wrong there becomes a `problem`."""
    command = [sys.executable, "-c", program]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
        said = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return TorchBuild(problem=f"torch did not load within {TIMEOUT_SECONDS} s")
    except (IndexError, ValueError):
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return TorchBuild(problem=f"torch cannot be imported: {lines[-1]}")
    devices = [TorchDevice(uuid, total, (x, y)) for uuid, total, x, y in said.pop("devices")]
    architectures = tuple(said.pop("architectures"))
    return TorchBuild(**said, architectures=architectures, devices=tuple(devices))
