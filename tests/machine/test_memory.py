import errno
import gc
import os
import platform
import subprocess
import sys

import pytest
import torch

from privimage.errors import DataInvalidError, MemoryRanOutError
from privimage.machine import memory


def test_the_peak_counts_memory_that_was_given_back_and_a_reset_forgets_it():
    cpu = torch.device("cpu")
    gc.collect()  # what earlier tests left would go away in between
    was_reset = memory.reset_peaks(cpu)
    before = memory.peaks_mib(cpu, was_reset=was_reset)
    block = torch.ones(256 * 2**20, dtype=torch.uint8)
    del block
    during = memory.peaks_mib(cpu, was_reset=was_reset)
    after = memory.peaks_mib(cpu, was_reset=memory.reset_peaks(cpu))
    if was_reset:
        assert during["peak_memory_mib"] - before["peak_memory_mib"] > 128
        assert during["peak_memory_mib"] - after["peak_memory_mib"] > 128


def test_where_the_kernel_refuses_no_figure_is_given(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path / "absent" / "clear_refs")
    cpu = torch.device("cpu")
    assert memory.peaks_mib(cpu, was_reset=memory.reset_peaks(cpu)) == {}


@pytest.mark.parametrize(
    "failed",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        RuntimeError("could not create a primitive"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=repr,
)
def test_an_allocation_that_failed_is_known_by_its_class_or_words_also_as_a_cause(failed):
    with pytest.raises(MemoryRanOutError, match="stage query"), memory.explained("query"):
        raise failed
    with pytest.raises(MemoryRanOutError, match="stage query"), memory.explained("query"):
        raise DataInvalidError("the file seems damaged") from failed


def test_no_other_error_is_taken_for_it():
    unsupported = "could not create a primitive descriptor for the matmul primitive"
    for error in (RuntimeError(unsupported), DataInvalidError("damaged"), KeyboardInterrupt()):
        with pytest.raises(type(error)), memory.explained("query"):
            raise error


FAULTS_OF_LAYERS = """
import resource, torch
from privimage.machine import memory
assert memory.keep_freed_blocks() is {kept}
def layer():
    torch.ones(2**20)  # 4 MiB
for _ in range(8):
    layer()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    layer()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_glibc_keeps_what_a_layer_frees_for_the_next_one_unless_the_user_has_settings():
    def faults(*, kept: bool, **settings: str) -> int:
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
        command = [sys.executable, "-c", FAULTS_OF_LAYERS.format(kept=kept)]
        done = subprocess.run(command, env=plain | settings, check=True, capture_output=True)
        return int(done.stdout)

    anew = 20 * 2**22 // os.sysconf("SC_PAGE_SIZE")
    assert faults(kept=True) < anew / 10
    # the user's own: every block from the system, and back
    assert faults(kept=False, MALLOC_MMAP_THRESHOLD_="131072") > anew / 2
    assert faults(kept=False, GLIBC_TUNABLES="glibc.malloc.mmap_threshold=131072") > anew / 2


def test_what_a_piece_of_work_needs_at_its_peak_is_known_afterwards():
    def work():
        torch.ones(256 * memory.MIB, dtype=torch.uint8)
        return "done"

    gc.collect()  # as above
    memory.give_back_freed_blocks()
    result, grown = memory.with_growth(work, torch.device("cpu"))
    assert result == "done"
    if memory.reset_peaks(torch.device("cpu")):
        assert 128 * memory.MIB < grown < 1024 * memory.MIB
