"""Memory while a stage runs: kept from layer to layer, its peak, and what to do where it runs out.

The kernel and the GPU's allocator count it. Linux resets the high-water mark of the resident memory
on request; where it may not be asked the figure is left out rather than guessed.
"""

import ctypes
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import torch

from privimage.errors import MemoryRanOutError

MIB = 2**20
Result = TypeVar("Result")
# how libraries without a class for it say that an allocation failed: torch, oneDNN (which says no
# more than this), C++, the system, cuBLAS and cuDNN
NO_MEMORY = re.compile(
    "DefaultCPUAllocator: can't allocate memory|could not create a (primitive(?! desc)|memory obj)|"
    "std::bad_alloc|Cannot allocate memory|ALLOC_FAILED"
)
CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST_THRESHOLD = 32 * MIB  # that glibc accepts for single blocks


def keep_freed_blocks() -> bool:
    """Let glibc keep what a layer frees for the next one, instead of returning it to the system.

    Getting it anew costs a page fault every 4 KiB: some 8 % of a DP-SGD step of a small network.
    False, and nothing changed, where there is no glibc or the user has settings of their own.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(
        mallopt(M_MMAP_THRESHOLD, LARGEST_THRESHOLD) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    )


def give_back_freed_blocks() -> None:
    """Return what was freed to the system after all, where there is glibc."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def reset_peaks(device: torch.device) -> bool:
    """Start counting anew; False if the kernel does not allow it for the resident memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        CLEAR_REFS.write_text("5")  # 5: the high-water mark only (man 5 proc)
    except OSError:
        return False
    return True


def with_growth(work: Callable[[], Result], device: torch.device) -> tuple[Result, int]:
    """What `work` gives, and by how many bytes the resident memory grew for it at its peak; 0 if
    that is not known. Starts counting peaks anew.
    """
    was_reset, before = reset_peaks(device), _status_bytes("VmRSS")
    result = work()
    return result, max(0, _status_bytes("VmHWM") - before) if was_reset else 0


def peaks_mib(device: torch.device, *, was_reset: bool) -> dict[str, int]:
    """`peak_memory_mib` (resident, whole process) and on a GPU `peak_gpu_memory_mib`."""
    peaks = {}
    if was_reset:
        peaks["peak_memory_mib"] = _status_bytes("VmHWM") // MIB
    if device.type == "cuda":
        peaks["peak_gpu_memory_mib"] = torch.cuda.max_memory_allocated(device) // MIB
    return peaks


def _status_bytes(name: str) -> int:
    lines = STATUS.read_text().splitlines()
    return int(next(row for row in lines if row.startswith(name)).split()[1]) * 1024


@contextmanager
def explained(stage: str) -> Iterator[None]:
    """Inside, an allocation that fails becomes a MemoryRanOutError that says what helps.

    So does an error that was raised from one, such as a file that only seems to be damaged.
    """
    try:
        yield
    except Exception as error:
        failed = _failed_allocation(error)
        if failed is None:
            raise
        reason = " ".join(str(failed).split())[:120] or type(failed).__name__
        raise MemoryRanOutError(
            f"memory ran out in stage {stage} ({reason}); use performance.strategy loop (or a "
            "smaller micro_batch_size), smaller batches of the stage, or a machine with more "
            "memory, and repeat the command: it continues what is there"
        ) from error


def _failed_allocation(error: BaseException | None) -> BaseException | None:
    """The first of an error and its causes that is an allocation that failed."""
    while error is not None:
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if known or NO_MEMORY.search(str(error)):
            return error
        error = error.__cause__
    return None
