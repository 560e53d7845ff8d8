"""Fréchet distance against closed forms."""

import numpy as np
import pytest
import torch

from pipeline.metrics.frechet import Reference, frechet_distance
from pipeline.seeds import rng


def exact(count, mean, std, seed=0):
    """Features whose sample mean and covariance are exactly `mean` and diag(std^2)."""
    x = np.random.default_rng(seed).normal(size=(count, len(mean)))
    x -= x.mean(0)
    root = np.linalg.cholesky(np.linalg.inv(np.cov(x.T)))
    return torch.tensor(x @ root * np.array(std) + np.array(mean))


def test_equals_the_closed_form_of_two_diagonal_gaussians():
    a = exact(60, [0.0, 1.0, 2.0], [1.0, 2.0, 0.5])
    b = exact(40, [1.0, 1.0, 0.0], [3.0, 1.0, 0.5], seed=1)
    closed = (1 + 0 + 4) + (1 - 3) ** 2 + (2 - 1) ** 2 + 0  # |m1 - m2|^2 + sum (s1 - s2)^2
    assert frechet_distance(a, b) == pytest.approx(closed, abs=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_correlated_features_equal_scipys_matrix_root():
    from scipy.linalg import sqrtm

    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(80, 5)) @ generator.normal(size=(5, 5)), generator.normal(size=(50, 5)) + 1
    s1, s2 = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real)
    reference = Reference("r", torch.tensor(a))
    assert reference.distance(torch.tensor(b)) == pytest.approx(expected, rel=1e-6)
    assert reference.distance(torch.tensor(a)) == pytest.approx(0, abs=1e-6)  # the reference is kept, the rest is not
    assert reference._resampled(b) == pytest.approx(expected, rel=1e-6)  # the symmetric form of the replicates


def test_the_interval_holds_the_value_and_is_seeded():
    reference = Reference("r", exact(60, [0.0, 1.0], [1.0, 1.0]))
    features = exact(50, [1.0, 1.0], [1.0, 1.0], seed=2)
    first, second = (reference.estimate(features, 100, rng(0, "x")) for _ in range(2))
    assert first == second
    assert first.low < first.value < first.high
    assert (first.n, first.method) == (50, "bootstrap_centred")


def test_too_few_or_broken_features_are_named():
    reference = Reference("r", exact(10, [0.0, 1.0], [1.0, 1.0]))
    assert reference.estimate(torch.zeros(1, 2), 10, rng(0, "x")).value is None
    with pytest.raises(ValueError, match="image 1 has NaN"):
        reference.distance(torch.tensor([[0.0, 1.0], [np.nan, 0.0]]))
    with pytest.raises(ValueError, match="small: expected features"):
        Reference("small", torch.zeros(1, 3))
