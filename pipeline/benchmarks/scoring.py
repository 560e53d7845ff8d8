"""How the arithmetic of `score` grows: verdicts over detections, ranks over embeddings."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pipeline.bench_growth import Growth
from pipeline.benchmarks.mining import vectors
from pipeline.detectors.registry import NINE
from pipeline.metrics.asr import any_label, attack_success
from pipeline.metrics.retrieval import ranks
from pipeline.seeds import rng

_BOXES = 4


def growths() -> Iterator[Growth]:
    """Detections are counted once each; every query is compared with the whole gallery."""
    yield Growth(f"attack success with its interval, {_BOXES} boxes an image", "images", 5_000, verdicts)
    yield Growth("retrieval ranks, as many queries as gallery items, 768 wide", "queries", 1_000, ranking)


def verdicts(images: int, folder: Path) -> Callable[[], object]:
    """`folder` is not used."""
    draw = rng(0, "bench", "verdicts")
    labels, scores = draw.integers(0, len(NINE), images * _BOXES), draw.random(images * _BOXES) ** 4
    rows = [
        {"item_id": f"{place // _BOXES}", "label": NINE[label], "score": float(score), "status": "ok"}
        for place, (label, score) in enumerate(zip(labels, scores, strict=True))
    ]
    rule = any_label("nine", NINE, 0.5)
    return lambda: attack_success(rows, rule)


def ranking(queries: int, folder: Path) -> Callable[[], object]:
    """`folder` is not used."""
    asked, gallery = (vectors(queries, name).numpy() for name in ("queries", "pool"))
    return lambda: ranks(asked, gallery, np.arange(queries))
