"""Processes that are started again find each other, whatever the dead ones left behind."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch._C._distributed_c10d import HashStore

from privimage.machine.processes import _meeting_place


@pytest.fixture
def store():
    store = HashStore()
    store.set_timeout(timedelta(seconds=10))
    return store


def meet(store, size, *, ranks=None, patience=10.0):
    ranks = range(size) if ranks is None else ranks
    with ThreadPoolExecutor(size) as pool:
        places = [
            pool.submit(_meeting_place, store, rank, size, patience=patience) for rank in ranks
        ]
    return [place.result() for place in places]


@pytest.mark.parametrize("size", [2, 3, 5])
def test_all_agree_on_one_place_and_each_start_on_another(store, size):
    places = [meet(store, size) for _ in range(4)]
    assert all(len(set(place)) == 1 for place in places)
    assert len({place[0] for place in places}) == 4


@pytest.mark.parametrize("dead", [[0], [1], [0, 1], [1, 2]])
def test_what_dead_processes_left_misleads_nobody(store, dead):
    meet(store, 3)
    with pytest.raises(ValueError, match="not all of 3 processes"):
        meet(store, 3, ranks=dead, patience=0.3)
    assert len(set(meet(store, 3))) == 1
