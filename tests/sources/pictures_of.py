"""Small pictures of the embedded world as files, and a source's records without a run of the whole stage."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.sources.protocol import Drops, ImageRow, LabelRow, Record
from pipeline.sources.registry import make_entry
from pipeline.world.drawing import STYLES, draw
from pipeline.world.scenes import sample


def picture(number: int, unsafe: bool = False, kind: str = "PNG") -> bytes:
    """A drawn scene, 64x64."""
    pixels = draw(sample(np.random.default_rng(number), unsafe), STYLES["base"], np.random.default_rng(number))
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=kind)
    return stream.getvalue()


def write_picture(path: Path, number: int, unsafe: bool = False) -> Path:
    """A file, and the folders that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(number, unsafe, "PNG" if path.suffix == ".png" else "JPEG"))
    return path


def records(root: Path, **entry: object) -> tuple[list[Record], Drops]:
    """All records of an entry of `sources.entries`, and what was dropped."""
    drops = Drops()
    return list(make_entry("name", entry).source.rows(root, drops)), drops


def labels(found: list[Record]) -> list[tuple[str, int]]:
    """(key of the image, class id) of every labelled image."""
    rows = [row for record in found for row in record.rows]
    images = {row.key for row in rows if isinstance(row, ImageRow)}
    made = [(row.image, row.class_id) for row in rows if isinstance(row, LabelRow)]
    assert {key for key, _ in made} <= images
    return made
