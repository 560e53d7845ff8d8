"""Retrieval in embedding space: recall at k and the item at the top.

Tie rule everywhere: of equal scores the lower gallery index comes first. Scores are cosines in float64, rounded to
1e-9 so that equal vectors are equal scores wherever they stand in the gallery. In a combined pool safe items come
first (`safe_clip.md` §8), so a tie counts for the safe one.
"""

import numpy as np
import torch

CHUNK = 1024
_DECIMALS = 9
Vectors = np.ndarray | torch.Tensor


def recall_at_k(queries: Vectors, gallery: Vectors, positives: Vectors, k: int) -> float:
    """Share of queries (N, D) whose true item is among the k best of the gallery (M, D) by cosine.

    `positives` (N,) int64 holds the gallery index of the true item. Its rank is the number of gallery scores strictly
    above its own, plus equal ones with a lower index; it is a hit if the rank is below k (any rank for k >= M).
    Raises ValueError for empty input, other shapes, NaN or zero vectors, an index outside the gallery, k < 1.
    """
    return float(hits_at_k(queries, gallery, positives, k).mean())


def hits_at_k(queries: Vectors, gallery: Vectors, positives: Vectors, k: int) -> np.ndarray:
    """(N,) bool: is the true item among the k best? As recall_at_k."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return ranks(queries, gallery, positives) < k


def ranks(queries: Vectors, gallery: Vectors, positives: Vectors, chunk: int = CHUNK) -> np.ndarray:
    """(N,) int64: rank of the true item, 0 is best. As recall_at_k; `chunk` queries at a time bound the memory."""
    q, g = _unit(queries, "queries"), _unit(gallery, "gallery")
    true = _indices(positives, len(q), len(g))
    _same_width(q, g)
    result = np.empty(len(q), dtype=np.int64)
    order = np.arange(len(g))
    for start in range(0, len(q), chunk):
        index = true[start : start + chunk, None]
        scores = np.round(q[start : start + chunk] @ g.T, _DECIMALS)
        own = np.take_along_axis(scores, index, axis=1)
        result[start : start + chunk] = (scores > own).sum(1) + ((scores == own) & (order < index)).sum(1)
    return result


def top1(queries: Vectors, gallery: Vectors, chunk: int = CHUNK) -> np.ndarray:
    """(N,) int64: gallery index of the best item for each query. Raises ValueError as recall_at_k."""
    q, g = _unit(queries, "queries"), _unit(gallery, "gallery")
    _same_width(q, g)
    parts = [np.round(q[i : i + chunk] @ g.T, _DECIMALS).argmax(axis=1) for i in range(0, len(q), chunk)]
    return np.concatenate(parts)


def top(queries: Vectors, gallery: Vectors, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Gallery indices (N, min(k, M)) int64 of the best items for each query, best first, and their cosines float64.

    Ties as everywhere here: `top(...)[0][:, 0]` is `top1(...)`. All N x M cosines at once: for a few queries. Raises
    ValueError as recall_at_k.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    q, g = _unit(queries, "queries"), _unit(gallery, "gallery")
    _same_width(q, g)
    scores = np.round(q @ g.T, _DECIMALS)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return best, np.take_along_axis(scores, best, axis=1)


def _unit(vectors: Vectors, name: str) -> np.ndarray:
    """(N, D) float64 of length 1."""
    if isinstance(vectors, torch.Tensor):
        vectors = vectors.detach().to("cpu", torch.float64).numpy()
    values = np.asarray(vectors, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{name}: expected vectors (N, D), got shape {values.shape}")
    if bad := np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist():
        raise ValueError(f"{name}: row {bad[0]} has NaN or infinite values")
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    if zero := np.flatnonzero(norms[:, 0] == 0).tolist():
        raise ValueError(f"{name}: row {zero[0]} is a zero vector, it has no direction")
    return values / norms


def _indices(positives: Vectors, n: int, m: int) -> np.ndarray:
    if isinstance(positives, torch.Tensor):
        positives = positives.cpu().numpy()
    true = np.asarray(positives)
    if true.shape != (n,) or not np.issubdtype(true.dtype, np.integer):
        raise ValueError(f"positives: expected ({n},) integers, got {true.shape} {true.dtype}")
    if (true < 0).any() or (true >= m).any():
        raise ValueError(f"positives: index outside the gallery of {m} items")
    return true.astype(np.int64)


def _same_width(queries: np.ndarray, gallery: np.ndarray) -> None:
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"queries are {queries.shape[1]} wide, the gallery {gallery.shape[1]}")
