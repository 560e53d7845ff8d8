"""Approximate nearest neighbours (FAISS, extra `search`) against exact ones: queries/s, with the recall measured.

Vectors are made to be like caption embeddings: clusters of topics of unequal size, on few directions of their 768, so
that a method has neighbours to find; on uniform random vectors every approximate method looks worse than on real ones.
Recall is the share of exact top-1 neighbours that are found. docs/scale.md
says how to measure a collection of your own.
"""

import importlib.util
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline.bench import Comparison
from pipeline.mining import nearest
from pipeline.seeds import generator

WIDTH = 768
_POOL, _FULL = 50_000, 1_000_000
_PROBES = (8, 32, 128)  # lists that a query looks into


def comparisons(full: bool = False, pool: int | None = None, queries: int = 2000) -> Iterator[Comparison]:
    """One line per setting of an inverted file (IVF). Without FAISS there is nothing to compare."""
    if importlib.util.find_spec("faiss") is None:
        print("search: FAISS is not installed (run make env): left out")
        return
    count = pool or (_FULL if full else _POOL)
    vectors = captions_like(count + queries)
    asked, held = vectors[:queries], vectors[queries:]
    index = build(held)
    exact = nearest(asked, held, 1)[0][:, 0]
    for probes in _PROBES:
        share = recall(index, asked, exact, probes)
        title = f"nearest of {count:,} x {WIDTH}: exact / IVF, {index.nlist} lists, {probes} probed, recall {share:.3f}"

        def approximate(probes: int = probes) -> object:
            index.nprobe = probes
            return index.search(asked.numpy(), 1)

        yield Comparison(title, lambda: nearest(asked, held, 1), approximate, queries, "queries")


def build(pool: Tensor, seed: int = 0) -> "faiss.IndexIVFFlat":  # noqa: F821
    """An inverted file over vectors (N, D) of unit length: 4 sqrt(N) lists, as FAISS advises for up to a million."""
    import faiss

    lists = max(1, int(4 * len(pool) ** 0.5))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(pool.shape[1]), pool.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.min_points_per_centroid = seed, 1
    index.train(pool.numpy()[: 64 * lists])
    index.add(pool.numpy())
    return index


def recall(index: "faiss.IndexIVFFlat", queries: Tensor, exact: Tensor, probes: int) -> float:  # noqa: F821
    """Share of the queries (Q, D) whose nearest neighbour the index finds; `exact` (Q,) int64 are the true ones."""
    index.nprobe = probes
    _, found = index.search(queries.numpy(), 1)
    return float(np.mean(found[:, 0] == exact.numpy()))


def captions_like(count: int, topics: int = 1000, directions: int = 64) -> Tensor:
    """Vectors (count, WIDTH) float32 of unit length around topics whose sizes fall off as 1/rank."""
    draw = generator(0, "bench", "search")
    basis = torch.linalg.qr(torch.randn(WIDTH, directions, generator=draw))[0].T
    centres = torch.randn(topics, directions, generator=draw)
    chosen = torch.multinomial(1 / torch.arange(1, topics + 1.0), count, replacement=True, generator=draw)
    found = (centres[chosen] + 0.7 * torch.randn(count, directions, generator=draw)) @ basis
    return torch.nn.functional.normalize(found + 0.02 * torch.randn(count, WIDTH, generator=draw), dim=1)
