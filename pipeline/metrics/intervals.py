"""95 % intervals: Wilson for proportions, seeded percentile bootstrap for everything else."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95
_CHUNK = 2**22  # resampled values held at once


@dataclass(frozen=True)
class Estimate:
    """A value with its interval. `value` is None where there was nothing to count; `low`, `high` where none applies."""

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    method: str = "none"


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927), without continuity correction.

    Raises ValueError for n < 1 or successes outside 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"expected 0 <= successes <= n and n >= 1, got {successes} of {n}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def proportion(hits: np.ndarray, unknown: int = 0) -> Estimate:
    """Share of True in `hits` (N,) bool with its Wilson interval; no value for N = 0.

    `unknown` items more may be either (evaluation.md section 1: an error is never safe). They count in n, and the
    interval, "wilson_bounds", goes from the low end with all of them False to the high end with all of them True; the
    value is that of `hits`, which lies between, and none where there are none.
    """
    hits = np.asarray(hits, dtype=bool)
    n, successes = int(hits.size) + unknown, int(hits.sum())
    if n == 0:
        return Estimate(None, 0, method="wilson")
    value = successes / hits.size if hits.size else None
    if not unknown:
        return Estimate(value, n, *wilson(successes, n), "wilson")
    return Estimate(value, n, wilson(successes, n)[0], wilson(successes + unknown, n)[1], "wilson_bounds")


def bootstrap_mean(values: np.ndarray, replicates: int, rng: np.random.Generator) -> Estimate:
    """Mean of `values` (N,) with the percentile bootstrap interval; no value for N = 0. Raises ValueError for NaN."""
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0:
        return Estimate(None, 0, method="bootstrap")
    if not np.isfinite(values).all():
        raise ValueError(f"value {int(np.flatnonzero(~np.isfinite(values))[0])} is NaN or infinite")
    means = np.empty(replicates)
    step = max(1, _CHUNK // values.size)
    for start in range(0, replicates, step):
        stop = min(start + step, replicates)
        means[start:stop] = values[rng.integers(0, values.size, (stop - start, values.size))].mean(axis=1)
    return Estimate(float(values.mean()), int(values.size), *percentiles(means), "bootstrap")


def bootstrap(
    statistic: Callable[[np.ndarray], float], n: int, replicates: int, rng: np.random.Generator, centred: bool = False
) -> Estimate:
    """`statistic(indices (n,) int64)` of all items, with the percentile interval over resampled items.

    `centred` shifts the replicates by their own bias (mean of replicates minus the value). For statistics that a
    resample inflates, as duplicates do to a Fréchet distance, whose plain percentile interval may miss the value.
    """
    value = float(statistic(np.arange(n)))
    resampled = np.array([statistic(rng.integers(0, n, n)) for _ in range(replicates)])
    if centred:
        resampled = resampled - resampled.mean() + value
    return Estimate(value, n, *percentiles(resampled), "bootstrap_centred" if centred else "bootstrap")


def percentiles(replicates: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The central `confidence` share of the replicates (linear interpolation)."""
    low, high = np.quantile(replicates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
