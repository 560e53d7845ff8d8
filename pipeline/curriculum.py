"""Difficulty of training pairs, and which pairs an epoch sees: safer_clip.md section 4."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

LEVELS = ("easy", "medium", "hard")
Measure = Literal["nearest", "given"]
Cuts = Literal["quantile", "absolute"]


@dataclass(frozen=True)
class BucketParams:
    """How pairs are cut into easy, medium and hard by the cosine of their unsafe and a safe caption.

    `measure`: the nearest safe caption (the pair that is aligned) or the given one; the paper does not say which.
    `values`: two ascending cut points of the cosine, as quantiles in [0, 1] or absolute in [-1, 1]. Below the first
    is hard, from the second on is easy. The paper publishes none; thirds are the default of safer_clip.md section 10.
    """

    measure: Measure
    cuts: Cuts
    values: tuple[float, float]

    def __post_init__(self) -> None:
        low = 0.0 if self.cuts == "quantile" else -1.0
        if not low <= self.values[0] <= self.values[1] <= 1:
            raise ValueError(f"values: expected two ascending {self.cuts} cuts from {low:g} to 1, got {self.values}")


def difficulty(cosines: Sequence[float] | np.ndarray, cuts: Cuts, values: tuple[float, float]) -> np.ndarray:
    """ "easy", "medium" or "hard" (N,) for cosines (N,): a high cosine is easy, and equal cosines fall together."""
    cosines = np.asarray(cosines, np.float64)
    if not len(cosines):
        return np.array([], dtype="<U6")
    hard, easy = np.quantile(cosines, values) if cuts == "quantile" else values
    return np.where(cosines >= easy, "easy", np.where(cosines >= hard, "medium", "hard"))


def epoch_rows(levels: Sequence[str] | np.ndarray, epoch: int, curriculum: bool = True) -> np.ndarray:
    """Rows (int64, ascending) that an epoch covers, once each: 1 easy, 2 easy and medium, from 3 on all (cumulative).

    Epochs count from 1. Without a curriculum every epoch covers all rows.
    """
    if epoch < 1:
        raise ValueError(f"epochs count from 1, got {epoch}")
    open_levels = LEVELS[:epoch] if curriculum else LEVELS
    return np.flatnonzero(np.isin(np.asarray(levels), open_levels))


def bucket_pairs(targets: pa.Table, params: BucketParams) -> dict[str, np.ndarray]:
    """Columns of the buckets table, in order of pair ids, from the targets table (its rows of rank 0)."""
    first = targets.filter(pc.equal(targets.column("rank"), 0)).sort_by("pair_id")
    cosines = first.column("cosine" if params.measure == "nearest" else "cosine_given").to_numpy()
    return {
        "pair_id": first.column("pair_id").to_numpy(),
        "difficulty": difficulty(cosines, params.cuts, params.values),
        "cosine": cosines,
    }
