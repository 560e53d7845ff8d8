"""Images of the user's: found below their folder, and checked before a table names them."""

import io
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image, UnidentifiedImageError

from pipeline.sources.protocol import ImageRow

# The formats that a data set comes in; the rarer ones of the library are not tried on files of strangers.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = (".jpg", ".png", ".jpeg", ".webp")
MAX_BYTES = 1 << 28
_THUMBNAIL = 64
_LARGE = "more pixels than can be trusted"


class UnusableImage(ValueError):
    """Why an image cannot be used, in words that fit after "image: ", and its file, if it is one."""

    file: Path | None = None


def below(folder: Path, name: str) -> Path | None:
    """The path `name` inside `folder`; None where it leads out of it."""
    inner = PurePosixPath(name.replace("\\", "/"))
    if inner.is_absolute() or ".." in inner.parts or not inner.parts or ":" in inner.parts[0] or "\0" in name:
        return None
    return folder.joinpath(*inner.parts)


def by_stem(folder: Path, stem: str) -> Path:
    """The file of this name with one of `SUFFIXES`, in their order; with the first where there is none."""
    return next((path for s in SUFFIXES if (path := folder / f"{stem}{s}").is_file()), folder / f"{stem}{SUFFIXES[0]}")


def image_cell(row: ImageRow, copy: bool) -> dict[str, Any]:
    """The cell of a checked image: its path as it is, or with `copy` (and where there is no file) its bytes.

    The image is decoded once, JPEG at an eighth of its size, so that a truncated file is found here and not stages
    later. Raises UnusableImage.
    """
    try:
        if row.data is None and row.path is None:
            raise UnusableImage("neither a file nor bytes")
        data = _read(row.path) if row.data is None else row.data
        check(data)
    except UnusableImage as error:
        error.file = row.path
        raise
    return {"bytes": data, "path": None} if copy or row.path is None else {"bytes": None, "path": row.path.as_posix()}


def check(data: bytes) -> None:
    """Raises UnusableImage for bytes that are no whole image of a known format, or one too large to be trusted."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            # The library only warns up to twice this number, and warnings are not for threads.
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or 0):
                raise UnusableImage(_LARGE)
            image.draft("RGB", (_THUMBNAIL, _THUMBNAIL))
            image.load()
    except UnusableImage:
        raise
    except UnidentifiedImageError:
        raise UnusableImage(f"not an image of {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnusableImage(_LARGE) from None
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, MemoryError) as error:
        raise UnusableImage(f"cannot be decoded ({type(error).__name__})") from None


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UnusableImage(f"a file of more than {MAX_BYTES >> 20} MiB")
        return path.read_bytes()
    except FileNotFoundError:
        raise UnusableImage("no such file") from None
    except OSError as error:
        raise UnusableImage(f"cannot be read ({error.strerror})") from None
