"""Every item once, the first fault, and no more chunks under way than the bound."""

import pytest

from privimage.data.parallel import for_each_chunk


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
