"""The price of asking boxes again: view `asr_by_threshold` over a million stored boxes, against counting them."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.bench import Comparison
from pipeline.detectors.registry import NINE
from pipeline.layout import Data, table_file
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
