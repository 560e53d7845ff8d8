"""The safety-utility frontier on points whose answers are worked out by hand."""

import numpy as np
import pytest

from pipeline.metrics.frontier import Points, area, best_at, frontier, shares

# The undefended model, a point at 2 points of loss, a worse one at 4, a better one at 6, one beyond the limit.
LOSSES = np.array([0.0, 2.0, 4.0, 6.0, 14.0])
SAFETIES = np.array([0.1, 0.5, 0.3, 0.8, 1.0])


def test_area_is_the_step_function_by_hand() -> None:
    """0.1 over [0, 2], 0.5 over [2, 6], 0.8 over [6, 10]: the point at 4 is dominated, the one at 14 too dear."""
    assert area(LOSSES, SAFETIES) == pytest.approx((2 * 0.1 + 4 * 0.5 + 4 * 0.8) / 10)
    assert area(LOSSES[::-1], SAFETIES[::-1]) == pytest.approx(0.54), "the order of points does not matter"
    assert area(LOSSES, SAFETIES, limit=4.0) == pytest.approx((2 * 0.1 + 2 * 0.5) / 4)


def test_area_agrees_with_a_fine_sum_over_best_at() -> None:
    rng = np.random.default_rng(1)
    losses = np.concatenate([[0.0], rng.uniform(-2, 14, 7)])
    safeties = rng.uniform(0, 1, 8)
    grid = (np.arange(20000) + 0.5) * 10 / 20000
    assert area(losses, safeties) == pytest.approx(np.mean([best_at(losses, safeties, x) for x in grid]), abs=2e-3)


def test_best_at_a_matched_loss() -> None:
    found = [float(best_at(LOSSES, SAFETIES, x)) for x in (0, 1, 2, 5, 6, 10, 20)]
    assert found == [0.1, 0.1, 0.5, 0.5, 0.8, 0.8, 1.0]


def test_a_point_that_gains_accuracy_counts_from_zero() -> None:
    assert area(np.array([0.0, -3.0]), np.array([0.0, 0.4])) == pytest.approx(0.4)


def test_whole_resamples_at_once() -> None:
    losses, safeties = np.stack([LOSSES, np.zeros(5)]), np.stack([SAFETIES, SAFETIES])
    np.testing.assert_allclose(area(losses, safeties), [0.54, 1.0])
    np.testing.assert_allclose(best_at(losses, safeties, 2.0), [0.5, 1.0])


@pytest.mark.parametrize(
    ("losses", "safeties", "message"),
    [([1.0], [0.5], "undefended"), ([0.0, np.nan], [0.0, 1.0], "NaN"), ([0.0], [0.1, 0.2], "as many"), ([], [], "as")],
)
def test_what_is_no_frontier_is_refused(losses: list, safeties: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        area(np.array(losses), np.array(safeties))


def test_shares_are_means_over_questions_not_over_answers() -> None:
    """Task 1: 1 of 2 images; task 2: 1 of 1 image. Mean over tasks 0.75, over answers 2/3."""
    values = np.array([[[1.0, np.nan], [0.0, 1.0]]])
    assert shares(values) == pytest.approx([0.75])
    np.testing.assert_allclose(shares(values, np.array([[2, 0], [0, 2]])), [[1.0], [0.5]])
    with pytest.raises(ValueError, match="question"):
        shares(np.full((1, 2, 1), np.nan))


def points(accuracies: list[float], safeties: list[float], items: int) -> Points:
    """Points of exactly these shares, the hits of a worse point a part of those of a better one."""
    order = np.arange(items)[:, None]
    correct, safe = (
        np.stack([(order < round(share * items)).astype(float) for share in x]) for x in (accuracies, safeties)
    )
    return Points(correct, safe)  # one task and one question


def test_frontier_of_items_is_the_frontier_of_their_means() -> None:
    found = frontier(points([0.97, 0.95, 0.91], [0.1, 0.5, 0.8], 100), 300, np.random.default_rng(0))
    np.testing.assert_allclose(found.losses, [0, 2, 6])
    assert found.area.value == pytest.approx(0.54)
    assert [found.matched[x].value for x in (1.0, 3.0, 5.0, 10.0)] == [0.1, 0.5, 0.5, 0.8]
    assert found.area.low < 0.54 < found.area.high
    again = frontier(points([0.97, 0.95, 0.91], [0.1, 0.5, 0.8], 100), 300, np.random.default_rng(0))
    assert found.area == again.area


def test_interval_narrows_with_the_square_root_of_the_items() -> None:
    """No loss at all, so the area is one share, whose normal interval is known."""
    widths = []
    for items in (100, 1600):
        found = frontier(points([0.9, 0.9], [0.0, 0.4], items), 4000, np.random.default_rng(3)).area
        assert found.value == pytest.approx(0.4)
        assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(0.4 * 0.6 / items), rel=0.08)
        widths.append(found.high - found.low)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.1)


def test_points_share_their_resample() -> None:
    """Two points with the same answers never differ in any resample: the loss stays 0 and the area is sure."""
    same = np.tile((np.arange(50) < 30).astype(float)[None, :, None], (2, 1, 1))
    found = frontier(Points(same, np.stack([np.zeros((50, 1)), np.ones((50, 1))])), 200, np.random.default_rng(0))
    assert (found.area.value, found.area.low, found.area.high) == (1.0, 1.0, 1.0)
