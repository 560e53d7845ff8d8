"""One interval for what several training seeds measured on the same items."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.metrics.intervals import CONFIDENCE


@dataclass(frozen=True)
class Measured:
    """What one training seed gave: value, its own item interval (None where it has none) and number of items."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Pooled:
    """Mean over `seeds` training seeds, its interval, and the number of items behind each seed's value."""

    value: float
    low: float | None
    high: float | None
    seeds: int
    items: int


def pool(
    measured: Sequence[Measured],
    bounds: tuple[float, float] | None = None,
    confidence: float = CONFIDENCE,
    same_items: bool = True,
) -> Pooled:
    """Mean over training seeds; two independent errors added in quadrature, on each side of the mean:

    - training: Student-t half-width t(k - 1) * s / sqrt(k), s the standard deviation of the k seeds (0 for one seed:
      one run says nothing about the next);
    - items: the mean over seeds of the distance from a seed's value to that end of its own item interval (Wilson or
      bootstrap, as stored). All seeds answer the same items, so this error does not shrink with k.

        low = mean - sqrt(t^2 s^2 / k + mean_i(value_i - low_i)^2),  high likewise

    `bounds`: where the quantity can lie, (0, 1) for a share; the interval is cut there. No interval where neither part
    exists (one seed without an item interval). `same_items`: images that failed leave a seed with fewer of the same
    prompts; where that may be, False, and n is that of the seed with the fewest. Raises ValueError for no seed, and for
    seeds of different items where these must be the same.
    """
    if not measured:
        raise ValueError("no training seed to pool")
    if len({(one.n if same_items else 0, one.low is None) for one in measured}) > 1:
        raise ValueError(f"training seeds measured different items: n = {[one.n for one in measured]}")
    k, n, values = len(measured), min(one.n for one in measured), [one.value for one in measured]
    mean = math.fsum(values) / k
    training = 0.0
    if k > 1:
        from scipy.stats import t as student_t  # takes a second, and one seed needs none

        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (k - 1))
        training = float(student_t.ppf(0.5 + confidence / 2, k - 1)) * deviation / math.sqrt(k)
    below, above = (_item_error(measured, end) for end in ("low", "high"))
    if k == 1 and (below is None or above is None):
        return Pooled(mean, None, None, k, n)
    low, high = mean - math.hypot(training, below or 0.0), mean + math.hypot(training, above or 0.0)
    if bounds is not None:
        low, high = max(bounds[0], low), min(bounds[1], high)
    return Pooled(mean, low, high, k, n)


def _item_error(measured: Sequence[Measured], end: str) -> float | None:
    """Mean distance between the values and one end of their item intervals."""
    distances = [abs(one.value - getattr(one, end)) for one in measured if getattr(one, end) is not None]
    return math.fsum(distances) / len(distances) if distances else None
