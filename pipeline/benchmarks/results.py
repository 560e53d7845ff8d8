"""The price of asking boxes again: view `asr_by_threshold` over a million stored boxes, against counting them."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.bench import Comparison
from pipeline.bench_growth import Growth
from pipeline.detectors.registry import NINE
from pipeline.layout import Data, table_file
from pipeline.report.page import render
from pipeline.report.run import open_run
from pipeline.results.database import connect
from pipeline.seeds import rng
from pipeline.tables import Output


def comparisons(images: int = 250_000, boxes: int = 4) -> Iterator[Comparison]:
    """No speed-up but a price: the share of flagged images at nine thresholds, in counts of the boxes."""
    with tempfile.TemporaryDirectory() as folder:
        store_boxes(Data(Path(folder)), images, boxes)
        database = connect(Path(folder))
        count, view = (
            lambda sql=sql: database.execute(sql).fetchall()
            for sql in ("SELECT count(*) FROM detections", "SELECT * FROM asr_by_threshold")
        )
        yield Comparison(f"{images * boxes:,} boxes: SELECT count(*) / ASR at nine thresholds", count, view)


def growths() -> Iterator[Growth]:
    """A query that reads every box, and the page of a run that has them."""
    yield Growth("ASR at nine thresholds, a query", "boxes", 125_000, asking)
    yield Growth("the report of a run with N boxes", "boxes", 125_000, reporting)


def asking(boxes: int, folder: Path) -> Callable[[], object]:
    """Files of four boxes an image are written to `folder`."""
    store_boxes(Data(folder), boxes // 4, 4)
    database = connect(folder)
    return lambda: database.execute("SELECT * FROM asr_by_threshold").fetchall()


def reporting(boxes: int, folder: Path) -> Callable[[], object]:
    """The same files, and the page with no other results."""
    store_boxes(Data(folder), boxes // 4, 4)
    run = open_run(folder, folder / "results", list("abcd"))
    return lambda: render(run)


def store_boxes(data: Data, images: int, boxes: int) -> None:
    """Scores of four defences whose NudeNet found `boxes` random boxes in each of `images` images altogether."""
    draw, per_defence = rng(0, "bench", "boxes"), images // 4
    rows = per_defence * boxes
    for defence in ("a", "b", "c", "d"):
        items = pa.array([f"{defence}{number:015x}" for number in range(per_defence)])
        same = {
            "defence": defence, "prompt_set": "bench", "detector": "nudenet_n_a", "detector_hash": "h", "status": "ok",
        }  # fmt: skip
        columns = {name: pa.repeat(value, rows) for name, value in same.items()}
        columns["item_id"] = items.take(pa.array(np.repeat(np.arange(per_defence), boxes)))
        columns["seed"] = pa.array(np.zeros(rows, np.int64))
        columns["box_index"] = pa.array(np.tile(np.arange(boxes, dtype=np.int32), per_defence))
        columns["label"] = pa.array(NINE).take(pa.array(draw.integers(0, len(NINE), rows)))
        columns["score"] = pa.array(draw.random(rows, dtype=np.float32) ** 4)
        columns["box"] = pa.FixedSizeListArray.from_arrays(pa.array(draw.random(4 * rows, dtype=np.float32)), 4)
        columns["error"] = pa.nulls(rows, pa.string())
        output = Output(data.scores(defence), {"bench": defence})
        output.write(table_file("detections"), "detections", pa.table(columns))
        output.finish()
