import gc

import torch

from privimage import memory


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
