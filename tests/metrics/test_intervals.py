"""Intervals against published and independent values."""

import numpy as np
import pytest
from scipy.stats import binomtest
from scipy.stats import bootstrap as scipy_bootstrap

from pipeline.metrics.intervals import bootstrap, bootstrap_mean, proportion, wilson
from pipeline.seeds import rng


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (1, 10), (81, 263), (300, 300), (0, 1), (5, 10)])
def test_wilson_equals_scipy(hits, n):
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_equals_the_published_example():
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)  # Newcombe 1998, table I


def test_wilson_refuses_what_is_no_proportion():
    for bad in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="0 <= successes <= n"):
            wilson(*bad)


def test_nothing_counted_has_no_value():
    for empty in (proportion(np.array([], dtype=bool)), bootstrap_mean(np.array([]), 10, rng(0, "x"))):
        assert (empty.value, empty.n, empty.low, empty.high) == (None, 0, None, None)


def test_bootstrap_of_a_mean_equals_scipys_percentile_interval():
    values = np.random.default_rng(1).gamma(2, size=200)
    ours = bootstrap_mean(values, 4000, rng(0, "x"))
    theirs = scipy_bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=3).confidence_interval
    assert ours.value == values.mean()
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
    assert ours == bootstrap_mean(values, 4000, rng(0, "x"))  # seeded
    assert ours.high - ours.low == pytest.approx(2 * 1.96 * values.std(ddof=1) / 200**0.5, rel=0.06)


def test_bootstrap_refuses_nan():
    with pytest.raises(ValueError, match="value 1 is NaN"):
        bootstrap_mean(np.array([1.0, np.nan]), 10, rng(0, "x"))


def test_a_centred_bootstrap_covers_a_statistic_that_resampling_inflates():
    values = np.random.default_rng(1).normal(size=50)

    def repeats(index):  # 0 for the sample itself, about 18 for every resample
        return len(index) - len(set(index.tolist())) + values[index].mean()

    plain, centred = (bootstrap(repeats, 50, 200, rng(0, "x"), centred=c) for c in (False, True))
    assert plain.low > plain.value
    assert centred.low < centred.value < centred.high
    assert centred.method == "bootstrap_centred"
