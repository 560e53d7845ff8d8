"""Zero-shot classification: each class is the mean of its prompts' normalised text embeddings.

Made for tasks of the size of ImageNet (50,000 images, 1,000 classes): a step holds a block of rows at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.metrics.intervals import Estimate, percentiles

_BLOCK = 1 << 22  # numbers (of 8 bytes) that a step holds at once


@dataclass(frozen=True)
class Classifier:
    """Class embeddings (C, D) float64 of length 1 and the class id of each row, ascending."""

    class_ids: np.ndarray
    vectors: Tensor

    def predict(self, images: Tensor) -> np.ndarray:
        """Class ids (N,) int64 of image embeddings (N, D); ties (to 1e-9) go to the lowest class id."""
        if len(images) == 0:
            return np.zeros(0, dtype=np.int64)
        rows = max(1, _BLOCK // max(self.vectors.shape))
        return np.concatenate([self._nearest(images[at : at + rows]) for at in range(0, len(images), rows)])

    def _nearest(self, images: Tensor) -> np.ndarray:
        scores = normalize(images.to(torch.float64), dim=1) @ self.vectors.T
        return self.class_ids[np.round(scores.numpy(), 9).argmax(axis=1)]


def classifier(class_ids: Sequence[int], prompts: Tensor) -> Classifier:
    """From one embedding (P, D) per prompt and the class id (P,) that it belongs to."""
    known, index = np.unique(np.asarray(class_ids, dtype=np.int64), return_inverse=True)
    unit = normalize(prompts.to(torch.float64), dim=1)
    sums = torch.zeros(len(known), unit.shape[1], dtype=torch.float64).index_add_(0, torch.from_numpy(index), unit)
    return Classifier(known, normalize(sums, dim=1))


def mean_over_tasks(correct: np.ndarray, replicates: int, rng: np.random.Generator) -> Estimate:
    """Mean over tasks of each task's accuracy, bootstrap over images. `correct` (N, T): 1, 0, or NaN for no label.

    An image may have labels of several tasks, so tasks are not independent: images are resampled, with all of theirs.
    """
    count = len(correct)
    if count == 0:
        return Estimate(None, 0, method="bootstrap")
    labelled = np.isfinite(correct).astype(np.float64)
    right = np.where(labelled > 0, correct, 0.0)
    shares = np.empty((replicates, correct.shape[1]))
    block = max(1, _BLOCK // count)
    for at in range(0, replicates, block):
        resamples = (rng.integers(0, count, count) for _ in range(at, min(at + block, replicates)))
        weights = np.stack([np.bincount(rows, minlength=count) for rows in resamples])
        with np.errstate(invalid="ignore"):  # a task without a label in one resample is left out of its mean
            shares[at : at + block] = (weights @ right) / (weights @ labelled)
    value = float(np.nanmean(right.sum(0) / labelled.sum(0)))
    return Estimate(value, count, *percentiles(np.nanmean(shares, axis=1)), "bootstrap")
