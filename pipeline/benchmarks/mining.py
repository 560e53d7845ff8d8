"""Exact nearest neighbours against the bare blocked matrix product that they cannot do without.

The project's promise is exact top-1 within 1.15 times the product, under 2 GB beyond the inputs: a ratio of at least
0.87. The memory of a line is what `nearest` took beyond its inputs and the product's buffer, which is held throughout.
`--full` adds 165,000 x 165,000, ViSU's size.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from pipeline.bench import Comparison
from pipeline.bench_growth import Growth
from pipeline.mining import nearest
from pipeline.precision import pick_device
from pipeline.seeds import generator

WIDTH = 768
CHUNK = 4096
_SIZES = ((20_000, 1, 7), (20_000, 16, 7), (40_000, 1, 3), (80_000, 1, 1))  # queries and pool, k, turns
_VISU = ((165_000, 1, 1), (165_000, 16, 1))


def comparisons(full: bool = False) -> Iterator[Comparison]:
    """Square problems of growing size, on the device that stages would use."""
    device = pick_device()[0]
    for size, k, turns in _SIZES + (_VISU if full else ()):
        queries, pool = (vectors(size, name).to(device) for name in ("queries", "pool"))
        title = f"nearest {k} of {size:,} in {size:,} x {WIDTH}: bare blocked product / exact"
        yield compare(title, queries, pool, k, turns)


def growths() -> Iterator[Growth]:
    """Pairs of vectors grow with the square; the largest take a minute or more."""
    yield Growth(f"nearest 1 of N in N x {WIDTH}", "queries", 10_000, square, turns=1)


def square(size: int, folder: Path) -> Callable[[], object]:
    """`folder` is not used."""
    queries, pool = (vectors(size, name).to(pick_device()[0]) for name in ("queries", "pool"))
    return lambda: nearest(queries, pool, 1, chunk=CHUNK)


def compare(title: str, queries: Tensor, pool: Tensor, k: int, turns: int) -> Comparison:
    """`plain`: every block's product into one buffer, and nothing else."""
    (n, width), m = queries.shape, len(pool)
    buffer = torch.empty(min(CHUNK, n) * min(CHUNK, m), device=queries.device)

    def product() -> None:
        for rows in queries.split(CHUNK):
            for part in pool.split(CHUNK):
                torch.mm(rows, part.T, out=buffer[: len(rows) * len(part)].view(len(rows), len(part)))

    return Comparison(
        title, product, lambda: nearest(queries, pool, k, chunk=CHUNK), count=n, unit="queries",
        flops=2.0 * n * m * width, turns=turns,
    )  # fmt: skip


def vectors(count: int, name: str, width: int = WIDTH) -> Tensor:
    """Random vectors (count, width) float32 of unit length, as embeddings tables have them."""
    found = torch.randn(count, width, generator=generator(0, "bench", "mining", name))
    for part in found.split(8192):
        part.copy_(torch.nn.functional.normalize(part.double(), dim=1))
    return found
