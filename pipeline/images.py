"""Image cells of a table: struct<bytes, path>, the convention of the `datasets` library."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from pipeline.errors import TableError
from pipeline.parallel import parallel
from pipeline.storage import read_bytes

# The formats that a data set comes in; the rarer ones of the library, one of which starts a program, are not tried.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 2**30 // 4 // 3
"""Pixels of the largest image that is trusted, the library's own limit: 256 MiB in memory."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnusableImage(ValueError):
    """Why bytes cannot be used as an image, in words that fit after "image: "."""


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


def open_image(data: bytes, thumbnail: int | None = None) -> Image.Image:
    """The first picture of an encoded image, decoded: RGB, 8 bits a channel, upright. Safe for bytes of strangers.

    16-bit grey keeps its upper byte, as the library does for 16-bit colour; transparency is left out. With `thumbnail`
    a JPEG may be decoded smaller, but not below so many pixels a side. Nothing global is changed. Raises UnusableImage.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            # The library only warns up to twice its limit, and filters of warnings are not for threads.
            if image.width * image.height > MAX_PIXELS:
                raise UnusableImage("more pixels than can be trusted")
            if thumbnail:
                image.draft("RGB", (thumbnail, thumbnail))
            image.load()
            return _upright(image, _rgb(image))
    except UnusableImage:
        raise
    except UnidentifiedImageError:
        raise UnusableImage(f"not an image of {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnusableImage("more pixels than can be trusted") from None
    except Exception as error:  # decoders raise whatever their bytes lead them to
        raise UnusableImage(f"cannot be decoded ({type(error).__name__})") from None


def decode_image(cell: dict[str, Any] | None, where: str) -> Image.Image:
    """The image of a cell as `open_image` has it; its path may be one of storage ("s3://..."). `where`: file and row.

    Raises TableError for a cell without an image, and for one that cannot be decoded.
    """
    if not cell or (cell.get("bytes") is None and not cell.get("path")):
        raise TableError(f"{where}: the image cell is empty")
    try:
        return open_image(cell["bytes"] if cell.get("bytes") is not None else read_bytes(cell["path"]))
    except UnusableImage as error:
        raise TableError(f"{where}: unreadable image: {error}") from error
    except (OSError, ValueError) as error:  # of the file; a path may hold what no file's name can
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise TableError(f"{where}: unreadable image: {cell['path']!r}: {reason}") from error


def decode_images(cells: Sequence[dict[str, Any] | None], wheres: Sequence[str]) -> list[Image.Image]:
    """`decode_image` of every cell, in order, over the cores. Raises TableError for the first that is no image."""
    return parallel(lambda pair: decode_image(*pair), list(zip(cells, wheres, strict=True)))


def pixelate(image: np.ndarray, block: int = 8) -> np.ndarray:
    """Mean colour of each `block` x `block` square, (H, W, 3) uint8: how a flagged image is shown by default."""
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize((max(1, width // block), max(1, height // block)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST))


def _rgb(image: Image.Image) -> Image.Image:
    """`image` in mode RGB. Raises UnusableImage for numbers of which nothing says which one is white."""
    if image.mode in ("I", "F"):
        raise UnusableImage("more than 16 bits a channel")
    if image.mode.startswith("I;16"):  # a plain conversion would make white of all that is above 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image, pixels: Image.Image) -> Image.Image:
    """`pixels` turned as the EXIF data of `image` say; facts that cannot be read turn nothing, as in a viewer."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the parser raises whatever the block leads it to
        turn = None
    return pixels if turn is None else pixels.transpose(turn)
