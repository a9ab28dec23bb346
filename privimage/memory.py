"""Memory while a stage runs: its peak, and what to do where it runs out.

The kernel and the GPU's allocator count it. Linux resets the high-water mark of the resident memory
on request; where it may not be asked the figure is left out rather than guessed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from privimage.errors import MemoryRanOutError

MIB = 2**20
CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def reset_peaks(device: torch.device) -> bool:
    """Start counting anew; False if the kernel does not allow it for the resident memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        CLEAR_REFS.write_text("5")  # 5: the high-water mark only (man 5 proc)
    except OSError:
        return False
    return True


def peaks_mib(device: torch.device, *, was_reset: bool) -> dict[str, int]:
    """`peak_memory_mib` (resident, whole process) and on a GPU `peak_gpu_memory_mib`."""
    peaks = {}
    if was_reset:
        line = next(row for row in STATUS.read_text().splitlines() if row.startswith("VmHWM"))
        peaks["peak_memory_mib"] = int(line.split()[1]) // 1024
    if device.type == "cuda":
        peaks["peak_gpu_memory_mib"] = torch.cuda.max_memory_allocated(device) // MIB
    return peaks


@contextmanager
def explained(stage: str) -> Iterator[None]:
    """Inside, an allocation that fails becomes a MemoryRanOutError that says what helps."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_failed_allocation(error):
            raise
        raise MemoryRanOutError(
            f"memory ran out in stage {stage}; use performance.strategy loop (or a smaller "
            "micro_batch_size), smaller batches of the stage, or a machine with more memory, and "
            "repeat the command: it continues what is there"
        ) from error


def _is_failed_allocation(error: Exception) -> bool:
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    # torch's allocator for the CPU raises a plain RuntimeError
    return known or "DefaultCPUAllocator: can't allocate memory" in str(error)
