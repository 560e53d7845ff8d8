"""Exact nearest and farthest neighbours by cosine, streamed over chunks: proximal targets of safer_clip.md section 3.

A matrix product gives other last bits for other chunk shapes, so it only proposes candidates: all that can be among
the best k within its error bound. Their cosines are then computed again in float64, in an order that depends on
nothing but the width. Hence identical rows have identical cosines wherever they lie, ties go to the lowest index, and
the chunk size changes nothing.

The common path is one float32 product a block, into a buffer that is kept, and one pass over it for the largest value
of each group of columns. Only groups that can hold an answer are looked into, and only what is left at the end is
computed again: about k candidates a query, unless the pool is full of ties.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_TIE = 2.0**40  # cosines that agree to 2^-40 (9e-13) are equal: far above float64 rounding, far below float32
_SLAB = 8192  # candidate pairs computed again at a time, fewer where vectors are wide:
_SLAB_ENTRIES = 1 << 19  # their numbers on each side, 4 MB in float64: about what a cache holds
_GROUP = 64  # columns whose largest value is looked at first, fewer where k is large for the chunk
_GROUPS_PER_K = 4  # at least so many groups for each of the k: their k-th largest value is then a close floor
_PENDING = 8  # candidates for each of the k that wait, at most, before they are computed again
_UNIT = 2.0**-23  # rows whose length is this near to 1 are taken as they are: see `_error_bound`


def nearest(queries: Tensor, pool: Tensor, k: int = 1, *, chunk: int = 4096) -> tuple[Tensor, Tensor]:
    """The k rows of `pool` with the highest cosine to each query.

    queries (N, D), pool (M, D), any floating type, not necessarily normalised. Returns indices (N, k) int64 and
    cosines (N, k) float32, best first, ties to the lowest index, on the CPU. Memory beyond the inputs is of the order
    of `chunk` x the larger of `chunk` and D, in float64, and a float32 copy of a pool that is not float32 of unit
    length (embeddings tables are). Computed where the inputs are. Raises ValueError for widths that differ, k outside
    1..M, rows that are zero or not finite.
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
    lengths, pool_lengths = _lengths(queries, "queries"), _lengths(pool, "pool")
    indices, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k))
    side = _Side(pool.detach(), _unit(pool, pool_lengths, chunk), pool_lengths)
    buffer = torch.empty(min(chunk, len(queries)) * min(chunk, len(pool)), device=queries.device)
    for start in range(0, len(queries), chunk):
        block = slice(start, start + chunk)
        part = queries[block].detach()
        wanted = _Side(part, sign * _unit(part, lengths[block], chunk), lengths[block])
        indices[block], scores[block] = _Search(wanted, side, k, sign).run(chunk, buffer)
    return torch.from_numpy(indices), torch.from_numpy((sign * scores).astype(np.float32))


@dataclass(frozen=True)
class _Side:
    """Vectors (n, D) as given, the same in float32 of unit length, and their lengths (n,) float64."""

    given: Tensor
    unit: Tensor
    lengths: np.ndarray


class _Search:
    """The best k of a pool for one block of queries; scores are signed cosines, so that the largest are wanted."""

    def __init__(self, queries: _Side, pool: _Side, k: int, sign: float) -> None:
        self.queries, self.pool, self.k, self.sign = queries, pool, k, sign
        n, device = len(queries.given), queries.given.device
        self.slack = 2 * _error_bound(queries.given.shape[1])
        self.top = torch.full((n, k), -torch.inf, device=device)  # best rough scores so far, in no order
        self.floor = torch.full((n,), -torch.inf, device=device)  # no answer's rough score lies below it
        self.pending: list[tuple[Tensor, Tensor, Tensor]] = []  # queries, rows of the pool, rough scores
        self.waiting = 0
        self.index, self.score = np.zeros((n, 0), np.int64), np.zeros((n, 0))  # computed again, exact

    def run(self, chunk: int, buffer: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Indices (n, k) and signed cosines (n, k) float64, best first. `buffer` holds one block of scores."""
        n = len(self.queries.unit)
        for start in range(0, len(self.pool.unit), chunk):
            part = self.pool.unit[start : start + chunk]
            rough = buffer[: n * len(part)].view(n, len(part))
            torch.mm(self.queries.unit, part.T, out=rough)
            self._collect(rough, start)
            if self.waiting > _PENDING * self.k * n:
                self._prune()
                if self.waiting > _PENDING * self.k * n:
                    self._settle()
        self._prune()
        self._settle()
        return self.index, self.score

    def _collect(self, rough: Tensor, start: int) -> None:
        """Take every score of a block (n, m) that no k scores known so far lie clearly above."""
        n, width = rough.shape
        group = min(_GROUP, max(1, width // (_GROUPS_PER_K * self.k)))
        if odd := -width % group:
            rough = torch.nn.functional.pad(rough, (0, odd), value=-torch.inf)
        # Column j is in group j % groups: so the largest value of each is found along the slow axis, which is fast.
        groups = rough.view(n, group, -1)
        largest = groups.amax(1) if group > 1 else rough
        if largest.shape[1] >= self.k:  # k groups hold k different scores
            floor = largest.topk(self.k, dim=1).values[:, -1] if self.k > 1 else largest.amax(1)
            self.floor = torch.maximum(self.floor, floor - self.slack)
        query, place = torch.nonzero(largest >= self.floor[:, None], as_tuple=True)
        found = groups[query, :, place]  # (T, group)
        where, member = torch.nonzero(found >= self.floor[query, None], as_tuple=True)
        self._keep(query[where], start + member * groups.shape[2] + place[where], found[where, member])

    def _keep(self, query: Tensor, row: Tensor, score: Tensor) -> None:
        """Candidates, sorted by query: wait, and raise the floor to their k-th best."""
        if not len(query):
            return
        self.pending.append((query, row, score))
        self.waiting += len(query)
        touched, count = torch.unique_consecutive(query, return_counts=True)
        owner = torch.repeat_interleave(torch.arange(len(touched), device=query.device), count)
        rank = torch.arange(len(query), device=query.device) - (count.cumsum(0) - count)[owner]
        wide = score.new_full((len(touched), self.k + int(count.max())), -torch.inf)
        wide[:, : self.k] = self.top[touched]
        wide[owner, self.k + rank] = score
        best = wide.topk(self.k, dim=1).values
        self.top[touched] = best
        self.floor[touched] = torch.maximum(self.floor[touched], best[:, -1] - self.slack)

    def _prune(self) -> None:
        """Drop what the floor has passed since."""
        if self.pending:
            query, row, score = (torch.cat(column) for column in zip(*self.pending, strict=True))
            keep = score >= self.floor[query]
            self.pending = [(query[keep], row[keep], score[keep])]
            self.waiting = len(self.pending[0][0])

    def _settle(self) -> None:
        """Compute the waiting candidates again, and keep the best k with those settled before."""
        if not self.pending:
            return
        query, row = (torch.cat(column).cpu().numpy() for column in list(zip(*self.pending, strict=True))[:2])
        score = self.sign * _cosines(
            self.queries.given, self.pool.given, query, row, self.queries.lengths, self.pool.lengths
        )
        self.index, self.score = _merge(self.index, self.score, query, row, score, self.k)
        self.pending, self.waiting = [], 0


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
    slab = _slab(queries)
    for start in range(0, len(query), slab):
        q, r = query[start : start + slab], row[start : start + slab]
        dots = _dots(_wide(queries[torch.from_numpy(q)]), _wide(part[torch.from_numpy(r)]))
        found[start : start + slab] = dots / (query_lengths[q] * lengths[r])
    return np.round(found * _TIE) / _TIE


def _dots(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Dot products (n,) of the rows of two (n, D) float64, by halving: in an order that depends on D alone."""
    terms = a * b
    width = terms.shape[1]
    while width > 1:
        half = (width + 1) // 2
        terms[:, : width - half] += terms[:, half:width]
        width = half
    return terms[:, 0] if width else np.zeros(len(terms))


def _lengths(vectors: Tensor, name: str) -> np.ndarray:
    """Euclidean lengths (N,) float64. Raises ValueError naming the first row that is zero or not finite."""
    found = np.empty(len(vectors))
    slab = _slab(vectors)
    for start in range(0, len(vectors), slab):
        rows = _wide(vectors[start : start + slab])
        found[start : start + slab] = np.sqrt(_dots(rows, rows))
    bad = np.flatnonzero(~np.isfinite(found) | (found == 0))
    if len(bad):
        what = "is zero" if found[bad[0]] == 0 else "holds NaN or infinity"
        raise ValueError(f"{name}: row {bad[0]} {what}")
    return found


def _slab(vectors: Tensor) -> int:
    return max(1, min(_SLAB, _SLAB_ENTRIES // max(1, vectors.shape[1])))


def _wide(vectors: Tensor) -> np.ndarray:
    return vectors.detach().double().cpu().numpy()


def _unit(vectors: Tensor, lengths: np.ndarray, chunk: int) -> Tensor:
    """The vectors in float32, each of length 1: themselves where they are that already, else a copy."""
    if vectors.dtype == torch.float32 and (np.abs(lengths - 1) <= _UNIT).all():
        return vectors.detach()
    found = torch.empty(vectors.shape, device=vectors.device)
    for start in range(0, len(vectors), chunk):
        wide = vectors[start : start + chunk].detach().double()
        found[start : start + chunk] = wide / wide.norm(dim=1, keepdim=True)
    return found


def _error_bound(width: int) -> float:
    """Largest error of a cosine from a float32 matrix product of this width, whatever its order of summation.

    2^-24 for each of the D terms (products and sums of numbers whose absolute values sum to at most 1), and 8 times
    that for the vectors: at most 2^-24 a side for rounded entries, or 2^-23 a side for a length that is not quite 1.
    """
    precise = torch.get_float32_matmul_precision() == "highest"
    return (width + 8) * 2.0**-24 if precise else (width + 8) * 2.0**-24 + 2.0**-6
