"""Exact nearest and farthest neighbours by cosine, streamed over chunks: proximal targets of safer_clip.md section 3.

A matrix product gives other last bits for other chunk shapes, so it only proposes candidates: all that can be among
the best k within its error bound. Their cosines are then computed again in float64, in an order that depends on
nothing but the width. Hence identical rows have identical cosines wherever they lie, ties go to the lowest index, and
the chunk size changes nothing.
"""

import numpy as np
import torch
from torch import Tensor

_TIE = 2.0**40  # cosines that agree to 2^-40 (9e-13) are equal: far above float64 rounding, far below float32
_SLAB = 8192  # candidate pairs computed again at a time, fewer where vectors are wide:
_SLAB_ENTRIES = 1 << 24  # their numbers on each side, 128 MB in float64


def nearest(queries: Tensor, pool: Tensor, k: int = 1, *, chunk: int = 4096) -> tuple[Tensor, Tensor]:
    """The k rows of `pool` with the highest cosine to each query.

    queries (N, D), pool (M, D), any floating type, not necessarily normalised. Returns indices (N, k) int64 and
    cosines (N, k) float32, best first, ties to the lowest index, on the CPU. Memory beyond the inputs is of the order
    of `chunk` x the larger of `chunk` and D, in float64. Raises ValueError for widths that differ, k outside 1..M, rows
    that are zero or not finite.
    """
    return _search(queries, pool, k, chunk, 1.0)


def farthest(queries: Tensor, pool: Tensor, k: int = 1, *, chunk: int = 4096) -> tuple[Tensor, Tensor]:
    """As `nearest`, with the lowest cosines, lowest first."""
    return _search(queries, pool, k, chunk, -1.0)


def _search(queries: Tensor, pool: Tensor, k: int, chunk: int, sign: float) -> tuple[Tensor, Tensor]:
    if queries.ndim != 2 or pool.ndim != 2 or queries.shape[1] != pool.shape[1]:
        raise ValueError(
            f"expected queries (N, D) and a pool (M, D) of one width, got {tuple(queries.shape)}, {tuple(pool.shape)}"
        )
    if not 1 <= k <= len(pool):
        raise ValueError(f"k must be from 1 to the size of the pool, {len(pool)}, got {k}")
    if chunk < 1:
        raise ValueError(f"chunk must be 1 or more, got {chunk}")
    lengths, pool_lengths = _lengths(queries, "queries", chunk), _lengths(pool, "pool", chunk)
    indices, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k))
    for start in range(0, len(queries), chunk):
        block = slice(start, start + chunk)
        found = _search_block(queries[block], pool, k, chunk, sign, lengths[block], pool_lengths)
        indices[block], scores[block] = found
    return torch.from_numpy(indices), torch.from_numpy((sign * scores).astype(np.float32))


def _search_block(
    queries: Tensor, pool: Tensor, k: int, chunk: int, sign: float, query_lengths: np.ndarray, pool_lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Best k of the whole pool for one block of queries: indices and signed cosines (n, k), best first."""
    n, tolerance = len(queries), _error_bound(queries.shape[1])
    best_index, best_score = np.zeros((n, 0), np.int64), np.zeros((n, 0))
    unit = _normalised(queries)
    for start in range(0, len(pool), chunk):
        part = pool[start : start + chunk]
        rough = sign * (unit @ _normalised(part).T)
        # No row of the answer lies further below the chunk's k-th best, or the best k so far, than rounding explains.
        floor = rough.topk(min(k, len(part)), dim=1).values[:, -1] - 2 * tolerance
        if best_score.shape[1] == k:
            found = torch.from_numpy(best_score[:, -1] - 2 * tolerance).to(floor)
            floor = torch.maximum(floor, found)
        query, row = (index.cpu().numpy() for index in torch.nonzero(rough >= floor[:, None], as_tuple=True))
        score = sign * _cosines(queries, part, query, row, query_lengths, pool_lengths[start : start + chunk])
        best_index, best_score = _merge(best_index, best_score, query, row + start, score, k)
    return best_index, best_score


def _merge(
    best_index: np.ndarray, best_score: np.ndarray, query: np.ndarray, row: np.ndarray, score: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best k (or as many as there are) of those found so far (n, j) and new candidates, per query."""
    n, held = best_index.shape
    query = np.concatenate([np.repeat(np.arange(n), held), query])
    row = np.concatenate([best_index.ravel(), row])
    score = np.concatenate([best_score.ravel(), score])
    order = np.lexsort((row, -score, query))
    query, row, score = query[order], row[order], score[order]
    first = np.searchsorted(query, np.arange(n))
    width = min(k, int(np.bincount(query, minlength=n).min()))
    keep = np.arange(len(query)) - first[query] < width
    return row[keep].reshape(n, width), score[keep].reshape(n, width)


def _cosines(
    queries: Tensor, part: Tensor, query: np.ndarray, row: np.ndarray, query_lengths: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """float64 cosines of (query, row) pairs, rounded to the tie width."""
    found = np.empty(len(query))
    slab = max(1, min(_SLAB, _SLAB_ENTRIES // queries.shape[1]))
    for start in range(0, len(query), slab):
        q, r = query[start : start + slab], row[start : start + slab]
        dots = _dots(_columns(queries[torch.from_numpy(q)]), _columns(part[torch.from_numpy(r)]))
        found[start : start + slab] = dots / (query_lengths[q] * lengths[r])
    return np.round(found * _TIE) / _TIE


def _dots(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Column-wise dot products of (D, n) float64, always summed from the first row to the last."""
    total = np.zeros(a.shape[1])
    for left, right in zip(a, b, strict=True):
        total += left * right
    return total


def _lengths(vectors: Tensor, name: str, chunk: int) -> np.ndarray:
    """Euclidean lengths (N,) float64. Raises ValueError naming the first row that is zero or not finite."""
    found = np.empty(len(vectors))
    for start in range(0, len(vectors), chunk):
        columns = _columns(vectors[start : start + chunk])
        found[start : start + chunk] = np.sqrt(_dots(columns, columns))
    bad = np.flatnonzero(~np.isfinite(found) | (found == 0))
    if len(bad):
        what = "is zero" if found[bad[0]] == 0 else "holds NaN or infinity"
        raise ValueError(f"{name}: row {bad[0]} {what}")
    return found


def _columns(vectors: Tensor) -> np.ndarray:
    return np.ascontiguousarray(vectors.detach().double().cpu().numpy().T)


def _normalised(vectors: Tensor) -> Tensor:
    wide = vectors.detach().double()
    return (wide / wide.norm(dim=1, keepdim=True)).float()


def _error_bound(width: int) -> float:
    """Largest error of a cosine from a float32 matrix product of this width, whatever its order of summation."""
    precise = torch.get_float32_matmul_precision() == "highest"
    return (width + 8) * 2.0**-24 if precise else (width + 8) * 2.0**-24 + 2.0**-6
