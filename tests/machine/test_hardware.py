import threading

import pytest
import torch

from privimage.machine.hardware import Workers, default_num_workers, resolved_precision


@pytest.mark.parametrize(("num_workers", "num_items"), [(1, 5), (2, 5), (3, 3), (4, 2), (2, 0)])
def test_shares_cover_every_item_once_in_order(num_workers, num_items):
    shares = Workers(num_workers).shares(num_items)
    assert [i for share in shares for i in range(num_items)[share]] == list(range(num_items))
    sizes = [share.stop - share.start for share in shares]
    assert not sizes or max(sizes) - min(sizes) <= 1


def test_results_come_in_order_and_each_worker_has_one_compute_thread():
    before = torch.get_num_threads()
    barrier = threading.Barrier(2, timeout=30)  # passes only if both run at the same time

    def work(number):
        barrier.wait()
        return number, torch.get_num_threads()

    assert Workers(2).map(work, [0, 1]) == [(0, 1), (1, 1)]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_failure_in_a_worker_is_raised(num_workers):
    with pytest.raises(ZeroDivisionError):
        Workers(num_workers).map(lambda x: 1 // x, [1, 0])


def test_a_gpu_has_one_worker_and_a_cpu_one_a_thread():
    assert default_num_workers(torch.device("cuda"), 8) == 1
    assert default_num_workers(torch.device("cpu"), 3) == 3
    assert default_num_workers(torch.device("cpu")) >= 1


def test_a_precision_that_is_asked_for_is_taken_and_auto_is_settled():
    cpu = torch.device("cpu")
    assert resolved_precision("float32", cpu) == "float32"
    assert resolved_precision("bfloat16", cpu) == "bfloat16"
    assert resolved_precision("auto", cpu) in ("float32", "bfloat16")
