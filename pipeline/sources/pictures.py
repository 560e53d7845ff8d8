"""Images of the user's: found below their folder, and checked before a table names them."""

import hashlib
import stat
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.ids import is_unicode
from pipeline.images import UnusableImage, open_image
from pipeline.sources.protocol import ImageRow

SUFFIXES = (".jpg", ".png", ".jpeg", ".webp")
MAX_BYTES = 1 << 28
_THUMBNAIL = 64
_TOO_LONG = f"a file of more than {MAX_BYTES >> 20} MiB"


def below(folder: Path, name: str) -> Path | None:
    """The path `name` inside `folder`; None where it leads out of it, or is no name that a file can have."""
    inner = PurePosixPath(name.replace("\\", "/"))
    if inner.is_absolute() or ".." in inner.parts or not inner.parts or ":" in inner.parts[0]:
        return None
    if "\0" in name or not is_unicode(name):
        return None
    return folder.joinpath(*inner.parts)


def by_stem(folder: Path, stem: str) -> Path:
    """The file of this name with one of `SUFFIXES`, in their order; with the first where there is none."""
    return next((path for s in SUFFIXES if is_file(path := folder / f"{stem}{s}")), folder / f"{stem}{SUFFIXES[0]}")


def is_file(path: Path) -> bool:
    """Is there such a file? False also for a path that is too long for one."""
    try:
        return path.is_file()
    except OSError:
        return False


def image_cell(row: ImageRow, copy: bool) -> tuple[dict[str, Any], str]:
    """The cell of a checked image, its path as it is, or with `copy` (and where there is no file) its bytes; and the
    SHA-256 of the bytes.

    The image is decoded once, JPEG at an eighth of its size, so that a truncated file is found here and not stages
    later. Raises UnusableImage.
    """
    if row.data is None and row.path is None:
        raise UnusableImage("neither a file nor bytes")
    data = _read(row.path) if row.data is None else row.data
    if len(data) > MAX_BYTES:
        raise UnusableImage(_TOO_LONG)
    open_image(data, _THUMBNAIL)
    digest = hashlib.sha256(data).hexdigest()
    if copy or row.path is None:
        return {"bytes": data, "path": None}, digest
    return {"bytes": None, "path": row.path.as_posix()}, digest


def _read(path: Path) -> bytes:
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):  # a pipe would keep the reader waiting
            raise UnusableImage("not a file")
        if facts.st_size > MAX_BYTES:
            raise UnusableImage(_TOO_LONG)
        return path.read_bytes()
    except FileNotFoundError:
        raise UnusableImage("no such file") from None
    except OSError as error:
        raise UnusableImage(f"cannot be read ({error.strerror})") from None
