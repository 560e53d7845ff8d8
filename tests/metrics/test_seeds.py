"""The interval over training seeds against textbook values."""

import math

import pytest

from pipeline.metrics.intervals import wilson
from pipeline.metrics.seeds import Measured, pool


def test_student_interval_alone() -> None:
    """t(2; 0.975) = 4.302653 (any table); values 1, 2, 3: s = 1, half-width 4.302653 / sqrt(3)."""
    found = pool([Measured(value, 10) for value in (1.0, 2.0, 3.0)])
    half = 4.302653 / math.sqrt(3)
    assert (found.value, found.seeds, found.items) == (2.0, 3, 10)
    assert found.low == pytest.approx(2 - half, abs=1e-5)
    assert found.high == pytest.approx(2 + half, abs=1e-5)


def test_one_seed_keeps_its_item_interval() -> None:
    low, high = wilson(81, 263)
    found = pool([Measured(81 / 263, 263, low, high)])
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    assert (found.seeds, found.items) == (1, 263)


def test_equal_seeds_do_not_shrink_the_item_error() -> None:
    """All seeds answer the same items: ten runs that agree are as unsure about new items as one."""
    one = Measured(0.5, 100, *wilson(50, 100))
    assert pool([one] * 10).low == pytest.approx(one.low)
    assert pool([one] * 10).high == pytest.approx(one.high)


def test_both_errors_in_quadrature_on_each_side() -> None:
    """Seeds 0.4 and 0.6: s = 0.141421, t(1) = 12.7062, training half 1.27062, cut at the bounds of a share."""
    sides = [Measured(v, 50, v - 0.03, v + 0.04) for v in (0.4, 0.6)]
    assert (pool(sides, (0, 1)).low, pool(sides, (0, 1)).high) == (0.0, 1.0)
    assert pool(sides).low == pytest.approx(0.5 - math.hypot(1.27062, 0.03), abs=1e-4)
    wide = [Measured(v * 100, 50, v * 100 - 3, v * 100 + 4) for v in (0.4, 0.6)]
    assert pool(wide).low == pytest.approx(50 - math.hypot(127.062, 3), abs=1e-2)
    assert pool(wide).high == pytest.approx(50 + math.hypot(127.062, 4), abs=1e-2)


def test_no_interval_where_nothing_is_known() -> None:
    found = pool([Measured(3.0, 1)])
    assert (found.value, found.low, found.high) == (3.0, None, None)


def test_different_items_are_refused() -> None:
    with pytest.raises(ValueError, match="different items"):
        pool([Measured(0.5, 10), Measured(0.5, 11)])
    with pytest.raises(ValueError, match="no training seed"):
        pool([])
