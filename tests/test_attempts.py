"""One item's failure is its own; memory that is full is no item's."""

import pytest
import torch

from pipeline.attempts import Failed, attempt
from pipeline.memory import OutOfMemory

FAULTS = (RuntimeError, ValueError)


def halve(numbers):
    """Half of every number; an odd one fails with its batch."""
    for number in numbers:
        if number % 2:
            raise ValueError(f" {number} is odd ")
    return [number // 2 for number in numbers]


def test_the_item_that_fails_has_the_reason_and_the_others_their_results():
    expected = [(2, 1), (3, Failed("ValueError: 3 is odd")), (4, 2), (6, 3), (8, 4)]
    assert list(attempt([2, 3, 4, 6, 8], 4, halve, FAULTS)) == expected


def test_other_exceptions_are_passed_on():
    def work(items):
        raise KeyError(items[0])

    with pytest.raises(KeyError):
        list(attempt([1, 2], 2, work, FAULTS))
    with pytest.raises(RuntimeError, match="not asked for"):
        list(attempt([1], 1, lambda items: (_ for _ in ()).throw(RuntimeError("not asked for")), (ValueError,)))


def test_an_exception_of_the_reader_is_not_taken_for_the_works():
    rows = attempt([2, 4], 2, halve, FAULTS)
    next(rows)
    with pytest.raises(ValueError, match="reader"):
        rows.throw(ValueError("reader"))


@pytest.mark.parametrize("full", [MemoryError, torch.OutOfMemoryError])
def test_full_memory_halves_and_marks_no_item_as_failed(full):
    sizes = []

    def work(items):
        sizes.append(len(items))
        if len(items) > 2:
            raise full
        return halve(items)

    with pytest.warns(UserWarning, match="out of memory with 5 items at a time, 3 from here on; set batch_size"):
        assert list(attempt([2, 4, 6, 8, 10], 5, work, FAULTS)) == [(2, 1), (4, 2), (6, 3), (8, 4), (10, 5)]
    assert sizes == [5, 3, 2, 2, 1], "the size that fitted is kept"


def test_one_item_too_much_for_memory_stops():
    def work(items):
        raise MemoryError

    with pytest.raises(OutOfMemory, match="one item at a time"), pytest.warns(UserWarning):
        list(attempt([1, 2], 2, work, FAULTS))
