"""Image cells of a table: struct<bytes, path>, the convention of the `datasets` library."""

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.errors import TableError
from pipeline.parallel import parallel
from pipeline.storage import read_bytes


def encode_png(image: np.ndarray | Image.Image) -> bytes:
    """PNG bytes of an RGB image: a PIL image, or an array (H, W, 3) uint8. The same pixels give the same bytes."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"expected an array (H, W, 3) uint8, got {image.shape} {image.dtype}")
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()


def image_cell(image: np.ndarray | Image.Image) -> dict[str, Any]:
    """The cell of an image column that holds `image` as PNG bytes."""
    return {"bytes": encode_png(image), "path": None}


def decode_image(cell: dict[str, Any] | None, where: str) -> Image.Image:
    """The RGB image of a cell, fully decoded; its path may be one of storage ("s3://..."). `where` names file and row.

    Raises TableError for a cell without an image, and for one that cannot be decoded.
    """
    if not cell or (cell.get("bytes") is None and not cell.get("path")):
        raise TableError(f"{where}: the image cell is empty")
    try:
        data = cell["bytes"] if cell.get("bytes") is not None else read_bytes(cell["path"])
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                return image.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise TableError(f"{where}: unreadable image: {error}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TableError(f"{where}: image too large to be trusted: {error}") from error


def decode_images(cells: Sequence[dict[str, Any] | None], wheres: Sequence[str]) -> list[Image.Image]:
    """`decode_image` of every cell, in order, over the cores. Raises TableError for the first that is no image."""
    return parallel(lambda pair: decode_image(*pair), list(zip(cells, wheres, strict=True)))


def pixelate(image: np.ndarray, block: int = 8) -> np.ndarray:
    """Mean colour of each `block` x `block` square, (H, W, 3) uint8: how a flagged image is shown by default."""
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize((max(1, width // block), max(1, height // block)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST))
