import errno
import gc

import pytest
import torch

from privimage import memory
from privimage.errors import DataInvalidError, MemoryRanOutError


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
