"""Every item once, the first fault, and no more chunks under way than the bound."""

import pytest

from privimage.data import parallel
from privimage.data.parallel import for_each_chunk, watched


@pytest.mark.parametrize("number", [0, 1, 64, 65, 1000])
def test_every_item_is_worked_on_once(number):
    done = [0] * number

    def work(indices: range) -> None:
        for index in indices:
            done[index] += 1

    for_each_chunk(work, number, num_threads=3)
    assert done == [1] * number


def test_of_several_faults_the_first_is_raised():
    def work(indices: range) -> None:
        for index in indices:
            if index >= 500:
                raise ValueError(f"item {index}")

    with pytest.raises(ValueError, match="item 500"):
        for_each_chunk(work, 1000, num_threads=4)


def test_at_most_two_chunks_a_thread_are_begun_before_a_fault_is_seen():
    begun = []

    def work(indices: range) -> None:
        begun.append(indices.start)
        raise ValueError("at once")

    with pytest.raises(ValueError, match="at once"):
        for_each_chunk(work, 1_000_000, num_threads=2)
    assert len(begun) <= 4


def test_who_watches_is_told_of_much_work_and_of_nothing_else():
    told = []
    with watched(lambda *what: told.append(what)):
        for_each_chunk(lambda indices: None, parallel.MANY - 1, doing="reading images")
        for_each_chunk(lambda indices: None, parallel.MANY + 1)
        assert told == []
        for_each_chunk(lambda indices: None, parallel.MANY + 1, doing="reading images")
    for_each_chunk(lambda indices: None, parallel.MANY, doing="reading images")
    number = parallel.MANY + 1
    dones = [done for _, done, _ in told]
    assert {(what, total) for what, _, total in told} == {("reading images", number)}
    assert dones == [*range(64, number, 64), number]
