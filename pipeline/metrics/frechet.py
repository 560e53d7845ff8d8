"""Fréchet distance between two image sets, on named features that are not Inception's: never to be called FID.

The value comes from torchmetrics (`FrechetInceptionDistance` with a feature network of ours, in float64): squared
distance of means plus Tr(S1 + S2 - 2 (S1 S2)^(1/2)), covariances with N - 1. It is biased upward for small N, so only
values of equal N, reference and features compare.
"""

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.metrics.intervals import Estimate, bootstrap


class _Given(nn.Module):
    """Hands torchmetrics features that were computed once, instead of images."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class Reference:
    """Features (N, F) of a named real image set; their statistics are kept for every comparison of a run."""

    def __init__(self, name: str, features: Tensor) -> None:
        """Raises ValueError for fewer than 2 images, another shape, or features that are not finite."""
        from torchmetrics.image.fid import FrechetInceptionDistance  # takes seconds: only where images are compared

        self.name, values = name, _checked(features, name)
        self.metric = FrechetInceptionDistance(_Given(values.shape[1]), reset_real_features=False, normalize=True)
        self.metric.set_dtype(torch.float64)
        self.metric.update(values, real=True)
        self.mean, self.covariance = values.mean(0).numpy(), torch.cov(values.T).reshape(2 * values.shape[1:]).numpy()
        self.root = _root(self.covariance)

    def distance(self, features: Tensor) -> float:
        """Fréchet distance of features (N, F) to the reference. Raises ValueError as above."""
        self.metric.reset()  # keeps the real features
        self.metric.update(_checked(features, "features"), real=False)
        return float(self.metric.compute())

    def estimate(self, features: Tensor, replicates: int, rng: np.random.Generator) -> Estimate:
        """The distance with a bootstrap interval over the images, centred, because duplicates inflate the distance.

        Replicates use the symmetric form Tr((S1^(1/2) S2 S1^(1/2))^(1/2)), equal and faster. No value for N < 2.
        """
        if len(features) < 2:
            return Estimate(None, len(features), method="bootstrap_centred")
        values = _checked(features, "features").numpy()
        interval = bootstrap(lambda index: self._resampled(values[index]), len(values), replicates, rng, centred=True)
        value = self.distance(features)
        shift = value - interval.value
        return Estimate(value, len(values), max(0.0, interval.low + shift), interval.high + shift, interval.method)

    def _resampled(self, values: np.ndarray) -> float:
        covariance = np.atleast_2d(np.cov(values.T))
        cross = np.sqrt(np.linalg.eigvalsh(self.root @ covariance @ self.root).clip(min=0)).sum()
        moved = ((values.mean(0) - self.mean) ** 2).sum()
        return float(moved + np.trace(covariance) + np.trace(self.covariance) - 2 * cross)


def frechet_distance(reference: Tensor, features: Tensor) -> float:
    """Fréchet distance between features (N, F) and (M, F)."""
    return Reference("reference", reference).distance(features)


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


def _checked(features: Tensor, name: str) -> Tensor:
    values = torch.as_tensor(features).detach().cpu().double()
    if values.ndim != 2 or len(values) < 2:
        raise ValueError(f"{name}: expected features (N, F) of at least 2 images, got shape {tuple(values.shape)}")
    if not torch.isfinite(values).all():
        raise ValueError(f"{name}: image {int((~torch.isfinite(values)).any(1).nonzero()[0])} has NaN features")
    return values
