"""Image cells: PNG in, the same pixels out, and one clear error for what is no image."""

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import TableError
from pipeline.images import decode_image, encode_png, image_cell

NOISE = encode_png(np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8))


def test_round_trip_keeps_pixels_and_bytes() -> None:
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    assert np.array_equal(np.asarray(decode_image(image_cell(pixels), "x")), pixels)
    assert encode_png(pixels) == encode_png(Image.fromarray(pixels))


UNREADABLE = [
    None,
    {"bytes": None, "path": None},
    {"bytes": b"not an image", "path": None},
    {"bytes": b"", "path": None},
    {"bytes": NOISE[: len(NOISE) // 2], "path": None},
    {"bytes": None, "path": "/nowhere/x.png"},
]


@pytest.mark.parametrize("cell", UNREADABLE)
def test_unreadable_image_names_file_and_row(cell: dict | None) -> None:
    with pytest.raises(TableError, match="images.parquet, row 7: "):
        decode_image(cell, "images.parquet, row 7")


def test_other_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        encode_png(np.zeros((8, 8, 3), np.float32))
